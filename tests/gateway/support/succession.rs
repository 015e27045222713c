//! Gateways that succeed each other: the first is a [`Gateway`], the others are found by their ids.

use std::process::Command;

use super::command::{Finished, binary, finish};
use super::wait::eventually;
use super::{Client, Gateway};

/// A gateway and its successors, all of which are killed on drop.
pub struct Line {
    /// The first.
    pub first: Gateway,
    successors: Vec<u32>,
}

impl Line {
    /// Begins with this one.
    pub fn of(first: Gateway) -> Self {
        Self {
            first,
            successors: Vec::new(),
        }
    }

    /// Runs `gateway upgrade`.
    pub fn try_upgrade(&self) -> Finished {
        let file = self.first.directory().join("gateway.yaml");
        finish(binary().arg("upgrade").arg("-c").arg(file))
    }

    /// Runs it and expects a successor; the answer is its id.
    #[track_caller]
    pub fn upgrade(&mut self) -> u32 {
        let run = self.try_upgrade();
        assert_eq!(run.code, Some(0), "{}", run.output());
        self.adopt_from(&run)
    }

    /// The successor that `gateway upgrade` tells of.
    #[track_caller]
    pub fn adopt_from(&mut self, run: &Finished) -> u32 {
        let pid = run
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix("upgrade: process ")?.split(' ').next())
            .unwrap_or_else(|| panic!("no process in {:?}", run.stdout));
        self.adopt(pid.parse().expect("a number"))
    }

    /// A process that is to be killed at the end.
    pub fn adopt(&mut self, pid: u32) -> u32 {
        self.successors.push(pid);
        pid
    }

    /// Puts another configuration in the place of the first.
    pub fn rewrite(&self, yaml: &str) {
        let file = self.first.directory().join("gateway.yaml");
        std::fs::write(file, yaml).expect("write");
    }

    /// The text of the configuration.
    pub fn configuration(&self) -> String {
        let file = self.first.directory().join("gateway.yaml");
        std::fs::read_to_string(file).expect("the configuration")
    }

    /// Whether the log has a line with this.
    pub fn logged(&self, what: &str) -> bool {
        let lines = self.first.log_lines();
        lines.iter().any(|line| line.contains(what))
    }

    /// A connection to the first listener.
    pub fn connect(&self) -> Client {
        self.first.connect()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        for pid in &self.successors {
            if is_alive(*pid) {
                send(*pid, "KILL");
            }
        }
    }
}

/// Whether the process is there and has not ended.
pub fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some(Some('Z' | 'X')))
}

/// Sends a signal by its name.
pub fn send(pid: u32, signal: &str) {
    let status = Command::new("sh")
        .arg("-c")
        .arg(format!("kill -{signal} {pid}"))
        .status()
        .expect("run kill");
    assert!(status.success());
}

/// Waits for the end of a process that need not be a child.
#[track_caller]
pub fn wait_end(pid: u32) {
    eventually("the process ends", || !is_alive(pid));
}
