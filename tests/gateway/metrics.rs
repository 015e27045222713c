//! What is counted, under which names.

use crate::support::client::{Client, get, request};
use crate::support::metrics::parse;
use crate::support::{Gate, Gateway, Origin, Script, eventually};

#[test]
fn requests_are_counted_by_route_method_and_status() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    for _ in 0..3 {
        get(gateway.addr(), "/");
    }
    request(gateway.addr(), "POST", "/", &[], &[b'x'; 1000]);
    request(gateway.addr(), "BREW", "/", &[], b"");
    for (method, count) in [("GET", 3.0), ("POST", 1.0), ("OTHER", 1.0)] {
        let labels = [("route", "all"), ("method", method), ("status_code", "200")];
        gateway.wait_metric("gateway_http_requests_total", &labels, count);
    }
    let get = [("route", "all"), ("method", "GET")];
    gateway.wait_metric("gateway_http_request_duration_seconds_count", &get, 3.0);
    // A count and a sum are written one after the other.
    eventually("the time is there", || {
        gateway.metric("gateway_http_request_duration_seconds_sum", &get) > 0.0
    });
    let route = [("route", "all")];
    gateway.wait_metric("gateway_http_request_size_bytes_sum", &route, 1000.0);
    eventually("the size is there", || {
        gateway.metric("gateway_http_response_size_bytes_sum", &route) > 500.0
    });
}

#[test]
fn refusals_are_counted_too() {
    let gateway = Gateway::start("routes: [{ name: a, match: { path: /a }, respond: {} }]");
    get(gateway.addr(), "/nowhere");
    Client::connect(gateway.addr()).exchange("GET / HTTP/1.1\r\nHost: a b\r\n\r\n");
    let lost = [("route", "none"), ("method", "GET"), ("status_code", "404")];
    gateway.wait_metric("gateway_http_requests_total", &lost, 1.0);
    let malformed = [("route", "none"), ("status_code", "400")];
    gateway.wait_metric("gateway_http_requests_total", &malformed, 1.0);
    gateway.wait_metric(
        "gateway_http_refusals_total",
        &[("reason", "not_found")],
        1.0,
    );
    gateway.wait_metric(
        "gateway_http_refusals_total",
        &[("reason", "bad_request")],
        1.0,
    );
}

#[test]
fn backends_are_counted_by_upstream() {
    let origin = Origin::answering(|request| match request.target.as_str() {
        "/ill" => Script::new().reset(),
        _ => Script::answer("ok"),
    });
    let gateway = Gateway::start(&format!(
        "upstreams: {{ shop: {{ backends: ['{}'] }} }}\nroutes: [{{ name: all, upstream: shop }}]",
        origin.address()
    ));
    // One connection, because each worker has a pool of its own.
    let mut client = gateway.connect();
    for _ in 0..4 {
        client.get("/");
    }
    let shop = ("backend_service", "shop");
    gateway.wait_metric(
        "gateway_backend_requests_total",
        &[shop, ("status_code", "200")],
        4.0,
    );
    gateway.wait_metric("gateway_backend_duration_seconds_count", &[shop], 4.0);
    let backend = origin.address().to_string();
    assert_eq!(
        gateway.metric("gateway_backend_up", &[shop, ("backend", &backend)]),
        1.0
    );
    assert_eq!(
        gateway.metric("gateway_connection_pool_created_total", &[shop]),
        1.0
    );
    assert_eq!(
        gateway.metric("gateway_connection_pool_reused_total", &[shop]),
        3.0
    );
    client.get("/ill");
    gateway.wait_metric("gateway_backend_retries_total", &[shop], 1.0);
    gateway.wait_metric("gateway_backend_failures_total", &[shop], 2.0);
}

#[test]
fn what_is_open_is_counted_up_and_down() {
    let gate = Gate::new();
    let origin = Origin::script(
        Script::new()
            .wait(&gate)
            .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    );
    let gateway = Gateway::in_front_of(&origin);
    let listener = [("listener", "main")];
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    gateway.wait_metric("gateway_http_requests_in_flight", &listener, 1.0);
    gateway.wait_metric("gateway_connections_active", &listener, 1.0);
    gate.open();
    assert_eq!(client.read_response().text(), "ok");
    gateway.wait_metric("gateway_http_requests_in_flight", &listener, 0.0);
    drop(client);
    gateway.wait_metric("gateway_connections_active", &listener, 0.0);
}

#[test]
fn the_thresholds_of_the_service_level_are_bucket_edges() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    get(gateway.addr(), "/");
    for name in [
        "gateway_http_request_duration_seconds_bucket",
        "gateway_backend_duration_seconds_bucket",
    ] {
        eventually("the request is counted", || {
            gateway.metrics().contains(name)
        });
        let page = gateway.metrics();
        let samples = parse(&page);
        let edges: Vec<f64> = samples
            .iter()
            .filter(|sample| sample.name == name)
            .filter_map(|sample| sample.label("le")?.parse().ok())
            .collect();
        for edge in [0.005, 0.015, 0.05, 0.5, 1.0, f64::INFINITY] {
            assert!(
                edges.contains(&edge),
                "{name} has no edge at {edge}: {edges:?}"
            );
        }
        let values: Vec<f64> = samples
            .iter()
            .filter(|sample| sample.name == name)
            .map(|sample| sample.value)
            .collect();
        assert!(values.is_sorted(), "buckets are cumulative: {values:?}");
    }
}

#[test]
fn process_and_build_describe_themselves() {
    let gateway = Gateway::start("routes: [{ name: a, respond: {} }]");
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_start_time_seconds",
    ] {
        assert!(
            gateway.metrics().contains(&format!("# TYPE {name} ")),
            "{name}"
        );
    }
    assert_eq!(
        gateway.metric(
            "gateway_build_info",
            &[("version", env!("CARGO_PKG_VERSION"))]
        ),
        1.0
    );
    assert_eq!(gateway.metric("gateway_config_info", &[]), 1.0);
    assert_eq!(gateway.metric("gateway_access_log_dropped_total", &[]), 0.0);
    assert_eq!(gateway.metric("gateway_panics_total", &[]), 0.0);
    assert!(gateway.metric("process_resident_memory_bytes", &[]) > 1e6);
}

#[test]
fn every_name_has_help_and_type_and_occurs_once() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    get(gateway.addr(), "/");
    let page = gateway.metrics();
    let described: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    let distinct: std::collections::HashSet<_> = described.iter().collect();
    assert_eq!(distinct.len(), described.len(), "a name is described twice");
    for name in &described {
        assert!(page.contains(&format!("# HELP {name} ")), "{name}");
    }
    for sample in parse(&page) {
        let known = described.iter().any(|name| {
            let suffix = sample.name.strip_prefix(name);
            suffix.is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest))
        });
        assert!(known, "{} has no type", sample.name);
    }
}

#[test]
fn open_metrics_is_given_to_those_who_ask() {
    let gateway = Gateway::start("routes: [{ name: a, respond: {} }]");
    let plain = get(gateway.admin(), "/metrics");
    let kind = plain.header("content-type").expect("a type");
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");

    get(gateway.addr(), "/");
    gateway.wait_metric("gateway_http_requests_total", &[("route", "a")], 1.0);
    let accept =
        "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    let open = request(gateway.admin(), "GET", "/metrics", &[accept], b"");
    let kind = open.header("content-type").expect("a type");
    assert!(
        kind.starts_with("application/openmetrics-text; version=1.0.0"),
        "{kind}"
    );
    let text = open.text();
    assert!(text.ends_with("# EOF\n"));
    assert!(
        text.contains("# TYPE gateway_http_requests counter\n"),
        "{text}"
    );
    assert!(text.contains("gateway_http_requests_total{"));
}

#[test]
fn the_namespace_is_configurable() {
    let gateway =
        Gateway::start("metrics: { namespace: edge }\nroutes: [{ name: a, respond: {} }]");
    let page = gateway.metrics();
    assert!(page.contains("edge_build_info"));
    let foreign = |line: &&str| line.starts_with("gateway_");
    assert_eq!(page.lines().find(foreign), None);
}

#[test]
fn the_traffic_port_shows_metrics_only_where_allowed() {
    let gateway = Gateway::start(
        "listeners:
  - { name: closed, address: 127.0.0.1:0 }
  - { name: open, address: 127.0.0.1:0, metrics: { allow: [127.0.0.2/32] } }
routes: [{ name: a, match: { path: /a }, respond: {} }]",
    );
    assert_eq!(get(gateway.listener("closed"), "/metrics").status, 404);
    assert_eq!(get(gateway.listener("open"), "/metrics").status, 404);
    let allowed = "127.0.0.2".parse().unwrap();
    let mut client = Client::connect_from(allowed, gateway.listener("open"));
    let page = client.get("/metrics");
    assert_eq!(page.status, 200);
    assert!(page.text().contains("gateway_build_info"));
}

#[test]
fn no_label_carries_a_path() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    for n in 0..30 {
        get(gateway.addr(), &format!("/unique-path-{n}"));
    }
    let labels = [("route", "all"), ("status_code", "200")];
    gateway.wait_metric("gateway_http_requests_total", &labels, 30.0);
    assert!(!gateway.metrics().contains("unique-path"));
}

#[test]
fn kept_connections_are_idle_until_they_are_used() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    assert_eq!(get(gateway.addr(), "/").status, 200);
    let pool = |state: &str| gateway.metric(&format!("gateway_connection_pool_{state}"), &[]);
    eventually("the connection is kept", || {
        pool("idle") == 1.0 && pool("in_use") == 0.0
    });
}

#[test]
fn a_connection_that_says_nothing_is_counted_when_it_is_closed() {
    let gateway = Gateway::start(
        "limits: { request_header_timeout: 200ms }\nroutes: [{ name: a, respond: {} }]",
    );
    let mut silent = gateway.connect();
    eventually("its time is over", || {
        gateway.metric(
            "gateway_connections_closed_total",
            &[("reason", "idle_timeout")],
        ) >= 1.0
    });
    assert!(silent.is_closed());
}
