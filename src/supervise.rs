//! `gateway supervise`: a parent for containers. It stays while gateways succeed each other, so that
//! the container lives on; it reaps what they leave, passes signals on to the one in charge, and ends
//! as the last one did.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, kill_process, pidfd_open, wait,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::mpsc;

use crate::notify;

/// The longest message that is understood.
const MAX_MESSAGE: usize = 4096;

/// What it returns when nobody knows how the last gateway ended.
const UNKNOWN: u8 = 1;

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
    /// The gateway in charge, or the last one that was.
    main: Pid,
    /// It, and those before it that still drain. Whatever else is below this process is not waited
    /// for.
    gateways: Vec<Pid>,
    /// What the one in charge returned.
    code: Option<u8>,
    messages: Mailbox,
    child: unix::Signal,
    passed: Vec<(unix::Signal, Signal)>,
    /// Gateways that have ended, children or not.
    ends: (mpsc::UnboundedSender<Pid>, mpsc::UnboundedReceiver<Pid>),
}

impl Supervisor {
    fn start(arguments: &[OsString]) -> io::Result<Self> {
        // Successors outlive the gateway that has started them, and then are ours.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let messages = Mailbox::open()?;
        let child = unix::signal(SignalKind::child())?;
        let passed = passed_signals()?;
        let started = Command::new(program()?)
            .args(arguments)
            .env(notify::SOCKET, &messages.path)
            .spawn()?;
        let pid = i32::try_from(started.id()).ok().and_then(Pid::from_raw);
        let mut supervisor = Self {
            main: pid.ok_or(io::ErrorKind::InvalidData)?,
            gateways: Vec::new(),
            code: None,
            messages,
            child,
            passed,
            ends: mpsc::unbounded_channel(),
        };
        supervisor.put_in_charge(supervisor.main);
        Ok(supervisor)
    }

    async fn watch(mut self) -> io::Result<u8> {
        let mut buffer = vec![0; MAX_MESSAGE];
        loop {
            tokio::select! {
                // A successor is announced before the gateway that it follows ends.
                biased;
                received = self.messages.socket.recv(&mut buffer) => {
                    let text = String::from_utf8_lossy(&buffer[..received?]).into_owned();
                    self.hear(&text);
                }
                signal = asked(&mut self.passed) => self.pass_on(signal),
                _ = self.child.recv() => self.reap()?,
                Some(pid) = self.ends.1.recv() => self.ended(pid),
            }
            if self.gateways.is_empty() {
                // It may have been noticed before it could be reaped.
                self.reap()?;
                return Ok(self.code.unwrap_or(UNKNOWN));
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
        if let Some(pid) = named.filter(|pid| *pid != self.main && is_below(*pid)) {
            self.put_in_charge(pid);
        }
    }

    /// Waits for this process from now on, too. It may be a child of the one before it, so that
    /// its end is no signal for this process.
    #[allow(
        deprecated,
        reason = "what follows it is unsafe; the descriptor is owned here, which is what it asks for"
    )]
    fn put_in_charge(&mut self, pid: Pid) {
        self.main = pid;
        self.code = None;
        if self.gateways.contains(&pid) {
            return;
        }
        self.gateways.push(pid);
        // Where the kernel has no such descriptors, its end is noticed when it is reaped.
        let end = pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(io::Error::from);
        let Ok(end) = end.and_then(|end| AsyncFd::with_interest(end, Interest::READABLE)) else {
            return;
        };
        let tell = self.ends.0.clone();
        tokio::spawn(async move {
            if end.readable().await.is_ok() {
                // Nobody listens when this process is ending, too.
                let _ = tell.send(pid);
            }
        });
    }

    fn pass_on(&self, signal: Signal) {
        let is_there = self.gateways.contains(&self.main);
        let in_charge = |pid: &&Pid| !is_there || **pid == self.main;
        for pid in self.gateways.iter().filter(in_charge) {
            // It may have ended just now; then that is noticed next.
            let _ = kill_process(*pid, signal);
        }
    }

    /// Takes note of every child that has ended.
    fn reap(&mut self) -> io::Result<()> {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if pid == self.main {
                        self.code = Some(exit_code(status));
                    }
                    self.ended(pid);
                }
                Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes note of the end of a gateway. Behind the one in charge there is no other: those that
    /// drain are told that it is over.
    fn ended(&mut self, pid: Pid) {
        let Some(index) = self.gateways.iter().position(|known| *known == pid) else {
            return;
        };
        self.gateways.swap_remove(index);
        if pid == self.main {
            self.pass_on(Signal::TERM);
        }
    }
}

/// The socket through which gateways say who is in charge, where only this user reaches it.
struct Mailbox {
    path: PathBuf,
    socket: tokio::net::UnixDatagram,
}

impl Mailbox {
    /// In the first folder that will do. A container whose root file system is read-only has the
    /// last of them.
    fn open() -> io::Result<Self> {
        let folders = [
            "/run/gateway".into(),
            std::env::temp_dir(),
            "/dev/shm".into(),
        ];
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for folder in folders {
            match Self::open_in(&folder) {
                Ok(mailbox) => return Ok(mailbox),
                Err(error) => last = error,
            }
        }
        let what = format!("no folder to make a private one in: {last}");
        Err(io::Error::new(last.kind(), what))
    }

    fn open_in(folder: &Path) -> io::Result<Self> {
        let id = std::process::id();
        let own = folder.join(format!("supervise-{id}-{:016x}", fastrand::u64(..)));
        std::fs::DirBuilder::new().mode(0o700).create(&own)?;
        let path = own.join("notify");
        let socket = UnixDatagram::bind(&path).and_then(|socket| {
            socket.set_nonblocking(true)?;
            tokio::net::UnixDatagram::from_std(socket)
        });
        match socket {
            Ok(socket) => Ok(Self { path, socket }),
            Err(error) => {
                remove(&path);
                Err(error)
            }
        }
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes the socket and its folder. What cannot be removed harms nobody.
fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
    if let Some(folder) = path.parent() {
        let _ = std::fs::remove_dir(folder);
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

/// Whether a process descends from this one, and is another.
fn is_below(pid: Pid) -> bool {
    let own = rustix::process::getpid();
    let mut at = pid;
    while let Some(above) = parent(at) {
        if above == own {
            return pid != own;
        }
        at = above;
    }
    false
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
    fn only_what_is_below_is_believed() {
        let own = rustix::process::getpid();
        assert!(!is_below(own), "it would pass signals on to itself");
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32).unwrap();
        assert!(is_below(pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_below(pid), "it has ended");
        assert!(!is_below(rustix::process::getppid().unwrap()));
    }
}
