//! What a reload leaves as it was: connections, health, counters, and requests on their way.

use std::net::SocketAddr;

use serde_json::Value;

use crate::support::client::get;
use crate::support::metrics::parse;
use crate::support::{DeadPort, Gate, Gateway, Origin, Script, eventually};

const HEAD: &str = "server: { threads: 1, watch: false }
admin: { address: 127.0.0.1:0, token: key }";

/// One route to the upstream `u` of these backends with these further settings.
fn config(backends: &[SocketAddr], settings: &str) -> String {
    let list: Vec<String> = backends.iter().map(|one| format!("'{one}'")).collect();
    format!(
        "{HEAD}\nupstreams:\n  u:\n    backends: [{}]\n{settings}\nroutes: [{{ name: all, upstream: u }}]",
        list.join(", ")
    )
}

#[track_caller]
fn reload(gateway: &Gateway, yaml: &str) -> Value {
    gateway.rewrite(yaml);
    let answer = gateway.call("/reload", "key", "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn state(gateway: &Gateway, backend: SocketAddr) -> String {
    let status = gateway.status();
    let backends = status["upstreams"][0]["backends"].as_array().unwrap();
    let found = backends
        .iter()
        .find(|one| one["name"] == backend.to_string());
    found.map_or_else(String::new, |one| one["state"].as_str().unwrap().to_owned())
}

#[test]
fn connections_to_backends_are_kept() {
    let origin = Origin::script(Script::answer("ok"));
    let plain = config(&[origin.address()], "");
    let gateway = Gateway::start(&plain);
    let mut client = gateway.connect();
    client.get("/");
    reload(&gateway, &format!("limits: {{ uri_size: 4KiB }}\n{plain}"));
    client.get("/");
    let changed = config(&[origin.address()], "    retries: { attempts: 0 }");
    reload(&gateway, &changed);
    client.get("/");
    assert_eq!(origin.connections(), 1);
    assert_eq!(
        gateway.metric("gateway_connection_pool_reused_total", &[]),
        2.0
    );
}

#[test]
fn a_removed_backend_finishes_what_it_has() {
    let gate = Gate::new();
    let held = gate.clone();
    let old = Origin::answering(move |_| {
        Script::new()
            .send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
            .wait(&held)
            .send("lf")
    });
    let new = Origin::named("new");
    let gateway = Gateway::start(&config(&[old.address()], ""));
    let mut slow = gateway.connect();
    slow.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("the old backend has it", || old.requests() == 1);
    reload(&gateway, &config(&[new.address()], ""));
    for _ in 0..4 {
        assert_eq!(get(gateway.addr(), "/").header("x-origin"), Some("new"));
    }
    gate.open();
    assert_eq!(slow.read_response().text(), "half");
    assert_eq!(old.requests(), 1);
}

#[test]
fn an_ejected_backend_stays_ejected() {
    let (dead, origin) = (DeadPort::refusing(), Origin::echo());
    let backends = [dead.address(), origin.address()];
    let settings = "    outlier: { consecutive_failures: 1, base_ejection: 10m, max_ejection: 1h }";
    let gateway = Gateway::start(&config(&backends, settings));
    eventually("it is ejected", || {
        get(gateway.addr(), "/");
        state(&gateway, dead.address()) == "ejected"
    });
    let third = Origin::echo();
    let more = [backends[0], backends[1], third.address()];
    reload(&gateway, &config(&more, settings));
    assert_eq!(state(&gateway, dead.address()), "ejected");
    let created = gateway.metric("gateway_backend_failures_total", &[]);
    for _ in 0..6 {
        assert_eq!(get(gateway.addr(), "/").status, 200);
    }
    assert_eq!(
        gateway.metric("gateway_backend_failures_total", &[]),
        created
    );
    assert!(third.requests() > 0, "the new one takes part");
}

#[test]
fn probes_come_and_go_with_the_configuration() {
    let (dead, origin) = (DeadPort::refusing(), Origin::echo());
    let backends = [dead.address(), origin.address()];
    let check = "    outlier: { consecutive_failures: 0 }\n    \
                 health_check: { interval: 100ms, timeout: 100ms, unhealthy_after: 1 }";
    let gateway = Gateway::start(&config(&backends, ""));
    assert_eq!(state(&gateway, dead.address()), "up");
    reload(&gateway, &config(&backends, check));
    eventually("its probes fail", || {
        state(&gateway, dead.address()) == "down"
    });
    let weighted = config(&backends, check).replace("uri_size", "");
    reload(
        &gateway,
        &format!("limits: {{ uri_size: 4KiB }}\n{weighted}"),
    );
    assert_eq!(state(&gateway, dead.address()), "down");
    reload(&gateway, &config(&backends, ""));
    assert_eq!(
        state(&gateway, dead.address()),
        "up",
        "nobody probes it any longer"
    );
}

#[test]
fn counters_of_what_stays_go_on_and_the_others_end() {
    let origin = Origin::echo();
    let text = |routes: &str| {
        let backend = origin.address();
        format!("{HEAD}\nupstreams: {{ u: {{ backends: ['{backend}'] }} }}\nroutes:\n{routes}")
    };
    let (stays, goes) = (
        "  - { name: stays, match: { path: /stays }, upstream: u }\n",
        "  - { name: goes, match: { path: /goes }, upstream: u }\n",
    );
    let gateway = Gateway::start(&text(&format!("{stays}{goes}")));
    get(gateway.addr(), "/stays");
    get(gateway.addr(), "/goes");
    let total = "gateway_http_requests_total";
    gateway.wait_metric(total, &[("route", "stays")], 1.0);
    reload(&gateway, &text(stays));
    get(gateway.addr(), "/stays");
    gateway.wait_metric(total, &[("route", "stays")], 2.0);
    eventually("the series of the other route ends", || {
        !gateway.metrics().contains("\"goes\"")
    });
    let created = gateway.metric("gateway_connection_pool_created_total", &[]);
    let reused = gateway.metric("gateway_connection_pool_reused_total", &[]);
    assert_eq!(created + reused, 3.0);
}

#[test]
fn two_hundred_reloads_leave_nothing_behind() {
    let origin = Origin::script(Script::answer("ok"));
    let check = "    health_check: { interval: 1h, timeout: 1s }";
    let extra = DeadPort::refusing();
    let texts = [
        config(&[origin.address()], check),
        config(&[origin.address(), extra.address()], check),
    ];
    // With both of them once, everything that is made once is there.
    let gateway = Gateway::start(&texts[0]);
    let turn = |count: usize| {
        for _ in 0..count {
            for text in [&texts[1], &texts[0]] {
                reload(&gateway, text);
                assert_eq!(get(gateway.addr(), "/").status, 200);
            }
        }
    };
    let figures = || {
        let page = gateway.metrics();
        let fds = gateway.metric("process_open_fds", &[]);
        (
            parse(&page).len(),
            gateway.metric("process_threads", &[]),
            fds,
        )
    };
    turn(20);
    let (before, memory) = (figures(), gateway.rss_kib());
    turn(100);
    let growth = gateway.rss_kib().saturating_sub(memory);
    assert!(growth < 8 * 1024, "{growth} KiB more");
    eventually("series, threads and descriptors are as before", || {
        let now = figures();
        // A leak would be of hundreds. A probe counts when it ends, and threads and connections
        // come and go.
        now.0 <= before.0 + 10 && now.1 <= before.1 + 4.0 && now.2 <= before.2 + 10.0
    });
    assert_eq!(gateway.status()["config"]["generation"], 241);
}
