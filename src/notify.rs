//! Tells the service manager what the process does, as `sd_notify(3)` describes it. Without
//! `NOTIFY_SOCKET` nothing is told.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The variable that names the manager's socket.
pub const SOCKET: &str = "NOTIFY_SOCKET";

/// The process serves.
pub fn ready() {
    tell("READY=1\nSTATUS=serving");
}

/// The process, which the manager may not know yet, is the service's main one and serves.
pub fn in_charge() {
    let pid = std::process::id();
    tell(&format!("MAINPID={pid}\nREADY=1\nSTATUS=serving"));
}

/// Another process is the main one from now on.
pub fn main_process(pid: i32) {
    tell(&format!("MAINPID={pid}\nSTATUS=process {pid} is in charge"));
}

/// The configuration is being loaded again. [`ready`] says that this has ended.
pub fn reloading() {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
}

/// The process drains and ends.
pub fn stopping() {
    tell("STOPPING=1\nSTATUS=draining");
}

fn tell(message: &str) {
    let Some(socket) = std::env::var_os(SOCKET) else {
        return;
    };
    if let Err(error) = send(&socket, message) {
        log::warn!("the service manager cannot be told: {error}");
    }
}

fn send(socket: &OsStr, message: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    // The manager may be slow, and is not worth waiting for.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let count = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    #[test]
    fn a_path_and_an_abstract_name_are_reached() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1").unwrap();
        assert_eq!(received(&manager), "READY=1");
        let name = format!("gateway-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        send(OsStr::new(&format!("@{name}")), "STOPPING=1").unwrap();
        assert_eq!(received(&manager), "STOPPING=1");
        assert!(send(OsStr::new("/no/such/socket"), "READY=1").is_err());
    }
}
