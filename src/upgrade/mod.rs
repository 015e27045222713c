//! Zero-downtime upgrade: a successor gets the listening sockets, serves beside this process, and
//! only then does this process drain.
//!
//! Both sides speak [`wire`] over a Unix socket. [`control`] is the side of the running gateway,
//! [`predecessor`] that of its successor, [`command`] is `gateway upgrade`, and [`alive`] only asks how
//! it is.

pub mod alive;
pub mod command;
pub mod control;
pub mod place;
pub mod predecessor;
pub mod program;
pub mod wire;

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

/// Names the socket of the gateway that starts a successor, for that successor.
pub const PREDECESSOR: &str = "EDGE_GATEWAY_PREDECESSOR";

/// What a socket that is handed over is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Traffic.
    Listener,
    /// The operators' listener.
    Admin,
    /// Where successors ask.
    Control,
}

/// What is said of a socket that is handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// What it is for.
    pub kind: Kind,
    /// The address as the configuration has it, port 0 included.
    #[serde(default)]
    pub address: Option<SocketAddr>,
}

/// Where this process stands in the line of gateways.
#[derive(Debug, Default)]
pub struct Succession {
    /// The one that runs so far, when this process is its successor.
    pub predecessor: Option<predecessor::Predecessor>,
    /// Where this process's own successor may ask; `None` when it can have none.
    pub place: Option<place::Place>,
}

/// A socket that a successor may have.
#[derive(Debug)]
pub struct Offer {
    /// What it is.
    pub named: Named,
    /// A duplicate.
    pub socket: OwnedFd,
}

impl Offer {
    /// Of a listening socket that was configured with this address.
    pub fn new(kind: Kind, address: SocketAddr, socket: &TcpListener) -> std::io::Result<Self> {
        Ok(Self {
            named: Named {
                kind,
                address: Some(address),
            },
            socket: socket.try_clone()?.into(),
        })
    }
}
