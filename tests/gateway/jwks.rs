//! Key sets that are fetched: when, how often, and what becomes of tokens when the provider fails.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::request;
use crate::support::identity_provider::IdentityProvider;
use crate::support::tokens::{Signer, key_set};
use crate::support::{
    Authority, DeadPort, Finally, Gate, Gateway, Line, Response, Script, eventually,
};

const FETCHES: &str = "gateway_jwks_fetches_total";

/// A gateway that lets in whoever has a token of the provider at this address.
fn config(address: SocketAddr, settings: &str) -> String {
    config_at(&format!("http://{address}/keys"), settings)
}

fn config_at(url: &str, settings: &str) -> String {
    format!(
        "auth:\n  jwt: {{ name: main, jwks: {{ url: '{url}', {settings} }} }}\n\
         routes: [{{ name: all, auth: main, respond: {{ body: hello }} }}]\n"
    )
}

fn start(provider: &IdentityProvider, settings: &str) -> Gateway {
    Gateway::start(&config(provider.address(), settings))
}

/// A token of this subject.
fn token_of(signer: &Signer, subject: &str) -> String {
    signer.token(json!({ "sub": subject }))
}

fn ask(gateway: &Gateway, token: &str) -> Response {
    let header = format!("Authorization: Bearer {token}");
    request(gateway.addr(), "GET", "/", &[&header], b"")
}

#[track_caller]
fn assert_refused(response: &Response, status: u16, error: &str) {
    let text = response.text();
    assert_eq!(response.status, status, "{text}");
    assert!(text.contains(error), "{text}");
}

fn provider_status(gateway: &Gateway) -> Value {
    gateway.status()["auth"]["providers"][0].clone()
}

fn fetches(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric(FETCHES, &[("provider", "main"), ("result", result)])
}

#[test]
fn keys_are_there_before_the_first_request() {
    let key = Signer::es256("a");
    let provider = IdentityProvider::with(&[&key]);
    let gateway = start(&provider, "");
    assert_eq!(provider.fetches(), 1, "before it was ready");
    for _ in 0..5 {
        assert_eq!(ask(&gateway, &token_of(&key, "ann")).status, 200);
    }
    assert_eq!(provider.fetches(), 1);
    assert_eq!(fetches(&gateway, "success"), 1.0);
    assert_eq!(
        gateway.metric("gateway_jwks_keys", &[("provider", "main")]),
        1.0
    );
    assert!(gateway.metric("gateway_jwks_fetched_timestamp_seconds", &[]) > 1.7e9);
    let status = provider_status(&gateway);
    assert_eq!(status["keys"][0]["kid"], "a");
    assert_eq!(status["keys"][0]["algorithms"][0], "ES256");
    assert_eq!(status["stale"], false);
    assert_eq!(status["last_error"], Value::Null);
    assert!(status["fetched_at"].is_string() && status["next_fetch_at"].is_string());
    let seen = provider.seen();
    let asked = &seen[0];
    assert_eq!((&*asked.method, &*asked.target), ("GET", "/keys"));
    assert_eq!(asked.header("host"), Some(&*provider.address().to_string()));
    assert_eq!(asked.header("authorization"), None);
}

#[test]
fn a_request_that_comes_before_the_keys_waits_for_them() {
    let key = Signer::es256("a");
    let provider = IdentityProvider::with(&[&key]);
    let first = start(&provider, "");
    let gate = Gate::new();
    let body = key_set(&[&key]).to_string();
    let slow = IdentityProvider::with(&[]);
    slow.play(Script::new().wait(&gate).send(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/jwk-set+json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )));
    first.rewrite(&config(slow.address(), "timeout: 20s"));
    first.signal("HUP");
    eventually("the new provider is asked", || slow.fetches() == 1);
    let token = token_of(&key, "ann");
    let address = first.addr();
    let waiting = std::thread::spawn(move || {
        let header = format!("Authorization: Bearer {token}");
        request(address, "GET", "/", &[&header], b"")
    });
    first.wait_metric(
        "gateway_jwks_unknown_key_waits_total",
        &[("provider", "main")],
        1.0,
    );
    gate.open();
    assert_eq!(waiting.join().unwrap().status, 200);
}

#[test]
fn without_a_provider_the_gateway_is_ready_in_time_and_answers_503() {
    let dead = DeadPort::refusing();
    let key = Signer::es256("a");
    let gateway = Gateway::start(&config(dead.address(), "timeout: 300ms"));
    assert_refused(
        &ask(&gateway, &token_of(&key, "ann")),
        503,
        "provider_unavailable",
    );
    assert!(fetches(&gateway, "connect") >= 1.0);
    let status = provider_status(&gateway);
    assert_eq!(status["keys"].as_array().unwrap().len(), 0);
    assert_eq!(status["last_error"]["result"], "connect");
}

#[test]
fn keys_are_refreshed_as_the_response_says_and_304_is_a_success() {
    let key = Signer::es256("a");
    let provider = IdentityProvider::with(&[&key]);
    provider.rotate_with(&[&key], "Cache-Control: max-age=1\r\n");
    let gateway = start(&provider, "min_refresh: 1s, max_stale: 1h");
    eventually("unchanged keys are found so", || {
        fetches(&gateway, "not_modified") >= 2.0
    });
    assert_eq!(fetches(&gateway, "success"), 1.0);
    let later: Vec<_> = provider.seen().into_iter().skip(1).collect();
    assert!(
        later
            .iter()
            .all(|request| request.header("if-none-match").is_some())
    );
    assert_eq!(ask(&gateway, &token_of(&key, "ann")).status, 200);
    // A key that leaves is no longer good.
    let other = Signer::es256("b");
    provider.rotate_with(&[&other], "Cache-Control: no-store\r\n");
    eventually("the old key is gone", || {
        ask(&gateway, &token_of(&key, "ann")).status == 401
    });
    assert_eq!(ask(&gateway, &token_of(&other, "ann")).status, 200);
}

/// Each fault, and what the fetch is counted as.
fn faults() -> Vec<(Script, &'static str)> {
    let json = "Content-Type: application/json\r\n";
    let answer = |head: &str, body: &str| {
        let length = body.len();
        Script::new().send(format!(
            "HTTP/1.1 {head}Content-Length: {length}\r\n\r\n{body}"
        ))
    };
    vec![
        (
            answer(&format!("500 Oops\r\n{json}"), "{\"keys\":[]}"),
            "status",
        ),
        (
            answer(&format!("200 OK\r\n{json}"), "no json at all"),
            "malformed",
        ),
        (
            answer(&format!("200 OK\r\n{json}"), "{\"keys\":[]}"),
            "no_usable_key",
        ),
        (
            answer("200 OK\r\nContent-Type: text/html\r\n", "<html>"),
            "content_type",
        ),
        (
            answer("302 Found\r\nLocation: http://127.0.0.1:1/\r\n", ""),
            "redirect",
        ),
        (
            Script::new()
                .send(format!(
                    "HTTP/1.1 200 OK\r\n{json}Content-Length: 104857600\r\n\r\n"
                ))
                .fill(100 << 20),
            "too_large",
        ),
        (
            Script::new()
                .send(format!(
                    "HTTP/1.1 200 OK\r\n{json}Transfer-Encoding: chunked\r\n\r\n"
                ))
                .endless(format!("400\r\n{}\r\n", " ".repeat(1024))),
            "too_large",
        ),
        (
            Script::new()
                .send(format!(
                    "HTTP/1.1 200 OK\r\n{json}Content-Length: 100\r\n\r\n{{"
                ))
                .close(),
            "broken",
        ),
        (Script::new().send("garbage\r\n\r\n").close(), "broken"),
        (Script::new().reset(), "broken"),
        (Script::new().hold(), "timeout"),
        (
            Script::new().drip(
                format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(1000)),
                MOMENT,
            ),
            "timeout",
        ),
    ]
}

const MOMENT: Duration = Duration::from_millis(50);

#[test]
fn tokens_known_before_go_on_through_every_fault() {
    let began = Instant::now();
    let key = Signer::es256("a");
    let mut provider = IdentityProvider::with(&[&key]);
    // Every fetch that follows is a repetition of a failed one, or follows a good one in a second.
    let gateway = start(
        &provider,
        "min_refresh: 1s, refresh: 1s, timeout: 500ms, max_stale: 1h, max_size: 64KiB",
    );
    let token = token_of(&key, "ann");
    eventually("there is a key", || ask(&gateway, &token).status == 200);
    let mut client = gateway.connect();
    let mut good = |what: &str| {
        let asked = Instant::now();
        let head = format!("GET / HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\n\r\n");
        assert_eq!(client.exchange(head).status, 200, "{what}");
        asked.elapsed()
    };
    let mut slowest = Duration::ZERO;
    for (script, result) in faults() {
        let before = fetches(&gateway, result);
        provider.play(script);
        eventually(result, || {
            slowest = slowest.max(good(result));
            fetches(&gateway, result) > before
        });
        let status = provider_status(&gateway);
        assert_eq!(status["stale"], true, "{result}: {status}");
        assert_eq!(status["keys"][0]["kid"], "a", "{result}");
    }
    provider.stop();
    eventually("nobody is there", || {
        good("vanished");
        fetches(&gateway, "connect") > 0.0
    });
    provider.rotate(&[&key]);
    provider.restart();
    eventually("it is back", || provider_status(&gateway)["stale"] == false);
    good("back");
    assert_eq!(provider_status(&gateway)["last_error"], Value::Null);
    // A minute's worth of failures is told once.
    gateway.wait_log(&["cannot be fetched"]);
    let told = gateway.log_lines();
    let told: Vec<_> = told
        .iter()
        .filter(|line| line.contains("cannot be fetched"))
        .collect();
    let minutes = began.elapsed().as_secs() as usize / 60;
    assert!((1..=1 + minutes).contains(&told.len()), "{told:#?}");
    assert!(told[0].contains("are still used"), "{told:?}");
    assert!(
        slowest < Duration::from_secs(10),
        "a request took {slowest:?}"
    );
}

#[test]
fn a_rotation_is_picked_up_without_a_failed_request() {
    let old = Signer::es256("old");
    let new = Signer::es256("new");
    let provider = IdentityProvider::with(&[&old]);
    let gateway = start(&provider, "refresh: 1h, max_refresh: 1h");
    let body = key_set(&[&old, &new]).to_string();
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _end = Finally(|| stop.store(true, Ordering::SeqCst));
        let work = |token: String| {
            let mut client = gateway.connect();
            let head =
                format!("GET / HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\n\r\n");
            while !stop.load(Ordering::SeqCst) {
                assert_eq!(client.exchange(&head).status, 200);
                answered.fetch_add(1, Ordering::SeqCst);
            }
        };
        let known = scope.spawn(move || work(token_of(&old, "ann")));
        eventually("there is load", || answered.load(Ordering::SeqCst) > 100);
        // The fetch takes a while, so that many come meanwhile.
        provider.play(Script::new().delay(Duration::from_millis(300)).send(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )));
        let fresh: Vec<_> = (0..8)
            .map(|one| {
                let token = token_of(&new, &format!("user{one}"));
                scope.spawn(move || work(token))
            })
            .collect();
        let before = answered.load(Ordering::SeqCst);
        eventually("they are let in", || {
            answered.load(Ordering::SeqCst) > before + 1000
        });
        stop.store(true, Ordering::SeqCst);
        known.join().unwrap();
        fresh.into_iter().for_each(|one| one.join().unwrap());
    });
    assert_eq!(provider.fetches(), 2);
    assert_eq!(
        provider_status(&gateway)["keys"].as_array().unwrap().len(),
        2
    );
    assert!(gateway.metric("gateway_jwks_unknown_key_waits_total", &[]) >= 1.0);
}

#[test]
fn a_flood_of_unknown_keys_causes_one_fetch_in_each_cooldown() {
    let key = Signer::es256("a");
    let provider = IdentityProvider::with(&[&key]);
    let gateway = start(
        &provider,
        "refresh: 1h, max_refresh: 1h, unknown_key_cooldown: 1h",
    );
    let attacker = Signer::es256("none");
    let token = token_of(&key, "ann");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = gateway.connect();
                for number in 0..250 {
                    let forged = forged(&token_of(&attacker, "eve"), number);
                    let head = format!(
                        "GET / HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {forged}\r\n\r\n"
                    );
                    let answer = client.exchange(head);
                    assert_refused(&answer, 401, "unknown_key");
                }
            });
        }
        for _ in 0..100 {
            assert_eq!(ask(&gateway, &token).status, 200);
        }
    });
    assert_eq!(provider.fetches(), 2, "the first, and one for all of them");
    let labels = [("error_type", "unknown_key")];
    assert_eq!(
        gateway.metric("gateway_auth_attempts_total", &labels),
        1000.0
    );
    // Those who came while it was under way have waited, four at most.
    let waited = gateway.metric("gateway_jwks_unknown_key_waits_total", &[]);
    assert!((1.0..=4.0).contains(&waited), "{waited} waited");
    // The same while the provider hangs: nobody waits.
    provider.play(Script::new().hold());
    for _ in 0..20 {
        assert_eq!(ask(&gateway, &token_of(&attacker, "eve")).status, 401);
    }
    let now = gateway.metric("gateway_jwks_unknown_key_waits_total", &[]);
    assert_eq!(now, waited);
}

/// The token with another `kid`.
fn forged(token: &str, number: usize) -> String {
    use base64::Engine;
    let (_, rest) = token.split_once('.').unwrap();
    let header = format!(r#"{{"alg":"ES256","kid":"random{number}"}}"#);
    let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(header);
    format!("{header}.{rest}")
}

#[test]
fn keys_that_are_too_old_are_no_longer_believed() {
    let key = Signer::es256("a");
    let mut provider = IdentityProvider::with(&[&key]);
    let gateway = start(&provider, "min_refresh: 1s, max_stale: 5s, timeout: 5s");
    let token = token_of(&key, "ann");
    eventually("there is a key", || ask(&gateway, &token).status == 200);
    provider.stop();
    eventually("the keys are withdrawn", || {
        ask(&gateway, &token).status != 200
    });
    assert_refused(&ask(&gateway, &token), 503, "provider_unavailable");
    assert_eq!(gateway.metric("gateway_jwks_keys", &[]), 0.0);
    provider.restart();
    eventually("it is back", || ask(&gateway, &token).status == 200);
}

/// The one whole file of a folder; `None` while there is none.
fn only_file(folder: &Path) -> Option<PathBuf> {
    let mut files = std::fs::read_dir(folder).ok()?;
    let file = files.next()?.ok()?.path();
    let is_whole = file.extension().is_some_and(|one| one == "json");
    (is_whole && files.next().is_none()).then_some(file)
}

#[test]
fn kept_keys_outlive_a_restart_without_the_provider() {
    let key = Signer::es256("a");
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("keys");
    let settings = format!("cache_dir: '{}', timeout: 5s", cache.display());
    let mut provider = IdentityProvider::with(&[&key]);
    let mut gateway = start(&provider, &settings);
    eventually("the keys are kept", || only_file(&cache).is_some());
    assert!(gateway.stop().success());
    provider.stop();
    let file = only_file(&cache).unwrap();
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let gateway = start(&provider, &settings);
    assert_eq!(ask(&gateway, &token_of(&key, "ann")).status, 200);
    let status = provider_status(&gateway);
    assert!(status["fetched_at"].is_string(), "{status}");
    drop(gateway);
    // A damaged file is told, and no more.
    std::fs::write(&file, "{\"version\":1,").unwrap();
    let gateway = start(&provider, &settings);
    assert_refused(
        &ask(&gateway, &token_of(&key, "ann")),
        503,
        "provider_unavailable",
    );
    gateway.wait_log(&["kept keys are not used"]);
}

#[test]
fn tls_is_verified_with_the_authorities_of_the_configuration() {
    let (known, stranger) = (Authority::new(), Authority::new());
    let key = Signer::es256("a");
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &known.pem).unwrap();
    let settings = format!("ca: '{}', timeout: 2s", ca.display());
    let start = |issued: &crate::support::authority::Issued| {
        let provider = IdentityProvider::over_tls(&[&key], issued.server(&[]));
        let url = format!("https://localhost:{}/keys", provider.address().port());
        (Gateway::start(&config_at(&url, &settings)), provider)
    };
    let (gateway, _provider) = start(&known.issue(&["localhost"]));
    assert_eq!(ask(&gateway, &token_of(&key, "ann")).status, 200);
    for bad in [
        stranger.issue(&["localhost"]),
        known.issue(&["other.test"]),
        known.issue_expired(&["localhost"]),
    ] {
        let (gateway, _provider) = start(&bad);
        assert_refused(
            &ask(&gateway, &token_of(&key, "ann")),
            503,
            "provider_unavailable",
        );
        assert!(fetches(&gateway, "tls") >= 1.0);
    }
}

#[test]
fn a_reload_keeps_the_keys_of_what_stays() {
    let key = Signer::es256("a");
    let provider = IdentityProvider::with(&[&key]);
    let gateway = start(&provider, "");
    let token = token_of(&key, "ann");
    // Another route: the provider is the same.
    gateway.rewrite(&config(provider.address(), "").replace("hello", "again"));
    gateway.signal("HUP");
    eventually("the reload is in force", || {
        ask(&gateway, &token).text() == "again"
    });
    assert_eq!(provider.fetches(), 1);
    // Another setting of the provider: it is asked again, and its keys stay meanwhile.
    provider.play(Script::new().hold());
    gateway.rewrite(&config(provider.address(), "refresh: 10m"));
    gateway.signal("HUP");
    eventually("the provider is asked again", || provider.fetches() == 2);
    assert_eq!(ask(&gateway, &token).text(), "hello");
}

#[test]
fn a_successor_has_the_keys_of_its_predecessor() {
    let key = Signer::es256("a");
    let mut provider = IdentityProvider::with(&[&key]);
    let mut line = Line::of(start(&provider, "timeout: 5s"));
    let token = token_of(&key, "ann");
    eventually("there is a key", || ask(&line.first, &token).status == 200);
    provider.stop();
    line.upgrade();
    assert!(line.first.wait_exit().success());
    assert_eq!(ask(&line.first, &token).status, 200);
}

#[test]
fn a_proxy_of_the_environment_is_not_used() {
    let key = Signer::es256("a");
    let provider = IdentityProvider::with(&[&key]);
    let dead = DeadPort::refusing();
    let proxy = format!("http://{}", dead.address());
    let gateway = Gateway::start_with(&config(provider.address(), ""), |command| {
        for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"] {
            command.env(name, &proxy);
        }
    });
    assert_eq!(ask(&gateway, &token_of(&key, "ann")).status, 200);
}

#[test]
fn two_sources_of_keys_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    let text = "auth:\n  jwt: { secret: 'an example that is long enough for HS256', jwks: { url: 'http://127.0.0.1:1/', max_stale: 3s } }\nroutes: [{ auth: jwt, respond: {} }]\n";
    std::fs::write(&file, text).unwrap();
    let finished = Gateway::command(&["-t", "-c", file.to_str().unwrap()]);
    let told = format!("{finished:?}");
    assert!(
        told.contains("stands beside `public_key` or `secret`"),
        "{told}"
    );
    assert!(told.contains("is less than twice `min_refresh`"), "{told}");
}
