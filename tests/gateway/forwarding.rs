//! What a backend is told about the client, and what it is not told.

use crate::support::client::request;
use crate::support::{Gateway, Origin, Request};

fn seen_through(settings: &str, headers: &[&str]) -> (Request, serde_json::Value) {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "{settings}\nroutes: [{{ name: all, upstream: 'http://{}' }}]",
        origin.address()
    ));
    let response = request(gateway.addr(), "GET", "/", headers, b"");
    assert_eq!(response.status, 200, "{}", response.text());
    let line = gateway.wait_access(|line| line["path"] == "/");
    (origin.only_request(), line)
}

const TRUSTING: &str = "trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]";

#[test]
fn the_client_is_described() {
    let (seen, line) = seen_through("", &["Host: Shop.Example.com:8080"]);
    assert_eq!(seen.header("host"), Some("Shop.Example.com:8080"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(
        seen.header("x-forwarded-host"),
        Some("Shop.Example.com:8080")
    );
    assert_eq!(seen.header("via"), Some("1.1 gateway"));
    let forwarded = seen.header("forwarded").expect("forwarded");
    assert!(forwarded.contains("for=127.0.0.1"), "{forwarded}");
    assert!(forwarded.contains("proto=http"), "{forwarded}");
    assert!(
        forwarded.contains("host=\"Shop.Example.com:8080\""),
        "a colon needs quotes: {forwarded}"
    );
    let id = seen.header("x-request-id").expect("a request id");
    assert!(id.len() >= 16, "{id}");
    assert_eq!(line["request_id"], id);
    assert_eq!(line["client_ip"], "127.0.0.1");
}

#[test]
fn every_request_has_its_own_id() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let mut client = gateway.connect();
    for _ in 0..20 {
        client.get("/");
    }
    let seen = origin.seen();
    let ids: std::collections::HashSet<_> = seen
        .iter()
        .map(|request| request.header("x-request-id").expect("an id"))
        .collect();
    assert_eq!(ids.len(), 20);
}

#[test]
fn what_a_stranger_claims_is_overwritten() {
    let (seen, line) = seen_through(
        "",
        &[
            "X-Forwarded-For: 6.6.6.6",
            "X-Forwarded-For: 7.7.7.7",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: evil.example",
            "Forwarded: for=6.6.6.6;proto=https",
            "X-Real-IP: 6.6.6.6",
        ],
    );
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-forwarded-host"), Some("test"));
    let raw = String::from_utf8(seen.raw.clone()).unwrap();
    assert!(!raw.contains("6.6.6.6"), "{raw}");
    assert!(!raw.contains("evil"), "{raw}");
    assert_eq!(line["client_ip"], "127.0.0.1");
}

#[test]
fn a_strangers_request_id_is_replaced() {
    let (seen, _) = seen_through("", &["X-Request-Id: chosen-by-the-client"]);
    assert_ne!(seen.header("x-request-id"), Some("chosen-by-the-client"));
}

#[test]
fn a_trusted_peer_is_believed() {
    let (seen, line) = seen_through(
        TRUSTING,
        &[
            "X-Forwarded-For: 203.0.113.9",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: shop.example.com",
            "X-Request-Id: 0123456789abcdef",
        ],
    );
    assert_eq!(line["client_ip"], "203.0.113.9");
    assert_eq!(
        seen.header("x-forwarded-for"),
        Some("203.0.113.9, 127.0.0.1")
    );
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-host"), Some("shop.example.com"));
    assert_eq!(seen.header("x-request-id"), Some("0123456789abcdef"));
}

#[test]
fn the_client_is_the_rightmost_hop_that_is_not_trusted() {
    for (claims, client) in [
        (
            &["X-Forwarded-For: 6.6.6.6, 203.0.113.9"][..],
            "203.0.113.9",
        ),
        (
            &["X-Forwarded-For: 6.6.6.6, 203.0.113.9, 10.1.2.3"],
            "203.0.113.9",
        ),
        (
            &["X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 203.0.113.9"],
            "203.0.113.9",
        ),
        (&["X-Forwarded-For: 2001:db8::7"], "2001:db8::7"),
        (
            &["X-Forwarded-For: 203.0.113.9:4711, 10.0.0.1"],
            "203.0.113.9",
        ),
        (&["X-Forwarded-For: 203.0.113.9, nonsense"], "127.0.0.1"),
        (&[], "127.0.0.1"),
    ] {
        let (_, line) = seen_through(TRUSTING, claims);
        assert_eq!(line["client_ip"], client, "{claims:?}");
    }
}

#[test]
fn an_odd_request_id_of_a_trusted_peer_is_replaced() {
    let long = format!("X-Request-Id: {}", "a".repeat(500));
    for claim in [long.as_str(), "X-Request-Id: a b\"c"] {
        let (seen, line) = seen_through(TRUSTING, &[claim]);
        let id = seen.header("x-request-id").expect("an id");
        assert!(id.len() < 200 && !id.contains([' ', '"']), "{id}");
        assert_eq!(line["request_id"], id);
    }
}

#[test]
fn hop_by_hop_headers_stay_on_their_hop() {
    let (seen, _) = seen_through(
        "",
        &[
            "Connection: keep-alive, X-Private",
            "Keep-Alive: timeout=5",
            "Proxy-Connection: keep-alive",
            "Proxy-Authorization: Basic c2VjcmV0",
            "TE: trailers",
            "X-Private: for this hop",
            "X-Public: for everybody",
        ],
    );
    for name in [
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "x-private",
    ] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!(seen.header("x-public"), Some("for everybody"));
}

#[test]
fn connection_cannot_take_away_what_the_gateway_sets() {
    for name in [
        "Host",
        "X-Forwarded-For",
        "Forwarded",
        "X-Request-Id",
        "Via",
    ] {
        let origin = Origin::echo();
        let gateway = Gateway::in_front_of(&origin);
        let nomination = format!("Connection: keep-alive, {name}");
        let response = request(gateway.addr(), "GET", "/", &[&nomination], b"");
        // Either the request is refused, or the header is there all the same.
        if response.status == 200 {
            assert!(origin.only_request().header(name).is_some(), "{name}");
        } else {
            response.assert_refusal(400, "bad_request");
            assert_eq!(origin.requests(), 0, "{name}");
        }
    }
}

#[test]
fn hop_by_hop_headers_of_the_backend_stay_there() {
    let origin = Origin::script(crate::support::Script::new().send(
        "HTTP/1.1 200 OK\r\nConnection: X-Internal\r\nX-Internal: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nX-Kept: 1\r\nContent-Length: 0\r\n\r\n",
    ));
    let gateway = Gateway::in_front_of(&origin);
    let response = request(gateway.addr(), "GET", "/", &[], b"");
    for name in ["x-internal", "keep-alive", "proxy-authenticate"] {
        assert_eq!(response.header(name), None, "{name}");
    }
    assert_eq!(response.header("x-kept"), Some("1"));
}
