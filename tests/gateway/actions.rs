//! What a route does with a request: rewrites, redirects, fixed responses, header rules.

use crate::support::client::{get, request};
use crate::support::{Gateway, Origin};

#[test]
fn paths_are_rewritten_and_the_query_stays() {
    let origin = Origin::echo();
    let gateway = Gateway::with_routes(
        &origin,
        "  - { name: strip, match: { path: '/api/*' }, rewrite: { strip_prefix: /api }, upstream: u }
  - { name: replace, match: { path: '/old/*' }, rewrite: { replace_prefix: { from: /old, to: /new/v2 } }, upstream: u }
  - { name: regex, match: { path: '/u/*' }, rewrite: { regex: { pattern: '^/u/([0-9]+)$', replacement: '/users/$1' } }, upstream: u }",
    );
    for (asked, sent) in [
        ("/api/users?a=1&b=/api", "/users?a=1&b=/api"),
        ("/api", "/"),
        ("/api/", "/"),
        ("/old/x?y", "/new/v2/x?y"),
        ("/u/42?z=1", "/users/42?z=1"),
        ("/u/anna", "/u/anna"),
    ] {
        let response = get(gateway.addr(), asked);
        assert_eq!(response.json()["target"], sent, "{asked}");
    }
}

#[test]
fn redirects_are_answered_by_the_gateway() {
    let gateway = Gateway::start_routes(
        "  - { name: secure, match: { path: '/secure/*' }, redirect: { status: 308, scheme: https } }
  - { name: moved, match: { path: '/moved/:id' }, redirect: { status: 301, path: '/items/{path.id}' } }
  - { name: away, match: { path: '/away/*' }, redirect: { status: 302, host: other.example } }
  - { name: kept, match: { path: '/kept' }, redirect: { status: 307, path: /new?x=1 } }",
    );
    for (path, status, location) in [
        ("/secure/a?b=c", 308, "https://test/secure/a?b=c"),
        ("/moved/7", 301, "/items/7"),
        ("/away/x", 302, "http://other.example/away/x"),
        ("/kept", 307, "/new?x=1"),
    ] {
        let response = get(gateway.addr(), path);
        assert_eq!(response.status, status, "{path}");
        let found = response.header("location").expect("a location");
        let absolute = format!("http://test{location}");
        assert!(found == location || found == absolute, "{path}: {found}");
    }
}

#[test]
fn a_redirect_cannot_be_split_or_sent_elsewhere() {
    let gateway =
        Gateway::start_routes("  - { name: https, redirect: { status: 301, scheme: https } }");
    for path in [
        "//evil.example/x",
        "/%0d%0aSet-Cookie:%20a=b",
        "/\\evil.example",
    ] {
        let mut client = gateway.connect();
        let response = client.get(path);
        assert_eq!(response.header("set-cookie"), None);
        if let Some(location) = response.header("location") {
            assert!(location.starts_with("https://test/"), "{location}");
        }
    }
}

#[test]
fn fixed_responses_are_answered_by_the_gateway() {
    let gateway = Gateway::start_routes(
        "  - { name: robots, match: { path: /robots.txt }, respond: { status: 200, content_type: text/plain, body: \"User-agent: *\\n\" } }
  - { name: gone, match: { path: '/v1/*' }, respond: { status: 410, content_type: application/json, body: '{\"gone\":true}' } }",
    );
    let mut client = gateway.connect();
    let robots = client.get("/robots.txt");
    assert_eq!(robots.text(), "User-agent: *\n");
    assert_eq!(robots.header("content-type"), Some("text/plain"));
    let gone = client.get("/v1/x");
    assert_eq!((gone.status, &gone.json()["gone"]), (410, &true.into()));
    client.send("HEAD /robots.txt HTTP/1.1\r\nHost: test\r\n\r\n");
    let head = client.read_response_to_head();
    assert_eq!(head.header("content-length"), Some("14"));
    assert_eq!(client.get("/robots.txt").status, 200);
}

#[test]
fn a_fixed_response_to_a_request_with_a_body_leaves_the_connection_in_step() {
    let gateway = Gateway::start_routes("  - { name: ok, respond: { status: 200, body: ok } }");
    let mut client = gateway.connect();
    let body = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    client.send(crate::support::client::format_request(
        "POST",
        "/a",
        &[],
        body,
    ));
    assert_eq!(client.read_response().text(), "ok");
    // The connection is either closed or ready for the next request; the body is never one.
    if client
        .try_send("GET /b HTTP/1.1\r\nHost: test\r\n\r\n")
        .is_ok()
        && let Ok(response) = client.try_response(true)
    {
        assert_eq!(response.text(), "ok");
    }
    gateway.wait_access(|line| line["path"] == "/a");
    let smuggled = |line: &serde_json::Value| line["path"] == "/smuggled";
    assert!(!gateway.access_lines().iter().any(smuggled));
}

#[test]
fn header_rules_change_requests_and_responses() {
    let origin = Origin::echo();
    let gateway = Gateway::with_routes(
        &origin,
        "  - name: ruled
    match: { path: '/users/:id' }
    upstream: u
    headers:
      request:
        set: { X-User: 'user {path.id}', X-From: '{client_ip}', X-Route: '{route}', X-Id: '{request_id}' }
        add: { X-Tag: added }
        remove: [X-Secret]
      response:
        set: { X-Served-By: '{upstream}', X-Id: '{request_id}' }
        add: { X-Origin: '{method} {host} {path} {header.x-tag}' }
        remove: [X-Nothing, Content-Type]",
    );
    let response = request(
        gateway.addr(),
        "GET",
        "/users/42",
        &["X-Secret: 1", "X-Tag: own", "X-User: forged"],
        b"",
    );
    let seen = origin.only_request();
    assert_eq!(seen.header("x-user"), Some("user 42"));
    assert_eq!(seen.header("x-from"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-route"), Some("ruled"));
    assert_eq!(seen.header("x-secret"), None);
    assert_eq!(seen.headers.all("x-tag"), ["own", "added"]);
    assert_eq!(seen.header("x-id"), seen.header("x-request-id"));
    assert_eq!(response.header("x-served-by"), Some("u"));
    assert_eq!(response.header("x-id"), seen.header("x-id"));
    assert_eq!(response.header("content-type"), None);
    let origins = response.headers.all("x-origin");
    assert_eq!(origins[0], "origin");
    assert!(origins[1].starts_with("GET test /users/42"), "{origins:?}");
}

#[test]
fn a_variable_cannot_split_a_header() {
    let origin = Origin::echo();
    let gateway = Gateway::with_routes(
        &origin,
        "  - { name: ruled, match: { path: '/:id' }, upstream: u, headers: { request: { set: { X-Id: '{path.id}' } }, response: { set: { X-Id: '{path.id}' } } } }",
    );
    let response = get(gateway.addr(), "/a%0d%0aX-Evil:%201");
    assert_eq!(response.header("x-evil"), None);
    assert!(
        origin
            .seen()
            .iter()
            .all(|seen| seen.header("x-evil").is_none())
    );
}
