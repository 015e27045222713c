//! Backends that are discovered: by name servers and files that are well, ill, slow, and gone.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::client::{Client, get, request};
use crate::support::name_server::{NameServer, Zone};
use crate::support::{Gateway, Line, Origin, eventually};

const BACKENDS: &str = "gateway_discovery_backends";
const UPDATES: &str = "gateway_discovery_updates_total";
const U: [(&str, &str); 1] = [("backend_service", "u")];

/// Asks this server for backends at this port, several times a second.
fn dns(server: &NameServer, port: u16, further: &str) -> String {
    asking(server, port, "2s", further)
}

/// The same, with this much time for an answer.
fn asking(server: &NameServer, port: u16, timeout: &str, further: &str) -> String {
    format!(
        "dns: {{ name: users.test, port: {port}, resolvers: ['{}'], timeout: {timeout}, min_ttl: 100ms{further} }}",
        server.address()
    )
}

fn config(discovery: &str) -> String {
    format!(
        "upstreams:\n  u:\n    discovery: {{ {discovery} }}\nroutes: [{{ name: all, upstream: u }}]"
    )
}

/// These backends, with a TTL below what is believed.
fn zone(origins: &[Origin]) -> Zone {
    Zone::Hosts(ips(origins), 0)
}

fn ips(origins: &[Origin]) -> Vec<IpAddr> {
    origins.iter().map(|one| one.address().ip()).collect()
}

fn port(origins: &[Origin]) -> u16 {
    origins[0].address().port()
}

fn updates(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric(UPDATES, &[U[0], ("result", result)])
}

/// Clients that ask without a pause, and count what is no 200.
struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicUsize>,
    bad: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn on(gateway: &Gateway, clients: usize) -> Self {
        let (stop, good, bad) = (Arc::default(), Arc::default(), Arc::default());
        let address = gateway.addr();
        let threads = (0..clients).map(|_| {
            let (stop, good, bad): (Arc<AtomicBool>, Arc<AtomicUsize>, Arc<AtomicUsize>) =
                (Arc::clone(&stop), Arc::clone(&good), Arc::clone(&bad));
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                while !stop.load(Ordering::SeqCst) {
                    let counted = if client.get("/").status == 200 {
                        &good
                    } else {
                        &bad
                    };
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            })
        });
        let threads = threads.collect();
        Self {
            stop,
            good,
            bad,
            threads,
        }
    }

    fn end(self) -> (usize, usize) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("a client");
        }
        let read = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        (read(&self.good), read(&self.bad))
    }
}

#[test]
fn backends_come_and_go_under_load_and_no_request_fails() {
    let mut origins = Origin::fleet(6);
    let server = NameServer::start(zone(&origins));
    let gateway = Gateway::start(&config(&dns(&server, port(&origins), "")));
    gateway.wait_metric(BACKENDS, &U, 6.0);
    let load = Load::on(&gateway, 4);
    let all_asked = |origins: &[Origin]| {
        let before: Vec<_> = origins.iter().map(Origin::requests).collect();
        eventually("every backend is asked", || {
            let mut now = origins.iter().zip(&before);
            now.all(|(origin, before)| origin.requests() > *before)
        });
    };
    all_asked(&origins);
    let mut gone = origins.split_off(2);
    server.set(zone(&origins));
    gateway.wait_metric(BACKENDS, &U, 2.0);
    let backends = &gateway.status()["upstreams"][0]["backends"];
    assert_eq!(backends.as_array().map(Vec::len), Some(2), "{backends}");
    all_asked(&origins);
    // What had begun with them has ended, and connections that nobody needs are closed: no clients but
    // those of the gateway had any.
    eventually("their connections are closed", || {
        gone.iter().all(|origin| origin.open() == 0)
    });
    for origin in &mut gone {
        origin.stop();
    }
    all_asked(&origins);
    let connections = origins[0].connections();
    assert!(
        connections <= 8,
        "{connections} connections for 4 clients: they are kept"
    );
    for origin in &mut gone {
        origin.restart();
    }
    origins.extend(gone);
    server.set(zone(&origins));
    gateway.wait_metric(BACKENDS, &U, 6.0);
    all_asked(&origins);
    let (good, bad) = load.end();
    assert!(good > 100 && bad == 0, "{good} good, {bad} bad");
}

#[test]
fn a_name_server_that_fails_takes_no_backend_away() {
    let origins = Origin::fleet(2);
    let server = NameServer::start(zone(&origins));
    let discovery = asking(&server, port(&origins), "300ms", "");
    let gateway = Gateway::start(&config(&discovery));
    gateway.wait_metric(BACKENDS, &U, 2.0);
    let stranger: IpAddr = Ipv4Addr::new(127, 0, 0, 99).into();
    for ill in [
        Zone::Failure,
        Zone::Silence,
        Zone::Garbage,
        Zone::WrongId(vec![stranger]),
        Zone::Slow(Duration::from_millis(1500), vec![stranger]),
    ] {
        let before = updates(&gateway, "failure");
        server.set(ill.clone());
        eventually("a failure", || updates(&gateway, "failure") > before);
        assert_eq!(gateway.metric(BACKENDS, &U), 2.0, "{ill:?}");
        assert_eq!(get(gateway.addr(), "/").status, 200, "{ill:?}");
        let told = &gateway.status()["upstreams"][0]["discovery"];
        assert!(told["last_error"]["what"].is_string(), "{ill:?}: {told}");
        let good = updates(&gateway, "success");
        server.set(zone(&origins));
        eventually("it works again", || updates(&gateway, "success") > good);
    }
    gateway.wait_log(&["2 backends are kept"]);
    gateway.wait_log(&["works again"]);
}

#[test]
fn a_name_that_is_gone_keeps_its_backends_for_a_while() {
    let origins = Origin::fleet(2);
    let server = NameServer::start(zone(&origins));
    let discovery = dns(&server, port(&origins), ", keep_missing: 2s");
    let gateway = Gateway::start(&config(&format!("{discovery}, required: true")));
    for gone in [Zone::NoName, Zone::NoRecord] {
        let before = updates(&gateway, "missing");
        let begun = Instant::now();
        server.set(gone.clone());
        eventually("the name is missed", || {
            updates(&gateway, "missing") > before
        });
        let found = gateway.metric(BACKENDS, &U);
        let status = get(gateway.addr(), "/").status;
        // Whatever the machine did meanwhile, it was in that time.
        if begun.elapsed() < Duration::from_secs(2) {
            assert_eq!((found, status), (2.0, 200), "{gone:?}");
        }
        gateway.wait_metric(BACKENDS, &U, 0.0);
        get(gateway.addr(), "/").assert_refusal(503, "no_healthy_backend");
        let ready = get(gateway.addr(), "/ready");
        assert_eq!(ready.status, 503);
        assert!(ready.text().contains("discovery"), "{}", ready.text());
        server.set(zone(&origins));
        gateway.wait_metric(BACKENDS, &U, 2.0);
        assert_eq!(get(gateway.addr(), "/").status, 200, "{gone:?}");
        assert_eq!(get(gateway.addr(), "/ready").status, 200);
    }
}

#[test]
fn answers_that_do_not_fit_come_by_tcp() {
    let hosts = |count: u8| {
        let hosts = (1..=count).map(|last| Ipv4Addr::new(127, 0, 1, last).into());
        Zone::Hosts(hosts.collect(), 0)
    };
    let server = NameServer::start(hosts(200));
    let gateway = Gateway::start(&config(&dns(&server, 9, "")));
    gateway.wait_metric(BACKENDS, &U, 200.0);
    assert!(server.over_tcp() > 0);
}

#[test]
fn services_say_port_weight_and_priority() {
    let origins = ["first", "second", "third"].map(Origin::named);
    let ports = origins.each_ref().map(|origin| origin.address().port());
    let [mut first, mut second, third] = origins;
    let server = NameServer::start(Zone::Services(
        vec![
            (10, 30, ports[0], "pod-1.users.test"),
            (10, 10, ports[1], "pod-2.users.test"),
            (20, 10, ports[2], "pod-3.users.test"),
        ],
        Ipv4Addr::LOCALHOST,
        0,
    ));
    let gateway = Gateway::start(&config(&format!(
        "dns: {{ name: _http._tcp.users.test, type: srv, resolvers: ['{}'] }}",
        server.address()
    )));
    gateway.wait_metric(BACKENDS, &U, 3.0);
    for _ in 0..40 {
        assert_eq!(get(gateway.addr(), "/").status, 200);
    }
    assert_eq!((first.requests(), second.requests()), (30, 10));
    assert_eq!(third.requests(), 0, "of another priority");
    first.stop();
    second.stop();
    eventually("the next priority is used", || {
        get(gateway.addr(), "/").status == 200 && third.requests() > 0
    });
    let asked = server.questions();
    let is_asked = |name: &str, kind| asked.iter().any(|one| *one == (name.to_owned(), kind));
    assert!(is_asked("_http._tcp.users.test", 33), "{asked:?}");
    assert!(is_asked("pod-1.users.test", 1) && is_asked("pod-2.users.test", 1));
}

#[test]
fn too_many_services_are_cut_by_priority_and_always_the_same() {
    let zone = |is_reversed: bool| {
        let record = |port: u16| (u16::from(port <= 200), 1, port, "pod.users.test");
        let mut records: Vec<_> = (1..=300).map(record).collect();
        if is_reversed {
            records.reverse();
        }
        Zone::Services(records, Ipv4Addr::LOCALHOST, 0)
    };
    let server = NameServer::start(zone(false));
    let gateway = Gateway::start(&config(&format!(
        "dns: {{ name: _http._tcp.users.test, type: srv, resolvers: ['{}'], min_ttl: 100ms }}",
        server.address()
    )));
    gateway.wait_metric(BACKENDS, &U, 256.0);
    let found = || {
        let status = gateway.status();
        let backends = status["upstreams"][0]["backends"].as_array().unwrap();
        let names = backends.iter().map(|one| one["name"].to_string());
        names.collect::<std::collections::BTreeSet<_>>()
    };
    let of_ports = (1..=156).chain(201..=300);
    let expected = of_ports.map(|port: u16| format!("\"127.0.0.1:{port}\""));
    let expected = expected.collect();
    assert_eq!(found(), expected);
    gateway.wait_log(&["44 are left out"]);
    server.set(zone(true));
    let good = updates(&gateway, "success");
    eventually("other answers", || {
        updates(&gateway, "success") > good + 1.0
    });
    assert_eq!(found(), expected);
}

#[test]
fn ipv6_is_asked_for_where_there_is_no_ipv4() {
    let server = NameServer::start(Zone::Hosts(vec!["::1".parse().unwrap()], 0));
    let gateway = Gateway::start(&config(&dns(&server, 9, "")));
    gateway.wait_metric(BACKENDS, &U, 1.0);
    let backend = &gateway.status()["upstreams"][0]["backends"][0];
    assert_eq!(backend["address"], "[::1]:9");
    let both = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    server.set(Zone::Hosts(both.clone(), 0));
    eventually("IPv4 is preferred", || {
        gateway.status()["upstreams"][0]["backends"][0]["address"] == "127.0.0.1:9"
    });
    assert_eq!(gateway.metric(BACKENDS, &U), 1.0);
    let other = NameServer::start(Zone::Hosts(both, 0));
    let gateway = Gateway::start(&config(&dns(&other, 9, ", type: all")));
    gateway.wait_metric(BACKENDS, &U, 2.0);
}

#[test]
fn an_answer_counts_for_its_time_and_upstreams_share_it() {
    let origins = Origin::fleet(1);
    let server = NameServer::start(Zone::Hosts(ips(&origins), 3600));
    let discovery = dns(&server, port(&origins), "");
    let gateway = Gateway::start(&format!(
        "upstreams:
  a: {{ discovery: {{ {discovery} }}, health_check: {{ interval: 1s }} }}
  b: {{ discovery: {{ {discovery} }} }}
routes:
  - {{ name: a, match: {{ path: /a }}, upstream: a }}
  - {{ name: b, match: {{ path: /b }}, upstream: b }}"
    ));
    gateway.wait_metric(BACKENDS, &[], 2.0);
    assert_eq!(get(gateway.addr(), "/a").status, 200);
    assert_eq!(get(gateway.addr(), "/b").status, 200);
    // What is probed is what was found.
    eventually("it is probed", || {
        gateway.metric("gateway_backend_probes_total", &[("result", "success")]) >= 1.0
    });
    assert_eq!(server.questions().len(), 1, "{:?}", server.questions());
}

#[test]
fn the_gateway_starts_while_name_servers_are_away() {
    let origins = Origin::fleet(1);
    let server = NameServer::start(Zone::Silence);
    let discovery = asking(&server, port(&origins), "300ms", "");
    let gateway = Gateway::start(&config(&discovery));
    get(gateway.addr(), "/").assert_refusal(503, "no_healthy_backend");
    server.set(zone(&origins));
    eventually("there is a backend", || {
        get(gateway.addr(), "/").status == 200
    });
}

#[test]
fn a_reload_keeps_what_was_found_and_does_not_wait_for_a_dead_name() {
    let origins = Origin::fleet(2);
    let server = NameServer::start(zone(&origins));
    let own = |further: &str| dns(&server, port(&origins), further);
    let gateway = Gateway::start(&config(&own("")));
    gateway.wait_metric(BACKENDS, &U, 2.0);
    let load = Load::on(&gateway, 2);
    server.set(Zone::Silence);
    let reloaded = |generation: f64| {
        eventually("a reload", || {
            gateway.status()["config"]["generation"].as_f64() >= Some(generation)
        });
    };
    // Other settings of the upstream, other settings of the discovery, and another name.
    for (generation, discovery, further) in [
        (2.0, own(""), "retries: { attempts: 2 }"),
        (3.0, own(", max_ttl: 1h"), "retries: { attempts: 2 }"),
        (4.0, own(", max_ttl: 1h"), "pool: { idle_timeout: 9s }"),
    ] {
        gateway.rewrite(&format!(
            "upstreams:\n  u:\n    discovery: {{ {discovery} }}\n    {further}\n\
             \n  v: {{ discovery: {{ {} }} }}\nroutes: [{{ name: all, upstream: u }}]",
            own(&format!(", keep_missing: {generation}s"))
        ));
        gateway.signal("HUP");
        reloaded(generation);
    }
    let backends = &gateway.status()["upstreams"][0]["backends"];
    assert_eq!(backends.as_array().map(Vec::len), Some(2), "{backends}");
    let (good, bad) = load.end();
    assert!(good > 10 && bad == 0, "{good} good, {bad} bad");
    server.set(zone(&origins[..1]));
    gateway.wait_metric(BACKENDS, &U, 1.0);
}

#[test]
fn written_backends_stand_beside_those_that_are_found() {
    let origins = Origin::fleet(2);
    let server = NameServer::start(zone(&origins[..1]));
    let discovery = dns(&server, port(&origins), "");
    let written: SocketAddr = origins[1].address();
    let gateway = Gateway::start(&format!(
        "upstreams: {{ u: {{ backends: ['{written}'], discovery: {{ {discovery} }} }} }}
routes: [{{ name: all, upstream: u }}]"
    ));
    gateway.wait_metric(BACKENDS, &U, 2.0);
    server.set(zone(&origins));
    let good = updates(&gateway, "success");
    eventually("another answer", || {
        updates(&gateway, "success") > good + 1.0
    });
    assert_eq!(gateway.metric(BACKENDS, &U), 2.0, "none is there twice");
}

#[test]
fn a_file_is_followed_and_a_bad_one_changes_nothing() {
    let origins = Origin::fleet(2);
    let list = |origins: &[Origin]| {
        let lines = origins.iter().map(|one| format!("- '{}'\n", one.address()));
        lines.collect::<String>()
    };
    // As a ConfigMap is mounted: a link to a folder, which is set to another folder.
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("..data");
    let swap = |name: &str, text: &str| {
        let version = folder.path().join(name);
        std::fs::create_dir(&version).unwrap();
        std::fs::write(version.join("backends.yaml"), text).unwrap();
        let next = folder.path().join("..next");
        std::os::unix::fs::symlink(&version, &next).unwrap();
        std::fs::rename(&next, &link).unwrap();
    };
    swap("1", &list(&origins));
    let path = link.join("backends.yaml");
    let gateway = Gateway::start(&config(&format!("file: {{ path: '{}' }}", path.display())));
    gateway.wait_metric(BACKENDS, &U, 2.0);
    let load = Load::on(&gateway, 2);
    swap("2", &list(&origins[..1]));
    gateway.wait_metric(BACKENDS, &U, 1.0);
    for (failures, (name, text)) in [
        ("3", "- no-port\n"),
        ("4", "[]"),
        ("5", "{ not: a list }"),
        ("6", "- '127.0.0.1:80'\n- ["),
    ]
    .into_iter()
    .enumerate()
    {
        swap(name, text);
        eventually("it is refused", || {
            updates(&gateway, "failure") > failures as f64
        });
        assert_eq!(gateway.metric(BACKENDS, &U), 1.0, "{text}");
    }
    let why = gateway.status()["upstreams"][0]["discovery"]["last_error"]["what"].clone();
    assert!(
        why.as_str()
            .is_some_and(|why| why.contains("backends.yaml")),
        "{why}"
    );
    // Replaced in place, as JSON.
    let fresh = folder.path().join("fresh");
    let address = origins[1].address();
    std::fs::write(
        &fresh,
        format!("[{{ \"address\": \"{address}\", \"weight\": 2 }}]"),
    )
    .unwrap();
    std::fs::rename(&fresh, &path).unwrap();
    eventually("the file is read", || {
        gateway.status()["upstreams"][0]["backends"][0]["name"] == address.to_string()
    });
    std::fs::remove_file(&path).unwrap();
    eventually("it is missed", || updates(&gateway, "failure") >= 5.0);
    assert_eq!(get(gateway.addr(), "/").status, 200);
    let (good, bad) = load.end();
    assert!(good > 10 && bad == 0, "{good} good, {bad} bad");
}

#[test]
fn only_the_kind_of_address_that_is_named_is_asked_for() {
    let both: Vec<IpAddr> = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    for (kind, number, address) in [("a", 1, "127.0.0.1:9"), ("aaaa", 28, "[::1]:9")] {
        let server = NameServer::start(Zone::Hosts(both.clone(), 0));
        let discovery = dns(&server, 9, &format!(", type: {kind}"));
        let gateway = Gateway::start(&config(&discovery));
        gateway.wait_metric(BACKENDS, &U, 1.0);
        let backend = &gateway.status()["upstreams"][0]["backends"][0];
        assert_eq!(backend["address"], address);
        let asked = server.questions();
        assert!(asked.iter().all(|(_, asked)| *asked == number), "{asked:?}");
    }
}

#[test]
fn a_gateway_is_not_ready_before_it_has_what_it_requires() {
    let origins = Origin::fleet(1);
    let server = NameServer::start(Zone::Failure);
    let discovery = dns(&server, port(&origins), "");
    let text = config(&format!("{discovery}, required: true"));
    std::thread::scope(|scope| {
        // Ends when it is ready.
        let start = scope.spawn(|| Gateway::start(&text));
        eventually("it was asked for often", || server.questions().len() >= 4);
        assert!(!start.is_finished());
        server.set(zone(&origins));
        let gateway = start.join().unwrap();
        assert_eq!(get(gateway.addr(), "/").status, 200);
    });
}

#[test]
fn one_name_server_that_answers_is_enough() {
    let origins = Origin::fleet(2);
    let good = NameServer::start(zone(&origins));
    let ill = [
        Zone::Silence,
        Zone::Failure,
        Zone::Silence,
        Zone::Garbage,
        Zone::Silence,
    ];
    let ill = ill.map(NameServer::start);
    let servers = ill.iter().chain([&good]);
    let servers: Vec<_> = servers.map(|one| format!("'{}'", one.address())).collect();
    let gateway = Gateway::start(&config(&format!(
        "dns: {{ name: users.test, port: {}, resolvers: [{}], timeout: 1s, min_ttl: 100ms }}",
        port(&origins),
        servers.join(", ")
    )));
    eventually("several answers", || updates(&gateway, "success") >= 5.0);
    assert_eq!(updates(&gateway, "failure"), 0.0);
    assert_eq!(gateway.metric(BACKENDS, &U), 2.0);
    for server in &ill {
        assert!(!server.questions().is_empty(), "all are asked");
    }
}

#[test]
fn a_source_that_a_reload_drops_is_asked_no_more() {
    let origins = Origin::fleet(1);
    let [dropped, kept] = [(); 2].map(|()| NameServer::start(zone(&origins)));
    let upstream = |server: &NameServer| {
        let discovery = dns(server, port(&origins), "");
        format!("{{ discovery: {{ {discovery} }} }}")
    };
    let text = |u: &str| {
        format!(
            "server: {{ watch: false }}
admin: {{ address: 127.0.0.1:0, token: key }}
upstreams: {{ u: {u}, v: {} }}
routes: [{{ name: all, upstream: u }}]",
            upstream(&kept)
        )
    };
    let gateway = Gateway::start(&text(&upstream(&dropped)));
    let written = format!("{{ backends: ['{}'] }}", origins[0].address());
    gateway.rewrite(&text(&written));
    assert_eq!(
        gateway.call("/reload", "key", "").json()["result"],
        "reloaded"
    );
    let asked = dropped.questions().len();
    let until = kept.questions().len() + 10;
    eventually("the other one goes on", || kept.questions().len() >= until);
    let later = dropped.questions().len();
    assert!(later <= asked + 1, "{asked} {later}: one was on its way");
}

#[test]
fn a_list_that_cannot_be_used_is_read_again_untouched() {
    let gateway = Gateway::start(&config("file: { path: /nowhere/backends.yaml }"));
    eventually("it is read again", || updates(&gateway, "failure") >= 2.0);
}

/// A gateway whose backends are found, and where operators may drain them.
fn drainable(discovery: &str) -> String {
    format!(
        "admin: {{ address: 127.0.0.1:0, token: key }}\n{}",
        config(discovery)
    )
}

fn drain(gateway: &Gateway, method: &str, backend: SocketAddr) -> (u16, serde_json::Value) {
    let path = format!("/upstreams/u/backends/{backend}/drain");
    let token = ["Authorization: Bearer key"];
    let answer = request(gateway.admin(), method, &path, &token, b"");
    (answer.status, answer.json()["state"].clone())
}

/// How the backend at this address stands; null when it is gone.
fn state(gateway: &Gateway, backend: SocketAddr) -> serde_json::Value {
    let status = gateway.status();
    let backends = status["upstreams"][0]["backends"].as_array().unwrap();
    let own = backends
        .iter()
        .find(|one| one["name"] == backend.to_string());
    own.map_or(serde_json::Value::Null, |one| one["state"].clone())
}

#[test]
fn a_backend_that_is_drained_is_so_when_it_comes_back() {
    let origins = Origin::fleet(2);
    let server = NameServer::start(zone(&origins));
    let gateway = Gateway::start(&drainable(&dns(&server, port(&origins), "")));
    gateway.wait_metric(BACKENDS, &U, 2.0);
    let backend = origins[1].address();
    assert_eq!(drain(&gateway, "POST", backend), (200, "draining".into()));
    server.set(zone(&origins[..1]));
    gateway.wait_metric(BACKENDS, &U, 1.0);
    let left = || gateway.status()["upstreams"][0]["draining_when_back"].clone();
    assert_eq!(left(), serde_json::json!([backend.to_string()]));
    server.set(zone(&origins));
    gateway.wait_metric(BACKENDS, &U, 2.0);
    assert_eq!(state(&gateway, backend), "draining");
    assert_eq!(left(), serde_json::json!([]));
    for _ in 0..4 {
        assert_eq!(get(gateway.addr(), "/").status, 200);
    }
    assert_eq!(origins[1].requests(), 0);
    // It can be taken back while it is gone.
    server.set(zone(&origins[..1]));
    gateway.wait_metric(BACKENDS, &U, 1.0);
    assert_eq!(drain(&gateway, "DELETE", backend), (200, "gone".into()));
    assert_eq!(drain(&gateway, "DELETE", backend).0, 404);
    assert_eq!(drain(&gateway, "POST", backend).0, 404);
    server.set(zone(&origins));
    gateway.wait_metric(BACKENDS, &U, 2.0);
    assert_eq!(state(&gateway, backend), "up");
}

#[test]
fn a_successor_that_has_not_found_a_drained_backend_yet_drains_it() {
    let origins = Origin::fleet(2);
    let server = NameServer::start(zone(&origins));
    let mut line = Line::of(Gateway::start(&drainable(&dns(
        &server,
        port(&origins),
        "",
    ))));
    line.first.wait_metric(BACKENDS, &U, 2.0);
    let backend = origins[0].address();
    assert_eq!(drain(&line.first, "POST", backend).0, 200);
    server.set(Zone::Silence);
    line.upgrade();
    assert_eq!(state(&line.first, backend), serde_json::Value::Null);
    server.set(zone(&origins));
    eventually("it is found", || !state(&line.first, backend).is_null());
    assert_eq!(state(&line.first, backend), "draining");
}
