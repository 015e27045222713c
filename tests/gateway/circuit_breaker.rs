//! Upstreams that fail as a whole: left alone, probed, and found again; fallbacks, and operators.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::support::client::{format_request, get, request};
use crate::support::command::{binary, finish};
use crate::support::h2::{self, H2};
use crate::support::{DeadPort, Gate, Gateway, Line, Origin, Script, eventually};

const STATE: &str = "gateway_circuit_breaker_state";
const OF_U: [(&str, &str); 1] = [("backend_service", "u")];
const TRANSITIONS: &str = "gateway_circuit_breaker_transitions_total";
const TO_OPEN: [(&str, &str); 2] = [("backend_service", "u"), ("to", "open")];

/// A backend that answers with the status that the test sets.
fn moody() -> (Origin, Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(200));
    let mood = Arc::clone(&status);
    let origin = Origin::answering(move |_| answer(mood.load(Ordering::SeqCst)));
    (origin, status)
}

fn answer(status: u16) -> Script {
    let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok");
    Script::new().read_body().send(answer)
}

fn text(origin: &Origin, breaker: &str, route: &str) -> String {
    format!(
        "server: {{ threads: 2, watch: false }}
admin: {{ address: 127.0.0.1:0, token: key }}
listeners: [{{ name: main, address: 127.0.0.1:0, h2c: true }}]
upstreams:
  u:
    backends: ['{}']
    circuit_breaker: {{ {breaker} }}
routes:
  - {{ name: all, upstream: u {route} }}",
        origin.address()
    )
}

/// Sends requests until the circuit is open.
#[track_caller]
fn open(gateway: &Gateway) {
    eventually("the circuit opens", || {
        get(gateway.addr(), "/").header("retry-after").is_some()
    });
    assert!(gateway.metric(TRANSITIONS, &TO_OPEN) >= 1.0);
}

#[test]
fn an_upstream_that_is_gone_is_left_alone() {
    // It is there, takes connections, counts them, and closes them without a word.
    let origin = Origin::conversation(drop);
    let gateway = Gateway::start(&text(&origin, "timeout: 1h", ""));
    for _ in 0..5 {
        get(gateway.addr(), "/").assert_refusal(502, "bad_gateway");
    }
    assert_eq!(gateway.metric(STATE, &OF_U), 2.0);
    let connections = origin.connections();
    let mut client = gateway.connect();
    for _ in 0..50 {
        let refused = client.get("/");
        refused.assert_refusal(503, "circuit_open");
        let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((3200..=3960).contains(&seconds), "{seconds}");
    }
    assert_eq!(origin.connections(), connections, "nobody was sent there");
    let rejected = "gateway_circuit_breaker_rejected_total";
    assert_eq!(gateway.metric(rejected, &OF_U), 50.0);
    assert_eq!(gateway.metric(TRANSITIONS, &TO_OPEN), 1.0);
    let line = gateway.wait_access(|line| line["status_code"] == 503);
    assert_eq!(line["error_type"], "circuit_open");
    let why = ": 5 requests failed in a row";
    gateway.wait_log(&["upstream=u circuit open for ", why]);
    let circuit = &gateway.status()["upstreams"][0]["circuit_breaker"];
    assert_eq!(
        (&circuit["state"], &circuit["rejected"]),
        (&"open".into(), &50.into())
    );
    let call = h2::request("POST", "/").header("content-type", "application/grpc");
    let answer = H2::connect(gateway.addr()).send(call, "");
    assert_eq!(answer.header("grpc-status"), "14");
}

#[test]
fn an_upstream_that_is_back_is_found_again() {
    let mut origin = Origin::echo();
    let gateway = Gateway::start(&text(&origin, "timeout: 200ms, success_threshold: 3", ""));
    assert_eq!(get(gateway.addr(), "/").status, 200);
    origin.stop();
    open(&gateway);
    // It goes on being probed, and opens again.
    eventually("a probe fails", || {
        get(gateway.addr(), "/");
        gateway.metric(TRANSITIONS, &TO_OPEN) >= 3.0
    });
    let before = origin.requests();
    origin.restart();
    eventually("it is found", || get(gateway.addr(), "/").status == 200);
    eventually("it closes", || {
        get(gateway.addr(), "/");
        gateway.metric(STATE, &OF_U) == 0.0
    });
    assert!(origin.requests() >= before + 3);
    for _ in 0..20 {
        assert_eq!(get(gateway.addr(), "/").status, 200);
    }
}

#[test]
fn one_request_at_a_time_probes_and_one_that_is_lost_makes_room() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::answering(move |request| match request.target.as_str() {
        "/probe" => Script::new().read_body().wait(&held).send(OK),
        _ => Script::new()
            .read_body()
            .send("HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n"),
    });
    let gateway = Gateway::start(&text(&origin, "timeout: 100ms", ""));
    for _ in 0..5 {
        assert_eq!(get(gateway.addr(), "/").header("retry-after"), None);
    }
    gateway.wait_metric(STATE, &OF_U, 1.0);
    let mut lost = gateway.connect();
    lost.send(format_request("GET", "/probe", &[], b""));
    eventually("the probe arrives", || origin.requests() == 6);
    for _ in 0..10 {
        let refused = get(gateway.addr(), "/probe");
        refused.assert_refusal(503, "circuit_open");
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    assert_eq!(origin.requests(), 6);
    drop(lost);
    gateway.wait_access(|line| line["path"] == "/probe" && line["status_code"] == 499);
    assert_eq!(
        gateway.metric(STATE, &OF_U),
        1.0,
        "a lost probe decides nothing"
    );
    gate.open();
    assert_eq!(get(gateway.addr(), "/probe").status, 200);
    assert_eq!(gateway.metric(STATE, &OF_U), 1.0, "one of two");
    assert_eq!(get(gateway.addr(), "/probe").status, 200);
    assert_eq!(gateway.metric(STATE, &OF_U), 0.0);
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn one_dead_backend_among_several_opens_nothing() {
    let well: Vec<_> = (0..3).map(|_| Origin::echo()).collect();
    let dead = DeadPort::refusing();
    let mut addresses: Vec<_> = well.iter().map(Origin::address).collect();
    addresses.push(dead.address());
    // Not even while it is not ejected.
    let settings = "    outlier: { consecutive_failures: 0 }\n    retries: { budget: 100% }\n    circuit_breaker: { failure_threshold: 2, error_rate: 10% }";
    let gateway = Gateway::with_upstream(&addresses, settings);
    for _ in 0..60 {
        assert_eq!(get(gateway.addr(), "/").status, 200);
    }
    assert!(gateway.metric("gateway_backend_failures_total", &[]) >= 10.0);
    assert_eq!(gateway.metric(STATE, &OF_U), 0.0);
}

#[test]
fn one_probe_finds_the_only_backend_that_is_back() {
    let dead: Vec<_> = (0..4).map(|_| DeadPort::refusing()).collect();
    let mut last = Origin::echo();
    let mut addresses: Vec<_> = dead.iter().map(DeadPort::address).collect();
    addresses.push(last.address());
    last.stop();
    let gateway = Gateway::with_upstream(&addresses, "    circuit_breaker: { timeout: 2s }");
    open(&gateway);
    last.restart();
    let before = gateway.metric(TRANSITIONS, &TO_OPEN);
    eventually("it is found", || get(gateway.addr(), "/").status == 200);
    let after = gateway.metric(TRANSITIONS, &TO_OPEN);
    assert_eq!(after, before, "no probe failed");
}

#[test]
fn what_a_failure_is_can_be_said() {
    let (origin, status) = moody();
    status.store(500, Ordering::SeqCst);
    let gateway = Gateway::start(&text(&origin, "timeout: 1h", ""));
    for _ in 0..30 {
        assert_eq!(get(gateway.addr(), "/").status, 500);
    }
    assert_eq!(
        gateway.metric(STATE, &OF_U),
        0.0,
        "a fault of the application"
    );
    let all = "timeout: 1h, failure_threshold: 3, failure_on: { statuses: [500-599] }";
    gateway.rewrite(&text(&origin, all, ""));
    gateway.call("/reload", "key", "");
    for _ in 0..3 {
        assert_eq!(get(gateway.addr(), "/").status, 500);
    }
    get(gateway.addr(), "/").assert_refusal(503, "circuit_open");
}

#[test]
fn answers_that_come_too_late_are_failures_if_wanted() {
    let slow = Origin::script(
        Script::new()
            .read_body()
            .delay(Duration::from_millis(50))
            .send(OK),
    );
    let breaker = "timeout: 1h, failure_threshold: 2, failure_on: { slower_than: 20ms }";
    let gateway = Gateway::start(&text(&slow, breaker, ""));
    for _ in 0..2 {
        assert_eq!(get(gateway.addr(), "/").status, 200);
    }
    get(gateway.addr(), "/").assert_refusal(503, "circuit_open");
}

#[test]
fn a_share_of_failures_opens_it_and_a_client_that_leaves_is_none() {
    let status = Arc::new(AtomicU16::new(200));
    let mood = Arc::clone(&status);
    let origin = Origin::answering(move |request| match request.target.as_str() {
        "/held" => Script::new().hold(),
        _ => answer(mood.load(Ordering::SeqCst)),
    });
    let breaker =
        "timeout: 1h, failure_threshold: 0, error_rate: 50%, minimum_requests: 10, window: 10m";
    let gateway = Gateway::start(&text(&origin, breaker, ""));
    for left in 1..=10 {
        let mut client = gateway.connect();
        client.send(format_request("GET", "/held", &[], b""));
        eventually("the request arrives", || origin.requests() == left);
    }
    eventually("all are gone", || {
        let lines = gateway.access_lines();
        let gone = lines.iter().filter(|line| line["status_code"] == 499);
        gone.count() == 10
    });
    let mut client = gateway.connect();
    for round in 0..10 {
        assert_eq!(gateway.metric(STATE, &OF_U), 0.0, "round {round}");
        status.store(if round % 2 == 0 { 200 } else { 503 }, Ordering::SeqCst);
        client.get("/");
    }
    client.get("/").assert_refusal(503, "circuit_open");
}

#[test]
fn a_fallback_answers_in_the_place_of_a_refusal() {
    let (dead, spare) = (DeadPort::refusing(), Origin::named("spare"));
    let gateway = Gateway::start(&format!(
        "upstreams:
  u:
    backends: ['{}']
    circuit_breaker: {{ timeout: 1h, failure_threshold: 1 }}
    fallback: {{ upstream: spare }}
  spare: {{ backends: ['{}'] }}
  out:
    backends: ['{0}']
    outlier: {{ consecutive_failures: 1, max_ejected: 100%, base_ejection: 5m }}
    circuit_breaker: {{ enabled: false }}
    retries: {{ attempts: 0 }}
    fallback: {{ respond: {{ status: 503, body: nobody }} }}
  loop: {{ backends: ['{0}'], circuit_breaker: {{ timeout: 1h, failure_threshold: 1 }}, fallback: {{ upstream: u }} }}
routes:
  - {{ name: a, match: {{ path: /a }}, upstream: u }}
  - name: b
    match: {{ path: /b }}
    upstream: u
    fallback: {{ respond: {{ status: 200, content_type: application/json, headers: {{ x-stale: '1' }}, body: '[]' }} }}
  - {{ name: c, match: {{ path: /c }}, upstream: out }}
  - {{ name: d, match: {{ path: /d }}, upstream: loop }}",
        dead.address(),
        spare.address()
    ));
    // Nothing takes the place of an attempt that failed.
    get(gateway.addr(), "/a").assert_refusal(502, "bad_gateway");
    let stood_in = request(gateway.addr(), "POST", "/a", &[], b"body");
    assert_eq!(
        (stood_in.status, stood_in.header("x-origin")),
        (200, Some("spare"))
    );
    assert_eq!(spare.only_request().body, b"body");
    let line = gateway.wait_access(|line| line["backend_service"] == "spare");
    assert_eq!(line["error_type"], "circuit_open");
    let fixed = get(gateway.addr(), "/b");
    assert_eq!((fixed.status, fixed.text().as_str()), (200, "[]"));
    assert_eq!(fixed.header("content-type"), Some("application/json"));
    assert_eq!(fixed.header("x-stale"), Some("1"));
    get(gateway.addr(), "/c").assert_refusal(502, "bad_gateway");
    let nobody = get(gateway.addr(), "/c");
    assert_eq!((nobody.status, nobody.text().as_str()), (503, "nobody"));
    get(gateway.addr(), "/d").assert_refusal(502, "bad_gateway");
    // One hop, and no other.
    get(gateway.addr(), "/d").assert_refusal(503, "circuit_open");
    assert_eq!(spare.requests(), 1);
}

#[test]
fn an_operator_opens_and_closes_it() {
    let (origin, status) = moody();
    let gateway = Gateway::start(&text(&origin, "timeout: 1h", ""));
    let path = "/upstreams/u/circuit_breaker";
    let set = |state: &str| gateway.call(path, "key", &format!("{{\"state\": \"{state}\"}}"));
    assert_eq!(
        gateway.call(path, "wrong", "{\"state\": \"open\"}").status,
        401
    );
    assert_eq!(get(gateway.addr(), "/").status, 200);
    let answer = set("open");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["forced"], true);
    get(gateway.addr(), "/").assert_refusal(503, "circuit_open");
    // It survives a reload, also where the policy changes or goes.
    for breaker in ["timeout: 1m", "enabled: false"] {
        gateway.rewrite(&text(&origin, breaker, ""));
        assert_eq!(
            gateway.call("/reload", "key", "").json()["result"],
            "reloaded"
        );
        get(gateway.addr(), "/").assert_refusal(503, "circuit_open");
    }
    gateway.rewrite(&text(&origin, "timeout: 1h, failure_threshold: 2", ""));
    gateway.call("/reload", "key", "");
    assert_eq!(set("closed").json()["state"], "closed");
    status.store(503, Ordering::SeqCst);
    for _ in 0..30 {
        assert_eq!(get(gateway.addr(), "/").header("retry-after"), None);
    }
    assert_eq!(set("auto").json()["forced"], false);
    for _ in 0..2 {
        assert_eq!(get(gateway.addr(), "/").header("retry-after"), None);
    }
    get(gateway.addr(), "/").assert_refusal(503, "circuit_open");
    assert_eq!(get(gateway.admin(), path).json()["state"], "open");
    assert_eq!(set("half_open").status, 400);
    let unknown = "/upstreams/nobody/circuit_breaker";
    assert_eq!(get(gateway.admin(), unknown).status, 404);
    assert_eq!(
        gateway.call(unknown, "key", "{\"state\": \"auto\"}").status,
        404
    );
    assert_eq!(
        request(gateway.admin(), "DELETE", path, &[], b"").status,
        405
    );
    // It is logged who did it.
    gateway.wait_log(&["sets the circuit of \"u\" to open"]);
}

#[test]
fn the_circuit_to_a_url_is_named_as_it_is_or_encoded() {
    let gateway = Gateway::start(
        "admin: { address: 127.0.0.1:0, token: key }
routes: [{ name: all, upstream: 'https://127.0.0.1:1' }]",
    );
    for name in ["https://127.0.0.1:1", "https:%2F%2F127.0.0.1:1"] {
        let path = format!("/upstreams/{name}/circuit_breaker");
        assert_eq!(get(gateway.admin(), &path).status, 200, "{name}");
        let answer = gateway.call(&path, "key", "{\"state\": \"open\"}");
        assert_eq!(answer.json()["state"], "open", "{name}");
    }
    let wrong = "/upstreams/https:%2F%2F127.0.0.1:2/circuit_breaker";
    assert_eq!(get(gateway.admin(), wrong).status, 404);
}

#[test]
fn an_open_circuit_stays_open_over_a_reload_that_changes_its_policy() {
    let (origin, status) = moody();
    let gateway = Gateway::start(&text(&origin, "timeout_secs: 3600", ""));
    status.store(503, Ordering::SeqCst);
    for _ in 0..5 {
        get(gateway.addr(), "/");
    }
    get(gateway.addr(), "/").assert_refusal(503, "circuit_open");
    gateway.rewrite(&text(&origin, "timeout: 1m, success_threshold: 1", ""));
    gateway.call("/reload", "key", "");
    get(gateway.addr(), "/").assert_refusal(503, "circuit_open");
    gateway.rewrite(&text(&origin, "enabled: false", ""));
    gateway.call("/reload", "key", "");
    assert_eq!(
        gateway.metric(STATE, &OF_U),
        0.0,
        "nothing would close it any more"
    );
    assert_eq!(get(gateway.addr(), "/").text(), "ok");
}

#[test]
fn breakers_that_cannot_be_meant_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    let text = "upstreams:
  a: { backends: ['127.0.0.1:1'], circuit_breaker: { timeout: 1s, timeout_secs: 1 } }
  b: { backends: ['127.0.0.1:1'], circuit_breaker: { failure_threshold: 0, error_rate: 0 } }
  c: { backends: ['127.0.0.1:1'], circuit_breaker: { failure_on: { statuses: [200-599] } } }
  d: { backends: ['127.0.0.1:1'], circuit_breaker: { failure_on: { statuses: [], errors: false, timeouts: false } } }
  e: { backends: ['127.0.0.1:1'], fallback: { upstream: e } }
  f: { backends: ['127.0.0.1:1'], fallback: {} }
  g: { backends: ['127.0.0.1:1'], fallback: { upstream: nobody } }
  h: { backends: ['127.0.0.1:1'], circuit_breaker: { failure_treshold: 1 } }
routes:
  - { match: { path: /a }, upstream: a, fallback: { upstream: a } }
  - { match: { path: /b }, respond: {}, fallback: { upstream: a } }
  - { match: { path: /c }, upstream: a, fallback: { respond: { status: 204, body: x, headers: { connection: close } } } }";
    fs::write(&file, text).unwrap();
    let run = finish(binary().arg("-t").arg("-c").arg(&file));
    assert_eq!(run.code, Some(1));
    for expected in [
        ":2: upstreams.a.circuit_breaker.timeout_secs: stands beside `timeout`",
        ":3: upstreams.b.circuit_breaker: opens for nothing",
        ":4: upstreams.c.circuit_breaker.failure_on.statuses[0]: is no status of a failure",
        ":5: upstreams.d.circuit_breaker.failure_on: names no failure",
        ":6: upstreams.e.fallback.upstream: is the upstream itself",
        ":7: upstreams.f.fallback: does nothing",
        ":8: upstreams.g.fallback.upstream: `nobody` is an unknown upstream",
        ":9: upstreams.h.circuit_breaker.failure_treshold: unknown key",
        ":11: routes[0].fallback.upstream: is the route's own upstream",
        ":12: routes[1].fallback: has no effect without `upstream`",
        ":13: routes[2].fallback.respond.body: stands beside a status",
        ":13: routes[2].fallback.respond.headers.connection: ",
    ] {
        assert!(run.stderr.contains(expected), "{expected}\n{}", run.stderr);
    }
}

#[test]
fn a_call_that_ends_with_unavailable_is_a_failure() {
    let unavailable = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nGrpc-Status: 14\r\n\
                       Content-Length: 0\r\n\r\n";
    let origin = Origin::script(Script::new().read_body().send(unavailable));
    let gateway = Gateway::start(&text(&origin, "timeout: 1h, failure_threshold: 3", ""));
    let mut client = H2::connect(gateway.addr());
    let mut call = || {
        let call = h2::request("POST", "/a.B/C").header("content-type", "application/grpc");
        assert_eq!(client.send(call, "x").header("grpc-status"), "14");
    };
    for _ in 0..3 {
        call();
    }
    assert_eq!(gateway.metric(STATE, &OF_U), 2.0);
    call();
    assert_eq!(origin.requests(), 3, "the last one by the gateway");
    gateway.wait_access(|line| line["error_type"] == "circuit_open");
}

#[test]
fn a_good_probe_of_health_ends_the_wait() {
    let (origin, status) = moody();
    status.store(503, Ordering::SeqCst);
    // Found ill, but not yet taken out.
    let check =
        "path: /health, interval: 1s, fast_interval: 100ms, timeout: 1s, unhealthy_after: 100";
    let gateway = Gateway::with_upstream(
        &[origin.address()],
        &format!("    circuit_breaker: {{ timeout: 1h }}\n    health_check: {{ {check} }}"),
    );
    eventually("the circuit opens", || {
        get(gateway.addr(), "/");
        gateway.metric(TRANSITIONS, &TO_OPEN) >= 1.0
    });
    eventually("a probe fails", || {
        gateway.metric("gateway_backend_probes_total", &[("result", "failure")]) >= 1.0
    });
    status.store(200, Ordering::SeqCst);
    eventually("it closes long before its time", || {
        get(gateway.addr(), "/");
        gateway.metric(STATE, &OF_U) == 0.0
    });
    assert_eq!(get(gateway.addr(), "/").status, 200);
}

#[test]
fn what_an_operator_set_holds_over_an_upgrade() {
    let origin = Origin::echo();
    let mut line = Line::of(Gateway::start(&text(&origin, "timeout: 1h", "")));
    let path = "/upstreams/u/circuit_breaker";
    let set = |line: &Line, state: &str| {
        let body = format!("{{\"state\": \"{state}\"}}");
        line.first.call(path, "key", &body).status
    };
    assert_eq!(set(&line, "open"), 200);
    line.upgrade();
    assert!(line.first.wait_exit().success());
    get(line.first.addr(), "/").assert_refusal(503, "circuit_open");
    assert_eq!(get(line.first.admin(), path).json()["forced"], true);
    assert_eq!(set(&line, "auto"), 200);
    assert_eq!(get(line.first.addr(), "/").status, 200);
}
