//! User names and passwords: who is let in, and what checks of passwords do to everyone else.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use argon2::password_hash::Salt;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::support::client::{Response, format_request, get, request};
use crate::support::wait::DEADLINE;
use crate::support::{Client, Gateway, Origin, eventually};

const PASSWORD: &str = "correct horse: 123£";

fn bcrypt_hash(password: &str, cost: u32) -> String {
    bcrypt::hash(password, cost).unwrap()
}

fn argon2_hash(password: &str) -> String {
    let params = Params::new(256, 2, 1, None).unwrap();
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let salt = Salt::from_b64("c29tZXNhbHRzb21l").unwrap();
    let hash = argon2.hash_password(password.as_bytes(), salt);
    hash.unwrap().to_string()
}

fn config(origin: &Origin, basic: &str) -> String {
    format!(
        "server: {{ threads: 1 }}
auth:
  basic:
{basic}
  identity_headers: {{ x-user: '{{auth.subject}}', x-roles: '{{auth.roles}}' }}
upstreams: {{ u: {{ backends: ['{}'] }} }}
routes:
  - {{ name: all, auth: basic, upstream: u }}
  - {{ name: open, match: {{ path: /open }}, auth: none, respond: {{ body: open }} }}",
        origin.address()
    )
}

/// One user, `alice`, with this hash.
fn alice(hash: &str) -> String {
    format!("    users: [{{ name: alice, hash: '{hash}', roles: [admin] }}]")
}

fn field(name: &str, password: &str) -> String {
    let text = STANDARD.encode(format!("{name}:{password}"));
    format!("Authorization: Basic {text}")
}

fn login(gateway: &Gateway, name: &str, password: &str) -> Response {
    let field = field(name, password);
    request(gateway.addr(), "GET", "/", &[&field], b"")
}

#[track_caller]
fn assert_refused(answer: &Response, error_type: &str) {
    answer.assert_refusal(401, "unauthorized");
    assert_eq!(answer.json()["error_type"], error_type);
    let challenge = answer.header("www-authenticate");
    assert_eq!(
        challenge,
        Some("Basic realm=\"gateway\", charset=\"UTF-8\"")
    );
}

#[test]
fn bcrypt_and_argon2_let_in_whoever_knows_the_password() {
    let origin = Origin::echo();
    for hash in [
        bcrypt_hash(PASSWORD, 4),
        bcrypt_hash(PASSWORD, 4).replacen("$2b$", "$2y$", 1),
        argon2_hash(PASSWORD),
    ] {
        let gateway = Gateway::start(&config(&origin, &alice(&hash)));
        assert_eq!(login(&gateway, "alice", PASSWORD).status, 200);
        let seen = origin.seen().pop().unwrap();
        assert_eq!(seen.header("x-user"), Some("alice"));
        assert_eq!(seen.header("x-roles"), Some("admin"));
        assert_eq!(seen.header("authorization"), None);
        let wrong = ["", "correct horse", "correct horse: 123", &hash];
        for password in wrong {
            assert_refused(&login(&gateway, "alice", password), "wrong_password");
        }
        for name in ["bob", "Alice", "alice ", "admin"] {
            assert_refused(&login(&gateway, name, PASSWORD), "wrong_password");
        }
        // Remembered, and told apart all the same.
        assert_eq!(login(&gateway, "alice", PASSWORD).status, 200);
        assert_refused(&login(&gateway, "alice", "wrong"), "wrong_password");
        let hits = [("result", "hit")];
        assert_eq!(
            gateway.metric("gateway_auth_cache_requests_total", &hits),
            1.0
        );
        let told = [gateway.log_lines(), gateway.output_lines()]
            .concat()
            .join("\n");
        for secret in [PASSWORD, &hash, &field("alice", PASSWORD)[21..]] {
            assert!(!told.contains(secret), "{secret} in\n{told}");
        }
    }
}

#[test]
fn what_is_no_name_and_password_is_refused() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&config(&origin, &alice(&bcrypt_hash(PASSWORD, 4))));
    assert_refused(&get(gateway.addr(), "/"), "missing");
    let good = field("alice", PASSWORD);
    for (text, error) in [
        ("Authorization: Basic", "malformed"),
        ("Authorization: Basic YWxpY2U=", "malformed"),
        ("Authorization: Basic OnBhc3M=", "malformed"),
        ("Authorization: Basic YWxpY2U6cGFzcwo", "malformed"),
        ("Authorization: Basic YWxpY2U6cAA=", "malformed"),
        ("Authorization: Basic alice:pass", "malformed"),
        ("Authorization: Bearer abc", "missing"),
        (&format!("Proxy-{good}"), "missing"),
        (&format!("{good}=="), "malformed"),
    ] {
        let answer = request(gateway.addr(), "GET", "/", &[text], b"");
        assert_refused(&answer, error);
    }
    let twice = request(gateway.addr(), "GET", "/", &[&good, &good], b"");
    assert_refused(&twice, "ambiguous");
    assert_eq!(origin.requests(), 0);
    let lower = good.replace("Basic", "bAsIc");
    assert_eq!(
        request(gateway.addr(), "GET", "/", &[&lower], b"").status,
        200
    );
}

#[test]
fn a_changed_password_forgets_the_old_one_at_once() {
    let origin = Origin::echo();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users");
    let store = |text: &str| {
        let fresh = folder.path().join("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, &path).unwrap();
    };
    let hash = |password: &str| bcrypt_hash(password, 4).replacen("$2b$", "$2y$", 1);
    store(&format!(
        "# operators\nalice:{}\nbob:{}\n",
        hash("old"),
        hash("bob's")
    ));
    let basic = format!("    file: '{}'\n    forward: true", path.display());
    let gateway = Gateway::start(&config(&origin, &basic));
    assert_eq!(login(&gateway, "alice", "old").status, 200);
    assert_eq!(login(&gateway, "bob", "bob's").status, 200);
    let seen = origin.seen().pop().unwrap();
    let sent = format!("authorization: {}", seen.header("authorization").unwrap());
    assert!(sent.eq_ignore_ascii_case(&field("bob", "bob's")));
    store(&format!("alice:{}\n", hash("new")));
    eventually("the new password is good", || {
        login(&gateway, "alice", "new").status == 200
    });
    assert_refused(&login(&gateway, "alice", "old"), "wrong_password");
    assert_refused(&login(&gateway, "bob", "bob's"), "wrong_password");
}

/// A cost at which one check takes a good part of a second, in a test.
const SLOW: u32 = 12;
/// One at which many are done within the time that one may wait, also on a busy machine.
const LESS_SLOW: u32 = 9;

#[test]
fn checks_of_passwords_keep_no_other_request_waiting() {
    let origin = Origin::echo();
    // There is a single worker.
    let gateway = Gateway::start(&config(&origin, &alice(&bcrypt_hash(PASSWORD, SLOW))));
    let answered = AtomicUsize::new(0);
    let mut plain: Vec<Duration> = Vec::new();
    std::thread::scope(|scope| {
        for number in 0..20 {
            let (gateway, answered) = (&gateway, &answered);
            scope.spawn(move || {
                let answer = login(gateway, "alice", &format!("wrong {number}"));
                // With little to compute on, the last ones wait too long.
                assert!(matches!(answer.status, 401 | 503), "{}", answer.text());
                answered.fetch_add(1, SeqCst);
            });
        }
        let mut client = gateway.connect();
        let misses = [("result", "miss")];
        eventually("the logins are there", || {
            gateway.metric("gateway_auth_cache_requests_total", &misses) >= 20.0
        });
        let deadline = Instant::now() + DEADLINE;
        while answered.load(SeqCst) < 20 && Instant::now() < deadline {
            let start = Instant::now();
            assert_eq!(client.get("/open").status, 200);
            plain.push(start.elapsed());
        }
    });
    // On a worker, each check would have kept them waiting: there would be no more than one between two.
    plain.sort();
    let (count, p99) = (plain.len(), plain[plain.len() * 99 / 100]);
    println!("{count} plain requests meanwhile, 99 % of them within {p99:?}");
    assert!(count > 40, "{count}");
}

#[test]
fn a_burst_of_one_login_is_let_in() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&config(&origin, &alice(&bcrypt_hash(PASSWORD, LESS_SLOW))));
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| assert_eq!(login(&gateway, "alice", PASSWORD).status, 200));
        }
    });
    assert_eq!(origin.requests(), 50);
}

#[test]
fn too_many_logins_are_told_so_and_those_that_are_remembered_go_on() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&config(&origin, &alice(&bcrypt_hash(PASSWORD, LESS_SLOW))));
    assert_eq!(login(&gateway, "alice", PASSWORD).status, 200);
    // More than may wait; the process ends with the test, and what waits with it.
    let mut clients: Vec<Client> = (0..200)
        .map(|number| {
            let mut client = gateway.connect();
            let field = field("alice", &format!("wrong {number}"));
            client.send(format_request("GET", "/", &[&field], b""));
            client
        })
        .collect();
    let labels = [("method", "basic"), ("error_type", "overloaded")];
    eventually("some are refused", || {
        gateway.metric("gateway_auth_attempts_total", &labels) >= 1.0
    });
    assert_eq!(login(&gateway, "alice", PASSWORD).status, 200);
    // Which of them came too late is for the system to say.
    let mut refused = clients.iter_mut().map(Client::read_response);
    let refused = refused.find(|answer| answer.status == 503);
    let refused = refused.expect("one that is refused");
    refused.assert_refusal(503, "auth_unavailable");
    assert_eq!(refused.json()["error_type"], "overloaded");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(refused.header("www-authenticate"), None);
}
