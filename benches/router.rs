//! Look-ups among 10, 1 000 and 50 000 routes. The figures belong into `docs/routing.md`.

#![allow(clippy::unwrap_used, reason = "a bench may fail by panicking")]

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::Criterion;
use edge_gateway::config::model::{
    Action, FixedResponse, HeaderRules, Match, Priority, Route, RouteRetries, TimeoutOverrides,
};
use edge_gateway::config::pattern::{HostPattern, PathPattern, Segment, Tail};
use edge_gateway::route::{Found, Lookup, Router};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for count in [10, 1_000, 50_000] {
        let router = Router::compile(&routes(count)).unwrap();
        // All groups in turn, far apart from each other, so that caches help as little as they do
        // with real traffic.
        let groups = count / 5;
        let spread: Vec<_> = (0..groups)
            .map(|turn| user(turn * 7_919 % groups))
            .collect();
        let mut turns = spread.iter().cycle();
        criterion.bench_function(&format!("{count} routes/all in turn"), |bencher| {
            bencher.iter(|| turns.next().map(|(host, path)| find(&router, host, path)));
        });
        for (name, host, path) in cases(count) {
            criterion.bench_function(&format!("{count} routes/{name}"), |bencher| {
                bencher.iter(|| find(&router, black_box(&host), black_box(&path)));
            });
        }
    }
    let large = routes(50_000);
    criterion.bench_function("compile 50000 routes", |bencher| {
        bencher.iter(|| Router::compile(&large).unwrap());
    });
    criterion.final_summary();
}

fn find(router: &Router, host: &str, path: &str) -> Found {
    thread_local! {
        static HEADERS: HeaderMap = HeaderMap::new();
    }
    HEADERS.with(|headers| {
        router.find(&Lookup {
            host,
            path,
            method: &Method::GET,
            headers,
            query: "page=2",
            client_cert: None,
        })
    })
}

/// The routes in groups of five, one for each way to match; a host has ten groups.
fn routes(count: usize) -> Vec<Route> {
    (0..count)
        .map(|number| {
            let group = number / 5;
            let (service, tenant) = (format!("service-{group}"), group / 10);
            let host = HostPattern::Exact(format!("tenant-{tenant}.example.com"));
            let wildcard = HostPattern::Wildcard(format!("zone-{tenant}.example.net"));
            let (hosts, segments, tail) = match number % 5 {
                0 => (
                    vec![host],
                    vec![text("api"), text(&service), text("status")],
                    Tail::End,
                ),
                1 => (vec![host], users(&service), Tail::End),
                2 => (
                    vec![host],
                    vec![text("static"), text(&service)],
                    Tail::Prefix,
                ),
                3 => (
                    vec![wildcard],
                    users(&service),
                    Tail::CatchAll("rest".to_owned()),
                ),
                _ => (
                    Vec::new(),
                    vec![text("public"), text(&service)],
                    Tail::Prefix,
                ),
            };
            route(number, hosts, PathPattern::Segments { segments, tail })
        })
        .collect()
}

fn users(service: &str) -> Vec<Segment> {
    let id = Segment::Param("id".to_owned());
    vec![text("api"), text(service), text("users"), id]
}

fn text(text: &str) -> Segment {
    Segment::Literal(text.to_owned())
}

/// A request to the route with a parameter of a group.
fn user(group: usize) -> (String, String) {
    let host = format!("tenant-{}.example.com", group / 10);
    (host, format!("/api/service-{group}/users/8121"))
}

/// Requests to the last group.
fn cases(count: usize) -> Vec<(&'static str, String, String)> {
    let group = count / 5 - 1;
    let tenant = group / 10;
    let host = || format!("tenant-{tenant}.example.com");
    let zone = format!("eu.zone-{tenant}.example.net");
    let (_, user) = user(group);
    vec![
        ("literal", host(), format!("/api/service-{group}/status")),
        ("parameter", host(), user.clone()),
        (
            "prefix",
            host(),
            format!("/static/service-{group}/css/main.css"),
        ),
        ("wildcard host", zone, format!("{user}/orders/7")),
        (
            "any host",
            host(),
            format!("/public/service-{group}/logo.png"),
        ),
        (
            "port and case",
            format!("{}:8443", host().to_uppercase()),
            user,
        ),
        ("not found", host(), "/nothing/here".to_owned()),
    ]
}

fn route(number: usize, hosts: Vec<HostPattern>, path: PathPattern) -> Route {
    Route {
        name: format!("route-{number}").into(),
        matcher: Match {
            hosts,
            paths: vec![path],
            methods: vec![Method::GET, Method::POST],
            headers: Vec::new(),
            query: Vec::new(),
            client_cert: Vec::new(),
        },
        action: Action::Respond(FixedResponse {
            status: StatusCode::OK,
            content_type: HeaderValue::from_static("text/plain"),
            body: Bytes::new(),
        }),
        ip_access: None,
        cors: None,
        auth: None,
        limits: Vec::new(),
        concurrency: Vec::new(),
        rewrite: None,
        request_headers: HeaderRules::default(),
        response_headers: HeaderRules::default(),
        priority: Priority::Normal,
        max_body_bytes: None,
        timeouts: TimeoutOverrides::default(),
        retries: RouteRetries::default(),
        fallback: None,
        mirror: None,
        maintenance: false,
    }
}
