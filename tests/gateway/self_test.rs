//! The tools of the tests against each other: what a test sees is what was on the wire.

use std::io::ErrorKind;

use crate::support::client::{format_request, request};
use crate::support::metrics;
use crate::support::{Client, DeadPort, Gate, Origin, Script};

#[test]
fn an_echo_says_what_it_was_asked_on_a_kept_connection() {
    let origin = Origin::echo();
    let mut client = Client::connect(origin.address());
    let first = client.exchange(format_request("POST", "/a?b=c", &["X-One: 1"], b"body"));
    assert_eq!(first.json()["target"], "/a?b=c");
    assert_eq!(first.json()["body_length"], 4);
    assert_eq!(client.get("/second").json()["method"], "GET");
    assert_eq!((origin.connections(), origin.requests()), (1, 2));
    assert_eq!(origin.seen()[0].body, b"body");
    assert_eq!(origin.seen()[0].header("x-one"), Some("1"));
}

#[test]
fn chunks_and_trailers_are_read_on_both_sides() {
    let origin = Origin::script(
        Script::new()
            .read_body()
            .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .send("3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n"),
    );
    let mut client = Client::connect(origin.address());
    let head = "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";
    let response = client.exchange(format!("{head}4\r\nwxyz\r\n0\r\nX-T: 1\r\n\r\n"));
    assert_eq!(response.body, b"abcde");
    assert_eq!(origin.only_request().body, b"wxyz");
    assert_eq!(origin.only_request().trailers.get("x-t"), Some("1"));
}

#[test]
fn a_truncated_body_is_an_error() {
    let origin = Origin::script(
        Script::new()
            .send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")
            .close(),
    );
    let mut client = Client::connect(origin.address());
    client.send(format_request("GET", "/", &[], b""));
    let error = client.try_response(true).expect_err("truncated");
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn a_reset_is_seen_as_one() {
    let origin = Origin::script(Script::new().send("HTTP/1.1 200 O").reset());
    let mut client = Client::connect(origin.address());
    client.send(format_request("GET", "/", &[], b""));
    let error = client.try_response(true).expect_err("reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_gate_holds_a_script_until_it_is_opened() {
    let gate = Gate::new();
    let origin = Origin::script(
        Script::new()
            .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
            .wait(&gate)
            .send("b"),
    );
    let mut client = Client::connect(origin.address());
    client.send(format_request("GET", "/", &[], b""));
    client.read_head();
    assert_eq!(client.wire().exact(1).unwrap(), b"a");
    gate.open();
    assert_eq!(client.wire().exact(1).unwrap(), b"b");
}

#[test]
fn a_stopped_origin_refuses_and_comes_back_on_its_port() {
    let mut origin = Origin::echo();
    let mut kept = Client::connect(origin.address());
    assert_eq!(kept.get("/").status, 200);
    origin.stop();
    assert!(kept.is_closed());
    assert!(std::net::TcpStream::connect(origin.address()).is_err());
    origin.restart();
    assert_eq!(request(origin.address(), "GET", "/", &[], b"").status, 200);
}

#[test]
fn dead_ports_refuse_or_stay_silent() {
    let refusing = DeadPort::refusing();
    let error = std::net::TcpStream::connect(refusing.address()).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let unanswering = DeadPort::unanswering();
    let limit = std::time::Duration::from_millis(200);
    let error = std::net::TcpStream::connect_timeout(&unanswering.address(), limit)
        .expect_err("unanswered");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

#[test]
fn samples_are_read_with_their_labels() {
    let page = "# TYPE a counter\na{b=\"c\\\"d\",e=\"f\"} 3\ng 0.5\n";
    let samples = metrics::parse(page);
    assert!(samples[0].has(&[("b", "c\"d"), ("e", "f")]));
    assert_eq!((samples[1].name, samples[1].value), ("g", 0.5));
}
