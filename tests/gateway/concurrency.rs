//! Requests at the same time: places, queues, keys, refusals, and that every place comes back.

use std::fs;

use crate::support::client::get;
use crate::support::command::{binary, finish};
use crate::support::h2::{self, H2};
use crate::support::{Client, Gate, Gateway, Origin, Script, eventually};

/// A backend that answers when the test says so.
fn held(gate: &Gate) -> Origin {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    Origin::script(Script::new().read_body().wait(gate).send(answer))
}

fn config(origin: &Origin, upstream: &str, routes: &str) -> String {
    format!(
        "server: {{ threads: 2, watch: false }}
admin: {{ address: 127.0.0.1:0, token: key }}
listeners: [{{ name: main, address: 127.0.0.1:0, h2c: true }}]
upstreams: {{ u: {{ backends: ['{}'] {upstream} }} }}
routes:
{routes}",
        origin.address()
    )
}

/// Sends a request whose answer is yet to come.
fn begin(gateway: &Gateway, path: &str, fields: &str) -> Client {
    let mut client = gateway.connect();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    client
}

#[track_caller]
fn wait_counts(gateway: &Gateway, in_flight: f64, queued: f64) {
    gateway.wait_metric("gateway_concurrency_in_flight", &[], in_flight);
    gateway.wait_metric("gateway_concurrency_queued", &[], queued);
}

#[test]
fn beyond_the_limit_there_is_503_and_every_place_comes_back() {
    let gate = Gate::new();
    let origin = held(&gate);
    let route = "  - { name: all, concurrency: { limit: 2 }, upstream: u }
  - { name: free, match: { path: /free }, respond: {} }";
    let gateway = Gateway::start(&config(&origin, "", route));
    let mut clients = [begin(&gateway, "/", ""), begin(&gateway, "/", "")];
    wait_counts(&gateway, 2.0, 0.0);
    let mut third = gateway.connect();
    let refused = third.get("/");
    refused.assert_refusal(503, "overloaded");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(third.get("/free").status, 200, "the connection stays");
    let call = h2::request("POST", "/").header("content-type", "application/grpc");
    let answer = H2::connect(gateway.addr()).send(call, "");
    assert_eq!(answer.header("grpc-status"), "14");
    gate.open();
    for client in &mut clients {
        assert_eq!(client.read_response().status, 200);
    }
    wait_counts(&gateway, 0.0, 0.0);
    assert_eq!(third.get("/").status, 200);
    let full = [("route", "all"), ("key", "all"), ("reason", "full")];
    assert_eq!(
        gateway.metric("gateway_concurrency_rejected_total", &full),
        2.0
    );
    let line = gateway.wait_access(|line| line["status_code"] == 503);
    assert_eq!(
        (&line["error_type"], &line["route"]),
        (&"overloaded".into(), &"all".into())
    );
}

#[test]
fn who_waits_has_a_turn_in_order_and_not_for_ever() {
    let origin = Origin::answering(|request| match request.target.as_str() {
        "/hold" => Script::new().read_body().hold(),
        target => Script::answer(target),
    });
    let route = "  - { name: all, concurrency: { limit: 1, queue: 2, queue_timeout: 5m }, upstream: u }
  - { name: short, match: { path: /short }, concurrency: { limit: 1, queue: 1, queue_timeout: 1ms }, upstream: u }";
    let gateway = Gateway::start(&config(&origin, "", route));
    let first = begin(&gateway, "/hold", "");
    wait_counts(&gateway, 1.0, 0.0);
    let mut second = begin(&gateway, "/second", "");
    wait_counts(&gateway, 1.0, 1.0);
    let mut third = begin(&gateway, "/third", "");
    wait_counts(&gateway, 1.0, 2.0);
    get(gateway.addr(), "/fourth").assert_refusal(503, "overloaded");
    // Only what has a place is asked of the backend.
    assert_eq!(origin.requests(), 1);
    drop(first);
    assert_eq!(second.read_response().text(), "/second");
    assert_eq!(third.read_response().text(), "/third");
    let order: Vec<_> = origin.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(order, ["/hold", "/second", "/third"]);
    wait_counts(&gateway, 0.0, 0.0);
}

#[test]
fn each_backend_is_given_so_many_and_the_others_wait() {
    let gate = Gate::new();
    let origins = [held(&gate), held(&gate)];
    let addresses = origins.each_ref().map(Origin::address);
    let gateway = Gateway::start(&format!(
        "admin: {{ address: 127.0.0.1:0, token: key }}
upstreams:
  u:
    backends: ['{}', '{}']
    concurrency: {{ per_backend: 2, queue: 1, queue_timeout: 5m }}
routes: [{{ name: all, upstream: u }}]",
        addresses[0], addresses[1]
    ));
    let mut clients: Vec<_> = (0..4).map(|_| begin(&gateway, "/", "")).collect();
    eventually("both have what they may have", || {
        origins.iter().all(|origin| origin.requests() == 2)
    });
    clients.push(begin(&gateway, "/", ""));
    wait_counts(&gateway, 4.0, 1.0);
    assert_eq!(gateway.metric("gateway_concurrency_limit", &[]), 4.0);
    get(gateway.addr(), "/").assert_refusal(503, "overloaded");
    let asked: usize = origins.iter().map(Origin::requests).sum();
    assert_eq!(asked, 4);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.read_response().text(), "ok");
    }
    wait_counts(&gateway, 0.0, 0.0);
}

#[test]
fn so_many_unused_connections_are_kept() {
    for (most, reused) in [(0, 0.0), (1, 1.0), (2, 2.0)] {
        let gates = [Gate::new(), Gate::new()];
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let of_round = gates.clone();
        let origin = Origin::answering(move |request| {
            let round = usize::from(request.target == "/second");
            Script::new().wait(&of_round[round]).send(answer)
        });
        let pool = format!(", pool: {{ max_idle: {most} }}");
        let rest = config(&origin, &pool, "  - { name: all, upstream: u }");
        // One thread: each has a pool of its own.
        let gateway = Gateway::start(&rest.replacen("threads: 2", "threads: 1", 1));
        for (gate, path) in gates.iter().zip(["/first", "/second"]) {
            let before = origin.requests();
            let mut clients: Vec<_> = (0..3).map(|_| begin(&gateway, path, "")).collect();
            eventually("all are asked", || origin.requests() == before + 3);
            gate.open();
            for client in &mut clients {
                assert_eq!(client.read_response().text(), "ok");
            }
            gateway.wait_metric("gateway_connection_pool_in_use", &[], 0.0);
            gateway.wait_metric("gateway_connection_pool_idle", &[], f64::from(most));
        }
        assert_eq!(
            gateway.metric("gateway_connection_pool_reused_total", &[]),
            reused
        );
    }
}

#[test]
fn a_wait_ends_with_its_time() {
    let gate = Gate::new();
    let origin = held(&gate);
    let limit = "concurrency: { limit: 1, queue: 5, queue_timeout: 50ms }";
    let route = format!("  - {{ name: all, {limit}, upstream: u }}");
    let gateway = Gateway::start(&config(&origin, "", &route));
    let mut first = begin(&gateway, "/", "");
    wait_counts(&gateway, 1.0, 0.0);
    get(gateway.addr(), "/").assert_refusal(503, "overloaded");
    let body = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    let mut client = gateway.connect();
    client.exchange(body).assert_refusal(503, "overloaded");
    let timeout = [("reason", "timeout")];
    assert_eq!(
        gateway.metric("gateway_concurrency_rejected_total", &timeout),
        2.0
    );
    gate.open();
    assert_eq!(first.read_response().status, 200);
    // A place is free only after the answer.
    wait_counts(&gateway, 0.0, 0.0);
    assert_eq!(client.exchange(body).status, 200, "the connection stays");
    wait_counts(&gateway, 0.0, 0.0);
}

#[test]
fn a_client_that_leaves_makes_room_in_the_queue() {
    let gate = Gate::new();
    let origin = held(&gate);
    let limit = "concurrency: { limit: 1, queue: 2, queue_timeout: 5m }";
    let route = format!("  - {{ name: all, {limit}, upstream: u }}");
    let gateway = Gateway::start(&config(&origin, "", &route));
    let mut first = begin(&gateway, "/", "");
    wait_counts(&gateway, 1.0, 0.0);
    let second = begin(&gateway, "/second", "");
    wait_counts(&gateway, 1.0, 1.0);
    let mut stream = H2::connect(gateway.addr());
    let (response, _) = stream.begin(h2::get("/third"), true).unwrap();
    wait_counts(&gateway, 1.0, 2.0);
    drop(second);
    wait_counts(&gateway, 1.0, 1.0);
    drop(response);
    drop(stream);
    wait_counts(&gateway, 1.0, 0.0);
    let mut last = begin(&gateway, "/last", "");
    wait_counts(&gateway, 1.0, 1.0);
    gate.open();
    assert_eq!(first.read_response().status, 200);
    assert_eq!(last.read_response().status, 200);
    wait_counts(&gateway, 0.0, 0.0);
    assert_eq!(origin.requests(), 2);
    let gone = gateway.wait_access(|line| line["path"] == "/second");
    assert_eq!(
        (&gone["status_code"], &gone["error_type"]),
        (&499.into(), &"client_closed".into())
    );
}

#[test]
fn each_key_has_places_of_its_own() {
    let gate = Gate::new();
    let origin = held(&gate);
    let limits = "concurrency: [{ limit: 3 }, { limit: 1, key: 'header:x-tenant' }]";
    let route = format!("  - {{ name: all, {limits}, upstream: u }}");
    let gateway = Gateway::start(&config(&origin, "", &route));
    let tenant = |name: &str| format!("X-Tenant: {name}\r\n");
    let mut clients = vec![
        begin(&gateway, "/", &tenant("a")),
        begin(&gateway, "/", &tenant("b")),
    ];
    let of_keys = [("key", "header:x-tenant")];
    gateway.wait_metric("gateway_concurrency_in_flight", &of_keys, 2.0);
    let refused = begin(&gateway, "/", &tenant("a")).read_response();
    refused.assert_refusal(429, "too_many_concurrent");
    assert_eq!(refused.header("retry-after"), Some("1"));
    let call = h2::request("POST", "/").header("content-type", "application/grpc");
    let call = call.header("x-tenant", "b");
    let answer = H2::connect(gateway.addr()).send(call, "");
    assert_eq!(answer.header("grpc-status"), "8");
    clients.push(begin(&gateway, "/", &tenant("c")));
    gateway.wait_metric("gateway_concurrency_in_flight", &of_keys, 3.0);
    let refused = begin(&gateway, "/", &tenant("d")).read_response();
    refused.assert_refusal(503, "overloaded");
    gateway.wait_metric("gateway_concurrency_in_flight", &of_keys, 3.0);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.read_response().status, 200);
    }
    wait_counts(&gateway, 0.0, 0.0);
}

#[test]
fn an_upstream_has_one_limit_for_all_routes() {
    let gate = Gate::new();
    let origin = held(&gate);
    let routes = "  - { name: a, match: { path: /a }, upstream: u }
  - { name: b, match: { path: /b }, upstream: u }
  - { name: c, match: { path: /c }, respond: {} }";
    let gateway = Gateway::start(&config(&origin, ", concurrency: { limit: 1 }", routes));
    let mut first = begin(&gateway, "/a", "");
    let of_upstream = [("backend_service", "u"), ("route", "")];
    gateway.wait_metric("gateway_concurrency_in_flight", &of_upstream, 1.0);
    get(gateway.addr(), "/b").assert_refusal(503, "overloaded");
    assert_eq!(get(gateway.addr(), "/c").status, 200);
    gate.open();
    assert_eq!(first.read_response().status, 200);
    wait_counts(&gateway, 0.0, 0.0);
    assert_eq!(get(gateway.addr(), "/b").status, 200);
}

#[test]
fn a_websocket_has_its_place_for_as_long_as_it_is_open() {
    let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                    Upgrade: websocket\r\n\r\n";
    let origin = Origin::script(Script::new().send(switched).hold());
    let route = "  - { name: all, concurrency: { limit: 1 }, upstream: u }";
    let gateway = Gateway::start(&config(&origin, "", route));
    let mut client = gateway.connect();
    client.send(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert!(client.read_head().first.contains(" 101 "));
    get(gateway.addr(), "/").assert_refusal(503, "overloaded");
    wait_counts(&gateway, 1.0, 0.0);
    drop(client);
    wait_counts(&gateway, 0.0, 0.0);
}

#[test]
fn what_is_in_flight_stays_counted_over_a_reload() {
    let gate = Gate::new();
    let origin = held(&gate);
    let text = |limit: u32| {
        let upstream = format!(", concurrency: {{ limit: {limit} }}");
        let route = format!("  - {{ name: all, concurrency: {{ limit: {limit} }}, upstream: u }}");
        config(&origin, &upstream, &route)
    };
    let gateway = Gateway::start(&text(2));
    let mut clients = [begin(&gateway, "/", ""), begin(&gateway, "/", "")];
    wait_counts(&gateway, 4.0, 0.0);
    gateway.rewrite(&text(1));
    let reload = gateway.call("/reload", "key", "");
    assert_eq!(reload.json()["result"], "reloaded");
    wait_counts(&gateway, 4.0, 0.0);
    get(gateway.addr(), "/").assert_refusal(503, "overloaded");
    gateway.rewrite(&text(3));
    gateway.call("/reload", "key", "");
    let mut third = begin(&gateway, "/", "");
    wait_counts(&gateway, 6.0, 0.0);
    gate.open();
    for client in clients.iter_mut().chain([&mut third]) {
        assert_eq!(client.read_response().status, 200);
    }
    wait_counts(&gateway, 0.0, 0.0);
}

#[test]
fn a_crowd_gets_through_and_leaves_nothing_behind() {
    let origin = Origin::echo();
    let limits = "concurrency: [{ limit: 8, queue: 1000, queue_timeout: 1m }, \
                  { limit: 2, queue: 1000, queue_timeout: 1m, key: 'header:x-tenant' }]";
    let route = format!("  - {{ name: all, {limits}, upstream: u }}");
    let upstream = ", concurrency: { limit: 4, queue: 1000, queue_timeout: 1m }";
    let gateway = Gateway::start(&config(&origin, upstream, &route));
    std::thread::scope(|scope| {
        for worker in 0..20 {
            let gateway = &gateway;
            scope.spawn(move || {
                let mut client = gateway.connect();
                let request = format!(
                    "GET / HTTP/1.1\r\nHost: a\r\nX-Tenant: {}\r\n\r\n",
                    worker % 5
                );
                for _ in 0..20 {
                    assert_eq!(client.exchange(&request).status, 200);
                }
                // Some leave without waiting for what they asked for.
                client.send(&request);
            });
        }
    });
    eventually("all of it was asked for", || origin.requests() >= 400);
    wait_counts(&gateway, 0.0, 0.0);
    assert_eq!(
        gateway.metric("gateway_concurrency_rejected_total", &[]),
        0.0
    );
}

#[test]
fn limits_that_cannot_be_meant_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    let text = "upstreams:
  u: { backends: ['127.0.0.1:1'], concurrency: { limit: 0, key: client_ip } }
routes:
  - { name: a, match: { path: /a }, respond: {}, concurrency: {} }
  - { name: b, match: { path: /b }, respond: {}, concurrency: [{ limit: 1 }, { limit: 2 }] }
  - { name: c, match: { path: /c }, respond: {}, concurrency: { limit: 1, key: everything } }
  - { name: d, match: { path: /d }, respond: {}, concurrency: { limit: 1, key: 'path:id' } }
  - { name: e, match: { path: /e }, respond: {}, concurrency: { limit: 1, queue_timeout: 1h } }";
    fs::write(&file, text).unwrap();
    let run = finish(binary().arg("-t").arg("-c").arg(&file));
    assert_eq!(run.code, Some(1));
    for expected in [
        ":2: upstreams.u.concurrency.limit: ",
        ":2: upstreams.u.concurrency.key: unknown key",
        ":4: routes[0].concurrency.limit: is missing",
        ":5: routes[1].concurrency[1]: counts by what another one counts by",
        ":6: routes[2].concurrency.key: `everything` is nothing that requests are counted by",
        ":7: routes[3].concurrency.key: counts by a parameter",
        ":8: routes[4].concurrency.queue_timeout: ",
    ] {
        assert!(run.stderr.contains(expected), "{expected}\n{}", run.stderr);
    }
}

#[test]
fn without_its_key_a_request_counts_for_its_address() {
    let gate = Gate::new();
    let origin = held(&gate);
    let route = "  - { name: all, concurrency: { limit: 1, key: 'header:x-tenant' }, upstream: u }";
    let rest = config(&origin, "", route);
    let gateway = Gateway::start(&format!("{rest}\ntrusted_proxies: [127.0.0.0/8]"));
    let from = |address: &str| format!("X-Forwarded-For: {address}\r\n");
    let mut clients = vec![begin(&gateway, "/", &from("192.0.2.1"))];
    wait_counts(&gateway, 1.0, 0.0);
    let refused = begin(&gateway, "/", &from("192.0.2.1")).read_response();
    refused.assert_refusal(429, "too_many_concurrent");
    clients.push(begin(&gateway, "/", &from("192.0.2.2")));
    wait_counts(&gateway, 2.0, 0.0);
    let tenant = format!("{}X-Tenant: a\r\n", from("192.0.2.1"));
    clients.push(begin(&gateway, "/", &tenant));
    wait_counts(&gateway, 3.0, 0.0);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.read_response().status, 200);
    }
}

#[test]
fn the_time_in_the_queue_is_part_of_the_request() {
    let gate = Gate::new();
    let origin = held(&gate);
    let limit = ", concurrency: { limit: 1, queue: 5, queue_timeout: 5m }";
    let routes =
        "  - { name: soon, match: { path: /soon }, upstream: u, timeouts: { request: 200ms } }
  - { name: all, upstream: u }";
    let gateway = Gateway::start(&config(&origin, limit, routes));
    let mut first = begin(&gateway, "/", "");
    wait_counts(&gateway, 1.0, 0.0);
    get(gateway.addr(), "/soon").assert_refusal(504, "total_timeout");
    wait_counts(&gateway, 1.0, 0.0);
    gate.open();
    assert_eq!(first.read_response().status, 200);
    assert_eq!(origin.requests(), 1);
}

#[test]
fn the_time_in_the_queue_of_a_route_is_part_of_the_request() {
    let gate = Gate::new();
    let origin = held(&gate);
    let limit = "concurrency: { limit: 1, queue: 5, queue_timeout: 5m }";
    let route = format!("  - {{ name: all, upstream: u, {limit} }}");
    let config = config(&origin, ", timeouts: { deadline_header: x-left }", &route);
    let gateway = Gateway::start(&format!("trusted_proxies: [127.0.0.1]\n{config}"));
    let mut first = begin(&gateway, "/", "");
    wait_counts(&gateway, 1.0, 0.0);
    let refused = begin(&gateway, "/", "X-Left: 200\r\n").read_response();
    refused.assert_refusal(504, "deadline_exceeded");
    wait_counts(&gateway, 1.0, 0.0);
    gate.open();
    assert_eq!(first.read_response().status, 200);
    assert_eq!(origin.requests(), 1);
}
