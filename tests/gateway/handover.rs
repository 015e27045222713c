//! One gateway takes over from another, and nobody notices.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;

use crate::support::client::{format_request, get};
use crate::support::command::{binary, finish};
use crate::support::succession::{is_alive, send, wait_end};
use crate::support::wait::until;
use crate::support::{Client, Gate, Gateway, Line, Origin, Script, eventually};

const HELLO: &str = "routes: [{ name: a, respond: { body: hello } }]";

/// Clients that send requests until they are told to stop, and expect an answer to each.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// Half of them keep their connections, half make one for each request.
    fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let client = |keeps: bool| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            std::thread::spawn(move || {
                let mut failures = Vec::new();
                let mut kept: Option<Client> = None;
                while !stop.load(SeqCst) {
                    let mut client = kept.take().unwrap_or_else(|| Client::connect(address));
                    let sent = client.try_send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
                    match sent.and_then(|()| client.try_response(true)) {
                        Ok(response) if response.status == 200 => {
                            answered.fetch_add(1, SeqCst);
                            let goes_on = response.header("connection") != Some("close");
                            kept = (keeps && goes_on).then_some(client);
                        }
                        Ok(response) => failures.push(response.status.to_string()),
                        Err(error) => failures.push(error.to_string()),
                    }
                }
                failures
            })
        };
        let clients = (0..6).map(|index| client(index % 2 == 0)).collect();
        Self {
            stop,
            answered,
            clients,
        }
    }

    /// Waits for so many further answers.
    #[track_caller]
    fn go_on(&self, count: usize) {
        let wanted = self.answered.load(SeqCst) + count;
        eventually("the load goes on", || self.answered.load(SeqCst) >= wanted);
    }

    /// What went wrong.
    fn stop(self) -> Vec<String> {
        self.stop.store(true, SeqCst);
        let outcomes = self
            .clients
            .into_iter()
            .map(|client| client.join().unwrap());
        outcomes.flatten().collect()
    }
}

#[test]
fn a_chain_of_upgrades_loses_no_request() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let mut line = Line::of(gateway);
    let load = Load::start(line.first.addr());
    load.go_on(50);
    let mut last = line.first.pid();
    let mut descriptors = Vec::new();
    for _ in 0..4 {
        let successor = line.upgrade();
        assert_ne!(successor, last);
        load.go_on(50);
        wait_end(last);
        last = successor;
        let open = std::fs::read_dir(format!("/proc/{last}/fd")).unwrap();
        descriptors.push(open.count());
    }
    let failures = load.stop();
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!(line.first.wait_exit().code(), Some(0));
    let (least, most) = (descriptors.iter().min(), descriptors.iter().max());
    // What is open for clients and backends at the moment differs.
    assert!(most.unwrap() - least.unwrap() < 30, "{descriptors:?}");
    let status = get(line.first.admin(), "/status").json();
    assert!(status.to_string().contains("ready"), "{status}");
}

#[test]
fn a_slow_download_is_finished_by_the_old_process() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::answering(move |_| {
        Script::new()
            .send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
            .wait(&held)
            .send("lf")
    });
    let mut line = Line::of(Gateway::in_front_of(&origin));
    let mut download = line.connect();
    download.send(format_request("GET", "/", &[], b""));
    eventually("the request is in flight", || origin.requests() == 1);
    line.upgrade();
    assert!(is_alive(line.first.pid()));
    assert_eq!(get(line.first.addr(), "/ready").status, 200);
    gate.open();
    assert_eq!(download.read_response().text(), "half");
    assert_eq!(line.first.wait_exit().code(), Some(0));
}

#[test]
fn an_open_connection_to_the_old_process_hears_that_the_service_is_ready() {
    let mut line = Line::of(Gateway::start(HELLO));
    let mut kept = line.connect();
    assert_eq!(kept.get("/").text(), "hello");
    line.upgrade();
    let last = kept.get("/ready");
    assert_eq!(
        (last.status, last.header("connection")),
        (200, Some("close"))
    );
    assert_eq!(line.first.wait_exit().code(), Some(0));
}

#[test]
fn a_broken_configuration_leaves_the_old_process_alone() {
    let line = Line::of(Gateway::start(HELLO));
    let good = line.configuration();
    line.rewrite(&format!("nonsense: 1\n{good}"));
    let run = line.try_upgrade();
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("nonsense"), "{}", run.stderr);
    // The successor finds out, too, when the command's own check has seen another file.
    line.rewrite(&good);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    line.rewrite(&good.replace(
        "listeners: [",
        &format!("listeners: [{{ name: other, address: '{address}' }}, "),
    ));
    let run = line.try_upgrade();
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("cannot listen on"), "{}", run.stderr);
    eventually("it says so", || line.logged("this process goes on"));
    assert_eq!(get(line.first.addr(), "/").text(), "hello");
    assert_eq!(get(line.first.addr(), "/ready").status, 200);
}

/// A gateway whose program can be replaced, and the program's file.
fn replaceable(yaml: &str) -> (Line, std::path::PathBuf) {
    let folder = crate::support::gateway::config_directory(yaml);
    let program = folder.path().join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_gateway"), &program).unwrap();
    let mut command = std::process::Command::new(&program);
    command.arg("-c").arg(folder.path().join("gateway.yaml"));
    (Line::of(Gateway::launch(command, Some(folder))), program)
}

fn replace(program: &std::path::Path, script: &str) {
    let new = program.with_extension("new");
    std::fs::write(&new, script).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(&new, program).unwrap();
}

#[test]
fn a_successor_that_crashes_or_never_serves_leaves_the_old_process_alone() {
    let (line, program) = replaceable(&format!(
        "server: {{ threads: 1, upgrade_socket: up.sock, upgrade_timeout: 5s }}\n{HELLO}"
    ));
    for (script, reason) in [
        ("#!/bin/sh\nexit 3\n", "exit status: 3"),
        ("#!/bin/sh\nkill -SEGV $$\n", "signal: 11"),
        ("#!/bin/sh\nexec sleep 60\n", "did not serve within 5s"),
        ("no program at all", "cannot be started"),
    ] {
        replace(&program, script);
        let run = line.try_upgrade();
        assert_eq!(run.code, Some(1), "{script:?}");
        assert!(run.stderr.contains(reason), "{script:?}: {}", run.stderr);
        assert_eq!(get(line.first.addr(), "/").text(), "hello");
    }
    let children = format!("/proc/{0}/task/{0}/children", line.first.pid());
    let left = std::fs::read_to_string(children).unwrap_or_default();
    assert_eq!(left.trim(), "", "no child is left behind");
}

#[test]
fn nobody_to_upgrade_is_an_error() {
    let folder = crate::support::gateway::config_directory(HELLO);
    let file = folder.path().join("gateway.yaml");
    let run = finish(binary().arg("upgrade").arg("-c").arg(&file));
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("no running gateway"), "{}", run.stderr);
    let run = finish(binary().arg("-u").arg("-c").arg(&file));
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("no running gateway"), "{}", run.stderr);
}

#[test]
fn started_by_hand_a_successor_waits_for_sigquit() {
    let mut line = Line::of(Gateway::start(HELLO));
    let file = line.first.directory().join("gateway.yaml");
    let mut successor = Gateway::launch(
        {
            let mut command = binary();
            command.arg("-u").arg("-c").arg(file);
            command
        },
        None,
    );
    assert_eq!(successor.addr(), line.first.addr(), "the same socket");
    eventually("the old process knows", || line.logged("ends at SIGQUIT"));
    assert_eq!(get(line.first.addr(), "/").text(), "hello");
    assert!(is_alive(line.first.pid()));
    let refused = line.try_upgrade();
    assert!(refused.stderr.contains("under way"), "{}", refused.stderr);
    line.first.signal("QUIT");
    assert_eq!(line.first.wait_exit().code(), Some(0));
    assert_eq!(get(successor.addr(), "/").text(), "hello");
    // The new one is in charge of the next upgrade.
    line.upgrade();
    assert_eq!(successor.wait_exit().code(), Some(0));
    assert_eq!(get(line.first.addr(), "/").text(), "hello");
}

#[test]
fn sigquit_without_a_successor_ends_nothing() {
    let line = Line::of(Gateway::start(&format!(
        "server: {{ threads: 1, upgrade_socket: up.sock, upgrade_timeout: 1s }}\n{HELLO}"
    )));
    line.first.signal("QUIT");
    eventually("it says so", || line.logged("so this process stays"));
    assert_eq!(get(line.first.addr(), "/").text(), "hello");
    assert_eq!(get(line.first.addr(), "/ready").status, 200);
}

#[test]
fn listeners_come_and_go() {
    let mut line = Line::of(Gateway::start(&format!(
        "listeners: [{{ name: main, address: 127.0.0.1:0 }}, {{ name: old, address: '127.0.0.2:0' }}]\n{HELLO}"
    )));
    let old = line.first.listener("old");
    let before = line.configuration();
    line.rewrite(&before.replace(
        "{ name: old, address: '127.0.0.2:0' }",
        "{ name: new, address: '127.0.0.3:0' }",
    ));
    line.upgrade();
    assert_eq!(get(line.first.addr(), "/").text(), "hello");
    let found = until(|| {
        let lines = line.first.log_lines();
        lines.iter().find_map(|line| {
            let (_, rest) = line.split_once("listening on ")?;
            let (address, name) = rest.split_once(' ')?;
            name.contains("new").then(|| address.parse().unwrap())
        })
    });
    assert_eq!(get(found.unwrap(), "/").text(), "hello");
    assert_eq!(line.first.wait_exit().code(), Some(0));
    assert!(TcpStream::connect(old).is_err(), "nobody listens there");
}

#[test]
fn the_count_of_configurations_goes_on() {
    let mut line = Line::of(Gateway::start(HELLO));
    let generation = |line: &Line| {
        let status = get(line.first.admin(), "/status").json();
        status["config"]["generation"].as_u64()
    };
    let first = generation(&line);
    assert_eq!(first, Some(1));
    line.upgrade();
    wait_end(line.first.pid());
    assert_eq!(generation(&line), Some(2));
}

#[test]
fn sigterm_in_the_middle_of_a_drain_is_not_yet_the_end() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::answering(move |_| Script::new().wait(&held).and(&Script::answer("late")));
    let mut line = Line::of(Gateway::in_front_of(&origin));
    let mut client = line.connect();
    client.send(format_request("GET", "/", &[], b""));
    eventually("the request is in flight", || origin.requests() == 1);
    let successor = line.upgrade();
    send(line.first.pid(), "TERM");
    eventually("it says so", || line.logged("is ending already"));
    send(successor, "TERM");
    wait_end(successor);
    gate.open();
    assert_eq!(client.read_response().text(), "late");
    assert_eq!(line.first.wait_exit().code(), Some(0));
}

/// A gateway with a configuration in this folder, whose default socket is there, too.
fn in_folder(folder: &std::path::Path, file: &str, further: &[&str]) -> std::process::Command {
    let mut command = binary();
    command.env("RUNTIME_DIRECTORY", folder.join("run"));
    command
        .current_dir(folder)
        .args(further)
        .arg("-c")
        .arg(file);
    command
}

/// As Kubernetes mounts a ConfigMap, and as releases are often laid out.
#[test]
fn the_gateway_is_found_when_the_links_to_its_file_lead_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    std::fs::create_dir(root.join("run")).unwrap();
    for version in ["..1", "..2"] {
        let text = format!(
            "server: {{ threads: 1 }}\nlisteners: [{{ address: 127.0.0.1:0 }}]\nadmin: {{ address: 127.0.0.1:0 }}\n{HELLO}"
        );
        std::fs::create_dir(root.join(version)).unwrap();
        std::fs::write(root.join(version).join("gateway.yaml"), text).unwrap();
    }
    std::os::unix::fs::symlink("..1", root.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/gateway.yaml", root.join("gateway.yaml")).unwrap();
    let gateway = Gateway::launch(in_folder(root, "gateway.yaml", &[]), None);
    let mut line = Line::of(gateway);
    std::os::unix::fs::symlink("..2", root.join("..new")).unwrap();
    std::fs::rename(root.join("..new"), root.join("..data")).unwrap();
    std::fs::remove_dir_all(root.join("..1")).unwrap();
    let run = finish(&mut in_folder(root, "gateway.yaml", &["upgrade"]));
    assert_eq!(run.code, Some(0), "{}", run.output());
    line.adopt_from(&run);
    assert_eq!(line.first.wait_exit().code(), Some(0));
    assert_eq!(get(line.first.addr(), "/").text(), "hello");
}

#[test]
fn a_path_that_was_configured_since_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    std::fs::create_dir(root.join("run")).unwrap();
    let write = |server: &str| {
        let text = format!(
            "server: {{ threads: 1{server} }}\nlisteners: [{{ address: 127.0.0.1:0 }}]\nadmin: {{ address: 127.0.0.1:0 }}\n{HELLO}"
        );
        std::fs::write(root.join("gateway.yaml"), text).unwrap();
    };
    write("");
    let gateway = Gateway::launch(in_folder(root, "gateway.yaml", &[]), None);
    let mut line = Line::of(gateway);
    // Relative, beside a bare name of the file.
    write(", upgrade_socket: one.sock");
    let run = finish(&mut in_folder(root, "gateway.yaml", &["upgrade"]));
    assert_eq!(run.code, Some(0), "{}", run.output());
    let second = line.adopt_from(&run);
    assert_eq!(line.first.wait_exit().code(), Some(0));
    write(", upgrade_socket: two.sock");
    let run = finish(&mut in_folder(root, "gateway.yaml", &["upgrade"]));
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("two.sock: "), "{}", run.stderr);
    assert!(run.stderr.contains("run/"), "{}", run.stderr);
    let with_path = ["upgrade", "--socket", "one.sock"];
    let run = finish(&mut in_folder(root, "gateway.yaml", &with_path));
    assert_eq!(run.code, Some(0), "{}", run.output());
    line.adopt_from(&run);
    wait_end(second);
    assert!(root.join("two.sock").exists() && !root.join("one.sock").exists());
    assert_eq!(get(line.first.addr(), "/").text(), "hello");
}

const SWITCHED: &str = "admin: { address: 127.0.0.1:0, token: key }
shutdown: { keepalive_grace: 20s }
upstreams: { u: { backends: ['127.0.0.1:1'] } }
routes: [{ name: a, upstream: u }]";

/// A successor that was started by hand and serves beside the first.
fn beside(line: &Line) -> Gateway {
    let file = line.first.directory().join("gateway.yaml");
    let mut command = binary();
    command.arg("-u").arg("-c").arg(file);
    let successor = Gateway::launch(command, None);
    eventually("the old process knows", || line.logged("ends at SIGQUIT"));
    successor
}

#[test]
fn a_switch_while_the_successor_waits_is_not_lost() {
    let mut line = Line::of(Gateway::start(SWITCHED));
    let mut kept = Client::connect(line.first.admin());
    assert_eq!(kept.get("/health").status, 200);
    // Keeps the old process for a while.
    let mut stays = line.connect();
    assert_eq!(stays.get("/ready").status, 200);
    let _successor = beside(&line);
    // The old process is in charge of the admin listener alone.
    for _ in 0..20 {
        let on = line
            .first
            .call("/maintenance", "key", "{\"enabled\": true}");
        assert_eq!(on.status, 200, "{}", on.text());
        assert_eq!(on.json()["enabled"], true);
        assert_eq!(
            get(line.first.admin(), "/maintenance").json()["enabled"],
            true
        );
    }
    assert_eq!(kept.get("/health").status, 200);
    line.first.signal("QUIT");
    eventually("it drains", || {
        line.logged("is in charge") && line.logged("draining: another process")
    });
    let token = "Authorization: Bearer key";
    let refused = kept.exchange(format_request(
        "POST",
        "/maintenance",
        &[token],
        b"{\"enabled\": false}",
    ));
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(refused.json()["error"], "handed_over");
    assert_eq!(refused.header("connection"), Some("close"));
    assert_eq!(
        get(line.first.admin(), "/maintenance").json()["enabled"],
        true
    );
    let answer = get(line.first.addr(), "/");
    answer.assert_refusal(503, "maintenance");
    let body = "{\"enabled\": false}";
    // Until it has closed the admin listener, the old process may answer, and refuses.
    eventually("the other one answers", || {
        line.first.call("/maintenance", "key", body).status == 200
    });
    drop(stays);
    assert_eq!(line.first.wait_exit().code(), Some(0));
    assert_eq!(
        get(line.first.admin(), "/maintenance").json()["enabled"],
        false
    );
}

#[test]
fn after_an_upgrade_only_the_successor_takes_calls() {
    let mut line = Line::of(Gateway::start(SWITCHED));
    for on in [true, false, true] {
        let body = format!("{{\"enabled\": {on}}}");
        line.upgrade();
        let answer = line.first.call("/maintenance", "key", &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        line.upgrade();
        let now = get(line.first.admin(), "/maintenance").json();
        assert_eq!(now["enabled"], on);
    }
}

#[test]
fn sigterm_with_a_successor_beside_leaves_everything_to_it() {
    let mut line = Line::of(Gateway::start(SWITCHED));
    let on = line
        .first
        .call("/maintenance", "key", "{\"enabled\": true}");
    assert_eq!(on.status, 200);
    // Keeps the old process for a while.
    let mut stays = line.connect();
    assert_eq!(stays.get("/ready").status, 200);
    let successor = beside(&line);
    line.first.signal("TERM");
    eventually("it drains", || line.logged("draining: another process"));
    assert!(line.first.directory().join("upgrade.sock").exists());
    eventually("the other one is in charge", || {
        let lines = successor.log_lines();
        lines.iter().any(|line| line.contains("is in charge"))
    });
    let call = || {
        let body = "{\"enabled\": true}";
        line.first.call("/maintenance", "key", body).status
    };
    eventually("the other one answers", || call() == 200);
    for _ in 0..20 {
        assert_eq!(call(), 200);
    }
    drop(stays);
    assert_eq!(line.first.wait_exit().code(), Some(0));
    line.upgrade();
    let now = get(line.first.admin(), "/maintenance").json();
    assert_eq!(now["enabled"], true);
}

#[test]
fn a_socket_that_is_gone_is_bound_anew_by_whoever_takes_charge() {
    let mut line = Line::of(Gateway::start(SWITCHED));
    let successor = beside(&line);
    // As the old process does when it is told to end before the other one serves.
    let path = line.first.directory().join("upgrade.sock");
    std::fs::remove_file(&path).unwrap();
    line.first.signal("QUIT");
    assert_eq!(line.first.wait_exit().code(), Some(0));
    eventually("it is there again", || path.exists());
    line.upgrade();
    wait_end(successor.pid());
    assert!(path.exists());
}

#[test]
fn a_successor_is_ready_whatever_its_first_probes_are_waiting_for() {
    let silent = Arc::new(AtomicBool::new(false));
    let is_silent = Arc::clone(&silent);
    let origin = Origin::answering(move |_| match is_silent.load(SeqCst) {
        true => Script::new().hold(),
        false => Script::answer("well"),
    });
    let mut line = Line::of(Gateway::with_upstream(
        &[origin.address()],
        "    health_check: { path: /, interval: 1h, timeout: 1h, initial: unhealthy }",
    ));
    silent.store(true, SeqCst);
    line.upgrade();
    eventually("a probe is on its way", || origin.requests() >= 2);
    assert_eq!(get(line.first.addr(), "/ready").status, 200);
}

#[test]
fn after_the_hand_over_the_old_process_leaves_its_circuits_alone() {
    let mut line = Line::of(Gateway::start(SWITCHED));
    let mut kept = Client::connect(line.first.admin());
    let path = "/upstreams/u/circuit_breaker";
    assert_eq!(kept.get(path).json()["forced"], false);
    // Keeps the old process for a while.
    let mut stays = line.connect();
    assert_eq!(stays.get("/ready").status, 200);
    line.upgrade();
    let token = "Authorization: Bearer key";
    let body = b"{\"state\": \"open\"}";
    let refused = kept.exchange(format_request("POST", path, &[token], body));
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(refused.json()["error"], "handed_over");
    assert!(!line.logged("sets the circuit"));
    assert!(!line.logged("circuit open"));
}
