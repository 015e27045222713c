//! Which route takes a request, and what it does with it.

use std::collections::HashMap;

use crate::support::client::{get, request};
use crate::support::{Gateway, Origin};

/// Starts a gateway whose upstream `u` is the origin.
fn with_routes(origin: &Origin, routes: &str) -> Gateway {
    Gateway::start(&format!(
        "upstreams: {{ u: {{ backends: ['{}'] }} }}\nroutes:\n{routes}",
        origin.address()
    ))
}

/// The text of the fixed response that a request meets.
#[track_caller]
fn answer(gateway: &Gateway, method: &str, path: &str, headers: &[&str]) -> String {
    let response = request(gateway.addr(), method, path, headers, b"");
    assert_eq!(response.status, 200, "{path} {}", response.text());
    response.text()
}

fn respond(name: &str, matcher: &str) -> String {
    format!("  - {{ name: {name}, match: {matcher}, respond: {{ status: 200, body: {name} }} }}\n")
}

/// Reversed, the same file must give the same answers.
fn both_orders(routes: &[String]) -> [String; 2] {
    let reversed: Vec<String> = routes.iter().rev().cloned().collect();
    [routes.concat(), reversed.concat()]
}

fn start(routes: &str) -> Gateway {
    Gateway::start(&format!("routes:\n{routes}"))
}

#[test]
fn the_most_specific_host_wins() {
    let routes = [
        respond("exact", "{ host: api.example.com }"),
        respond("wildcard", "{ host: '*.example.com' }"),
        respond("longer", "{ host: '*.eu.example.com' }"),
        respond("any", "{ path: /* }"),
    ];
    for text in both_orders(&routes) {
        let gateway = start(&text);
        for (host, expected) in [
            ("api.example.com", "exact"),
            ("API.Example.com:8080", "exact"),
            ("api.example.com.", "exact"),
            ("www.example.com", "wildcard"),
            ("a.b.example.com", "wildcard"),
            ("a.eu.example.com", "longer"),
            ("example.com", "any"),
            ("example.org", "any"),
            ("[::1]:80", "any"),
        ] {
            let header = format!("Host: {host}");
            assert_eq!(answer(&gateway, "GET", "/", &[&header]), expected, "{host}");
        }
    }
}

#[test]
fn the_most_specific_path_wins() {
    let routes = [
        respond("literal", "{ path: /users/me }"),
        respond("regex", "{ path_regex: '/users/[0-9]+' }"),
        respond("param", "{ path: '/users/:id' }"),
        respond("nested", "{ path: '/users/:id/posts' }"),
        respond("prefix", "{ path: '/users/*' }"),
        respond("rest", "{ path: '/files/*rest' }"),
        respond("all", "{ path: '/*' }"),
    ];
    for text in both_orders(&routes) {
        let gateway = start(&text);
        for (path, expected) in [
            ("/users/me", "literal"),
            ("/users/me?x=1", "literal"),
            ("/users/42", "regex"),
            ("/users/anna", "param"),
            ("/users/anna/posts", "nested"),
            ("/users/anna/likes", "prefix"),
            ("/users", "prefix"),
            ("/users/", "prefix"),
            ("/usersx", "all"),
            ("/files/a/b", "rest"),
            ("/", "all"),
        ] {
            assert_eq!(answer(&gateway, "GET", path, &[]), expected, "{path}");
        }
    }
}

#[test]
fn conditions_on_headers_and_query_are_more_specific_than_none() {
    let routes = [
        respond("plain", "{ path: /a }"),
        respond("beta", "{ path: /a, headers: { X-Beta: '1' } }"),
        respond("version", "{ path: /a, query: { v: '2' } }"),
        respond(
            "both",
            "{ path: /a, headers: { X-Beta: '1' }, query: { v: '2' } }",
        ),
    ];
    for text in both_orders(&routes) {
        let gateway = start(&text);
        assert_eq!(answer(&gateway, "GET", "/a", &[]), "plain");
        assert_eq!(answer(&gateway, "GET", "/a", &["X-Beta: 1"]), "beta");
        assert_eq!(answer(&gateway, "GET", "/a", &["X-Beta: 11"]), "plain");
        assert_eq!(answer(&gateway, "GET", "/a?v=2", &[]), "version");
        assert_eq!(answer(&gateway, "GET", "/a?w=1&v=%32", &[]), "version");
        assert_eq!(answer(&gateway, "GET", "/a?v=3", &[]), "plain");
        assert_eq!(answer(&gateway, "GET", "/a?v=2", &["X-Beta: 1"]), "both");
    }
}

#[test]
fn a_condition_that_fails_falls_through_to_a_less_specific_route() {
    let routes = [
        respond(
            "exact",
            "{ host: a.example.com, path: /x, methods: [POST] }",
        ),
        respond("wildcard", "{ host: '*.example.com', path: /x }"),
    ];
    for text in both_orders(&routes) {
        let gateway = start(&text);
        let host = ["Host: a.example.com"];
        assert_eq!(answer(&gateway, "GET", "/x", &host), "wildcard");
        assert_eq!(answer(&gateway, "POST", "/x", &host), "exact");
    }
}

#[test]
fn a_wrong_method_is_405_with_the_allowed_ones() {
    let gateway = start(
        &[
            respond("read", "{ path: /a, methods: [GET] }"),
            respond("write", "{ path: /a, methods: [PUT, DELETE] }"),
        ]
        .concat(),
    );
    let mut client = gateway.connect();
    let response = client.exchange("POST /a HTTP/1.1\r\nHost: test\r\n\r\n");
    response.assert_refusal(405, "method_not_allowed");
    let mut allowed: Vec<&str> = response
        .header("allow")
        .expect("the allowed methods")
        .split(", ")
        .collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["DELETE", "GET", "HEAD", "PUT"]);
    assert_eq!(client.get("/a").text(), "read");
    assert_eq!(request(gateway.addr(), "HEAD", "/a", &[], b"").status, 200);
}

#[test]
fn no_route_is_404_and_the_connection_goes_on() {
    let origin = Origin::echo();
    let gateway = with_routes(
        &origin,
        "  - { name: only, match: { host: known.example, path: /here }, upstream: u }",
    );
    let mut client = gateway.connect();
    let id = client.get("/here").assert_refusal(404, "not_found");
    let known = client.exchange("GET /there HTTP/1.1\r\nHost: known.example\r\n\r\n");
    known.assert_refusal(404, "not_found");
    let known = client.exchange("GET /here HTTP/1.1\r\nHost: known.example\r\n\r\n");
    assert_eq!(known.status, 200);
    assert_eq!(origin.requests(), 1);
    let line = gateway.wait_access(|line| line["request_id"] == id.as_str());
    assert_eq!(line["status_code"], 404);
}

#[test]
fn paths_are_normalised_before_routing() {
    let origin = Origin::echo();
    let gateway = with_routes(
        &origin,
        "  - { name: open, match: { path: '/open/*' }, upstream: u }\n  - { name: secret, match: { path: '/secret/*' }, respond: { status: 403, body: secret } }",
    );
    for path in [
        "/open/../secret/x",
        "/open/%2e%2e/secret/x",
        "/open/.%2E/secret/x",
        "//secret/x",
        "/./secret//x",
        "/secret/./x",
        "/../../secret/x",
    ] {
        let response = get(gateway.addr(), path);
        assert_eq!(response.status, 403, "{path} {}", response.text());
    }
    assert_eq!(origin.requests(), 0);
    assert_eq!(get(gateway.addr(), "/open//a/./b/../c?x=/../y").status, 200);
    assert_eq!(origin.only_request().target, "/open/a/c?x=/../y");
}

#[test]
fn a_weighted_split_is_exact_over_a_cycle() {
    let (stable, canary) = (Origin::named("stable"), Origin::named("canary"));
    let gateway = Gateway::start(&format!(
        "upstreams:
  stable: {{ backends: ['{}'] }}
  canary: {{ backends: ['{}'] }}
routes:
  - name: split
    upstream: [{{ upstream: stable, weight: 90 }}, {{ upstream: canary, weight: 10 }}]",
        stable.address(),
        canary.address()
    ));
    let mut client = gateway.connect();
    for _ in 0..100 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!((stable.requests(), canary.requests()), (90, 10));
}

#[test]
fn backends_share_by_weight_and_smoothly() {
    let (heavy, light) = (Origin::named("heavy"), Origin::named("light"));
    let gateway = Gateway::start(&format!(
        "upstreams:
  u:
    backends: [{{ address: '{}', weight: 3 }}, '{}']
routes: [{{ name: all, upstream: u }}]",
        heavy.address(),
        light.address()
    ));
    let mut client = gateway.connect();
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut longest = 0;
    let mut run = 0;
    for _ in 0..40 {
        let origin = client.get("/").header("x-origin").unwrap().to_owned();
        run = if origin == "heavy" { run + 1 } else { 0 };
        longest = longest.max(run);
        *counts.entry(origin).or_default() += 1;
    }
    assert_eq!((counts["heavy"], counts["light"]), (30, 10));
    assert!(longest <= 4, "a burst of {longest}");
}

#[test]
fn paths_are_rewritten_and_the_query_stays() {
    let origin = Origin::echo();
    let gateway = with_routes(
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
    let gateway = start(
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
    let gateway = start("  - { name: https, redirect: { status: 301, scheme: https } }");
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
    let gateway = start(
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
    let gateway = start("  - { name: ok, respond: { status: 200, body: ok } }");
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
    let gateway = with_routes(
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
    let gateway = with_routes(
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
