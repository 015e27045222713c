//! Fields that a client names in `Connection`, to have them taken away (CVE-2026-105299).

use crate::support::client::request;
use crate::support::{Gateway, Origin};

#[test]
fn what_others_rely_on_cannot_be_named() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    for name in [
        "X-Forwarded-For",
        "x-forwarded-PROTO",
        "X-Forwarded-Host",
        "X-Forwarded-Client-Cert",
        "Forwarded",
        "X-Real-IP",
        "X-Request-Id",
        "Via",
        "Host",
        "Authorization",
        "Cookie",
        "Content-Length",
        "Transfer-Encoding",
        ":authority",
        "\"X-Forwarded-For\"",
    ] {
        for nomination in [
            format!("Connection: {name}"),
            format!("Connection: close, {name}"),
            format!("Connection: close\r\nConnection: ,{name},"),
        ] {
            let response = request(gateway.addr(), "POST", "/", &[&nomination], b"body");
            response.assert_refusal(400, "bad_request");
        }
    }
    assert_eq!(origin.requests(), 0);
}

#[test]
fn there_are_only_so_many_options() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let many = format!("Connection: {}", ["x"; 10].join(","));
    request(gateway.addr(), "GET", "/", &[&many], b"").assert_refusal(400, "bad_request");
    assert_eq!(origin.requests(), 0);
}

#[test]
fn what_is_named_decides_nothing() {
    let origin = Origin::echo();
    let gateway = Gateway::with_routes(
        &origin,
        "  - { name: plain, upstream: u }
  - { name: beta, match: { headers: { x-beta: { present: true } } }, respond: { status: 204 } }",
    );
    let send = |nomination: &str| {
        let headers = ["X-Beta: 1", nomination];
        request(gateway.addr(), "GET", "/", &headers, b"").status
    };
    assert_eq!(send("Connection: keep-alive"), 204);
    assert_eq!(send("Connection: keep-alive, X-Beta"), 200);
    assert_eq!(origin.only_request().header("x-beta"), None);
}
