//! What upstreams and routes mean together, and settings of what is switched off.

use super::super::model::Priority;
use super::*;

/// What is odd about a sound text.
fn warnings(text: &str) -> Vec<String> {
    match parsed(text, &env()) {
        Ok(loaded) => loaded.warnings,
        Err(problems) => panic!("{problems}\n{text}"),
    }
}

#[test]
fn settings_of_what_is_switched_off_are_warnings() {
    let upstream = |rest: &str| {
        format!(
            "upstreams: {{ u: {{ backends: ['127.0.0.1:1'], {rest} }} }}\nroutes: [{{ upstream: u }}]\n"
        )
    };
    let process = |rest: &str| format!("{rest}\nroutes: [{{ respond: {{}} }}]\n");
    for (text, expected) in [
        (
            upstream(
                "circuit_breaker: { enabled: false, window: 1s, failure_on: { errors: false } }",
            ),
            &[
                "upstreams.u.circuit_breaker.window: has no effect with `enabled: false`",
                "upstreams.u.circuit_breaker.failure_on: has no effect with `enabled: false`",
            ][..],
        ),
        (
            upstream("circuit_breaker: { error_rate: 0, window: 1s, timeout: 1s }"),
            &["upstreams.u.circuit_breaker.window: has no effect with `error_rate: 0`"],
        ),
        (
            upstream("circuit_breaker: { failure_threshold: 0, window: 1s }"),
            &[],
        ),
        (
            upstream("outlier: { slow_factor: 0, slow_at_least: 1s, minimum_requests: 5 }"),
            &["upstreams.u.outlier.slow_at_least: has no effect with `slow_factor: 0`"],
        ),
        (
            upstream("outlier: { slow_factor: 0, failure_rate: 0, window: 1s, max_ejected: 10% }"),
            &[
                "upstreams.u.outlier.window: has no effect with `failure_rate: 0` and `slow_factor: 0`",
            ],
        ),
        (
            upstream(
                "outlier: { slow_factor: 0, failure_rate: 0, consecutive_failures: 0, max_ejected: 10% }",
            ),
            &["upstreams.u.outlier.max_ejected: has no effect where nothing ejects a backend"],
        ),
        (
            upstream("zones: { prefer_local: false, min_healthy: 50% }"),
            &["upstreams.u.zones.min_healthy: has no effect with `prefer_local: false`"],
        ),
        (
            upstream("concurrency: { limit: 1, queue_timeout: 2s }"),
            &["upstreams.u.concurrency.queue_timeout: has no effect without a `queue`"],
        ),
        (
            upstream("concurrency: { adaptive: {}, queue_timeout: 2s }"),
            &[],
        ),
        (
            "routes: [{ respond: {}, concurrency: { limit: 1, queue_timeout: 2s } }]\n".to_owned(),
            &["routes[0].concurrency.queue_timeout: has no effect without a `queue`"],
        ),
        (
            process("access_log: { enabled: false, output: stderr }"),
            &["access_log.output: has no effect with `enabled: false`"],
        ),
        (
            process("admin: { enabled: false, address: '127.0.0.1:1' }"),
            &["admin.address: has no effect with `enabled: false`"],
        ),
        (
            process("ratelimit: { enabled: false, policies: { a: { limit: 1/s } } }"),
            &["ratelimit.policies: has no effect with `enabled: false`"],
        ),
        (
            process("auth: { validate: { enabled: false, path: /v } }"),
            &["auth.validate.path: has no effect with `enabled: false`"],
        ),
        // It can be switched on without the file.
        (
            process("maintenance: { enabled: false, message: Soon. }"),
            &[],
        ),
    ] {
        assert_eq!(warnings(&text), expected, "{text}");
    }
}

/// Upstreams `a` without retries, `b` with them, `c` without and with `a` as its fallback.
fn retrying(of_a: &str, routes: &str) -> Vec<String> {
    warnings(&format!(
        "upstreams:
  a: {{ backends: ['127.0.0.1:1'], retries: {{ attempts: 0{of_a} }} }}
  b: {{ backends: ['127.0.0.1:2'] }}
  c: {{ backends: ['127.0.0.1:3'], retries: {{ attempts: 0 }}, fallback: {{ upstream: b }} }}
routes: [{routes}]\n"
    ))
}

#[test]
fn what_a_route_says_of_retries_that_its_upstream_does_not_have_is_a_warning() {
    let route = |upstream: &str, retries: &str| {
        let route = format!("{{ upstream: {upstream}, retries: {{ {retries} }} }}");
        retrying("", &route)
    };
    let found = route("a", "on: [503], hedge: { after: 1s }");
    let why = "has no effect where its upstream has `attempts: 0`";
    let expected = ["on", "hedge"].map(|key| format!("routes[0].retries.{key}: {why}"));
    assert_eq!(found, expected);
    let own = route("b", "attempts: 0, non_idempotent: true");
    let expected = "routes[0].retries.non_idempotent: has no effect with `attempts: 0`";
    assert_eq!(own, [expected]);
    for (upstream, retries) in [
        ("a", "attempts: 1, on: [503]"),
        ("b", "on: [503]"),
        // A part of the requests has them.
        ("[{ upstream: a }, { upstream: b }]", "on: [503]"),
        // So have those that the fallback gets.
        ("c", "on: [503]"),
    ] {
        assert!(route(upstream, retries).is_empty(), "{upstream} {retries}");
    }
}

#[test]
fn what_an_upstream_says_of_retries_counts_for_routes_that_ask_for_them() {
    let of_a = ", on: [503], max_body: 1KiB";
    let without = retrying(of_a, "{ upstream: a }");
    let expected = ["on", "max_body"]
        .map(|key| format!("upstreams.a.retries.{key}: has no effect with `attempts: 0`"));
    assert_eq!(without, expected);
    assert!(retrying(of_a, "{ upstream: a, retries: { attempts: 1 } }").is_empty());
}

/// An upstream that hashes by this, with these routes.
fn hashing(key: &str, routes: &str) -> String {
    format!(
        "auth: {{ api_keys: {{ name: k, keys: [{{ name: n, hash: 'sha256:{}' }}] }} }}
upstreams:
  a: {{ backends: ['127.0.0.1:1'], balance: {{ policy: hash, key: {key} }} }}
  b: {{ backends: ['127.0.0.1:2'], fallback: {{ upstream: a }} }}
routes: [{routes}]\n",
        "0".repeat(64)
    )
}

#[test]
fn a_hash_by_who_calls_is_a_warning_where_nobody_is_asked() {
    let warning = "upstreams.a.balance.key: goes by who calls, but no route that leads here asks: \
                   the `fallback` decides";
    let (open, asked) = (
        "{ match: { path: /open }, upstream: a }",
        "{ match: { path: /asked }, auth: k, upstream: a }",
    );
    for key in ["subject", "api_key", "claim:tenant", "[client_ip, subject]"] {
        assert_eq!(warnings(&hashing(key, open)), [warning], "{key}");
        let both = format!("{open}, {asked}");
        assert!(warnings(&hashing(key, &both)).is_empty(), "{key}");
    }
    assert!(warnings(&hashing("client_ip", open)).is_empty());
    // What no route leads to is not judged.
    assert!(warnings(&hashing("subject", "{ respond: {} }")).is_empty());
    let fallback = "{ auth: k, upstream: b }";
    assert!(warnings(&hashing("subject", fallback)).is_empty());
}

#[test]
fn a_hash_by_a_parameter_that_no_path_has_is_refused() {
    let key = "path:tenant";
    let wrong = "{ match: { path: '/t/:tenent' }, upstream: a }";
    let found = problems(&hashing(key, wrong), &env());
    assert_eq!(found.len(), 1, "{found:?}");
    let expected = "upstreams.a.balance.key: `tenant` is in no path of a route that leads here, \
                    expected a parameter of one";
    assert!(found[0].ends_with(expected), "{found:?}");
    for routes in [
        "{ match: { path: '/t/:tenant' }, upstream: a }",
        "{ match: { path: '/t/:tenant' }, upstream: b }",
        "{ match: { path: '/t/:tenant' }, upstream: 'http://127.0.0.1:9', mirror: { upstream: a } }",
        "{ respond: {} }",
    ] {
        assert!(warnings(&hashing(key, routes)).is_empty(), "{routes}");
    }
}

#[test]
fn the_most_important_class_of_an_upstream_is_found_over_branches_and_fallbacks() {
    let top = |routes: &str| {
        let text = format!(
            "upstreams:
  own: {{ backends: ['127.0.0.1:1'], concurrency: {{ limit: 1 }} }}
  main: {{ backends: ['127.0.0.1:2'], fallback: {{ upstream: own }} }}
  bare: {{ backends: ['127.0.0.1:3'] }}
routes:
  - {{ match: {{ path: /low }}, upstream: own, priority: low }}
  - {{ {routes}, priority: high }}\n"
        );
        let upstreams = config(&text).upstreams;
        let own = upstreams.iter().find(|upstream| &*upstream.name == "own");
        own.and_then(|own| own.concurrency.as_ref()).unwrap().top
    };
    assert_eq!(top("upstream: own"), Priority::High);
    let branch = "upstream: [{ upstream: bare }, { upstream: own }]";
    assert_eq!(top(branch), Priority::High);
    assert_eq!(top("upstream: main"), Priority::High);
    let route = "upstream: bare, fallback: { upstream: own }";
    assert_eq!(top(route), Priority::High);
    // What the route says takes the place of what its upstream says.
    let other = "upstream: main, fallback: { respond: {} }";
    assert_eq!(top(other), Priority::Low);
    // Copies are nobody's wish.
    let copies = "upstream: bare, mirror: { upstream: own }";
    assert_eq!(top(copies), Priority::Low);
}
