//! The successor's side: takes the running gateway's sockets, and says when it serves.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::oneshot;

use super::place::{self, Place};
use super::wire::{Link, Message};
use super::{Kind, Named, PREDECESSOR};

/// The running gateway answers at once; it only has to duplicate descriptors.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at whether the running gateway still waits. It says when it does not.
const LISTEN: Duration = Duration::from_secs(3600);

/// The gateway that runs so far, and what it has handed over.
#[derive(Debug)]
pub struct Predecessor {
    link: Link,
    path: PathBuf,
    sockets: Vec<(Named, OwnedFd)>,
    state: Value,
    keeps_control: bool,
}

impl Predecessor {
    /// The gateway that has started this process as its successor; `None` when there is none.
    pub fn that_started_us() -> Option<io::Result<Self>> {
        let path = PathBuf::from(std::env::var_os(PREDECESSOR)?);
        Some(place::connect(&path).and_then(|link| Self::take(path, link, true)))
    }

    /// The gateway that listens at this place.
    pub fn at(place: &Place) -> io::Result<Self> {
        let (path, link) = place.connect()?;
        Self::take(path, link, false)
    }

    fn take(path: PathBuf, mut link: Link, spawned: bool) -> io::Result<Self> {
        link.send(&Message::Take { spawned })?;
        let mut sockets = Vec::new();
        let state = loop {
            match link.receive(PATIENCE)? {
                Some((
                    Message::Sockets {
                        sockets: named,
                        more,
                        state,
                    },
                    passed,
                )) => {
                    if named.len() != passed.len() {
                        return Err(io::Error::other("fewer sockets than were announced"));
                    }
                    sockets.extend(named.into_iter().zip(passed));
                    if !more {
                        break state;
                    }
                }
                Some((Message::Refused { reason }, _)) => return Err(io::Error::other(reason)),
                Some((Message::Again, _)) => {
                    return Err(io::Error::other("it is being replaced just now"));
                }
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        };
        Ok(Self {
            link,
            path,
            sockets,
            state,
            keeps_control: false,
        })
    }

    /// What it found worth keeping beside the sockets.
    pub fn state(&self) -> &Value {
        &self.state
    }

    /// The socket that was configured with this address, if it is there.
    pub fn listener(&mut self, kind: Kind, address: SocketAddr) -> Option<TcpListener> {
        let is_it = |wanted_kind: bool| {
            move |(named, _): &(Named, OwnedFd)| {
                named.address == Some(address) && (!wanted_kind || named.kind == kind)
            }
        };
        let mut found = self.sockets.iter().position(is_it(true));
        // A port that the system chose belongs to what it was chosen for.
        if found.is_none() && address.port() != 0 {
            found = self.sockets.iter().position(is_it(false));
        }
        let (_, socket) = self.sockets.swap_remove(found?);
        let listener = TcpListener::from(socket);
        listener.set_nonblocking(true).ok().map(|()| listener)
    }

    /// The socket that successors ask through, if it is the one at this path.
    pub fn control(&mut self, place: &Place) -> Option<place::Bound> {
        if !place.holds(&self.path) {
            return None;
        }
        let of_control = |(named, _): &(Named, OwnedFd)| named.kind == Kind::Control;
        let found = self.sockets.iter().position(of_control)?;
        let (_, socket) = self.sockets.swap_remove(found);
        self.keeps_control = true;
        Some(place::Bound {
            path: self.path.clone(),
            listener: UnixListener::from(socket),
        })
    }

    /// Says why there will be no successor.
    pub fn failed(mut self, reason: &str) {
        let reason = reason.to_owned();
        // When nobody listens any more, nobody is waiting either.
        let _ = self.link.send(&Message::Failed { reason });
    }

    /// Says that this process serves. The answer comes when the other one leaves: what it leaves
    /// (nothing, when it left without a word), or `None` when it has given this one up and goes on
    /// itself.
    pub fn ready(mut self) -> io::Result<oneshot::Receiver<Option<Value>>> {
        // What was not taken is closed here, so that the addresses are free when the other leaves.
        self.sockets.clear();
        let (tell, told) = oneshot::channel();
        std::thread::Builder::new()
            .name("predecessor".to_owned())
            .spawn(move || {
                let keeps_control = self.keeps_control;
                let left = match self.link.send(&Message::Ready { keeps_control }) {
                    Ok(()) => self.wait(),
                    Err(_) => Some(Value::Null),
                };
                // Nobody waits for it when this process is ending, too.
                let _ = tell.send(left);
            })?;
        Ok(told)
    }

    fn wait(&mut self) -> Option<Value> {
        loop {
            match self.link.receive(LISTEN) {
                Ok(Some((Message::Refused { reason }, _))) => {
                    log::error!("the running gateway goes on by itself: {reason}");
                    return None;
                }
                Ok(Some((Message::Go { state }, _))) => return Some(state),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // It ended without a word, so this process is the only one.
                _ => return Some(Value::Null),
            }
        }
    }
}
