//! Clients that send or read as slowly as they can, and responses that break off.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use crate::support::client::{format_request, status};
use crate::support::{Client, Gate, Gateway, Origin, Script, eventually};

/// How often a slow client sends a byte.
const TRICKLE: Duration = Duration::from_millis(100);
/// Longer than a body may take before its pace counts.
const BEYOND_GRACE: Duration = Duration::from_secs(7);

fn closed(gateway: &Gateway, reason: &str) -> f64 {
    let labels = [("listener", "main"), ("reason", reason)];
    gateway.metric("gateway_connections_closed_total", &labels)
}

/// Sends byte after byte for this long, or until the other side closes.
fn trickle(client: &mut Client, length: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < length && client.try_send("x").is_ok() {
        std::thread::sleep(TRICKLE);
    }
}

#[test]
fn a_body_that_trickles_is_408() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    for framing in ["Content-Length: 1000000", "Transfer-Encoding: chunked"] {
        let before = closed(&gateway, "body_too_slow");
        let mut client = gateway.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"));
        if framing.ends_with("chunked") {
            client.send("FFFFF\r\n");
        }
        let mut writer = client.writer();
        let sending = std::thread::spawn(move || {
            use std::io::Write;
            // Ends when the other side has closed.
            while writer.write_all(b"x").is_ok() {
                std::thread::sleep(TRICKLE);
            }
        });
        let begin = Instant::now();
        client
            .read_response()
            .assert_refusal(408, "request_timeout");
        assert!(begin.elapsed() > Duration::from_secs(4), "too soon");
        assert_eq!(closed(&gateway, "body_too_slow"), before + 1.0);
        drop(client);
        sending.join().expect("the sender");
    }
    let whole = |request: &crate::support::Request| request.body_length.is_some();
    assert!(!origin.seen().iter().any(whole));
}

#[test]
fn without_a_minimum_a_body_may_trickle() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "limits: {{ request_body_min_rate: 0 }}
routes: [{{ name: all, upstream: 'http://{}' }}]",
        origin.address()
    ));
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n100000\r\n");
    trickle(&mut client, BEYOND_GRACE);
    assert_eq!(closed(&gateway, "body_too_slow"), 0.0);
    assert_eq!(origin.requests(), 1);
}

/// While the backend makes up its mind, the client is waited for by nobody.
#[test]
fn waiting_for_the_backend_is_not_the_clients_time() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::answering(move |_| {
        Script::new()
            .wait(&held)
            .send("HTTP/1.1 100 Continue\r\n\r\n")
            .read_body()
            .send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    });
    let gateway = Gateway::with_upstream(&[origin.address()], "");
    let mut client = gateway.connect();
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    std::thread::sleep(BEYOND_GRACE);
    gate.open();
    assert_eq!(status(&client.read_head()), 100);
    client.send("body");
    assert_eq!(client.read_response().status, 200);
}

/// A small slowloris in three manners: each slow connection is closed within its time, and others
/// are served meanwhile.
#[test]
fn slow_connections_end_and_do_not_hinder_others() {
    const EACH: usize = 30;
    let origin = Origin::answering(|request| match request.target.as_str() {
        "/large" => Script::new()
            .send("HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n")
            .fill(50_000_000),
        _ => Script::answer("well"),
    });
    let gateway = Gateway::with_upstream(
        &[origin.address()],
        "    timeouts: { write: 60s }
limits: { request_header_timeout: 1s, request_body_timeout: 1s, response_write_timeout: 1s }",
    );
    let mut slow = Vec::new();
    for _ in 0..EACH {
        let beginnings = [
            "GET / HTTP/1.1\r\nHost: a\r\nX: ",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx",
            "GET /large HTTP/1.1\r\nHost: a\r\n\r\n",
        ];
        for beginning in beginnings {
            let mut client = gateway.connect();
            client.send(beginning);
            slow.push(client);
        }
    }
    let mut other = gateway.connect();
    eventually("every slow connection is ended", || {
        assert_eq!(other.get("/well").text(), "well");
        let ended = ["header_timeout", "body_timeout", "write_timeout"];
        ended
            .iter()
            .all(|reason| closed(&gateway, reason) == EACH as f64)
    });
    drop(slow);
}

/// The end of the connection is all that tells an HTTP/1.0 client where a body without a length
/// ends, so it must not look like one when the backend broke off.
#[test]
fn a_body_cut_short_does_not_look_complete_to_http_1_0() {
    for ending in [Script::new().close(), Script::new().reset()] {
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n";
        let origin = Origin::script(Script::new().send(answer).and(&ending));
        let settings = crate::support::gateway::NO_EJECTION;
        let gateway = Gateway::with_upstream(&[origin.address()], settings);
        let mut client = gateway.connect();
        client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
        let end = loop {
            match client.wire().some() {
                Ok(bytes) if bytes.is_empty() => break None,
                Ok(_) => {}
                Err(error) => break Some(error.kind()),
            }
        };
        assert_eq!(end, Some(ErrorKind::ConnectionReset));
    }
}

#[test]
fn a_whole_body_ends_in_good_order_for_http_1_0() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n";
    let origin = Origin::script(Script::new().send(answer));
    let gateway = Gateway::with_upstream(&[origin.address()], "");
    let mut client = gateway.connect();
    let response = client.exchange("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(response.text(), "whole");
    assert!(client.wire().some().is_ok_and(|bytes| bytes.is_empty()));
}

#[test]
fn refusals_are_told_in_the_log_at_a_limited_rate() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    for _ in 0..100 {
        let mut client = gateway.connect();
        client.send("GET /?token=s3cret HTTP/1.1\r\nHost: a\r\nX(y): s3cret\r\n\r\n");
        client.read_response().assert_refusal(400, "bad_request");
    }
    let told = || {
        let lines = gateway.log_lines().into_iter();
        let lines = lines.filter(|line| line.contains("client::refused"));
        lines.collect::<Vec<_>>()
    };
    eventually("the surplus is told", || {
        let mut client = gateway.connect();
        client.send(format_request("BAD METHOD", "/", &[], b""));
        drop(client.try_response(true));
        let summary = |line: &String| line.contains("further lines were left out");
        told().iter().any(summary)
    });
    let lines = told();
    assert!(
        lines[0].contains("listener=main client=127.0.0.1:"),
        "{lines:?}"
    );
    assert!(lines[0].contains("refused: bad_request part=\"header field name\""));
    assert!(!lines.iter().any(|line| line.contains("s3cret")));
}
