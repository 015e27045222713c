//! Backends that fail, in every way and at every byte.

use std::io::ErrorKind;
use std::time::Duration;

use crate::support::client::{format_request, get, request};
use crate::support::gateway::NO_EJECTION;
use crate::support::{Gate, Gateway, Origin, Script};

/// One POST, so that nothing is hidden by a retry, to a backend that does this: the refusal, its
/// reason in log and metrics, and a client that can go on.
#[track_caller]
fn assert_fault(script: Script, reason: &str) {
    let (status, error) = match reason {
        "timeout" => (504, "gateway_timeout"),
        _ => (502, "bad_gateway"),
    };
    let origin = Origin::answering(move |request| match request.target.as_str() {
        "/well" => Script::answer("well"),
        _ => Script::new().read_body().and(&script),
    });
    let patience = if reason == "timeout" { "1s" } else { "1m" };
    let settings = format!("{NO_EJECTION}\n    timeouts: {{ first_byte: {patience} }}");
    let gateway = Gateway::with_upstream(&[origin.address()], &settings);
    let mut client = gateway.connect();
    client.send(format_request("POST", "/ill", &[], b"body"));
    let id = client.read_response().assert_refusal(status, error);
    assert_eq!(client.get("/well").text(), "well", "the connection goes on");
    assert_eq!(origin.requests(), 2);
    let line = gateway.wait_access(|line| line["request_id"] == id.as_str());
    assert_eq!(line["status_code"], status);
    assert_eq!(line["error_type"], reason);
    let counted = [("backend_service", "u"), ("reason", reason)];
    gateway.wait_metric("gateway_backend_failures_total", &counted, 1.0);
}

#[test]
fn a_close_before_the_answer_is_502() {
    assert_fault(Script::new().close(), "reset");
}

#[test]
fn a_reset_before_the_answer_is_502() {
    assert_fault(Script::new().reset(), "reset");
}

#[test]
fn a_reset_inside_the_header_is_502() {
    assert_fault(
        Script::new().send("HTTP/1.1 200 OK\r\nContent-Le").reset(),
        "reset",
    );
}

#[test]
fn a_close_inside_the_status_line_is_502() {
    assert_fault(Script::new().send("HTTP/1.").close(), "reset");
}

#[test]
fn garbage_is_502() {
    assert_fault(
        Script::new()
            .send(*b"\x00\x01\x02 not HTTP\r\n\r\n")
            .close(),
        "protocol",
    );
}

#[test]
fn a_status_line_of_nonsense_is_502() {
    assert_fault(
        Script::new().send("HTTP/1.1 abc OK\r\n\r\n").close(),
        "protocol",
    );
}

#[test]
fn an_ambiguous_length_of_the_backend_is_502() {
    let two = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc";
    assert_fault(Script::new().send(two).close(), "protocol");
}

#[test]
fn an_answer_that_never_comes_is_504() {
    assert_fault(Script::new().hold(), "timeout");
}

#[test]
fn an_answer_that_stops_inside_its_header_is_504() {
    assert_fault(
        Script::new().send("HTTP/1.1 200 OK\r\nX: ").hold(),
        "timeout",
    );
}

#[test]
fn an_endless_header_is_502_in_bounded_memory() {
    let origin = Origin::script(
        Script::new()
            .read_body()
            .send("HTTP/1.1 200 OK\r\n")
            .endless("X-Endless: vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv\r\n"),
    );
    let gateway = Gateway::with_upstream(&[origin.address()], NO_EJECTION);
    let before = gateway.rss_kib();
    for _ in 0..3 {
        let response = request(gateway.addr(), "POST", "/", &[], b"x");
        response.assert_refusal(502, "bad_gateway");
    }
    let grown = gateway.rss_kib().saturating_sub(before);
    assert!(grown < 32 * 1024, "{grown} KiB");
}

#[test]
fn a_truncated_body_is_never_a_complete_one() {
    for (head, ending) in [
        ("Content-Length: 10", Script::new().close()),
        ("Content-Length: 10", Script::new().reset()),
        ("Transfer-Encoding: chunked", Script::new().close()),
        ("Transfer-Encoding: chunked", Script::new().reset()),
    ] {
        let piece = if head.contains("chunked") {
            "5\r\nshort\r\n"
        } else {
            "short"
        };
        let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{piece}");
        let origin = Origin::script(Script::new().send(answer).and(&ending));
        let gateway = Gateway::with_upstream(&[origin.address()], NO_EJECTION);
        let mut client = gateway.connect();
        client.send(format_request("GET", "/cut", &[], b""));
        let error = client.try_response(true).expect_err("a truncated body");
        let cut = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
        assert!(cut.contains(&error.kind()), "{head}: {error}");
        assert_eq!(
            origin.requests(),
            1,
            "a response that has begun is not retried"
        );
        let line = gateway.wait_access(|line| line["path"] == "/cut");
        assert_eq!(line["error_type"], "reset_in_body");
    }
}

#[test]
fn a_body_that_stops_is_cut_after_the_read_timeout() {
    let origin = Origin::script(
        Script::new()
            .send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")
            .hold(),
    );
    let gateway = Gateway::with_upstream(&[origin.address()], "    timeouts: { read: 500ms }");
    let mut client = gateway.connect();
    client.send(format_request("GET", "/", &[], b""));
    assert!(client.try_response(true).is_err());
}

#[test]
fn a_body_that_is_too_long_does_not_become_the_next_answer() {
    let origin = Origin::answering(|request| {
        match request.target.as_str() {
        "/long" => Script::new().send(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        ),
        _ => Script::answer("good"),
    }
    });
    let gateway = Gateway::with_upstream(&[origin.address()], NO_EJECTION);
    let mut client = gateway.connect();
    assert_eq!(client.get("/long").text(), "ok");
    for _ in 0..3 {
        assert_eq!(client.get("/next").text(), "good");
    }
}

#[test]
fn a_client_that_leaves_does_not_disturb_the_others() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::answering(move |request| match request.target.as_str() {
        "/held" => Script::new()
            .wait(&held)
            .send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        _ => Script::answer("well"),
    });
    let gateway = Gateway::with_upstream(&[origin.address()], "");
    let mut leaving = gateway.connect();
    leaving.send(format_request("GET", "/held", &[], b""));
    crate::support::eventually("it arrives", || origin.requests() == 1);
    drop(leaving);
    gateway.wait_access(|line| line["path"] == "/held");
    gate.open();
    for _ in 0..5 {
        assert_eq!(get(gateway.addr(), "/").text(), "well");
    }
    // A client's leaving is not the backend's failure.
    assert_eq!(gateway.metric("gateway_backend_failures_total", &[]), 0.0);
}

#[test]
fn a_slow_backend_within_its_time_is_waited_for() {
    let origin = Origin::script(
        Script::new()
            .delay(Duration::from_millis(300))
            .send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow"),
    );
    let gateway = Gateway::with_upstream(&[origin.address()], "    timeouts: { first_byte: 10s }");
    assert_eq!(get(gateway.addr(), "/").text(), "slow");
}

#[test]
fn a_backend_that_does_not_say_continue_is_the_one_to_blame() {
    let origin = Origin::script(Script::new().hold());
    let gateway =
        Gateway::with_upstream(&[origin.address()], "    timeouts: { first_byte: 300ms }");
    let mut client = gateway.connect();
    client
        .send("PUT / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    let response = client.read_response();
    assert_eq!(response.status, 504, "{}", response.text());
}
