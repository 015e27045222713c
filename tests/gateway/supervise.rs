//! `gateway supervise`: the parent that stays while gateways succeed each other.

use crate::support::client::get;
use crate::support::command::{binary, finish};
use crate::support::gateway::config_directory;
use crate::support::succession::{is_alive, wait_end};
use crate::support::{Gateway, Line, eventually};

fn supervised(yaml: &str) -> Line {
    let folder = config_directory(yaml);
    let mut command = binary();
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
