//! HTTP/2 towards backends: what is agreed on, what becomes of requests and responses on the way,
//! and what happens when streams or connections end early.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::gateway::NO_EJECTION;
use crate::support::{Act, Asked, Authority, Finally, Gateway, ModernOrigin, eventually};

/// A gateway with one worker in front of this backend, which it speaks HTTP/2 with, no TLS below.
fn gateway(origin: &ModernOrigin, settings: &str) -> Gateway {
    Gateway::start(&format!(
        "server: {{ threads: 1 }}\nupstreams:\n  u:\n    backends: ['{}']\n    protocol: http2\n{settings}\n\
         routes: [{{ name: all, upstream: u, max_body_size: unlimited }}]\n",
        origin.address()
    ))
}

fn describing() -> ModernOrigin {
    ModernOrigin::h2c(|_| Act::Describe)
}

#[test]
fn a_request_becomes_one_of_http2() {
    let origin = describing();
    let gateway = gateway(&origin, "");
    let mut client = gateway.connect();
    client.send(
        "POST /a/b?c=d HTTP/1.1\r\nHost: users.example\r\nContent-Length: 5\r\nTE: trailers\r\n\
         Keep-Alive: 5\r\nConnection: keep-alive, X-Private\r\nX-Private: 1\r\nX-Kept: 1\r\n\r\nhello",
    );
    let answer = client.read_response().json();
    assert_eq!(answer["protocol"], "h2");
    assert_eq!(answer["target"], "http://users.example/a/b?c=d");
    assert_eq!(answer["body_length"], 5);
    let asked = origin.seen().remove(0);
    assert_eq!(asked.headers["te"], "trailers");
    assert_eq!(asked.headers["x-kept"], "1");
    assert_eq!(asked.headers["content-length"], "5");
    assert_eq!(asked.headers["x-forwarded-host"], "users.example");
    for gone in [
        "host",
        "connection",
        "keep-alive",
        "x-private",
        "transfer-encoding",
    ] {
        assert!(
            !asked.headers.contains_key(gone),
            "{gone} in {:?}",
            asked.headers
        );
    }
}

#[test]
fn chunks_become_frames_and_frames_chunks() {
    let origin = ModernOrigin::h2c(|_| Act::Stream);
    let gateway = gateway(&origin, "");
    let mut client = gateway.connect();
    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    );
    let response = client.read_response();
    // An HTTP/1.1 client is not told of the trailers.
    assert_eq!((response.status, response.text().as_str()), (200, "abc"));
    assert_eq!(response.version, "HTTP/1.1");
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nde");
    assert_eq!(client.read_response().text(), "de");
}

#[test]
fn responses_without_a_body_have_none() {
    let origin = ModernOrigin::h2c(|asked| match asked.target.rsplit('/').next() {
        Some("no-content") => Act::Status(204),
        Some("not-modified") => Act::Status(304),
        Some("grpc") => Act::TrailersOnly,
        _ => Act::Describe,
    });
    let gateway = gateway(&origin, "");
    let mut client = gateway.connect();
    for (path, status) in [("/no-content", 204), ("/not-modified", 304)] {
        let response = client.get(path);
        assert_eq!((response.status, response.body.len()), (status, 0));
        assert_eq!(response.header("transfer-encoding"), None);
    }
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.read_response_to_head();
    assert_eq!((head.status, head.body.len()), (200, 0));
    let only = client.get("/grpc");
    assert_eq!((only.status, only.header("grpc-status")), (200, Some("5")));
    assert_eq!(client.get("/").status, 200);
}

#[test]
fn an_http10_client_gets_a_response_that_ends_with_its_connection() {
    let origin = describing();
    let gateway = gateway(&origin, "");
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    let response = client.read_response();
    assert_eq!(
        (response.status, response.header("transfer-encoding")),
        (200, None)
    );
    assert!(!response.body.is_empty() && client.is_closed());
    client = gateway.connect();
    client.send("HEAD / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(client.read_response_to_head().status, 200);
}

#[test]
fn who_waits_for_100_continue_gets_it_from_the_gateway() {
    let origin = describing();
    let gateway = gateway(&origin, "");
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    eventually("the request arrives", || origin.seen().len() == 1);
    client.send("abc");
    let response = client.read_response();
    assert_eq!(response.interim, [100]);
    assert_eq!(response.json()["body_length"], 3);
    assert!(!origin.seen()[0].headers.contains_key("expect"));
}

#[test]
fn many_requests_share_one_connection() {
    let origin = ModernOrigin::h2c(|asked| match asked.target.contains("hang") {
        true => Act::Hang,
        false => Act::Describe,
    });
    let gateway = gateway(&origin, "");
    let mut waiting: Vec<_> = (0..20).map(|_| gateway.connect()).collect();
    assert_eq!(waiting[0].get("/").status, 200);
    for client in &mut waiting {
        client.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    eventually("all of them are there", || origin.seen().len() == 21);
    assert_eq!(origin.connections(), 1);
    gateway.wait_metric("gateway_connection_pool_in_use", &[], 1.0);
    gateway.wait_metric("gateway_connection_pool_idle", &[], 0.0);
    gateway.wait_metric("gateway_connection_pool_created_total", &[], 1.0);
    gateway.wait_metric("gateway_connection_pool_reused_total", &[], 20.0);
    // Who leaves takes the stream back, and nobody else's.
    drop(waiting);
    eventually("the streams are given up", || origin.resets().len() == 20);
    assert_eq!(gateway.connect().get("/").status, 200);
    assert_eq!(origin.connections(), 1);
    gateway.wait_metric("gateway_connection_pool_in_use", &[], 0.0);
    gateway.wait_metric("gateway_connection_pool_idle", &[], 1.0);
}

#[test]
fn a_slow_client_does_not_stop_the_others_on_its_connection() {
    let origin = ModernOrigin::h2c(|asked| match asked.target.contains("large") {
        true => Act::Bytes(64 << 20),
        false => Act::Bytes(100_000),
    });
    let gateway = gateway(&origin, "");
    assert_eq!(gateway.connect().get("/").status, 200);
    let mut slow: Vec<_> = (0..8).map(|_| gateway.connect()).collect();
    for client in &mut slow {
        client.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    eventually("they are on their way", || origin.seen().len() == 9);
    for _ in 0..20 {
        assert_eq!(gateway.connect().get("/").body.len(), 100_000);
    }
    assert_eq!(origin.connections(), 1);
    // What they did not take yet is still there.
    let response = slow.remove(0).read_response();
    assert_eq!(response.body.len(), 64 << 20);
}

#[test]
fn large_bodies_pass_in_both_directions() {
    let origin = ModernOrigin::h2c(|_| Act::Stream);
    let gateway = gateway(&origin, "");
    let mut client = gateway.connect();
    let length = 8 << 20;
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
    ));
    let mut writer = client.writer();
    let sending = std::thread::spawn(move || writer.write_all(&vec![b'x'; length]));
    let response = client.read_response();
    sending.join().unwrap().unwrap();
    assert_eq!(response.body.len(), length);
    assert!(response.body.iter().all(|byte| *byte == b'x'));
}

#[test]
fn a_stream_that_was_refused_is_tried_again_whatever_the_method() {
    let origin = ModernOrigin::h2c(|asked| match asked.ordinal {
        0 => Act::Reset(h2::Reason::REFUSED_STREAM),
        _ => Act::Describe,
    });
    let gateway = gateway(&origin, "    retries: { budget: 0%, min_per_second: 0 }");
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    let answer = client.read_response().json();
    assert_eq!(answer["body_length"], 2);
    gateway.wait_metric(
        "gateway_backend_retries_total",
        &[("reason", "refused")],
        1.0,
    );
    gateway.wait_metric(
        "gateway_backend_failures_total",
        &[("reason", "refused")],
        1.0,
    );
}

#[test]
fn a_stream_that_was_reset_is_tried_again_only_if_that_does_no_harm() {
    let origin = ModernOrigin::h2c(|_| Act::Reset(h2::Reason::INTERNAL_ERROR));
    let gateway = gateway(&origin, NO_EJECTION);
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    client.read_response().assert_refusal(502, "bad_gateway");
    assert_eq!(origin.seen().len(), 1);
    client.get("/").assert_refusal(502, "bad_gateway");
    assert_eq!(origin.seen().len(), 3);
    gateway.wait_metric(
        "gateway_backend_failures_total",
        &[("reason", "reset")],
        3.0,
    );
    // The connection is not to blame.
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_reset_inside_the_body_cuts_the_response_off() {
    let origin = ModernOrigin::h2c(|_| Act::Break(h2::Reason::INTERNAL_ERROR));
    let gateway = gateway(&origin, "");
    let mut stream = gateway.connect().into_stream();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut received = String::new();
    // Cut off by a close or a reset.
    drop(stream.read_to_string(&mut received));
    assert!(
        received.contains("half") && !received.contains("\r\n0\r\n"),
        "{received}"
    );
    gateway.wait_metric(
        "gateway_backend_failures_total",
        &[("reason", "reset_in_body")],
        1.0,
    );
}

#[test]
fn a_backend_that_hangs_is_given_up_and_its_connection_too() {
    let origin = describing();
    let gateway = gateway(
        &origin,
        "    timeouts: { first_byte: 2s }\n    outlier: { consecutive_failures: 0 }",
    );
    let mut client = gateway.connect();
    assert_eq!(client.get("/").status, 200);
    origin.freeze();
    client.get("/").assert_refusal(504, "gateway_timeout");
    // The next request does not wait on the connection that hangs.
    assert_eq!(client.get("/").json()["connection"], 1);
    gateway.wait_log(&["HTTP/2 connections are given up"]);
}

#[test]
fn a_slow_request_does_not_give_up_a_connection_that_works() {
    let origin = ModernOrigin::h2c(|asked| match asked.target.contains("hang") {
        true => Act::Hang,
        false => Act::Describe,
    });
    let gateway = gateway(
        &origin,
        "    timeouts: { first_byte: 2s }\n    outlier: { consecutive_failures: 0 }",
    );
    let mut slow = gateway.connect();
    slow.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it waits", || origin.seen().len() == 1);
    std::thread::sleep(Duration::from_millis(20));
    let mut client = gateway.connect();
    assert_eq!(client.get("/").status, 200);
    slow.read_response().assert_refusal(504, "gateway_timeout");
    eventually("the stream is given up", || {
        origin.resets() == [h2::Reason::CANCEL]
    });
    assert_eq!(client.get("/").json()["connection"], 0);
}

#[test]
fn a_body_that_stops_coming_is_cut_off() {
    let origin = ModernOrigin::h2c(|_| Act::HangInBody);
    let gateway = gateway(&origin, "    timeouts: { read: 300ms }");
    let mut stream = gateway.connect().into_stream();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut received = String::new();
    drop(stream.read_to_string(&mut received));
    assert!(received.contains("half"), "{received}");
    gateway.wait_metric(
        "gateway_backend_failures_total",
        &[("reason", "timeout_in_body")],
        1.0,
    );
    eventually("the stream is given up", || {
        origin.resets() == [h2::Reason::CANCEL]
    });
}

#[test]
fn no_request_is_lost_when_a_backend_says_goodbye() {
    let origin = Arc::new(describing());
    let gateway = gateway(&origin, "");
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _end = Finally(|| stop.store(true, Ordering::Relaxed));
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = gateway.connect();
                while !stop.load(Ordering::Relaxed) {
                    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
                    let response = client.read_response();
                    assert_eq!(response.status, 200, "{}", response.text());
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for farewell in 1..=20 {
            origin.say_goodbye();
            let before = done.load(Ordering::Relaxed);
            eventually("requests go on", || {
                done.load(Ordering::Relaxed) > before + 20
                    && origin.connections() >= farewell.min(2)
            });
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(origin.connections() >= 20, "{}", origin.connections());
    assert_eq!(gateway.metric("gateway_backend_ejections_total", &[]), 0.0);
}

#[test]
fn what_is_spoken_is_agreed_on_in_the_handshake() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), &authority.pem).unwrap();
    let ca = folder.path().join("ca.pem").display().to_string();
    let cases = [
        ("auto", &["h2", "http/1.1"][..], Some("h2")),
        ("auto", &["http/1.1"], Some("http/1.1")),
        ("auto", &[], Some("http/1.1")),
        ("http1", &["h2", "http/1.1"], Some("http/1.1")),
        ("http2", &["h2", "http/1.1"], Some("h2")),
        ("http2", &["http/1.1"], None),
        ("http2", &[], None),
    ];
    for (protocol, offered, spoken) in cases {
        let config = authority.issue(&["127.0.0.1"]).server(offered);
        let origin = ModernOrigin::tls(config, |_| Act::Describe);
        let gateway = Gateway::with_upstream(
            &[origin.address()],
            &format!(
                "    protocol: {protocol}\n    tls: {{ ca: '{ca}' }}\n    timeouts: {{ connect: 5s }}"
            ),
        );
        let mut client = gateway.connect();
        let response = client.get("/");
        let Some(spoken) = spoken else {
            response.assert_refusal(502, "bad_gateway");
            assert!(origin.seen().is_empty());
            continue;
        };
        assert_eq!(
            response.json()["protocol"],
            spoken,
            "{protocol} {offered:?}"
        );
        if spoken == "h2" {
            assert!(
                response.json()["target"]
                    .as_str()
                    .unwrap()
                    .starts_with("https://")
            );
        }
        client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
        assert_eq!(client.read_response().status, 200);
        assert_websocket(&gateway, &origin);
    }
}

/// A WebSocket goes by HTTP/1.1 whatever the requests speak.
fn assert_websocket(gateway: &Gateway, origin: &ModernOrigin) {
    let mut stream = gateway.connect().into_stream();
    stream
        .write_all(
            b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )
        .unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(
            stream.read(&mut byte).unwrap(),
            1,
            "{:?}",
            String::from_utf8_lossy(&head)
        );
        head.push(byte[0]);
    }
    assert!(
        head.starts_with(b"HTTP/1.1 101 "),
        "{:?}",
        String::from_utf8_lossy(&head)
    );
    stream.write_all(b"ping").unwrap();
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"ping");
    let asked: Asked = origin.seen().pop().unwrap();
    assert_eq!(asked.protocol, "http/1.1");
}

#[test]
fn a_url_says_that_http2_is_spoken_at_once() {
    let origin = describing();
    let gateway = Gateway::start(&format!(
        "routes: [{{ upstream: 'h2c://{}' }}]\n",
        origin.address()
    ));
    assert_eq!(gateway.connect().get("/").json()["protocol"], "h2");
}

#[test]
fn a_connection_carries_no_more_requests_than_it_may() {
    let origin = ModernOrigin::h2c(|_| Act::Hang);
    let gateway = gateway(&origin, "    http2: { max_streams: 2 }");
    let mut waiting: Vec<_> = (0..6).map(|_| gateway.connect()).collect();
    for (count, client) in waiting.iter_mut().enumerate() {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        eventually("it is there", || origin.seen().len() == count + 1);
    }
    let connections: BTreeSet<usize> = origin.seen().iter().map(|asked| asked.connection).collect();
    assert_eq!(connections.len(), 3);
    gateway.wait_metric("gateway_connection_pool_in_use", &[], 3.0);
}
