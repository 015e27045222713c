//! Which backend gets a request, as clients and operators see it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::client::{Client, format_request, request};
use crate::support::script::{Gate, Step};
use crate::support::{Gateway, Line, Origin, Script, eventually};

fn named(count: usize) -> Vec<Origin> {
    (0..count)
        .map(|at| Origin::named(&format!("o{at}")))
        .collect()
}

/// A gateway in front of these backends, each with this further down its entry.
fn config(origins: &[Origin], each: &[&str], settings: &str) -> String {
    let backends: Vec<_> = origins
        .iter()
        .zip(each.iter().chain(std::iter::repeat(&"")))
        .map(|(origin, more)| format!("{{ address: '{}' {more} }}", origin.address()))
        .collect();
    format!(
        "server: {{ threads: 1, watch: false }}
admin: {{ address: 127.0.0.1:0, token: key }}
upstreams: {{ u: {{ backends: [{}], {settings} }} }}
routes: [{{ name: all, upstream: u }}]",
        backends.join(", ")
    )
}

/// Who answered, of so many requests.
fn answered(client: &mut Client, times: usize, header: impl Fn(usize) -> String) -> Vec<String> {
    let ask = |at| {
        let response = client.exchange(format_request("GET", "/", &[&header(at)], b""));
        assert_eq!(response.status, 200);
        response.json()["origin"].as_str().unwrap().to_owned()
    };
    (0..times).map(ask).collect()
}

fn counted(names: &[String]) -> HashMap<&str, usize> {
    let mut counts = HashMap::new();
    for name in names {
        *counts.entry(name.as_str()).or_default() += 1;
    }
    counts
}

fn drain(gateway: &Gateway, method: &str, upstream: &str, backend: SocketAddr) -> (u16, String) {
    let path = format!("/upstreams/{upstream}/backends/{backend}/drain");
    let answer = request(
        gateway.admin(),
        method,
        &path,
        &["Authorization: Bearer key"],
        b"",
    );
    (answer.status, answer.text())
}

#[test]
fn every_policy_serves() {
    for policy in ["round_robin", "least_requests", "peak_ewma", "random"] {
        let origins = named(3);
        let gateway = Gateway::start(&config(&origins, &[], &format!("balance: {policy}")));
        let names = answered(&mut gateway.connect(), 60, |_| "X-A: b".to_owned());
        // Idle backends are drawn; nobody is left out in 60 draws but once in ten billion times.
        assert_eq!(counted(&names).len(), 3, "{policy}: {names:?}");
    }
}

#[test]
fn a_key_keeps_its_backend_and_another_gateway_agrees() {
    let origins = named(4);
    let balance = "balance: { policy: hash, key: header:x-tenant }";
    let text = config(&origins, &[], balance);
    let (one, other) = (Gateway::start(&text), Gateway::start(&text));
    let tenant = |at| format!("X-Tenant: t{}", at % 20);
    let first = answered(&mut one.connect(), 40, tenant);
    assert_eq!(first[..20], first[20..]);
    assert!(counted(&first).len() > 2, "{first:?}");
    assert_eq!(answered(&mut other.connect(), 40, tenant), first);
    // Without one of them only its own keys move.
    one.rewrite(&config(&origins[1..], &[], balance));
    assert_eq!(one.call("/reload", "key", "").status, 200);
    let later = answered(&mut one.connect(), 20, tenant);
    for (before, after) in first.iter().zip(&later) {
        assert!(before == after || before == "o0", "{before} {after}");
    }
    // Requests without the key go round.
    let none = answered(&mut one.connect(), 6, |_| "X-A: b".to_owned());
    assert!(counted(&none).values().all(|count| *count == 2), "{none:?}");
}

#[test]
fn a_backend_that_is_drained_finishes_what_it_has_and_gets_no_more() {
    let gate = Gate::new();
    let wait = gate.clone();
    let slow = Origin::answering(move |request| match request.target.as_str() {
        "/slow" => Script(vec![
            Step::Wait(wait.clone()),
            Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()),
        ]),
        _ => Script(vec![Step::Send(
            b"HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n{\"origin\":\"slow\"}".to_vec(),
        )]),
    });
    let origins = [slow, Origin::named("other")];
    let text = config(&origins, &[], "");
    let gateway = Gateway::start(&text);
    let address = origins[0].address();
    let mut waiting = gateway.connect();
    waiting.send(format_request("GET", "/slow", &[], b""));
    eventually("the backend has it", || origins[0].requests() == 1);

    let (status, answer) = drain(&gateway, "POST", "u", address);
    assert_eq!(status, 200, "{answer}");
    let said: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(
        (&said["state"], &said["in_flight"]),
        (&"draining".into(), &1.into())
    );
    let header = |_| "X-A: b".to_owned();
    let names = answered(&mut gateway.connect(), 10, header);
    assert_eq!(counted(&names), [("other", 10)].into());
    let backend = address.to_string();
    let labels = [("backend", backend.as_str())];
    assert_eq!(gateway.metric("gateway_backend_draining", &labels), 1.0);
    assert_eq!(gateway.metric("gateway_backend_up", &labels), 0.0);
    // It is written down who did it.
    gateway.wait_log(&["drains backend", &backend]);

    gate.open();
    assert_eq!(
        waiting.read_response().text(),
        "ok",
        "what it had is finished"
    );
    gateway.rewrite(&config(&origins, &[], "retries: { attempts: 2 }"));
    assert_eq!(gateway.call("/reload", "key", "").status, 200);
    let state =
        |gateway: &Gateway| gateway.status()["upstreams"][0]["backends"][0]["state"].clone();
    assert_eq!(state(&gateway), "draining");
    assert_eq!(drain(&gateway, "DELETE", "u", address).0, 200);
    assert_eq!(state(&gateway), "up");
    let names = answered(&mut gateway.connect(), 10, header);
    assert_eq!(counted(&names), [("other", 5), ("slow", 5)].into());
}

#[test]
fn draining_is_for_operators_and_for_backends_that_are_there() {
    let origins = named(1);
    let gateway = Gateway::start(&config(&origins, &[], ""));
    let address = origins[0].address();
    let path = format!("/upstreams/u/backends/{address}/drain");
    let none = request(gateway.admin(), "POST", &path, &[], b"");
    assert_eq!(none.status, 401);
    let wrong = request(
        gateway.admin(),
        "PUT",
        &path,
        &["Authorization: Bearer key"],
        b"",
    );
    assert_eq!(
        (wrong.status, wrong.header("allow")),
        (405, Some("POST, DELETE"))
    );
    let (status, answer) = drain(&gateway, "POST", "v", address);
    assert!(
        status == 404 && answer.contains("no_such_backend"),
        "{answer}"
    );
    assert_eq!(
        drain(&gateway, "POST", "u", SocketAddr::from(([127, 0, 0, 1], 9))).0,
        404
    );
    assert_eq!(gateway.connect().get("/").status, 200);
    assert_eq!(drain(&gateway, "POST", "u", address).0, 200);
    let refused = gateway.connect().get("/");
    refused.assert_refusal(503, "no_healthy_backend");
}

#[test]
fn the_backup_answers_while_the_first_group_is_gone() {
    let mut origins = named(3);
    let each = ["", "", ", priority: 1"];
    let check = "health_check: { interval: 2s, timeout: 2s, unhealthy_after: 1, healthy_after: 1 }";
    let gateway = Gateway::start(&config(&origins, &each, check));
    let active = [("backend_service", "u")];
    gateway.wait_metric("gateway_upstream_active_priority", &active, 0.0);
    for origin in &mut origins[..2] {
        origin.stop();
    }
    gateway.wait_metric("gateway_upstream_active_priority", &active, 1.0);
    let names = answered(&mut gateway.connect(), 6, |_| "X-A: b".to_owned());
    assert_eq!(counted(&names), [("o2", 6)].into());
    for origin in &mut origins[..2] {
        origin.restart();
    }
    gateway.wait_metric("gateway_upstream_active_priority", &active, 0.0);
    let names = answered(&mut gateway.connect(), 6, |_| "X-A: b".to_owned());
    assert!(names.iter().all(|name| name != "o2"), "{names:?}");
    eventually("both changes are logged", || {
        let lines = gateway.log_lines();
        let changes = lines.iter().filter(|line| line.contains("priority group"));
        changes.count() == 2
    });
}

#[test]
fn the_zone_of_the_gateway_comes_from_a_variable() {
    let origins = named(2);
    let text = config(&origins, &[", zone: here", ", zone: there"], "");
    let gateway = Gateway::start_with(&text, |command| {
        command.env("GATEWAY_SERVER_ZONE", "there");
    });
    let names = answered(&mut gateway.connect(), 6, |_| "X-A: b".to_owned());
    assert_eq!(counted(&names), [("o1", 6)].into());
}

#[test]
fn a_drained_backend_stays_drained_over_an_upgrade() {
    let origins = named(2);
    let mut line = Line::of(Gateway::start(&config(&origins, &[], "")));
    let address = origins[0].address();
    assert_eq!(drain(&line.first, "POST", "u", address).0, 200);
    line.upgrade();
    assert!(line.first.wait_exit().success());
    let header = |_| "X-A: b".to_owned();
    let names = answered(&mut line.connect(), 6, header);
    assert_eq!(counted(&names), [("o1", 6)].into());
    let backend = &line.first.status()["upstreams"][0]["backends"][0];
    assert_eq!(backend["state"], "draining");
    assert_eq!(drain(&line.first, "DELETE", "u", address).0, 200);
    let names = answered(&mut line.connect(), 6, header);
    assert_eq!(counted(&names), [("o0", 3), ("o1", 3)].into());
}

#[test]
fn unused_connections_to_a_drained_backend_are_closed() {
    let origins = named(2);
    let gateway = Gateway::start(&config(&origins, &[], ""));
    answered(&mut gateway.connect(), 4, |_| "X-A: b".to_owned());
    assert_eq!((origins[0].open(), origins[1].open()), (1, 1));
    drain(&gateway, "POST", "u", origins[0].address());
    eventually("it is closed", || origins[0].open() == 0);
    assert_eq!(origins[1].open(), 1);
}

#[test]
fn a_backend_of_no_weight_is_drained_by_the_file() {
    let origins = named(2);
    let gateway = Gateway::start(&config(&origins, &[", weight: 0"], ""));
    let names = answered(&mut gateway.connect(), 6, |_| "X-A: b".to_owned());
    assert_eq!(counted(&names), [("o1", 6)].into());
    let backends = &gateway.status()["upstreams"][0]["backends"];
    assert_eq!(backends[0]["state"], "drained");
    gateway.rewrite(&config(&origins, &[], ""));
    assert_eq!(gateway.call("/reload", "key", "").status, 200);
    let names = answered(&mut gateway.connect(), 6, |_| "X-A: b".to_owned());
    assert_eq!(counted(&names).len(), 2);
}

#[test]
fn too_few_backends_that_are_up_are_not_believed() {
    let ill = Arc::new(AtomicBool::new(true));
    let origin = |name: &'static str| {
        let ill = Arc::clone(&ill);
        let good = format!("{{\"origin\":\"{name}\"}}");
        Origin::answering(move |request| match request.target.as_str() {
            "/health" if name != "well" && ill.load(Ordering::SeqCst) => {
                Script::new().send("HTTP/1.1 500 Ill\r\nContent-Length: 0\r\n\r\n")
            }
            _ => Script::answer(&good),
        })
    };
    let origins = [origin("one"), origin("two"), origin("well")];
    let check = "panic_threshold: 50%, health_check: { path: /health, interval: 2s, \
                 fast_interval: 100ms, timeout: 2s, unhealthy_after: 1, healthy_after: 1 }";
    let gateway = Gateway::start(&config(&origins, &[], check));
    let upstream = [("backend_service", "u")];
    gateway.wait_metric("gateway_backend_up", &upstream, 1.0);
    gateway.wait_metric("gateway_upstream_panic", &upstream, 1.0);
    gateway.wait_log(&["upstream=u panics: "]);
    let names = answered(&mut gateway.connect(), 6, |_| "X-A: b".to_owned());
    assert_eq!(counted(&names).len(), 3, "{names:?}");
    ill.store(false, Ordering::SeqCst);
    gateway.wait_metric("gateway_upstream_panic", &upstream, 0.0);
    gateway.wait_log(&["upstream=u panics no more"]);
}
