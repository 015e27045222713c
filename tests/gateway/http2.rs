//! HTTP/2 towards clients: requests and responses, refusals, deadlines, and the end of a connection.

use std::time::Duration;

use bytes::Bytes;

use crate::support::h2::{self, Frames, H2, get, request};
use crate::support::{Client, Gate, Gateway, Origin, Script, eventually};

const LISTENER: &str = "listeners: [{ name: main, address: 127.0.0.1:0, h2c: true }]\n";

/// A gateway that speaks HTTP/2 in front of this backend, with these further lines.
#[track_caller]
fn start(origin: &Origin, settings: &str) -> Gateway {
    Gateway::start(&format!(
        "{LISTENER}{settings}\nroutes: [{{ name: all, upstream: 'http://{}' }}]",
        origin.address()
    ))
}

fn closed(gateway: &Gateway, reason: &str) {
    let labels = [("listener", "main"), ("reason", reason)];
    gateway.wait_metric("gateway_connections_closed_total", &labels, 1.0);
}

#[test]
fn a_backend_sees_an_ordinary_request() {
    let origin = Origin::echo();
    let gateway = start(&origin, "");
    let mut client = H2::connect(gateway.addr());
    let answer = client.exchange(
        get("/a/../b?c=d")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header("te", "trailers"),
    );
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("connection"), "");
    let seen = origin.only_request();
    assert_eq!(
        (seen.method.as_str(), seen.target.as_str()),
        ("GET", "/b?c=d")
    );
    assert_eq!(seen.header("host"), Some("test"));
    assert_eq!(seen.header("cookie"), Some("a=1; b=2"));
    assert_eq!(seen.header("via"), Some("2.0 gateway"));
    assert_eq!(seen.header("transfer-encoding"), None);
    assert_eq!(seen.header("te"), None);
    let line = gateway.wait_access(|line| line["path"] == "/b");
    assert_eq!(line["protocol"], "HTTP/2.0");
    assert_eq!(line["status_code"], 200);
    gateway.wait_metric("gateway_http2_streams_total", &[("listener", "main")], 1.0);
    let active = "gateway_http2_connections_active";
    assert_eq!(gateway.metric(active, &[("listener", "main")]), 1.0);
    drop(client);
    gateway.wait_metric(active, &[("listener", "main")], 0.0);
}

#[test]
fn bodies_pass_both_ways() {
    let filling = "HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n";
    let origin = Origin::script(Script::new().read_body().send(filling).fill(3_000_000));
    let gateway = start(&origin, "");
    let mut client = H2::connect(gateway.addr());
    for length in [None, Some("300000")] {
        let mut request = request("POST", "/upload");
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        let answer = client.send(request, vec![b'x'; 300_000]);
        assert_eq!(
            (answer.status.as_u16(), answer.body.len()),
            (200, 3_000_000)
        );
    }
    let seen = origin.seen();
    assert_eq!(seen[0].header("transfer-encoding"), Some("chunked"));
    assert_eq!(seen[1].header("content-length"), Some("300000"));
    assert!(
        seen.iter()
            .all(|request| request.body_length == Some(300_000))
    );
}

#[test]
fn many_requests_share_a_connection() {
    let gate = Gate::new();
    let slow = gate.clone();
    let origin = Origin::answering(move |request| match request.target.as_str() {
        "/slow" => Script::new().wait(&slow).and(&Script::answer("slow")),
        _ => Script::answer("quick"),
    });
    let gateway = start(&origin, "");
    let mut client = H2::connect(gateway.addr());
    let (slow, _) = client.begin(get("/slow"), true).expect("a stream");
    for _ in 0..50 {
        assert_eq!(client.exchange(get("/quick")).text(), "quick");
    }
    gate.open();
    assert_eq!(client.answer(slow).expect("an answer").text(), "slow");
}

#[test]
fn responses_without_a_body_end_with_their_header() {
    let origin = Origin::answering(|request| match request.target.as_str() {
        "/204" => Script::new().send("HTTP/1.1 204 No Content\r\n\r\n"),
        "/304" => Script::new().send("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        _ => Script::new().send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
    });
    let gateway = start(&origin, "");
    let mut client = H2::connect(gateway.addr());
    for (method, path, status, length) in [
        ("HEAD", "/", 200, "5"),
        ("GET", "/204", 204, ""),
        ("GET", "/304", 304, "5"),
    ] {
        let answer = client.exchange(request(method, path));
        assert_eq!((answer.status.as_u16(), answer.body.len()), (status, 0));
        assert_eq!(answer.header("content-length"), length, "{path}");
    }
}

#[test]
fn interim_responses_pass() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n";
    let origin = Origin::script(Script::new().send(hints).and(&Script::answer("end")));
    let gateway = start(&origin, "");
    let mut frames = Frames::connect(gateway.addr(), &[]);
    frames.send(h2::get_frame(1, "/"));
    for _ in 0..2 {
        let headers = frames.next_of(h2::HEADERS).expect("a header");
        assert_eq!((headers.stream, headers.flags & h2::END_STREAM), (1, 0));
    }
    assert_eq!(frames.next_of(h2::DATA).expect("a body").payload, b"end");
}

#[test]
fn what_is_refused_reaches_no_backend_and_disturbs_no_other_stream() {
    let origin = Origin::echo();
    let gateway = start(&origin, "");
    let mut client = H2::connect(gateway.addr());
    let long = format!("/{}", "a".repeat(9 * 1024));
    let large = "a".repeat(40 * 1024);
    for (request, status, error) in [
        (request("TRACE", "/"), 405, "method_not_allowed"),
        (get(&long), 414, "uri_too_long"),
        (get("/").header("x", &large), 431, "header_too_large"),
        (get("/%00"), 400, "bad_request"),
        (get("/").header("host", "other"), 400, "bad_request"),
        (get("/").header("expect", "more"), 417, "expectation_failed"),
        (get("/").header("x", " y"), 400, "bad_request"),
    ] {
        client.exchange(request).assert_refusal(status, error);
    }
    let post = request("POST", "/%00");
    client
        .send(post, vec![b'x'; 10_000])
        .assert_refusal(400, "bad_request");
    assert_eq!(origin.requests(), 0);
    assert_eq!(
        client.exchange(get("/")).status,
        200,
        "the connection goes on"
    );
    let counted = [("reason", "bad_request")];
    gateway.wait_metric("gateway_http_refusals_total", &counted, 4.0);
    let line = gateway.wait_access(|line| line["status_code"] == 414);
    assert_eq!(line["error_type"], "uri_too_long");
    assert_eq!(line["protocol"], "HTTP/2.0");
}

/// Sends this header block (and this body), and expects the stream to be reset or refused without a
/// complete request at the backend, and the next stream to be served. `fatal`: it is the connection
/// that ends.
#[track_caller]
fn assert_malformed(fields: &[(&str, &str)], body: Option<&[u8]>, fatal: bool) {
    let origin = Origin::echo();
    let gateway = start(&origin, "");
    let mut frames = Frames::connect(gateway.addr(), &[]);
    let end = if body.is_none() { h2::END_STREAM } else { 0 };
    frames.send(h2::frame(
        h2::HEADERS,
        h2::END_HEADERS | end,
        1,
        &h2::block(fields),
    ));
    if let Some(body) = body {
        frames.send(h2::frame(h2::DATA, h2::END_STREAM, 1, body));
    }
    drop(frames.try_send(h2::get_frame(3, "/well")));
    if fatal {
        assert_eq!(frames.end(), Some(1), "{fields:?}");
        assert_eq!(origin.requests(), 0);
        return;
    }
    loop {
        let frame = frames
            .next()
            .unwrap_or_else(|| panic!("closed for {fields:?}"));
        if frame.kind == h2::HEADERS && frame.stream == 3 {
            break;
        }
        let answered = frame.kind == h2::HEADERS && frame.stream == 1;
        // 400 from the static table of HPACK, without which no response begins.
        assert!(
            !answered || frame.payload[0] == 0x8c,
            "{fields:?}: {frame:?}"
        );
    }
    let seen = origin.seen();
    let complete = seen.iter().filter(|request| request.target != "/well");
    assert!(
        complete
            .clone()
            .all(|request| request.body_length.is_none()),
        "{fields:?}: {seen:?}"
    );
}

#[test]
fn malformed_requests_end_alone() {
    let with = |name: &'static str, value: &'static str| {
        let mut fields = h2::fields("GET", "/bad");
        fields.push((name, value));
        fields
    };
    for fields in [
        with("connection", "close"),
        with("transfer-encoding", "chunked"),
        with("keep-alive", "1"),
        with("proxy-connection", "close"),
        with("upgrade", "websocket"),
        with("te", "gzip"),
        with("host", "other"),
        with("content-length", "1"),
        with("content-length", "0x0"),
        with(":path", "/two"),
    ] {
        assert_malformed(&fields, None, false);
    }
    for fields in [
        with("x", "a\r\nb: c"),
        with("x", "a\0b"),
        with("X-Upper", "case"),
        with(":unknown", "x"),
    ] {
        assert_malformed(&fields, None, true);
    }
    for fields in [
        vec![(":scheme", "http"), (":authority", "test"), (":path", "/")],
        vec![
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "test"),
        ],
        vec![(":method", "GET"), (":scheme", "http"), (":path", "/")],
        vec![
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "test"),
            (":path", ""),
        ],
        vec![
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "test"),
            (":path", "x"),
        ],
        vec![
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "u@test"),
            (":path", "/"),
        ],
    ] {
        assert_malformed(&fields, None, false);
    }
}

#[test]
fn a_body_of_another_length_than_stated_is_never_a_complete_request() {
    for (length, body) in [("3", &b"four"[..]), ("5", b"four")] {
        let mut fields = h2::fields("POST", "/bad");
        fields.push(("content-length", length));
        assert_malformed(&fields, Some(body), false);
    }
}

#[test]
fn an_empty_last_frame_does_not_desync_the_backend() {
    let origin = Origin::echo();
    let gateway = start(&origin, "server: { threads: 1 }");
    let mut client = H2::connect(gateway.addr());
    for _ in 0..5 {
        let (response, mut stream) = client.begin(request("POST", "/"), false).expect("a stream");
        stream
            .send_data(Bytes::from_static(b"body"), false)
            .expect("data");
        stream.send_data(Bytes::new(), true).expect("the end");
        assert_eq!(client.answer(response).expect("an answer").status, 200);
        let (response, mut stream) = client.begin(request("POST", "/"), false).expect("a stream");
        stream.send_data(Bytes::new(), true).expect("the end");
        assert_eq!(client.answer(response).expect("an answer").status, 200);
    }
    let seen = origin.seen();
    assert_eq!(seen.len(), 10);
    assert!(
        seen.iter().all(|request| request.connection == 0),
        "one connection"
    );
    assert!(
        seen.iter()
            .step_by(2)
            .all(|request| request.body == b"body")
    );
}

#[test]
fn a_body_that_pauses_is_408() {
    let origin = Origin::script(Script::new().read_body().and(&Script::answer("read")));
    let gateway = start(&origin, "limits: { request_body_timeout: 300ms }");
    let mut client = H2::connect(gateway.addr());
    let (response, mut stream) = client.begin(request("POST", "/"), false).expect("a stream");
    stream
        .send_data(Bytes::from_static(b"some"), false)
        .expect("data");
    let answer = client.answer(response).expect("an answer");
    answer.assert_refusal(408, "request_timeout");
    assert_eq!(
        client.exchange(get("/")).status,
        200,
        "the connection goes on"
    );
}

#[test]
fn a_body_beyond_the_route_is_413() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "{LISTENER}routes: [{{ name: all, max_body_size: 1KiB, upstream: 'http://{}' }}]",
        origin.address()
    ));
    let mut client = H2::connect(gateway.addr());
    for stated in [true, false] {
        let mut post = request("POST", "/");
        if stated {
            post = post.header("content-length", "5000");
        }
        client
            .send(post, vec![b'x'; 5000])
            .assert_refusal(413, "body_too_large");
    }
    assert_eq!(client.exchange(get("/")).status, 200);
}

#[test]
fn a_backend_that_does_not_answer_is_504() {
    let origin = Origin::script(Script::new().hold());
    let gateway = Gateway::start(&format!(
        "{LISTENER}upstreams: {{ u: {{ backends: ['{}'], timeouts: {{ first_byte: 300ms }} }} }}\n\
         routes: [{{ name: all, upstream: u }}]",
        origin.address()
    ));
    let mut client = H2::connect(gateway.addr());
    client
        .exchange(get("/"))
        .assert_refusal(504, "gateway_timeout");
}

#[test]
fn a_client_that_does_not_read_loses_its_stream() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n";
    let origin = Origin::answering(move |request| match request.target.as_str() {
        "/large" => Script::new().send(head).fill(3_000_000),
        _ => Script::answer("small"),
    });
    let gateway = start(&origin, "limits: { response_write_timeout: 300ms }");
    // No window for any stream: SETTINGS_INITIAL_WINDOW_SIZE is 0.
    let mut frames = Frames::connect(gateway.addr(), &[(4, 0)]);
    frames.send(h2::get_frame(1, "/large"));
    let reset = frames.next_of(h2::RESET).expect("a reset");
    assert_eq!(reset.stream, 1);
    let line = gateway.wait_access(|line| line["path"] == "/large");
    assert_eq!(line["error_type"], "client_not_reading");
    // The connection is as good as before.
    let window = h2::frame(h2::WINDOW_UPDATE, 0, 3, &100u32.to_be_bytes());
    frames.send([h2::get_frame(3, "/small"), window].concat());
    assert_eq!(frames.next_of(h2::DATA).expect("a body").payload, b"small");
}

#[test]
fn a_client_that_resets_its_stream_ends_the_request() {
    let origin = Origin::script(Script::new().hold());
    let gateway = start(&origin, "");
    let mut client = H2::connect(gateway.addr());
    let (response, mut stream) = client.begin(get("/slow"), true).expect("a stream");
    eventually("the backend has it", || origin.requests() == 1);
    stream.send_reset(::h2::Reason::CANCEL);
    assert!(client.answer(response).is_err());
    let line = gateway.wait_access(|line| line["path"] == "/slow");
    assert_eq!(line["status_code"], 499);
    assert_eq!(line["error_type"], "client_closed");
}

#[test]
fn a_response_that_breaks_off_is_reset() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome";
    let origin = Origin::script(Script::new().send(head).reset());
    let gateway = start(&origin, "");
    let mut client = H2::connect(gateway.addr());
    let failure = client.try_exchange(get("/"), None).expect_err("a reset");
    assert_eq!(failure.reason(), Some(::h2::Reason::INTERNAL_ERROR));
}

#[test]
fn a_body_is_sent_again_on_a_retry() {
    let origin = Origin::answering(|request| match request.ordinal {
        0 => Script::new().read_body().reset(),
        _ => Script::answer("second"),
    });
    let gateway = start(&origin, "");
    let mut client = H2::connect(gateway.addr());
    let answer = client.send(request("PUT", "/"), vec![b'x'; 20_000]);
    assert_eq!(answer.text(), "second");
    let seen = origin.seen();
    assert_eq!(seen.len(), 2);
    assert!(
        seen.iter()
            .all(|request| request.body_length == Some(20_000))
    );
}

#[test]
fn the_first_bytes_decide_on_the_protocol() {
    let origin = Origin::echo();
    let gateway = start(&origin, "");
    let mut client = Client::connect(gateway.addr());
    assert_eq!(client.get("/").status, 200);
    let mut client = Client::connect(gateway.addr());
    let post = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n";
    client.send(&post[..1]);
    std::thread::sleep(Duration::from_millis(50));
    client.send(&post[1..]);
    assert_eq!(client.read_response().status, 200);
    // In pieces, as slow networks have them.
    let mut frames = Frames::silent(gateway.addr());
    for byte in h2::PREFACE {
        frames.send([*byte]);
    }
    frames.send(h2::frame(h2::SETTINGS, 0, 0, &[]));
    frames.send(h2::get_frame(1, "/"));
    assert!(frames.next_of(h2::HEADERS).is_some());
    let gateway = start(&origin, "limits: { request_header_timeout: 500ms }");
    for half in [&h2::PREFACE[..2], &h2::PREFACE[..20]] {
        let mut frames = Frames::silent(gateway.addr());
        frames.send(half);
        frames.end();
    }
    let labels = [("listener", "main"), ("reason", "header_timeout")];
    gateway.wait_metric("gateway_connections_closed_total", &labels, 2.0);
}

#[test]
fn a_listener_without_h2c_speaks_http_1_alone() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    let response = client.exchange(h2::PREFACE);
    response.assert_refusal(505, "version_not_supported");
}

#[test]
fn a_half_sent_header_has_a_deadline_though_others_run() {
    let origin = Origin::script(Script::new().hold());
    let gateway = start(&origin, "limits: { request_header_timeout: 1s }");
    let mut frames = Frames::silent(gateway.addr());
    frames.send([h2::greeting(&[]), h2::get_frame(1, "/slow")].concat());
    eventually("the backend has it", || origin.requests() == 1);
    let block = h2::block(&h2::fields("GET", "/"));
    frames.send(h2::frame(h2::HEADERS, h2::END_STREAM, 3, &block));
    assert_eq!(frames.end(), Some(11));
    closed(&gateway, "header_timeout");
}

#[test]
fn an_idle_connection_is_told_and_closed() {
    let origin = Origin::echo();
    let gateway = start(&origin, "limits: { keepalive_timeout: 300ms }");
    let mut frames = Frames::silent(gateway.addr());
    frames.send([h2::greeting(&[]), h2::get_frame(1, "/")].concat());
    assert!(frames.next_of(h2::HEADERS).is_some());
    assert_eq!(frames.end(), Some(0));
    closed(&gateway, "idle_timeout");
}

#[test]
fn a_drain_lets_streams_finish() {
    let gate = Gate::new();
    let origin = Origin::script(Script::new().wait(&gate).and(&Script::answer("whole")));
    let mut gateway = start(&origin, "shutdown: { delay: 0s, drain_timeout: 20s }");
    let mut frames = Frames::connect(gateway.addr(), &[]);
    frames.send(h2::get_frame(1, "/"));
    eventually("the backend has it", || origin.requests() == 1);
    gateway.signal("TERM");
    let goaway = frames.next_of(h2::GOAWAY).expect("a goaway");
    assert_eq!(goaway.code(), 0);
    gate.open();
    assert_eq!(frames.next_of(h2::DATA).expect("a body").payload, b"whole");
    assert!(gateway.wait_exit().success());
}
