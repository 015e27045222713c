//! What the gateway does to its own process.

use std::process::Command;

use crate::support::Gateway;

#[test]
fn the_limit_on_open_files_is_raised_as_far_as_allowed() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -S -n 256 && exec \"$0\" \"$@\""]);
    command.arg(env!("CARGO_BIN_EXE_gateway"));
    command.args(["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let gateway = Gateway::launch(command, None);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.pid())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let soft: u64 = files.split_whitespace().nth(3).unwrap().parse().unwrap();
    let hard: u64 = files.split_whitespace().nth(4).unwrap().parse().unwrap();
    assert_eq!(soft, hard.min(3000), "{files}");
}
