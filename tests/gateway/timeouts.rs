//! How long a request may take: as a whole, by upstream and by route, and how backends are told.

use std::time::{Duration, Instant};

use crate::support::client::{get, request};
use crate::support::h2::{self, H2};
use crate::support::{Act, DeadPort, Gateway, ModernOrigin, Origin, Script};

/// A gateway with this in the upstream and in its route.
fn gateway(origin: &Origin, upstream: &str, route: &str) -> Gateway {
    Gateway::start(&format!(
        "trusted_proxies: [127.0.0.0/8]\nupstreams: {{ u: {{ backends: ['{}'], {upstream} }} }}\n\
         routes: [{{ name: all, upstream: u, {route} }}]",
        origin.address()
    ))
}

#[test]
fn a_request_as_a_whole_ends_in_time() {
    let origin = Origin::script(Script::new().hold());
    let gateway = gateway(&origin, "timeouts: { request: 1s }", "");
    let mut client = gateway.connect();
    client.get("/").assert_refusal(504, "total_timeout");
    // The client's connection goes on.
    client.get("/").assert_refusal(504, "total_timeout");
    gateway.wait_access(|line| line["error_type"] == "total_timeout");
    // The backend let all of the time pass.
    let failures = [("backend_service", "u"), ("reason", "timeout")];
    gateway.wait_metric("gateway_backend_failures_total", &failures, 2.0);
}

#[test]
fn a_response_that_takes_too_long_is_cut_off() {
    let begun = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf";
    let origin = Origin::script(Script::new().send(begun).hold());
    let gateway = gateway(&origin, "", "timeouts: { request: 2s }");
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.try_response(true).is_err());
    gateway.wait_access(|line| line["error_type"] == "total_timeout");
}

#[test]
fn a_slow_upload_is_not_held_against_the_backend() {
    let origin = Origin::script(Script::answer("all of it"));
    let gateway = gateway(&origin, "timeouts: { read: 300ms, first_byte: 20s }", "");
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n");
    for piece in ["a", "b", "c", "d"] {
        std::thread::sleep(Duration::from_millis(150));
        client.send(piece);
    }
    assert_eq!(client.read_response().text(), "all of it");
}

#[test]
fn a_head_may_take_longer_than_two_reads_of_a_body() {
    let slow = Script::new().delay(Duration::from_millis(600));
    let origin = Origin::script(slow.and(&Script::answer("late")));
    let gateway = gateway(&origin, "timeouts: { read: 100ms, first_byte: 20s }", "");
    assert_eq!(get(gateway.addr(), "/").text(), "late");
}

#[test]
fn who_cannot_be_connected_to_is_to_blame() {
    let dead = DeadPort::unanswering();
    let gateway = Gateway::start(&format!(
        "upstreams: {{ u: {{ backends: ['{}'], timeouts: {{ request: 300ms }} }} }}\n\
         routes: [{{ name: all, upstream: u }}]",
        dead.address()
    ));
    get(gateway.addr(), "/").assert_refusal(504, "total_timeout");
    let failures = [("backend_service", "u"), ("reason", "connect_timeout")];
    gateway.wait_metric("gateway_backend_failures_total", &failures, 1.0);
}

#[test]
fn who_stands_in_has_its_own_time() {
    let slow = Script::new().delay(Duration::from_millis(600));
    let other = Origin::script(slow.and(&Script::answer("late")));
    let gateway = Gateway::start(&format!(
        "upstreams:
  u:
    backends: ['{}']
    timeouts: {{ request: 200ms }}
    health_check: {{ interval: 1h, initial: unhealthy }}
    fallback: {{ upstream: other }}
  other: {{ backends: ['{}'] }}
routes: [{{ name: all, upstream: u }}]",
        DeadPort::refusing().address(),
        other.address()
    ));
    assert_eq!(get(gateway.addr(), "/").text(), "late");
}

#[test]
fn all_attempts_share_the_time() {
    let origin = Origin::script(Script::new().hold());
    let gateway = gateway(
        &origin,
        "timeouts: { request: 700ms, first_byte: 300ms }, outlier: { consecutive_failures: 0 }, \
         retries: { attempts: 10, on: [timeout], budget: 100%, min_per_second: 100, \
         backoff: { base: 1ms, max: 1ms } }",
        "",
    );
    get(gateway.addr(), "/").assert_refusal(504, "total_timeout");
    assert!(
        (1..=3).contains(&origin.requests()),
        "{}",
        origin.requests()
    );
}

#[test]
fn no_retry_begins_that_could_not_end() {
    let answer = "HTTP/1.1 503 Oh\r\nRetry-After: 20\r\nContent-Length: 0\r\n\r\n";
    let origin = Origin::script(Script::new().send(answer));
    let gateway = gateway(
        &origin,
        "timeouts: { request: 8s }, retries: { on: [503], backoff: { max: 30s } }",
        "",
    );
    assert_eq!(get(gateway.addr(), "/").status, 503);
    let skipped = [("backend_service", "u"), ("reason", "deadline")];
    gateway.wait_metric("gateway_backend_retries_skipped_total", &skipped, 1.0);
    assert_eq!(origin.requests(), 1);
}

#[test]
fn a_slow_client_is_not_held_against_a_backend() {
    let origin = Origin::echo();
    let gateway = gateway(&origin, "timeouts: { request: 300ms }", "");
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nfive.");
    client.read_response().assert_refusal(504, "total_timeout");
    let failures = gateway.metric("gateway_backend_failures_total", &[]);
    assert_eq!(failures, 0.0);
}

/// Asserts that this does not wait for the five seconds that a connection may take. A machine that
/// stalls has several tries.
#[track_caller]
fn assert_quick(ask: impl Fn()) {
    let is_quick = |_| {
        let asked = Instant::now();
        ask();
        asked.elapsed() < Duration::from_secs(4)
    };
    assert!((0..3).any(is_quick));
}

#[test]
fn a_route_has_timeouts_of_its_own() {
    let dead = DeadPort::unanswering();
    let gateway = Gateway::start(&format!(
        "upstreams: {{ u: {{ backends: ['{}'], timeouts: {{ connect: 5s }}, retries: {{ attempts: 0 }} }} }}\n\
         routes: [{{ name: all, upstream: u, timeouts: {{ connect: 100ms }} }}]",
        dead.address()
    ));
    assert_quick(|| {
        get(gateway.addr(), "/").assert_refusal(502, "bad_gateway");
    });
    let failures = [("backend_service", "u"), ("reason", "connect_timeout")];
    assert!(gateway.metric("gateway_backend_failures_total", &failures) >= 1.0);
}

#[test]
fn connecting_ends_with_the_request() {
    let dead = DeadPort::unanswering();
    let gateway = Gateway::with_upstream(
        &[dead.address()],
        "    timeouts: { connect: 5s, request: 200ms }",
    );
    assert_quick(|| {
        get(gateway.addr(), "/").assert_refusal(504, "total_timeout");
    });
}

/// What the backend was told is left, in milliseconds.
fn told(origin: &Origin, place: usize) -> Option<u64> {
    let seen = origin.seen();
    seen[place]
        .header("x-left")
        .map(|left| left.parse().unwrap())
}

#[test]
fn backends_are_told_what_is_left() {
    let origin = Origin::echo();
    let settings = "timeouts: { request: 10s, deadline_header: X-Left }";
    let gateway = gateway(&origin, settings, "");
    assert_eq!(get(gateway.addr(), "/").status, 200);
    let left = told(&origin, 0).unwrap();
    assert!((1..=10_000).contains(&left), "{left}");
    // Whoever is believed can give less, and not more.
    for (given, most) in [("5000", 5000), ("60000", 10_000), ("soon", 10_000)] {
        let field = format!("X-Left: {given}");
        let place = origin.requests();
        let response = request(gateway.addr(), "GET", "/", &[&field], b"");
        assert_eq!(response.status, 200);
        let left = told(&origin, place).unwrap();
        assert!((1..=most).contains(&left), "{given}: {left}");
    }
    request(gateway.addr(), "GET", "/", &["X-Left: 0"], b"")
        .assert_refusal(504, "deadline_exceeded");
}

#[test]
fn nobody_else_says_how_much_is_left() {
    let origin = Origin::echo();
    let gateway = Gateway::with_upstream(
        &[origin.address()],
        "    timeouts: { deadline_header: x-left }",
    );
    let response = request(gateway.addr(), "GET", "/", &["X-Left: 0"], b"");
    assert_eq!(response.status, 200);
    assert_eq!(told(&origin, 0), None);
}

#[test]
fn a_call_is_told_what_is_left_of_its_time() {
    let origin = ModernOrigin::h2c(|_| Act::Stream);
    let gateway = Gateway::start(&format!(
        "listeners: [{{ name: main, address: 127.0.0.1:0, h2c: true }}]\n\
         upstreams: {{ u: {{ backends: ['{}'], protocol: http2, timeouts: {{ request: 10s }} }} }}\n\
         routes: [{{ name: all, upstream: u }}]",
        origin.address()
    ));
    let mut client = H2::connect(gateway.addr());
    for given in [None, Some("5S"), Some("1H")] {
        let mut call = h2::request("POST", "/a.B/C").header("content-type", "application/grpc");
        if let Some(given) = given {
            call = call.header("grpc-timeout", given);
        }
        assert_eq!(client.send(call, "x").status, 200);
        let asked = origin.seen().pop().unwrap();
        let told = asked.headers["grpc-timeout"].to_str().unwrap();
        let left: u64 = told.strip_suffix('m').unwrap().parse().unwrap();
        let most = if given == Some("5S") { 5_000 } else { 10_000 };
        assert!((1..=most).contains(&left), "{given:?}: {told}");
    }
}
