//! What becomes of a backend's response that clients could misread, and of clients that do not read.

use std::net::Shutdown;
use std::time::Duration;

use crate::support::{Gateway, Origin, Script, eventually};

fn origin(response: &str) -> Origin {
    Origin::script(Script::new().read_body().send(response))
}

#[test]
fn the_version_is_the_gateways_own() {
    for framing in [
        "Content-Length: 2\r\n\r\nok",
        "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ] {
        let origin = origin(&format!("HTTP/1.0 200 OK\r\n{framing}"));
        let gateway = Gateway::in_front_of(&origin);
        let response = gateway.connect().get("/");
        assert_eq!(response.version, "HTTP/1.1");
        assert_eq!(response.text(), "ok");
    }
}

#[test]
fn a_repeated_length_is_passed_on_once() {
    for length in ["5\r\nContent-Length: 5", "5, 5"] {
        let origin = origin(&format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nhello"
        ));
        let gateway = Gateway::in_front_of(&origin);
        let response = gateway.connect().get("/");
        assert_eq!(response.headers.all("content-length"), ["5"]);
        assert_eq!(response.text(), "hello");
    }
}

/// What one reader would take for a part of the body, another one for the next response.
#[test]
fn what_readers_could_frame_differently_is_502() {
    for head in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Content-Length: +5",
        "X-Folded: a\r\n b\r\nContent-Length: 5",
        "X-Spaced : a\r\nContent-Length: 5",
        "X-Bare: a\nContent-Length: 5",
        "X-Control: a\u{1}b\r\nContent-Length: 5",
    ] {
        let origin = origin(&format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\nhello"));
        let gateway = Gateway::in_front_of(&origin);
        let mut client = gateway.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
        client.read_response().assert_refusal(502, "bad_gateway");
    }
}

#[test]
fn a_malformed_chunk_breaks_the_response_off() {
    for chunks in [
        "5\nhello\n0\n\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
    ] {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let origin = origin(&format!("{head}{chunks}"));
        let gateway = Gateway::in_front_of(&origin);
        let mut client = gateway.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(client.try_response(true).is_err(), "{chunks:?}");
    }
}

#[test]
fn trailers_pass_and_cannot_say_how_long_the_body_was() {
    let origin = origin(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nok\r\n0\r\nX-Sum: 7\r\nContent-Length: 9\r\n\r\n",
    );
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let framing = client.read_head().framing().expect("a body");
    let trailers = client
        .wire()
        .body(framing, &mut |_| {})
        .expect("a whole one");
    assert_eq!(trailers.get("x-sum"), Some("7"));
    assert_eq!(trailers.get("content-length"), None);
    assert_eq!(client.get("/again").text(), "ok");
}

/// The backend does not wait for the body, nor takes it.
#[test]
fn an_answer_may_come_before_the_body() {
    let origin = Origin::script(
        Script::new()
            .send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
            .hold(),
    );
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc");
    let response = client.read_response();
    assert_eq!((response.status, response.text().as_str()), (403, "no"));
    assert_eq!(response.header("connection"), Some("close"));
}

#[test]
fn no_content_states_no_length() {
    let origin = origin("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n");
    let gateway = Gateway::in_front_of(&origin);
    let response = gateway.connect().get("/");
    assert_eq!(response.status, 204);
    assert_eq!(response.header("content-length"), None);
}

#[test]
fn clients_of_http_1_0_get_no_interim_responses() {
    let origin = origin(
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    );
    let gateway = Gateway::in_front_of(&origin);
    let old = gateway
        .connect()
        .exchange("GET / HTTP/1.0\r\nHost: test\r\n\r\n");
    assert!(old.interim.is_empty(), "{:?}", old.interim);
    assert_eq!(old.text(), "ok");
    assert_eq!(gateway.connect().get("/").interim, [103]);
}

#[test]
fn a_request_without_a_host_does_not_reveal_the_backends_address() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    gateway.connect().exchange("GET / HTTP/1.0\r\n\r\n");
    let request = origin.only_request();
    assert_eq!(request.header("x-forwarded-host"), None);
    assert_eq!(
        request.header("forwarded"),
        Some("for=127.0.0.1;proto=http")
    );
    assert!(request.header("host").is_some());
}

/// The last of them is still being answered when the gateway has long seen the client's end.
#[test]
fn a_client_that_has_said_all_it_will_is_answered() {
    let origin = Origin::script(
        Script::new()
            .delay(Duration::from_millis(200))
            .and(&Script::answer("ok")),
    );
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3));
    client.writer().shutdown(Shutdown::Write).expect("shutdown");
    for _ in 0..3 {
        assert_eq!(client.read_response().text(), "ok");
    }
    assert!(client.is_closed());
}

/// More than all socket buffers on the way can hold, and not one body among them.
#[test]
fn a_client_that_reads_nothing_is_cut_off() {
    let padding = "x".repeat(16 * 1024);
    let origin = origin(&format!(
        "HTTP/1.1 304 Not Modified\r\nX-Padding: {padding}\r\n\r\n"
    ));
    let gateway = Gateway::start(&format!(
        "limits: {{ response_write_timeout: 500ms }}
routes: [{{ upstream: 'http://{}' }}]",
        origin.address()
    ));
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1500));
    let listener = [("listener", "main")];
    eventually("the backend is asked", || origin.requests() > 0);
    let closed = [("listener", "main"), ("reason", "write_timeout")];
    gateway.wait_metric("gateway_connections_closed_total", &closed, 1.0);
    gateway.wait_metric("gateway_connections_active", &listener, 0.0);
    gateway.wait_metric("gateway_http_requests_in_flight", &listener, 0.0);
    drop(client);
}
