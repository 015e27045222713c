//! Copies of requests for another upstream: that they come, and that clients notice nothing.

use std::time::{Duration, Instant};

use crate::support::client::{format_request, get, request};
use crate::support::{Act, DeadPort, Gateway, ModernOrigin, Origin, Script, eventually};

/// A gateway that copies to the second one, with this in `mirror`.
fn gateway(main: &Origin, shadow: std::net::SocketAddr, mirror: &str) -> Gateway {
    Gateway::start(&format!(
        "upstreams:\n  main: {{ backends: ['{}'] }}\n  shadow: {{ backends: ['{shadow}'] }}\n\
         routes:\n  - name: all\n    upstream: main\n    rewrite: {{ strip_prefix: /api }}\n\
         \x20   headers: {{ request: {{ set: {{ x-by: gateway }} }} }}\n\
         \x20   mirror: {{ upstream: shadow, {mirror} }}\n",
        main.address()
    ))
}

fn ended(gateway: &Gateway, result: &str, times: f64) {
    let labels = [("route", "all"), ("result", result)];
    gateway.wait_metric("gateway_mirror_requests_total", &labels, times);
}

#[test]
fn a_copy_is_what_the_backend_gets() {
    let (main, shadow) = (Origin::named("main"), Origin::named("shadow"));
    let gateway = gateway(&main, shadow.address(), "host_suffix: -shadow");
    let mut client = gateway.connect();
    let sent = client.exchange(format_request("POST", "/api/a?b=c", &["X-Own: 1"], b"body"));
    assert_eq!(sent.header("x-origin"), Some("main"));
    ended(&gateway, "answered", 1.0);
    let (original, copy) = (main.only_request(), shadow.only_request());
    assert_eq!(
        (copy.method.as_str(), copy.target.as_str()),
        ("POST", "/a?b=c")
    );
    assert_eq!(copy.body, b"body");
    for name in [
        "x-own",
        "x-by",
        "x-request-id",
        "x-forwarded-for",
        "content-length",
    ] {
        assert_eq!(copy.header(name), original.header(name), "{name}");
        assert!(copy.header(name).is_some(), "{name}");
    }
    let host = original.header("host").unwrap();
    let (name, port) = host.split_once(':').unwrap_or((host, ""));
    let expected = match port {
        "" => format!("{name}-shadow"),
        port => format!("{name}-shadow:{port}"),
    };
    assert_eq!(copy.header("host"), Some(expected.as_str()));
    // A body that came in chunks is copied with its length.
    client.send("POST /api/d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(client.read_response().status, 200);
    ended(&gateway, "answered", 2.0);
    let copy = shadow.seen().pop().unwrap();
    assert_eq!(
        (copy.body.as_slice(), copy.header("content-length")),
        (&b"abc"[..], Some("3"))
    );
    // Connections to the other upstream are kept, too.
    assert_eq!(shadow.connections(), 1);
}

#[test]
fn a_share_of_the_requests_is_copied() {
    let (main, shadow) = (Origin::named("main"), Origin::named("shadow"));
    let gateway = gateway(&main, shadow.address(), "share: 30%");
    let mut client = gateway.connect();
    for _ in 0..300 {
        assert_eq!(client.get("/api/").status, 200);
    }
    eventually("copies come", || shadow.requests() > 30);
    // Six standard deviations around 90.
    assert!(shadow.requests() < 140, "{}", shadow.requests());
}

#[test]
fn a_mirror_that_hangs_costs_clients_nothing() {
    let main = Origin::named("main");
    let shadow = Origin::script(Script::new().hold());
    let gateway = gateway(&main, shadow.address(), "max_in_flight: 2, timeout: 3s");
    let mut client = gateway.connect();
    let asked = Instant::now();
    for _ in 0..10 {
        assert_eq!(client.get("/api/").header("x-origin"), Some("main"));
    }
    assert!(asked.elapsed() < Duration::from_secs(20));
    let copies = "gateway_mirror_requests_total";
    gateway.wait_metric(copies, &[("route", "all")], 10.0);
    let late = gateway.metric(copies, &[("route", "all"), ("result", "timeout")]);
    let full = gateway.metric(copies, &[("route", "all"), ("result", "full")]);
    // Two, and another one where the machine took all that time.
    assert!(late >= 2.0 && full >= 1.0, "{late} {full}");
    // It is the other upstream that is held responsible, and its failures end nothing here.
    let of_main = [("backend_service", "main")];
    assert_eq!(
        gateway.metric("gateway_backend_failures_total", &of_main),
        0.0
    );
    let of_shadow = [("backend_service", "shadow"), ("reason", "timeout")];
    gateway.wait_metric("gateway_backend_failures_total", &of_shadow, late);
    counted(&gateway, "504", late);
}

/// Waits until so many copies are counted at the other upstream.
fn counted(gateway: &Gateway, status: &str, times: f64) {
    let labels = [("backend_service", "shadow"), ("status_code", status)];
    gateway.wait_metric("gateway_backend_requests_total", &labels, times);
}

#[test]
fn a_mirror_that_is_gone_costs_clients_nothing() {
    let (main, dead) = (Origin::named("main"), DeadPort::refusing());
    let gateway = gateway(&main, dead.address(), "");
    let mut client = gateway.connect();
    for _ in 0..5 {
        assert_eq!(client.get("/api/").header("x-origin"), Some("main"));
    }
    ended(&gateway, "failed", 5.0);
    counted(&gateway, "502", 5.0);
    assert_eq!(main.requests(), 5);
}

#[test]
fn what_a_mirror_answers_is_read_away() {
    let main = Origin::named("main");
    let shadow = Origin::answering(|request| match request.ordinal {
        0 => Script::new()
            .send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
            .fill(100_000_000),
        _ => Script::answer("x"),
    });
    let gateway = gateway(&main, shadow.address(), "");
    assert_eq!(get(gateway.addr(), "/api/").status, 200);
    ended(&gateway, "answered", 1.0);
    assert_eq!(get(gateway.addr(), "/api/").status, 200);
    ended(&gateway, "answered", 2.0);
    assert_eq!(shadow.connections(), 2, "the long one was cut off");
}

#[test]
fn a_long_body_is_not_copied() {
    let (main, shadow) = (Origin::named("main"), Origin::named("shadow"));
    let gateway = gateway(&main, shadow.address(), "max_body: 1KiB");
    let long = request(gateway.addr(), "POST", "/api/", &[], &[b'x'; 1025]);
    assert_eq!(long.status, 200);
    ended(&gateway, "body_too_large", 1.0);
    let short = request(gateway.addr(), "POST", "/api/", &[], &[b'x'; 1024]);
    assert_eq!(short.status, 200);
    ended(&gateway, "answered", 1.0);
    assert_eq!(shadow.only_request().body_length, Some(1024));
}

#[test]
fn without_a_backend_there_is_no_copy() {
    let (main, dead) = (Origin::named("main"), DeadPort::refusing());
    let gateway = Gateway::start(&format!(
        "upstreams:\n  main: {{ backends: ['{}'] }}\n\
         \x20 shadow: {{ backends: ['{}'], health_check: {{ path: /, initial: unhealthy }} }}\n\
         routes: [{{ name: all, upstream: main, mirror: {{ upstream: shadow }} }}]",
        main.address(),
        dead.address()
    ));
    assert_eq!(get(gateway.addr(), "/").header("x-origin"), Some("main"));
    ended(&gateway, "no_backend", 1.0);
}

#[test]
fn a_body_that_did_not_come_to_its_end_is_not_copied() {
    let (main, shadow) = (Origin::named("main"), Origin::named("shadow"));
    let gateway = gateway(&main, shadow.address(), "");
    let mut client = gateway.connect();
    client.send("POST /api/ HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf.");
    eventually("the backend has it", || main.requests() == 1);
    drop(client);
    ended(&gateway, "incomplete", 1.0);
    assert_eq!(shadow.connections(), 0);
}

#[test]
fn a_websocket_is_not_copied() {
    let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                    Upgrade: websocket\r\n\r\n";
    let main = Origin::answering(move |request| match request.target.as_str() {
        "/socket" => Script::new().send(switched).hold(),
        _ => Script::answer("main"),
    });
    let shadow = Origin::named("shadow");
    let gateway = gateway(&main, shadow.address(), "");
    let mut client = gateway.connect();
    client.send(
        "GET /api/socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert!(client.read_head().first.contains(" 101 "));
    drop(client);
    gateway.wait_access(|line| line["status_code"] == 101);
    assert_eq!(get(gateway.addr(), "/api/plain").text(), "main");
    ended(&gateway, "answered", 1.0);
    assert_eq!(shadow.only_request().target, "/plain");
}

#[test]
fn a_mirror_may_speak_http_2() {
    let (main, shadow) = (Origin::named("main"), ModernOrigin::h2c(|_| Act::Describe));
    let gateway = Gateway::start(&format!(
        "upstreams:\n  main: {{ backends: ['{}'] }}\n\
         \x20 shadow: {{ backends: ['{}'], protocol: http2 }}\n\
         routes: [{{ name: all, upstream: main, mirror: {{ upstream: shadow }} }}]",
        main.address(),
        shadow.address()
    ));
    for times in 1..=2 {
        let answer = request(gateway.addr(), "POST", "/a", &[], b"body");
        assert_eq!(answer.header("x-origin"), Some("main"));
        ended(&gateway, "answered", f64::from(times));
    }
    let copy = shadow.seen().remove(0);
    assert_eq!((copy.protocol, copy.method.as_str()), ("h2", "POST"));
    assert_eq!(copy.headers["content-length"], "4");
    assert!(copy.target.ends_with("/a"), "{}", copy.target);
}
