//! Requests that hide other requests: whatever comes in, the backend gets what was judged and ends
//! it where the gateway does.

mod judge;
mod mutate;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::time::Duration;

use crate::support::client::status;
use crate::support::{Gateway, Origin, Request, Script};

/// What must never arrive as a request of its own.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";

/// Sends these bytes, ends our side, and reads until the gateway has ended its own.
fn converse(gateway: &Gateway, bytes: &[u8]) -> Vec<u8> {
    let mut client = gateway.connect();
    // The gateway may refuse, and close, before it was told everything.
    drop(client.try_send(bytes));
    drop(client.writer().shutdown(std::net::Shutdown::Write));
    let mut answers = Vec::new();
    while let Ok(piece) = client.wire().some() {
        if piece.is_empty() {
            break;
        }
        answers.extend(piece);
    }
    answers
}

fn saw_hidden(origin: &Origin) -> bool {
    let seen = origin.seen();
    seen.iter().any(|request| request.target.contains("hidden"))
}

#[test]
fn two_framings_are_never_one_request() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let hidden = format!("0\r\n\r\n{HIDDEN}");
    let length = hidden.len();
    for fields in [
        // CL.TE and TE.CL, and the same with one of them disguised.
        format!("Content-Length: {length}\r\nTransfer-Encoding: chunked"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {length}"),
        format!("Content-Length: {length}\r\nTransfer-Encoding : chunked"),
        format!("Content-Length: {length}\r\nTransfer-Encoding: xchunked"),
        format!("Content-Length: {length}\r\nTransfer-Encoding: chunked-"),
        format!("Content-Length: {length}\r\nTransfer-Encoding:\u{b}chunked"),
        format!("Content-Length: {length}\r\nTransfer-Encoding: \u{c}chunked"),
        format!("Content-Length: {length}\r\nTransfer-Encoding: \"chunked\""),
        format!("Content-Length: {length}\r\nTransfer-Encoding: chunked;q=1"),
        format!("Content-Length: {length}\r\n Transfer-Encoding: chunked"),
        format!("Content-Length: {length}\r\nX: y\r\n\tTransfer-Encoding: chunked"),
        format!("Content-Length: {length}\r\nX: y\nTransfer-Encoding: chunked"),
        format!("Content-Length: {length}\r\nX: y\rTransfer-Encoding: chunked"),
        format!("Content-Length: {length}\r\n\0Transfer-Encoding: chunked"),
        format!("Content-Length: {length}\r\nTransfer-Encoding\0: chunked"),
        format!("Content-Length: {length}\r\nTransfer-Encoding\r\n: chunked"),
        format!("Content-Length: {length}\r\nTransfer\tEncoding : chunked"),
        // TE.TE
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity".to_owned(),
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked".to_owned(),
        "Transfer-Encoding: identity, chunked".to_owned(),
        "Transfer-Encoding: chunked, cow".to_owned(),
        "Transfer-Encoding: chunked,".to_owned(),
        "Transfer-Encoding: ,chunked".to_owned(),
        "Transfer-Encoding:".to_owned(),
        // CL.CL
        format!("Content-Length: {length}\r\nContent-Length: 0"),
        format!("Content-Length: 0\r\nContent-Length: {length}"),
        format!("Content-Length: 0, {length}"),
        format!("Content-Length: {length}\r\nContent-Length: {length}"),
        "Content-Length: 0x10".to_owned(),
        "Content-Length: 1e1".to_owned(),
        "Content-Length: 1_0".to_owned(),
        "Content-Length: \u{b}10".to_owned(),
        "Content-Length: 10;".to_owned(),
        "Content-Length: 18446744073709551617".to_owned(),
        format!("Content-Length : {length}"),
        // Named, it would be taken off, and the body would be framed anew.
        format!("Connection: Content-Length\r\nContent-Length: {length}"),
        "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked".to_owned(),
    ] {
        let bytes = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{hidden}");
        let answers = converse(&gateway, bytes.as_bytes());
        let shown = fields.escape_debug();
        assert!(answers.starts_with(b"HTTP/1.1 400 "), "{shown}");
        // Behind a refusal nothing is read as a request.
        let count = answers
            .windows(9)
            .filter(|line| line == b"HTTP/1.1 ")
            .count();
        assert_eq!(count, 1, "{shown}");
    }
    assert_eq!(origin.requests(), 0);
}

#[test]
fn chunks_that_readers_disagree_about_end_the_request() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    for body in [
        // Line ends
        "1\nx\r\n0\r\n\r\n",
        "1\r\nx\n0\r\n\r\n",
        "1\rx\r\n0\r\n\r\n",
        "0\r\n\n",
        "0\n\n",
        "1;a\nb\r\nx\r\n0\r\n\r\n",
        "1;a\rb\r\nx\r\n0\r\n\r\n",
        // Sizes
        "-1\r\nx\r\n0\r\n\r\n",
        "+1\r\nx\r\n0\r\n\r\n",
        "0x1\r\nx\r\n0\r\n\r\n",
        " 1\r\nx\r\n0\r\n\r\n",
        "1 \r\nx\r\n0\r\n\r\n",
        "1_0\r\nx\r\n0\r\n\r\n",
        "\r\nx\r\n0\r\n\r\n",
        ";x\r\nx\r\n0\r\n\r\n",
        "g\r\nx\r\n0\r\n\r\n",
        "10000000000000001\r\nx\r\n0\r\n\r\n",
        "ffffffffffffffff\r\nx\r\n0\r\n\r\n",
        "8000000000000000\r\nx\r\n0\r\n\r\n",
        // Data
        "1\r\nxy\r\n0\r\n\r\n",
        "2\r\nx\r\n0\r\n\r\n",
        "1\r\nx0\r\n\r\n",
        // Trailers
        "0\r\n x: folded\r\n\r\n",
        "0\r\nno colon\0\r\n\r\n",
        "0\r\nx: y\n\r\n",
    ] {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let bytes = format!("{head}{body}{HIDDEN}");
        let answers = converse(&gateway, bytes.as_bytes());
        assert!(!answers.starts_with(b"HTTP/1.1 200 "), "{body:?}");
        assert!(!saw_hidden(&origin), "{body:?}");
    }
    let whole = |request: &Request| request.body_length.is_some();
    assert!(!origin.seen().iter().any(whole), "{:?}", origin.seen());
}

/// Fields behind a body come too late to say where it ends, or whom the request is from.
#[test]
fn trailers_do_not_frame_and_do_not_reach_the_backend() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let trailers = "Content-Length: 40\r\nTransfer-Encoding: chunked\r\nHost: b\r\n\
                    X-Forwarded-For: 203.0.113.5\r\n";
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let after = "GET /after HTTP/1.1\r\nHost: a\r\n\r\n";
    let bytes = format!("{head}1\r\nx\r\n0\r\n{trailers}\r\n{after}");
    converse(&gateway, bytes.as_bytes());
    let seen = origin.seen();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!(
        (seen[0].body.as_slice(), seen[0].trailers.0.len()),
        (&b"x"[..], 0)
    );
    assert_eq!(seen[1].target, "/after");
}

/// CVE-2025-4366: a body that nobody read must not be read as a request.
#[test]
fn a_body_that_nobody_wanted_is_no_request() {
    let origin = Origin::answering(|request| match request.target.as_str() {
        // Answers before it has read the body.
        "/early" => Script::new()
            .send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .close(),
        _ => Script::answer("well"),
    });
    let gateway = Gateway::with_routes(
        &origin,
        "  - { name: all, upstream: u }
  - { name: fixed, match: { path: /fixed }, respond: { status: 200, body: fixed } }
  - { name: moved, match: { path: /moved }, redirect: { path: /else } }
  - { name: large, match: { path: /large }, upstream: u, max_body_size: 1B }
  - { name: posts, match: { path: /gets, methods: [GET] }, upstream: u }",
    );
    let length = HIDDEN.len();
    for path in ["/fixed", "/moved", "/early", "/large", "/gets", "/health"] {
        for framing in [
            format!("Content-Length: {length}\r\n\r\n{HIDDEN}"),
            format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{HIDDEN}\r\n0\r\n\r\n"),
            format!("Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n{HIDDEN}"),
        ] {
            let after = "GET /after HTTP/1.1\r\nHost: a\r\n\r\n";
            let bytes = format!("POST {path} HTTP/1.1\r\nHost: a\r\n{framing}{after}");
            converse(&gateway, bytes.as_bytes());
            assert!(!saw_hidden(&origin), "{path} {framing}");
        }
    }
}

/// CVE-2026-2833: what follows a request to upgrade is no request before the backend has agreed.
#[test]
fn bytes_behind_an_upgrade_wait_for_the_backends_word() {
    let origin =
        Origin::answering(|_| Script::new().send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno"));
    let gateway = Gateway::in_front_of(&origin);
    for fields in [
        "Connection: Upgrade\r\nUpgrade: websocket",
        "Connection: upgrade\r\nUpgrade: WebSocket\r\nContent-Length: 0",
    ] {
        let bytes = format!("GET /chat HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{HIDDEN}");
        converse(&gateway, bytes.as_bytes());
        // A request that was judged may go on; bytes of a tunnel never become one.
        for seen in origin.seen() {
            assert!(seen.raw.ends_with(b"\r\n\r\n"));
            let raw = String::from_utf8_lossy(&seen.raw);
            assert!(raw.contains("x-request-id: "), "unjudged: {raw}");
        }
    }
}

/// The backend has not answered when they come. Then they are the next request, or the first frames.
#[test]
fn bytes_behind_an_upgrade_are_served_or_passed_on() {
    const PAUSE: Duration = Duration::from_millis(300);
    const FRAME: &[u8] = b"\x01\x03abc";
    const UPGRADE: &str =
        "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let origin = Origin::answering(|request| match request.target.as_str() {
        "/chat" => Script::new().delay(PAUSE).and(&Script::answer("no")),
        _ => Script::answer("next"),
    });
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    client.send(format!("{UPGRADE}{HIDDEN}"));
    assert_eq!(client.read_response().text(), "no");
    assert_eq!(client.read_response().text(), "next");

    let accepts =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let origin = Origin::conversation(move |mut stream| {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
            head.extend(byte);
        }
        std::thread::sleep(PAUSE);
        let mut frame = [0; FRAME.len()];
        if stream.write_all(accepts).is_ok() && stream.read_exact(&mut frame).is_ok() {
            drop(stream.write_all(&frame));
        }
    });
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    client.send([UPGRADE.as_bytes(), FRAME].concat());
    assert_eq!(status(&client.read_head()), 101);
    assert_eq!(client.wire().exact(FRAME.len()).expect("the frame"), FRAME);
}

/// CVE-2026-2835: HTTP/1.0 has no chunks, and no body that ends with the connection.
#[test]
fn http_1_0_has_lengths_alone() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let chunked = "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let answers = converse(&gateway, chunked.as_bytes());
    assert!(answers.starts_with(b"HTTP/1.1 400 "));
    assert_eq!(origin.requests(), 0);
    let unframed = format!("POST / HTTP/1.0\r\nHost: a\r\n\r\n{HIDDEN}");
    converse(&gateway, unframed.as_bytes());
    assert_eq!(origin.only_request().body_length, Some(0));
}

/// Random changes to requests: whatever the gateway lets through, a strict reader of its own kind
/// must have found in the same bytes, at the same place, with the same body.
#[test]
fn what_passes_is_what_a_strict_reader_finds() {
    const CASES: usize = 400;
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let mut random = fastrand::Rng::with_seed(0x5eed);
    let cases: Vec<Vec<u8>> = (0..CASES)
        .map(|case| mutate::case(&mut random, case))
        .collect();
    for bytes in &cases {
        converse(&gateway, bytes);
    }
    gateway.wait_metric("gateway_http_requests_in_flight", &[], 0.0);
    let mut passed: BTreeMap<usize, Vec<Request>> = BTreeMap::new();
    for request in origin.seen() {
        // A change may have hit the mark itself; then nobody knows whose it is.
        let marks = request.headers.all("x-case");
        if let Some(case) = marks.first().and_then(|mark| mark.parse().ok()) {
            passed.entry(case).or_default().push(request);
        }
    }
    assert!(passed.len() > CASES / 8, "hardly anything passes");
    assert!(passed.len() < CASES, "everything passes");
    for (case, requests) in passed {
        let Some(bytes) = cases.get(case) else {
            continue;
        };
        assert_agreed(case, bytes, &requests);
    }
}

fn assert_agreed(case: usize, bytes: &[u8], passed: &[Request]) {
    let mut judged = judge::requests(bytes);
    judged.retain(|judged| judged.mark.as_ref().and_then(|mark| mark.parse().ok()) == Some(case));
    let shown = bytes.escape_ascii();
    assert!(
        passed.len() <= judged.len(),
        "{} passed of\n{shown}\n{judged:?}",
        passed.len()
    );
    for (passed, judged) in passed.iter().zip(&judged) {
        assert_eq!(passed.method, judged.method, "{shown}");
        if let Some(target) = &judged.target {
            assert_eq!(&passed.target, target, "{shown}");
        }
        if passed.body_length.is_some() {
            assert_eq!(Some(&passed.body), judged.body.as_ref(), "{shown}");
        }
    }
}
