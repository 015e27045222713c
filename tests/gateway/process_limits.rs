//! What the process as a whole can bear: requests in flight, memory, connections.

use crate::support::client::get;
use crate::support::h2::{self, H2};
use crate::support::wait::until;
use crate::support::{Client, Gate, Gateway, Origin, Script, eventually};

fn config(origin: &Origin, limits: &str) -> String {
    format!(
        "server: {{ threads: 2, watch: false }}
admin: {{ address: 127.0.0.1:0, token: key }}
listeners: [{{ name: main, address: 127.0.0.1:0, h2c: true }}]
limits: {{ {limits} }}
upstreams: {{ u: {{ backends: ['{}'] }} }}
routes:
  - {{ name: critical, match: {{ path: /critical }}, priority: critical, upstream: u }}
  - {{ name: low, match: {{ path: /low }}, priority: low, upstream: u }}
  - {{ name: rest, upstream: u }}",
        origin.address()
    )
}

#[track_caller]
fn reload(gateway: &Gateway, yaml: &str) {
    gateway.rewrite(yaml);
    let answer = gateway.call("/reload", "key", "");
    assert_eq!(answer.json()["result"], "reloaded", "{}", answer.text());
}

#[track_caller]
fn wait_in_flight(gateway: &Gateway, count: u64) {
    eventually("so many are in flight", || {
        gateway.status()["in_flight"] == count
    });
}

#[test]
fn beyond_the_requests_in_flight_the_less_important_are_refused_first() {
    let gate = Gate::new();
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let origin = Origin::script(Script::new().read_body().wait(&gate).send(answer));
    let gateway = Gateway::start(&config(&origin, "max_requests: 4"));
    let begin = |path: &str| -> Client {
        let mut client = gateway.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client
    };
    let mut held: Vec<_> = (0..3).map(|_| begin("/low")).collect();
    wait_in_flight(&gateway, 3);
    let mut refused = gateway.connect();
    let refusal = refused.get("/low");
    refusal.assert_refusal(503, "overloaded");
    assert_eq!(refusal.header("retry-after"), Some("1"));
    wait_in_flight(&gateway, 3);
    held.push(begin("/critical"));
    wait_in_flight(&gateway, 4);
    get(gateway.addr(), "/critical").assert_refusal(503, "overloaded");
    // Whoever looks after the process is answered, and told that it works.
    for path in ["/health", "/ready"] {
        assert_eq!(refused.get(path).status, 200);
        assert_eq!(get(gateway.admin(), path).status, 200);
    }
    gate.open();
    for client in &mut held {
        assert_eq!(client.read_response().status, 200);
    }
    wait_in_flight(&gateway, 0);
    assert_eq!(refused.get("/low").status, 200);
    for (class, count) in [("low", 1.0), ("normal", 0.0), ("critical", 1.0)] {
        let labels = [("priority", class), ("reason", "requests")];
        assert_eq!(
            gateway.metric("gateway_overload_shed_total", &labels),
            count
        );
    }
    let line = gateway.wait_access(|line| line["status_code"] == 503);
    assert_eq!(line["error_type"], "overloaded");
}

#[test]
fn as_memory_gets_tight_the_less_important_is_refused_first() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&config(&origin, ""));
    for path in ["/low", "/", "/critical"] {
        assert_eq!(get(gateway.addr(), path).status, 200);
    }
    assert!(gateway.metric("gateway_memory_limit_bytes", &[]) > 0.0);
    assert_eq!(
        gateway.status()["overload"]["shedding"],
        serde_json::Value::Null
    );
    // A limit that makes it tight for all but the most important.
    let limit = gateway.rss_kib() * 1000 / 940;
    reload(
        &gateway,
        &config(&origin, &format!("max_memory: {limit}KiB")),
    );
    eventually("it is tight", || get(gateway.addr(), "/").status == 503);
    assert_eq!(get(gateway.addr(), "/critical").status, 200);
    let memory = [("priority", "normal"), ("reason", "memory")];
    assert!(gateway.metric("gateway_overload_shed_total", &memory) >= 1.0);
    reload(&gateway, &config(&origin, "max_memory: 16MiB"));
    eventually("nothing goes any more", || {
        get(gateway.addr(), "/critical").status == 503
    });
    get(gateway.addr(), "/critical").assert_refusal(503, "overloaded");
    for path in ["/health", "/ready"] {
        assert_eq!(get(gateway.addr(), path).status, 200);
    }
    assert_eq!(gateway.status()["overload"]["shedding"], "critical");
    gateway.wait_log(&["memory is tight"]);
    reload(&gateway, &config(&origin, "max_memory: unlimited"));
    eventually("there is room again", || {
        get(gateway.addr(), "/low").status == 200
    });
}

#[test]
fn idle_connections_go_while_memory_is_tight() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&config(&origin, ""));
    let mut first = gateway.connect();
    assert_eq!(first.get("/").status, 200);
    let mut stream = H2::connect(gateway.addr());
    assert_eq!(stream.send(h2::get("/"), "").status, 200);
    gateway.wait_metric("gateway_connections_active", &[("listener", "main")], 2.0);
    reload(&gateway, &config(&origin, "max_memory: 16MiB"));
    assert!(first.is_closed());
    gateway.wait_metric("gateway_connections_active", &[("listener", "main")], 0.0);
    let evicted = [("reason", "evicted")];
    gateway.wait_metric("gateway_connections_closed_total", &evicted, 2.0);
}

/// A connection that was answered; those that find no room are closed and tried again.
fn served(gateway: &Gateway) -> Client {
    let attempt = || {
        let mut client = gateway.connect();
        let sent = client.try_send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = sent.and_then(|()| client.try_response(true));
        answer
            .is_ok_and(|answer| answer.status == 200)
            .then_some(client)
    };
    until(attempt).expect("served")
}

#[test]
fn an_idle_connection_makes_room_for_a_new_one() {
    let origin = Origin::answering(|request| match request.target.as_str() {
        "/hold" => Script::new().read_body().hold(),
        _ => Script::answer("ok"),
    });
    let gateway = Gateway::start(&config(&origin, "max_connections: 2"));
    let active = || gateway.metric("gateway_connections_active", &[("listener", "main")]);
    eventually("nobody is there yet", || active() == 0.0);
    let mut busy = gateway.connect();
    busy.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("it is being answered", || origin.requests() == 1);
    for _ in 0..5 {
        // What has gone may be counted for another moment, and who was answered may not wait yet.
        let mut idle = served(&gateway);
        // It waits for a request, and is the only one that does.
        let next = served(&gateway);
        assert!(idle.is_closed());
        drop(next);
        eventually("they are gone", || active() == 1.0);
    }
    let evicted = [("reason", "evicted")];
    assert!(gateway.metric("gateway_connections_closed_total", &evicted) >= 5.0);
}
