//! Which route takes a request, and what it does with it.

use std::collections::HashMap;

use crate::support::client::{get, request};
use crate::support::{Gateway, Origin};

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

#[test]
fn the_most_specific_host_wins() {
    let routes = [
        respond("exact", "{ host: api.example.com }"),
        respond("wildcard", "{ host: '*.example.com' }"),
        respond("longer", "{ host: '*.eu.example.com' }"),
        respond("any", "{ path: /* }"),
    ];
    for text in both_orders(&routes) {
        let gateway = Gateway::start_routes(&text);
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
        let gateway = Gateway::start_routes(&text);
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
        let gateway = Gateway::start_routes(&text);
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
        let gateway = Gateway::start_routes(&text);
        let host = ["Host: a.example.com"];
        assert_eq!(answer(&gateway, "GET", "/x", &host), "wildcard");
        assert_eq!(answer(&gateway, "POST", "/x", &host), "exact");
    }
}

#[test]
fn a_wrong_method_is_405_with_the_allowed_ones() {
    let gateway = Gateway::start_routes(
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
    let gateway = Gateway::with_routes(
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
    let gateway = Gateway::with_routes(
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
