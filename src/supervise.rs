//! `gateway supervise`: a parent for containers. It stays while gateways succeed each other, so that
//! the container lives on; it reaps what they leave, passes signals on to the one in charge, and ends
//! as the last one did.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use tokio::signal::unix::{self, SignalKind};

use crate::notify;

/// The longest message that is understood.
const MAX_MESSAGE: usize = 4096;

/// Starts this program with these arguments and stays until it and its successors have ended. The
/// answer is the exit code.
pub fn run(arguments: &[OsString]) -> io::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let supervisor = Supervisor::start(arguments)?;
        supervisor.watch().await
    })
}

struct Supervisor {
    /// The gateway in charge.
    main: Pid,
    /// What the last process that ended returned.
    code: u8,
    messages: tokio::net::UnixDatagram,
    child: unix::Signal,
    passed: Vec<(unix::Signal, Signal)>,
}

impl Supervisor {
    fn start(arguments: &[OsString]) -> io::Result<Self> {
        // Successors outlive the gateway that has started them, and then are ours.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let name = format!("gateway-{}-{:016x}", std::process::id(), fastrand::u64(..));
        let messages = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        messages.set_nonblocking(true)?;
        let child = unix::signal(SignalKind::child())?;
        let passed = passed_signals()?;
        let started = Command::new(program()?)
            .args(arguments)
            .env(notify::SOCKET, format!("@{name}"))
            .spawn()?;
        let pid = i32::try_from(started.id()).ok().and_then(Pid::from_raw);
        Ok(Self {
            main: pid.ok_or(io::ErrorKind::InvalidData)?,
            code: 0,
            messages: tokio::net::UnixDatagram::from_std(messages)?,
            child,
            passed,
        })
    }

    async fn watch(mut self) -> io::Result<u8> {
        let mut buffer = vec![0; MAX_MESSAGE];
        loop {
            tokio::select! {
                // A successor is announced before the gateway that it follows ends.
                biased;
                received = self.messages.recv(&mut buffer) => {
                    let text = String::from_utf8_lossy(&buffer[..received?]).into_owned();
                    self.hear(&text);
                }
                signal = asked(&mut self.passed) => self.pass_on(signal),
                _ = self.child.recv() => {
                    if self.reap()? {
                        return Ok(self.code);
                    }
                }
            }
        }
    }

    /// Learns who is in charge. Only a process below this one is believed to be.
    fn hear(&mut self, message: &str) {
        let named = message
            .lines()
            .find_map(|line| line.strip_prefix("MAINPID="))
            .and_then(|pid| pid.parse().ok())
            .and_then(Pid::from_raw);
        if let Some(pid) = named.filter(|pid| is_ours(*pid)) {
            self.main = pid;
        }
    }

    fn pass_on(&self, signal: Signal) {
        // It may have ended just now; then that is noticed next.
        let _ = kill_process(self.main, signal);
    }

    /// Takes note of every process that has ended. True when none is left.
    fn reap(&mut self) -> io::Result<bool> {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((_, status))) => self.code = exit_code(status),
                Ok(None) => return Ok(false),
                Err(rustix::io::Errno::CHILD) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// This program, found as it was called, so that a replaced file is the new version.
fn program() -> io::Result<std::path::PathBuf> {
    crate::upgrade::program::Program::current().map(|program| program.path().to_owned())
}

fn passed_signals() -> io::Result<Vec<(unix::Signal, Signal)>> {
    [
        (SignalKind::terminate(), Signal::TERM),
        (SignalKind::interrupt(), Signal::INT),
        (SignalKind::hangup(), Signal::HUP),
        (SignalKind::quit(), Signal::QUIT),
    ]
    .into_iter()
    .map(|(kind, signal)| Ok((unix::signal(kind)?, signal)))
    .collect()
}

/// Waits for a signal that is passed on.
async fn asked(passed: &mut [(unix::Signal, Signal)]) -> Signal {
    std::future::poll_fn(|context| {
        for (received, signal) in &mut *passed {
            if received.poll_recv(context).is_ready() {
                return std::task::Poll::Ready(*signal);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

/// Whether a process descends from this one.
fn is_ours(pid: Pid) -> bool {
    let own = rustix::process::getpid();
    let mut at = pid;
    while at != own {
        match parent(at) {
            Some(above) => at = above,
            None => return false,
        }
    }
    true
}

fn parent(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The name may hold anything, but nothing behind its end does.
    let (_, rest) = stat.rsplit_once(") ")?;
    Pid::from_raw(rest.split(' ').nth(1)?.parse().ok()?)
}

/// As a shell has it: a signal's number behind 128.
fn exit_code(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        _ => 1,
    };
    u8::try_from(code).unwrap_or(1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_is_ours() {
        let own = rustix::process::getpid();
        assert!(is_ours(own));
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32).unwrap();
        assert!(is_ours(pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_ours(pid), "it has ended");
        assert!(!is_ours(rustix::process::getppid().unwrap()));
    }
}
