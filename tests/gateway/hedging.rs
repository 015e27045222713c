//! A second attempt beside the first: when there is one, who wins, and what becomes of the other.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::client::{format_request, get};
use crate::support::gateway::NO_EJECTION;
use crate::support::{Act, DeadPort, Gate, Gateway, ModernOrigin, Origin, Script, eventually};

/// Answers with this text when the test says so.
fn held(gate: &Gate, text: &str) -> Origin {
    Origin::script(Script::new().wait(gate).and(&Script::answer(text)))
}

/// Answers with this text after a while.
fn after(millis: u64, text: &str) -> Origin {
    let answer = Script::answer(text);
    Origin::script(
        Script::new()
            .delay(Duration::from_millis(millis))
            .and(&answer),
    )
}

fn hedged(more: &str) -> String {
    format!(
        "{NO_EJECTION}\n    retries: {{ hedge: {{ after: 50ms }}, budget: 100%, min_per_second: 1000, \
         backoff: {{ base: 1ms, max: 1ms }}, {more} }}"
    )
}

fn hedges(gateway: &Gateway, result: &str) -> f64 {
    let labels = [("backend_service", "u"), ("result", result)];
    gateway.metric("gateway_backend_hedges_total", &labels)
}

#[test]
fn a_slow_backend_is_overtaken() {
    let (slow, fast) = (Origin::script(Script::new().hold()), after(0, "fast"));
    let gateway = Gateway::with_upstream(&[slow.address(), fast.address()], &hedged(""));
    let mut client = gateway.connect();
    for _ in 0..6 {
        assert_eq!(client.get("/").text(), "fast");
    }
    assert!(hedges(&gateway, "won") >= 2.0);
    // Nobody reads what it would still say.
    let seen = slow.seen();
    let connections: HashSet<_> = seen.iter().map(|request| request.connection).collect();
    assert_eq!(connections.len(), seen.len());
    gateway
        .wait_access(|line| line["retries"] == 1 && line["backend"] == fast.address().to_string());
}

#[test]
fn a_first_attempt_that_answers_first_is_taken() {
    let gate = Gate::new();
    let (first, second) = (held(&gate, "first"), Origin::script(Script::new().hold()));
    let gateway = Gateway::with_upstream(&[first.address(), second.address()], &hedged(""));
    let mut client = gateway.connect();
    client.send(format_request("GET", "/", &[], b""));
    eventually("both are asked", || second.requests() == 1);
    gate.open();
    assert_eq!(client.read_response().text(), "first");
    assert_eq!(hedges(&gateway, "lost"), 1.0);
}

#[test]
fn a_second_attempt_that_fails_changes_nothing() {
    let gate = Gate::new();
    let (first, second) = (held(&gate, "first"), DeadPort::refusing());
    let gateway = Gateway::with_upstream(&[first.address(), second.address()], &hedged(""));
    let mut client = gateway.connect();
    client.send(format_request("GET", "/", &[], b""));
    let failures = [("backend_service", "u"), ("reason", "connect")];
    gateway.wait_metric("gateway_backend_failures_total", &failures, 1.0);
    gate.open();
    assert_eq!(client.read_response().text(), "first");
    assert_eq!(hedges(&gateway, "failed"), 1.0);
}

#[test]
fn a_first_attempt_that_fails_leaves_the_second() {
    let failing = Script::new().delay(Duration::from_millis(200)).reset();
    let (first, second) = (Origin::script(failing), after(400, "second"));
    let gateway = Gateway::with_upstream(&[first.address(), second.address()], &hedged(""));
    assert_eq!(get(gateway.addr(), "/").text(), "second");
    let failures = [("backend_service", "u"), ("reason", "reset")];
    gateway.wait_metric("gateway_backend_failures_total", &failures, 1.0);
}

#[test]
fn what_is_sent_twice_must_be_harmless_and_within_the_budget() {
    let (slow, other) = (after(300, "slow"), Origin::named("other"));
    let backends = [slow.address(), other.address()];
    let gateway = Gateway::with_upstream(&backends, &hedged(""));
    let posted = gateway
        .connect()
        .exchange(format_request("POST", "/", &[], b""));
    assert_eq!(posted.text(), "slow");
    let gateway = Gateway::with_upstream(&backends, &hedged(""));
    let put = gateway
        .connect()
        .exchange(format_request("PUT", "/", &[], b"body"));
    assert_eq!(put.text(), "slow", "a body is in one place");
    let poor = format!(
        "{NO_EJECTION}\n    retries: {{ hedge: {{ after: 50ms }}, budget: 0%, min_per_second: 0 }}"
    );
    let gateway = Gateway::with_upstream(&backends, &poor);
    assert_eq!(get(gateway.addr(), "/").text(), "slow");
    assert_eq!(other.requests(), 0);
}

#[test]
fn what_is_slower_than_most_is_overtaken() {
    let is_slow = Arc::new(AtomicBool::new(false));
    let state = Arc::clone(&is_slow);
    let turning = Origin::answering(move |_| match state.load(Ordering::SeqCst) {
        true => Script::new().hold(),
        false => Script::answer("turning"),
    });
    let steady = after(0, "steady");
    let settings = format!(
        "{NO_EJECTION}\n    retries: {{ hedge: {{ percentile: 95% }}, budget: 100%, min_per_second: 1000 }}"
    );
    let gateway = Gateway::with_upstream(&[turning.address(), steady.address()], &settings);
    let mut client = gateway.connect();
    for _ in 0..200 {
        assert_eq!(client.get("/").status, 200);
    }
    is_slow.store(true, Ordering::SeqCst);
    for _ in 0..4 {
        assert_eq!(client.get("/").text(), "steady");
    }
    assert!(hedges(&gateway, "won") >= 1.0);
}

#[test]
fn a_stream_that_lost_is_reset() {
    let slow = ModernOrigin::h2c(|_| Act::Hang);
    let fast = ModernOrigin::h2c(|_| Act::Describe);
    let settings = format!("{}\n    protocol: http2", hedged(""));
    let gateway = Gateway::with_upstream(&[slow.address(), fast.address()], &settings);
    let mut client = gateway.connect();
    for _ in 0..4 {
        assert_eq!(client.get("/").status, 200);
    }
    eventually("streams are given up", || {
        let resets = slow.resets();
        !resets.is_empty() && resets.iter().all(|reason| *reason == h2::Reason::CANCEL)
    });
    assert_eq!(slow.connections(), 1);
}

#[test]
fn a_client_that_leaves_ends_both() {
    let (one, two) = (
        Origin::script(Script::new().hold()),
        Origin::script(Script::new().hold()),
    );
    let gateway = Gateway::with_upstream(&[one.address(), two.address()], &hedged(""));
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("both are asked", || one.requests() + two.requests() == 2);
    drop(client);
    gateway.wait_access(|line| line["error_type"] == "client_closed");
    gateway.wait_metric("gateway_connection_pool_in_use", &[], 0.0);
}

#[test]
fn what_would_be_a_retry_is_no_hedge() {
    let (first, second) = (
        Origin::script(Script::new().hold()),
        Origin::script(Script::new().hold()),
    );
    let settings = format!(
        "{NO_EJECTION}\n    timeouts: {{ first_byte: 300ms }}\n    \
         retries: {{ hedge: {{ after: 300ms }}, budget: 100%, min_per_second: 1000 }}"
    );
    let gateway = Gateway::with_upstream(&[first.address(), second.address()], &settings);
    get(gateway.addr(), "/").assert_refusal(504, "gateway_timeout");
    assert_eq!(first.requests() + second.requests(), 1);
}

#[test]
fn whose_session_is_with_one_backend_is_not_hedged() {
    let slow = |name: &str| after(200, name);
    let (first, second) = (slow("first"), slow("second"));
    let settings = format!(
        "{}\n    sticky: {{ keys: ['a key of enough characters'] }}",
        hedged("")
    );
    let gateway = Gateway::with_upstream(&[first.address(), second.address()], &settings);
    let mut client = gateway.connect();
    let answer = client.get("/");
    let cookie = answer.header("set-cookie").unwrap();
    let cookie = format!("Cookie: {}", cookie.split(';').next().unwrap());
    let before = first.requests() + second.requests();
    for _ in 0..3 {
        let again = client.exchange(format_request("GET", "/", &[&cookie], b""));
        assert_eq!(again.text(), answer.text());
    }
    assert_eq!(first.requests() + second.requests(), before + 3);
}

#[test]
fn a_key_of_idempotency_makes_a_request_harmless() {
    let (slow, fast) = (Origin::script(Script::new().hold()), after(0, "fast"));
    let backends = [slow.address(), fast.address()];
    let gateway = Gateway::with_upstream(&backends, &hedged("idempotency_key: true"));
    let mut client = gateway.connect();
    let post = format_request("POST", "/", &["Idempotency-Key: \"a1\""], b"");
    for _ in 0..4 {
        assert_eq!(client.exchange(&post).text(), "fast");
    }
    assert!(hedges(&gateway, "won") >= 1.0);
}

#[test]
fn a_route_without_attempts_has_no_hedge() {
    let gate = Gate::new();
    let (slow, other) = (held(&gate, "slow"), Origin::named("other"));
    let gateway = Gateway::start(&format!(
        "upstreams:\n  u:\n    backends: ['{}', '{}']\n{}\n\
         routes: [{{ name: all, upstream: u, retries: {{ attempts: 0 }} }}]",
        slow.address(),
        other.address(),
        hedged("")
    ));
    let mut client = gateway.connect();
    client.send(format_request("GET", "/", &[], b""));
    eventually("the first is asked", || slow.requests() == 1);
    // Six times what a hedge waits.
    std::thread::sleep(Duration::from_millis(300));
    gate.open();
    assert_eq!(client.read_response().text(), "slow");
    assert_eq!(other.requests(), 0);
}

#[test]
fn early_hints_of_hedged_requests_are_not_passed_on() {
    let gate = Gate::new();
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n";
    let first = Script::new().send(hints).wait(&gate);
    let first = Origin::script(first.and(&Script::answer("first")));
    let second = Origin::script(Script::new().send(hints).hold());
    let gateway = Gateway::with_upstream(&[first.address(), second.address()], &hedged(""));
    let mut client = gateway.connect();
    client.send(format_request("GET", "/", &[], b""));
    eventually("both are asked", || second.requests() == 1);
    gate.open();
    let response = client.read_response();
    assert_eq!(
        (response.text().as_str(), response.interim),
        ("first", vec![])
    );
}
