//! API keys: whose they are, which are refused, how they are made and changed.

use std::io::{Seek, Write};

use aws_lc_rs::digest::{SHA256, digest};

use crate::support::client::{Response, get, request};
use crate::support::command::{binary, finish};
use crate::support::tokens::{SECRET, Signer};
use crate::support::{Gateway, Origin, Redis, eventually};

const READER: &str = "gw_reader-4f1b6c1d";
const WRITER: &str = "gw_writer-93ab0e55";
const EXPIRED: &str = "gw_expired-77d2c0aa";
const DISABLED: &str = "gw_disabled-b81f3c42";
const FILED: &str = "gw_filed-0c9d1e7f";

fn hash(key: &str) -> String {
    let hash = digest(&SHA256, key.as_bytes());
    let digits = hash.as_ref().iter().map(|byte| format!("{byte:02x}"));
    format!("sha256:{}", digits.collect::<String>())
}

fn config(origin: &Origin, file: &str) -> String {
    let [reader, writer, expired, disabled] = [READER, WRITER, EXPIRED, DISABLED].map(hash);
    format!(
        "auth:
  api_keys:
    - name: keys
      key: [{{ header: x-api-key }}, {{ cookie: key }}, {{ header: authorization, scheme: ApiKey }}]
      {file}
      keys:
        - {{ name: reader, hash: '{reader}', scopes: [a.read], expires: 2099-12-31 }}
        - {{ name: writer, hash: '{writer}', scopes: [a.read, a.write], roles: [admin] }}
        - {{ name: late, hash: '{expired}', expires: '2020-01-01T00:00:00Z' }}
        - {{ name: off, hash: '{disabled}', enabled: false }}
    - {{ name: kept, forward: true, keys: [{{ name: reader, hash: '{reader}' }}] }}
  jwt: {{ name: token, secret: '{SECRET}' }}
  identity_headers: {{ x-user: '{{auth.subject}}', x-scheme: '{{auth.scheme}}' }}
upstreams: {{ u: {{ backends: ['{}'] }} }}
routes:
  - {{ name: all, auth: keys, upstream: u }}
  - {{ name: kept, match: {{ path: /kept }}, auth: kept, upstream: u }}
  - {{ name: write, match: {{ path: /write }}, auth: {{ any_of: [keys], scopes: [a.write] }}, upstream: u }}
  - {{ name: either, match: {{ path: /either }}, auth: {{ any_of: [token, keys] }}, upstream: u }}
  - {{ name: both, match: {{ path: /both }}, auth: {{ all_of: [token, keys], scopes: [a.read] }}, upstream: u }}
  - {{ name: open, match: {{ path: /open }}, auth: none, upstream: u }}",
        origin.address()
    )
}

fn ask(gateway: &Gateway, path: &str, fields: &[&str]) -> Response {
    request(gateway.addr(), "GET", path, fields, b"")
}

fn with_key(gateway: &Gateway, path: &str, key: &str) -> Response {
    ask(gateway, path, &[&format!("X-API-Key: {key}")])
}

#[track_caller]
fn assert_refused(answer: &Response, error_type: &str) {
    answer.assert_refusal(401, "unauthorized");
    assert_eq!(answer.json()["error_type"], error_type);
}

/// Nothing that the process said has one of these in it.
#[track_caller]
fn assert_never_told(gateway: &Gateway, secrets: &[&str]) {
    let told = [gateway.log_lines(), gateway.output_lines()]
        .concat()
        .join("\n");
    let told = format!("{told}\n{}\n{}", gateway.metrics(), gateway.status());
    for secret in secrets {
        assert!(!told.contains(secret), "{secret} in\n{told}");
        let hash = hash(secret);
        let (_, digits) = hash.split_once(':').unwrap();
        assert!(!told.contains(digits), "the hash of {secret} in\n{told}");
    }
}

#[test]
fn a_key_is_its_owners_in_every_place_and_backends_do_not_get_it() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&config(&origin, ""));
    let fields = [
        format!("X-API-Key: {READER}"),
        format!("Cookie: a=1; key={READER}; b=2"),
        format!("Authorization: apikey {READER}"),
    ];
    for field in &fields {
        let answer = ask(&gateway, "/", &[field, "X-User: root"]);
        assert_eq!(answer.status, 200, "{field}: {}", answer.text());
        let seen = origin.seen().pop().unwrap();
        assert_eq!(seen.header("x-user"), Some("reader"));
        assert!(!String::from_utf8_lossy(&seen.raw).contains(READER));
    }
    let cookie = origin.seen()[1].header("cookie").map(str::to_owned);
    assert_eq!(cookie.as_deref(), Some("a=1; b=2"));
    // Where it says so, they do.
    assert_eq!(with_key(&gateway, "/kept", READER).status, 200);
    let seen = origin.seen().pop().unwrap();
    assert_eq!(seen.header("x-api-key"), Some(READER));
    assert_eq!(seen.header("x-scheme"), Some("kept"));
    // What is for everyone is passed on as it is: nobody asked for the key.
    assert_eq!(get(gateway.addr(), "/open").status, 200);
    let labels = [("method", "api_key"), ("result", "success")];
    gateway.wait_metric("gateway_auth_attempts_total", &labels, 4.0);
    gateway.wait_access(|line| line["path"] == "/open");
    assert_never_told(&gateway, &[READER]);
}

#[test]
fn a_bad_key_is_refused_and_reaches_no_backend() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&config(&origin, ""));
    let hash_of_reader = hash(READER);
    for (key, error) in [
        ("gw_unknown", "unknown_key"),
        (&READER[1..], "unknown_key"),
        (&*hash_of_reader, "unknown_key"),
        (&hash_of_reader["sha256:".len()..], "unknown_key"),
        (EXPIRED, "expired"),
        (DISABLED, "unknown_key"),
        (&"x".repeat(600), "too_large"),
        ("", "malformed"),
    ] {
        let answer = with_key(&gateway, "/", key);
        assert_refused(&answer, error);
        let challenge = answer.header("www-authenticate");
        assert_eq!(challenge, Some("ApiKey realm=\"gateway\""));
    }
    assert_refused(&get(gateway.addr(), "/"), "missing");
    let header = format!("X-API-Key: {READER}");
    let cookie = format!("Cookie: key={READER}");
    for two in [[&header, &header], [&header, &cookie]] {
        let two = two.map(String::as_str);
        assert_refused(&ask(&gateway, "/", &two), "ambiguous");
    }
    // In another place than those that are configured.
    let other = format!("X-Key: {READER}");
    assert_refused(&ask(&gateway, "/", &[&other]), "missing");
    assert_refused(&get(gateway.addr(), &format!("/?key={READER}")), "missing");
    let answer = with_key(&gateway, "/write", READER);
    answer.assert_refusal(403, "forbidden");
    assert_eq!(answer.json()["error_type"], "insufficient_scope");
    assert_eq!(with_key(&gateway, "/write", WRITER).status, 200);
    assert_eq!(origin.requests(), 1);
    let labels = [("method", "api_key"), ("error_type", "expired")];
    gateway.wait_metric("gateway_auth_attempts_total", &labels, 1.0);
    assert_never_told(&gateway, &[READER, WRITER, EXPIRED, DISABLED]);
    // The start says that a key has expired, and whose.
    gateway.wait_log(&["the key of `late` has expired"]);
}

#[test]
fn keys_stand_beside_tokens() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&config(&origin, ""));
    let claims = serde_json::json!({ "sub": "alice", "aud": "x" });
    let token = Signer::hs256(SECRET).token(claims);
    let token = format!("Authorization: Bearer {token}");
    let (key, wrong) = (format!("X-API-Key: {READER}"), "X-API-Key: gw_wrong");
    let status = |path: &str, fields: &[&str]| ask(&gateway, path, fields).status;
    assert_eq!(status("/either", &[&token]), 200);
    assert_eq!(status("/either", &[&key]), 200);
    assert_eq!(status("/either", &[&token, wrong]), 200);
    assert_eq!(status("/either", &[wrong]), 401);
    assert_eq!(status("/both", &[&token, &key]), 200);
    let seen = origin.seen().pop().unwrap();
    // The token says who it is; the key's scope counts.
    assert_eq!(seen.header("x-user"), Some("alice"));
    assert_eq!(seen.header("x-api-key"), None);
    assert_refused(&ask(&gateway, "/both", &[&token]), "missing");
    assert_refused(&ask(&gateway, "/both", &[&key]), "missing");
    assert_refused(&ask(&gateway, "/both", &[&token, wrong]), "unknown_key");
    let challenges = get(gateway.addr(), "/either");
    let challenges: Vec<_> = challenges
        .headers
        .0
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("www-authenticate"))
        .collect();
    assert_eq!(challenges.len(), 2, "{challenges:?}");
}

#[test]
fn a_changed_file_brings_new_keys_and_takes_old_ones_away() {
    let origin = Origin::echo();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.yaml");
    let store = |keys: &[&str]| {
        let entries = keys
            .iter()
            .map(|key| format!("- {{ name: k, hash: '{}' }}\n", hash(key)));
        let fresh = folder.path().join("fresh");
        std::fs::write(&fresh, format!("# keys\n{}", entries.collect::<String>())).unwrap();
        std::fs::rename(fresh, &path).unwrap();
    };
    store(&[FILED]);
    let gateway = Gateway::start(&config(&origin, &format!("file: '{}'", path.display())));
    assert_eq!(with_key(&gateway, "/", FILED).status, 200);
    assert_eq!(with_key(&gateway, "/", "gw_next").status, 401);
    // Both for the time of the rotation.
    store(&[FILED, "gw_next"]);
    eventually("the new key is known", || {
        with_key(&gateway, "/", "gw_next").status == 200
    });
    assert_eq!(with_key(&gateway, "/", FILED).status, 200);
    store(&["gw_next"]);
    eventually("the old key is gone", || {
        with_key(&gateway, "/", FILED).status == 401
    });
    // A file that cannot be used changes nothing.
    std::fs::write(&path, "- { name: k, hash: gw_oops }\n").unwrap();
    gateway.wait_log(&["keys.yaml:1: [0].hash: is no hash of a key"]);
    assert_eq!(with_key(&gateway, "/", "gw_next").status, 200);
    assert_eq!(with_key(&gateway, "/", READER).status, 200);
    assert_never_told(&gateway, &[FILED, "gw_next", "gw_oops"]);
}

/// Runs a command of the binary with this standard input.
fn run(arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(input.as_bytes()).unwrap();
    file.rewind().unwrap();
    let run = finish(binary().args(arguments).stdin(file));
    (run.code, run.stdout, run.stderr)
}

#[test]
fn keygen_makes_a_key_and_the_entry_that_accepts_it() {
    let (code, printed, _) = run(
        &["keygen", "--name", "partner: one", "--prefix", "acme_"],
        "",
    );
    assert_eq!(code, Some(0));
    let (_, rest) = printed.split_once("key: ").unwrap();
    let key = rest.lines().next().unwrap();
    assert!(key.starts_with("acme_") && key.len() == 48, "{key}");
    let (_, entry) = printed.split_once("\n\n- ").unwrap();
    assert!(!entry.contains(key));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.yaml");
    std::fs::write(&file, format!("- {entry}")).unwrap();
    let origin = Origin::echo();
    let gateway = Gateway::start(&config(&origin, &format!("file: '{}'", file.display())));
    assert_eq!(with_key(&gateway, "/", key).status, 200);
    let seen = origin.only_request();
    assert_eq!(seen.header("x-user"), Some("partner: one"));
    let (_, again, _) = run(&["keygen"], "");
    assert!(again.contains("key: gw_") && !again.contains(key));
}

#[test]
fn keygen_prints_the_hash_of_a_key_and_never_the_key() {
    for end in ["", "\n", "\r\n"] {
        let input = format!("{READER}{end}");
        let (code, printed, _) = run(&["keygen", "--hash"], &input);
        assert_eq!((code, printed), (Some(0), format!("{}\n", hash(READER))));
    }
    for bad in ["", "\n", "gw_ secret", "gw_sécret"] {
        let (code, printed, told) = run(&["keygen", "--hash"], bad);
        assert_eq!((code, &*printed), (Some(1), ""), "{bad:?}");
        assert!(
            told.starts_with("keygen: ") && !told.contains("gw_"),
            "{told}"
        );
    }
    let (code, _, _) = run(&["keygen", "--prefix", "a b"], "");
    assert_eq!(code, Some(1));
}

#[test]
fn hash_password_makes_what_basic_accepts() {
    let (code, printed, _) = run(&["hash-password", "--cost", "4"], "s3cret\n");
    assert_eq!(code, Some(0));
    assert!(bcrypt::verify("s3cret", printed.trim()).unwrap());
    let (code, printed, told) = run(&["hash-password", "--cost", "31"], "s3cret");
    assert_eq!((code, &*printed), (Some(1), ""), "{told}");
}

/// Keys in this store, and one in the configuration.
fn with_redis(origin: &Origin, redis: &Redis) -> Gateway {
    let gateway = Gateway::start(&format!(
        "redis: {{ url: '{}', pool_size: 2 }}
auth:
  api_keys: {{ redis: true, keys: [{{ name: reader, hash: '{}' }}] }}
  identity_headers: {{ x-user: '{{auth.subject}}' }}
upstreams: {{ u: {{ backends: ['{}'] }} }}
routes:
  - {{ name: all, auth: api_key, upstream: u }}
  - {{ name: write, match: {{ path: /write }}, auth: {{ any_of: [api_key], scopes: [a.write] }}, upstream: u }}",
        redis.url(),
        hash(READER),
        origin.address()
    ));
    eventually("Redis is there", || {
        gateway.status()["redis"]["state"] == "up"
    });
    gateway
}

fn store(redis: &Redis, key: &str, value: &str) {
    let name = hash(key).replace("sha256:", "apikey:");
    assert_eq!(redis.ask(&["SET", &name, value]), "OK");
}

#[test]
fn keys_in_redis_are_their_owners_until_they_are_taken_away() {
    let (origin, redis) = (Origin::echo(), Redis::start());
    store(&redis, WRITER, r#"{"name":"shared","scopes":["a.write"]}"#);
    store(&redis, EXPIRED, r#"{"name":"late","expires":"2020-01-31"}"#);
    store(&redis, DISABLED, r#"{"name":"off","enabled":false}"#);
    let gateway = with_redis(&origin, &redis);
    assert_eq!(with_key(&gateway, "/write", WRITER).status, 200);
    let seen = origin.only_request();
    assert_eq!(seen.header("x-user"), Some("shared"));
    assert_refused(&with_key(&gateway, "/", EXPIRED), "expired");
    assert_refused(&with_key(&gateway, "/", DISABLED), "unknown_key");
    assert_refused(&with_key(&gateway, "/", FILED), "unknown_key");
    store(&redis, FILED, r#"{"name":"new"}"#);
    eventually("the new key is known", || {
        with_key(&gateway, "/", FILED).status == 200
    });
    let name = hash(WRITER).replace("sha256:", "apikey:");
    assert_eq!(redis.ask(&["DEL", &name]), "1");
    eventually("the key is gone", || {
        with_key(&gateway, "/write", WRITER).status == 401
    });
    assert_never_told(&gateway, &[READER, WRITER, EXPIRED, DISABLED, FILED]);
}

#[test]
fn without_redis_nobody_is_let_in_whom_it_alone_knows() {
    let (origin, mut redis) = (Origin::echo(), Redis::start());
    store(&redis, WRITER, r#"{"name":"shared"}"#);
    store(&redis, FILED, "not JSON");
    let gateway = with_redis(&origin, &redis);
    let answer = with_key(&gateway, "/", FILED);
    answer.assert_refusal(503, "auth_unavailable");
    assert_eq!(answer.json()["error_type"], "provider_unavailable");
    redis.stop();
    eventually("Redis is away", || {
        gateway.status()["redis"]["state"] == "down"
    });
    let answer = with_key(&gateway, "/", WRITER);
    answer.assert_refusal(503, "auth_unavailable");
    assert_eq!(answer.json()["error_type"], "provider_unavailable");
    assert_eq!(with_key(&gateway, "/", READER).status, 200);
    redis.start_again();
    store(&redis, WRITER, r#"{"name":"shared"}"#);
    eventually("the key is known", || {
        with_key(&gateway, "/", WRITER).status == 200
    });
    assert_never_told(&gateway, &[WRITER, FILED, "not JSON"]);
}
