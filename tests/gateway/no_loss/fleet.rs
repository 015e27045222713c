//! The processes of one gateway through its upgrades, found by the configuration that they share.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Everything that runs with one configuration file; whatever is left is killed on drop.
pub struct Fleet {
    config: PathBuf,
}

impl Fleet {
    /// The processes of this configuration file, which no other gateway uses.
    pub fn of(config: &Path) -> Self {
        Self {
            config: config.to_owned(),
        }
    }

    /// The running ones, the oldest first.
    pub fn pids(&self) -> Vec<u32> {
        let entries = std::fs::read_dir("/proc").expect("/proc");
        let mut found: Vec<(u64, u32)> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| self.owns(*pid))
            .filter_map(|pid| Some((started(pid)?, pid)))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, pid)| pid).collect()
    }

    /// A process that ended in the meantime has an empty command line.
    fn owns(&self, pid: u32) -> bool {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut arguments = line.split(|byte| *byte == 0).skip(1).peekable();
        let is_command = arguments.peek() == Some(&b"upgrade".as_slice());
        let config = self.config.as_os_str().as_encoded_bytes();
        !is_command && arguments.any(|argument| argument == config)
    }

    /// The youngest, which serves.
    #[track_caller]
    pub fn newest(&self) -> u32 {
        *self.pids().last().expect("a running gateway")
    }

    /// Sends a signal by its name to each of these.
    pub fn signal(name: &str, pids: &[u32]) {
        for pid in pids {
            // One that has just ended cannot be told, which is no harm.
            drop(
                Command::new("sh")
                    .arg("-c")
                    .arg(format!("kill -{name} {pid} 2>/dev/null"))
                    .status(),
            );
        }
    }

    /// Resident memory in KiB and the number of open files.
    pub fn usage(pid: u32) -> (u64, usize) {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = resident.and_then(|text| text.split_whitespace().next()?.parse().ok());
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        (number.unwrap_or(0), files)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        Self::signal("KILL", &self.pids());
    }
}

/// When a process began, in ticks since the machine did.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}
