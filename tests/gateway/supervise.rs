//! `gateway supervise`: the parent that stays while gateways succeed each other.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::client::get;
use crate::support::command::{binary, finish};
use crate::support::gateway::config_directory;
use crate::support::succession::{is_alive, send, wait_end};
use crate::support::{Client, Gate, Gateway, Line, Origin, Script, eventually};

fn supervised(yaml: &str) -> Line {
    supervised_by(binary(), yaml)
}

fn supervised_by(mut command: Command, yaml: &str) -> Line {
    let folder = config_directory(yaml);
    command
        .args(["supervise", "--", "-c"])
        .arg(folder.path().join("gateway.yaml"));
    Line::of(Gateway::launch(command, Some(folder)))
}

fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect()
}

#[test]
fn it_outlives_upgrades_and_ends_with_the_last_gateway() {
    let mut line = supervised("routes: [{ name: a, respond: { body: hello } }]");
    let parent = line.first.pid();
    let first = children(parent)[0];
    line.adopt(first);
    let second = line.upgrade();
    wait_end(first);
    let third = line.upgrade();
    wait_end(second);
    assert!(is_alive(parent));
    assert_eq!(get(line.first.addr(), "/").text(), "hello");
    eventually("the last is a child, and nothing else is left", || {
        children(parent) == [third]
    });
    line.first.signal("TERM");
    assert_eq!(line.first.wait_exit().code(), Some(0));
    assert!(!is_alive(third));
}

#[test]
fn its_exit_code_is_the_gateways() {
    let folder = config_directory("nonsense: 1");
    let file = folder.path().join("gateway.yaml");
    let run = finish(binary().args(["supervise", "--", "-c"]).arg(&file));
    assert_eq!(run.code, Some(1), "{}", run.output());
    assert!(run.stderr.contains("nonsense"), "{}", run.stderr);
    let run = finish(binary().args(["supervise", "--", "-t", "conf/gateway.yaml"]));
    assert_eq!(run.code, Some(0), "{}", run.output());
}

/// Where the gateway tells its supervisor who is in charge.
fn mailbox(pid: u32) -> PathBuf {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let mut variables = environment.split(|byte| *byte == 0);
    let path = variables.find_map(|line| line.strip_prefix(b"NOTIFY_SOCKET="));
    OsString::from_vec(path.expect("the variable").to_vec()).into()
}

#[test]
fn it_cannot_be_told_that_it_is_in_charge_itself() {
    let mut line = supervised("routes: [{ name: a, respond: { body: hello } }]");
    let parent = line.first.pid();
    let gateway = children(parent)[0];
    line.adopt(gateway);
    let path = mailbox(gateway);
    let folder = path.parent().unwrap().to_owned();
    let mode = std::fs::metadata(&folder).unwrap().mode();
    assert_eq!(mode & 0o777, 0o700, "others cannot reach it");
    let sender = UnixDatagram::unbound().unwrap();
    let lie = format!("MAINPID={parent}");
    sender.send_to(lie.as_bytes(), &path).unwrap();
    line.first.signal("TERM");
    assert_eq!(line.first.wait_exit().code(), Some(0));
    assert!(!is_alive(gateway));
    assert!(!folder.exists(), "nothing is left behind");
}

#[test]
fn a_successor_that_crashes_ends_those_before_it() {
    let gate = Gate::new();
    let origin = Origin::script(
        Script::new()
            .wait(&gate)
            .send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate"),
    );
    let backend = origin.address();
    let mut line = supervised(&format!(
        "routes: [{{ name: a, upstream: 'http://{backend}' }}]"
    ));
    let first = children(line.first.pid())[0];
    line.adopt(first);
    let mut client = Client::connect(line.first.addr());
    client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("the request is under way", || origin.requests() == 1);
    let second = line.upgrade();
    assert!(is_alive(first), "it drains");
    send(second, "KILL");
    let told = "asked to stop: this process is ending already";
    eventually("the first is told", || line.logged(told));
    gate.open();
    assert_eq!(client.read_response().text(), "late");
    wait_end(first);
    assert_eq!(line.first.wait_exit().code(), Some(128 + 9));
}

#[test]
fn it_waits_for_gateways_and_for_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let called = folder.path().join("gateway");
    let real = Path::new(env!("CARGO_BIN_EXE_gateway"));
    symlink(real, &called).unwrap();
    let mut command = binary();
    command.arg0(&called);
    let mut line = supervised_by(command, "routes: [{ name: a, respond: { body: hello } }]");
    line.adopt(children(line.first.pid())[0]);
    // A program that leaves something behind in the background.
    let noted = folder.path().join("pid");
    let script = format!(
        "#!/bin/sh\nsleep 600 </dev/null >/dev/null 2>&1 &\necho $! >{}\nexec {} \"$@\"\n",
        noted.display(),
        real.display()
    );
    let new = folder.path().join("new");
    std::fs::write(&new, script).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(&new, &called).unwrap();
    line.upgrade();
    let stranger: u32 = std::fs::read_to_string(&noted)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    line.adopt(stranger);
    line.first.signal("TERM");
    assert_eq!(line.first.wait_exit().code(), Some(0));
    assert!(is_alive(stranger));
}
