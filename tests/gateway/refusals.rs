//! Requests that the gateway refuses by itself: none of them reaches a backend.

use std::time::Duration;

use crate::support::client::{format_request, get, request};
use crate::support::{Client, Gateway, Origin, Script, eventually};

/// Sends raw bytes, expects this refusal, and that the backend saw nothing of it.
#[track_caller]
fn assert_refused(gateway: &Gateway, origin: &Origin, bytes: &[u8], status: u16, error: &str) {
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
    let mut client = gateway.connect();
    // The gateway may refuse, and close, before it was told everything.
    drop(client.try_send(bytes));
    let response = client
        .try_response(true)
        .unwrap_or_else(|failure| panic!("{failure} instead of an answer to {shown:?}"));
    assert_eq!(response.status, status, "{shown:?}: {}", response.text());
    response.assert_refusal(status, error);
    assert_eq!(origin.requests(), 0, "{shown:?} reached the backend");
}

#[test]
fn malformed_requests_are_refused() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    for bytes in [
        // Host
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: user@a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:port\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
        // Framing
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        // Lines and bytes
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\nX-Two: 2\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX-Space : 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX-Folded: 1\r\n 2\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX-Folded: 1\r\n\t2\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX-Nul: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX-Bell: a\x07b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX-Return: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nNo colon here\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n: empty name\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX(y): 1\r\n\r\n",
        // Request line
        "G@T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET nowhere HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a\x01b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a#fragment HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/9\r\nHost: a\r\n\r\n",
        "GET / http/1.1\r\nHost: a\r\n\r\n",
        "GET /\r\nHost: a\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03\r\n\r\n",
    ] {
        assert_refused(&gateway, &origin, bytes.as_bytes(), 400, "bad_request");
    }
    assert_eq!(get(gateway.addr(), "/").status, 200);
}

#[test]
fn what_is_well_formed_but_not_spoken_has_its_own_status() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    for (bytes, status, error) in [
        (
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            505,
            "version_not_supported",
        ),
        (
            "GET / HTTP/3.7\r\nHost: a\r\n\r\n",
            505,
            "version_not_supported",
        ),
        (
            "PUT / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n",
            417,
            "expectation_failed",
        ),
        (
            "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
            405,
            "method_not_allowed",
        ),
        (
            "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
            405,
            "method_not_allowed",
        ),
    ] {
        assert_refused(&gateway, &origin, bytes.as_bytes(), status, error);
    }
}

#[test]
fn a_bad_byte_outside_ascii_in_the_target_is_refused() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let bytes = b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_refused(&gateway, &origin, bytes, 400, "bad_request");
}

#[test]
fn a_malformed_chunk_never_completes_a_request() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    for body in [
        "zz\r\nabc\r\n",
        "-1\r\n",
        "3\r\nabcX\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFFF\r\n",
    ] {
        let mut client = gateway.connect();
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        drop(client.try_send(format!("{head}{body}")));
        if let Ok(response) = client.try_response(true) {
            assert_eq!(response.status, 400, "{body:?}: {}", response.text());
        }
    }
    assert!(
        origin
            .seen()
            .iter()
            .all(|request| request.body_length.is_none())
    );
}

#[test]
fn a_target_with_a_scheme_must_agree_with_the_host() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let disagreeing = b"GET http://one.example/ HTTP/1.1\r\nHost: two.example\r\n\r\n";
    let mut client = gateway.connect();
    let response = client.exchange(disagreeing);
    // Either it is refused, or the target decides, as RFC 9112 says; the Host never does.
    if response.status == 200 {
        assert_eq!(origin.only_request().header("host"), Some("one.example"));
    } else {
        response.assert_refusal(400, "bad_request");
        assert_eq!(origin.requests(), 0);
    }
}

#[test]
fn a_refusal_has_the_id_of_its_access_line() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a b\r\n\r\n");
    let id = client.read_response().assert_refusal(400, "bad_request");
    let line = gateway.wait_access(|line| line["request_id"] == id.as_str());
    assert_eq!(line["status_code"], 400);
    assert_eq!(line["error_type"], "bad_request");
}

#[test]
fn a_header_that_is_too_large_is_431() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let one = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX-Large: {}\r\n\r\n",
        "v".repeat(40_000)
    );
    assert_refused(&gateway, &origin, one.as_bytes(), 431, "header_too_large");
    let many = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "X-N: 1\r\n".repeat(101)
    );
    assert_refused(&gateway, &origin, many.as_bytes(), 431, "header_too_large");
    let huge = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX-Huge: {}",
        "v".repeat(3_000_000)
    );
    assert_refused(&gateway, &origin, huge.as_bytes(), 431, "header_too_large");
}

#[test]
fn a_target_that_is_too_long_is_414() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "p".repeat(9_000));
    assert_refused(&gateway, &origin, long.as_bytes(), 414, "uri_too_long");
    let endless = format!("GET /{}", "p".repeat(100_000));
    assert_refused(&gateway, &origin, endless.as_bytes(), 414, "uri_too_long");
}

#[test]
fn configured_limits_are_the_ones_that_count() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "limits: {{ request_header_size: 1KiB, request_header_count: 10, uri_size: 256 }}
routes: [{{ name: all, upstream: 'http://{}' }}]",
        origin.address()
    ));
    let large = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "v".repeat(1_100)
    );
    assert_refused(&gateway, &origin, large.as_bytes(), 431, "header_too_large");
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(10));
    assert_refused(&gateway, &origin, many.as_bytes(), 431, "header_too_large");
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "p".repeat(256));
    assert_refused(&gateway, &origin, long.as_bytes(), 414, "uri_too_long");
    assert_eq!(
        request(gateway.addr(), "GET", "/", &["X: 1"], b"").status,
        200
    );
}

#[test]
fn a_slow_header_is_408_however_it_trickles() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "limits: {{ request_header_timeout: 500ms }}
routes: [{{ name: all, upstream: 'http://{}' }}]",
        origin.address()
    ));
    let mut stuck = gateway.connect();
    stuck.send("GET / HTTP/1.1\r\nHost: a\r\n");
    stuck.read_response().assert_refusal(408, "request_timeout");
    assert!(stuck.is_closed());

    let mut trickling = gateway.connect();
    trickling.send("GET / HTTP/1.1\r\nHost: a\r\nX: ");
    let mut sent = 0;
    eventually("a header that never ends is cut", || {
        sent += 1;
        std::thread::sleep(Duration::from_millis(20));
        trickling.try_send("v").is_err() || has_answer(&trickling)
    });
    trickling
        .read_response()
        .assert_refusal(408, "request_timeout");
    assert!(sent < 500, "only after {sent} bytes");
    assert_eq!(origin.requests(), 0);
}

fn has_answer(client: &Client) -> bool {
    let stream = client.writer();
    stream.set_nonblocking(true).unwrap();
    let found = stream.peek(&mut [0]).is_ok_and(|read| read > 0);
    stream.set_nonblocking(false).unwrap();
    found
}

#[test]
fn a_second_slow_header_is_cut_too() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "limits: {{ request_header_timeout: 500ms }}
routes: [{{ name: all, upstream: 'http://{}' }}]",
        origin.address()
    ));
    let mut client = gateway.connect();
    assert_eq!(client.get("/").status, 200);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n");
    client
        .read_response()
        .assert_refusal(408, "request_timeout");
    assert!(client.is_closed());
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "limits: {{ keepalive_timeout: 3s }}
routes: [{{ name: all, upstream: 'http://{}' }}]",
        origin.address()
    ));
    let mut client = gateway.connect();
    for _ in 0..2 {
        assert_eq!(client.get("/").status, 200);
    }
    assert!(client.is_closed());
}

#[test]
fn a_body_that_announces_too_much_is_413_before_the_backend() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "routes: [{{ name: all, upstream: 'http://{}', max_body_size: 1KiB }}]",
        origin.address()
    ));
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1025\r\n\r\n");
    client.read_response().assert_refusal(413, "body_too_large");
    assert_eq!(origin.requests(), 0);
    let allowed = request(gateway.addr(), "POST", "/", &[], &[b'x'; 1024]);
    assert_eq!(allowed.json()["body_length"], 1024);
}

#[test]
fn the_largest_body_is_set_once_and_routes_say_otherwise() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "limits: {{ max_body_size: 1KiB }}
upstreams: {{ u: {{ backends: ['{}'] }} }}
routes:
  - {{ name: all, upstream: u }}
  - {{ name: large, match: {{ path: /large }}, max_body_size: 2KiB, upstream: u }}
  - {{ name: any, match: {{ path: /any }}, max_body_size: unlimited, upstream: u }}",
        origin.address()
    ));
    for (path, size, status) in [
        ("/", 1024, 200),
        ("/", 1025, 413),
        ("/large", 2048, 200),
        ("/large", 2049, 413),
        ("/any", 20 << 20, 200),
    ] {
        let body = vec![b'x'; size];
        let answer = request(gateway.addr(), "POST", path, &[], &body);
        assert_eq!(answer.status, status, "{path} {size}");
    }
}

#[test]
fn a_chunked_body_that_grows_too_large_is_413() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "routes: [{{ name: all, upstream: 'http://{}', max_body_size: 1KiB }}]",
        origin.address()
    ));
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    drop(client.try_send(chunk.repeat(2)));
    client.read_response().assert_refusal(413, "body_too_large");
    assert!(
        origin
            .seen()
            .iter()
            .all(|request| request.body_length.is_none())
    );
    assert_eq!(get(gateway.addr(), "/").status, 200);
}

#[test]
fn a_body_that_stops_is_408() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "limits: {{ request_body_timeout: 500ms }}
routes: [{{ name: all, upstream: 'http://{}' }}]",
        origin.address()
    ));
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    client
        .read_response()
        .assert_refusal(408, "request_timeout");
    assert!(client.is_closed());
}

#[test]
fn connections_beyond_the_limit_are_not_served() {
    let origin = Origin::answering(|request| match request.target.as_str() {
        "/hold" => Script::new().read_body().hold(),
        _ => Script::answer("ok"),
    });
    let gateway = Gateway::start(&format!(
        "limits: {{ max_connections: 3 }}
routes: [{{ name: all, upstream: 'http://{}' }}]",
        origin.address()
    ));
    gateway.wait_metric("gateway_connections_active", &[("listener", "main")], 0.0);
    let mut held: Vec<Client> = (0..3).map(|_| gateway.connect()).collect();
    for client in &mut held {
        client.send(format_request("GET", "/hold", &[], b""));
    }
    // None of them waits for a request and could make room.
    eventually("all are being answered", || origin.requests() == 3);
    let mut surplus = gateway.connect();
    drop(surplus.try_send(format_request("GET", "/", &[], b"")));
    // Closed at once, or told so; never served.
    if let Ok(response) = surplus.try_response(true) {
        assert_eq!(response.status, 503);
    }
    drop(held.pop());
    eventually("there is room again", || {
        let mut client = gateway.connect();
        let sent = client.try_send(format_request("GET", "/", &[], b""));
        sent.is_ok()
            && client
                .try_response(true)
                .is_ok_and(|response| response.status == 200)
    });
}
