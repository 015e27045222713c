//! Reloading: what asks for it, what comes of it, and what is told when it cannot be done.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::client::get;
use crate::support::command::binary;
use crate::support::{Client, Finally, Gateway, Origin, Script, eventually};

const ADMIN: &str = "admin: { address: 127.0.0.1:0, token: key }";
const UNWATCHED: &str = "server: { threads: 2, watch: false }";

/// A configuration that proxies everything and has one more route with this name.
fn marked(origin: &Origin, head: &str, mark: &str) -> String {
    format!(
        "{head}\n{ADMIN}\nupstreams: {{ u: {{ backends: ['{}'] }} }}\nroutes:\n  \
         - {{ name: all, upstream: u }}\n  - {{ name: {mark}, match: {{ path: /{mark} }}, respond: {{ body: {mark} }} }}",
        origin.address()
    )
}

fn has(gateway: &Gateway, mark: &str) -> bool {
    get(gateway.addr(), &format!("/{mark}")).text() == mark
}

/// Sends requests all the while, on kept and on new connections; returns how many there were.
/// Every one of them has to succeed.
fn under_load(gateway: &Gateway, work: impl FnOnce()) -> usize {
    let (done, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let address = gateway.addr();
    std::thread::scope(|scope| {
        // Also when something fails, or the others would go on for ever.
        let _end = Finally(|| done.store(true, Ordering::SeqCst));
        for kept in [true, true, false] {
            let (done, count) = (&done, &count);
            scope.spawn(move || {
                let mut client = Client::connect(address);
                while !done.load(Ordering::SeqCst) {
                    if !kept {
                        client = Client::connect(address);
                    }
                    let status = client.get("/load").status;
                    assert_eq!(status, 200);
                    count.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        eventually("there is load", || count.load(Ordering::SeqCst) > 20);
        work();
    });
    count.load(Ordering::SeqCst)
}

#[test]
fn every_trigger_works_under_load_and_no_request_fails() {
    let origin = Origin::script(Script::answer("ok"));
    let gateway = Gateway::start(&marked(&origin, "", "one"));
    let seen = under_load(&gateway, || {
        gateway.rewrite(&marked(&origin, "", "two"));
        let answer = gateway.call("/reload", "key", "");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(has(&gateway, "two"));
        gateway.rewrite(&marked(&origin, "", "three"));
        gateway.signal("HUP");
        eventually("SIGHUP reloads", || has(&gateway, "three"));
        gateway.rewrite(&marked(&origin, "", "four"));
        eventually("the changed file is seen", || has(&gateway, "four"));
    });
    assert!(seen > 20);
    assert!(!has(&gateway, "three"), "what is gone is gone");
    gateway.wait_log(&["reload by a changed file: generation"]);
    let failures = [("result", "failure")];
    assert_eq!(
        gateway.metric("gateway_config_reloads_total", &failures),
        0.0
    );
}

#[test]
fn an_invalid_file_leaves_everything_as_it_is() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&marked(&origin, UNWATCHED, "one"));
    gateway.rewrite(&format!(
        "{ADMIN}\nroutes: [{{ nam: x }}]\nlimits: {{ uri_size: much }}"
    ));
    let answer = gateway.call("/reload", "key", "");
    assert_eq!(answer.status, 422);
    let body = answer.json();
    assert_eq!(
        (&body["result"], &body["generation"]),
        (&"invalid".into(), &1.into())
    );
    let problems = body["problems"].to_string();
    for part in [
        "gateway.yaml:2: routes[0].nam",
        "gateway.yaml:3: limits.uri_size",
    ] {
        assert!(problems.contains(part), "{part} in {problems}");
    }
    assert!(has(&gateway, "one"));
    let failure = &gateway.status()["config"]["last_failure"];
    assert_eq!(failure["problems"], body["problems"]);
    assert!(failure["time"].is_string());
    gateway.wait_log(&["ERROR", ":2: routes[0].nam"]);
    gateway.wait_metric(
        "gateway_config_reloads_total",
        &[("result", "failure")],
        1.0,
    );
    gateway.rewrite(&marked(&origin, UNWATCHED, "two"));
    assert_eq!(gateway.call("/reload", "key", "").json()["generation"], 2);
    assert!(gateway.status()["config"]["last_failure"].is_null());
}

#[test]
fn what_did_not_change_makes_no_generation() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&marked(&origin, UNWATCHED, "one"));
    for _ in 0..3 {
        gateway.rewrite(&marked(&origin, UNWATCHED, "one"));
        let answer = gateway.call("/reload", "key", "").json();
        assert_eq!(
            (&answer["result"], &answer["generation"]),
            (&"unchanged".into(), &1.into())
        );
    }
    gateway.wait_log(&["nothing has changed"]);
}

#[test]
fn a_half_written_file_does_no_harm() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&marked(&origin, "", "one"));
    let file = gateway.directory().join("gateway.yaml");
    let whole = std::fs::read_to_string(&file)
        .unwrap()
        .replace("one", "two");
    let half = whole.find("respond").unwrap();
    std::fs::write(&file, &whole[..half]).unwrap();
    eventually("it is looked at", || {
        gateway.metric("gateway_config_reloads_total", &[("result", "failure")]) > 0.0
    });
    assert!(has(&gateway, "one"));
    std::fs::write(&file, &whole).unwrap();
    eventually("the whole file is loaded", || has(&gateway, "two"));
    // What is told follows what is put into force.
    eventually("the failure is over", || {
        gateway.status()["config"]["last_failure"].is_null()
    });
}

/// As Kubernetes updates a mounted ConfigMap: a link to a folder is put in the place of another.
#[test]
fn a_link_to_another_folder_is_seen() {
    let origin = Origin::echo();
    let volume = tempfile::tempdir().unwrap();
    let publish = |mark: &str| {
        let text = marked(&origin, "", mark);
        let text = format!("{text}\nlisteners: [{{ name: main, address: 127.0.0.1:0 }}]\n");
        let folder = volume.path().join(mark);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("gateway.yaml"), text).unwrap();
        let fresh = volume.path().join("..data_tmp");
        symlink(mark, &fresh).unwrap();
        std::fs::rename(fresh, volume.path().join("..data")).unwrap();
    };
    publish("one");
    let file = volume.path().join("gateway.yaml");
    symlink(Path::new("..data/gateway.yaml"), &file).unwrap();
    let mut command = binary();
    command.arg("-c").arg(&file);
    let gateway = Gateway::launch(command, None);
    assert!(has(&gateway, "one"));
    publish("two");
    std::fs::remove_dir_all(volume.path().join("one")).unwrap();
    eventually("the other folder is seen", || has(&gateway, "two"));
}

#[test]
fn a_file_that_is_referred_to_is_watched() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page");
    std::fs::write(&page, "before").unwrap();
    let gateway = Gateway::start(&format!(
        "routes: [{{ name: a, respond: {{ body: 'file:{}' }} }}]",
        page.display()
    ));
    assert_eq!(get(gateway.addr(), "/").text(), "before");
    std::fs::write(&page, "behind it").unwrap();
    eventually("it is read again", || {
        get(gateway.addr(), "/").text() == "behind it"
    });
}

#[test]
fn what_needs_an_upgrade_is_told_and_the_rest_takes_effect() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&marked(&origin, UNWATCHED, "one"));
    let head = "server: { threads: 3, watch: false }\naccess_log: { format: text }\n\
                listeners: [{ name: main, address: 127.0.0.1:0 }, { address: 127.0.0.1:1 }]";
    gateway.rewrite(&marked(&origin, head, "two"));
    let answer = gateway.call("/reload", "key", "").json();
    let keys = serde_json::json!([
        "access_log.format",
        "listeners[127.0.0.1:1]",
        "server.threads"
    ]);
    assert_eq!(answer["upgrade_needed"], keys);
    assert!(has(&gateway, "two"));
    assert_eq!(gateway.status()["config"]["upgrade_needed"], keys);
    gateway.wait_log(&["an upgrade or restart is needed"]);
    gateway.rewrite(&marked(&origin, UNWATCHED, "three"));
    let answer = gateway.call("/reload", "key", "").json();
    assert_eq!(answer["upgrade_needed"], serde_json::json!([]));
}

#[test]
fn an_open_listener_and_the_log_level_change_at_once() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&marked(&origin, UNWATCHED, "one"));
    assert_eq!(get(gateway.addr(), "/health").json()["status"], "ok");
    let head = format!(
        "{UNWATCHED}\nlog: {{ level: error }}\nlimits: {{ uri_size: 300 }}\n\
         listeners: [{{ name: main, address: 127.0.0.1:0, health: false }}]"
    );
    gateway.rewrite(&marked(&origin, &head, "two"));
    let answer = gateway.call("/reload", "key", "").json();
    assert_eq!(answer["upgrade_needed"], serde_json::json!([]));
    assert_eq!(get(gateway.addr(), "/health").json()["target"], "/health");
    let long = format!("/{}", "x".repeat(400));
    assert_eq!(get(gateway.addr(), &long).status, 414);
    let told = |gateway: &Gateway, generation: u32| {
        let line = format!("generation {generation}");
        gateway.log_lines().iter().any(|l| l.ends_with(&line))
    };
    gateway.rewrite(&marked(&origin, UNWATCHED, "three"));
    gateway.call("/reload", "key", "");
    eventually("the third generation is told", || told(&gateway, 3));
    assert!(!told(&gateway, 2), "the second one was quiet");
}

#[test]
fn calls_at_the_same_time_come_one_after_the_other() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&marked(&origin, UNWATCHED, "one"));
    gateway.rewrite(&marked(&origin, UNWATCHED, "two"));
    let mut results: Vec<String> = std::thread::scope(|scope| {
        let call = || gateway.call("/reload", "key", "").json()["result"].to_string();
        let calls: Vec<_> = (0..8).map(|_| scope.spawn(call)).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    results.sort();
    assert_eq!(results[0], "\"reloaded\"");
    assert!(results[1..].iter().all(|result| result == "\"unchanged\""));
}

#[test]
fn the_demo_has_no_file_to_load() {
    let mut command = binary();
    command.args(["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let gateway = Gateway::launch(command, None);
    gateway.signal("HUP");
    gateway.wait_log(&["built in"]);
    assert_eq!(get(gateway.addr(), "/hello").status, 200);
}
