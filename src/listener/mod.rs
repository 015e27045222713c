//! The edge towards clients: accepting connections and judging what comes in through them before
//! anything acts on it.

pub mod accept;
pub mod arrival;
pub mod client_addr;
pub mod clients;
pub mod connection;
pub mod framing;
pub mod head;
pub mod lease;
pub mod nominated;
pub mod normalize;
pub mod pace;
#[cfg(test)]
mod panics;
pub mod proxy_protocol;
pub mod stream;
pub mod transport;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;

use crate::config::model;
use crate::metrics::{ListenerMetrics, Metrics};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// What the system takes over for a client beyond what is on its way to it. Half of it gone is what
/// progress means to `limits.response_write_timeout`; without it, that is a third of some megabytes.
const UNSENT_BYTES: u32 = 128 * 1024;

/// A listener as connections and requests see it.
pub struct ListenerState {
    /// Its label in metrics and logs.
    pub name: Arc<str>,
    /// What is measured of it.
    pub metrics: Arc<ListenerMetrics>,
    settings: ArcSwap<Settings>,
}

impl ListenerState {
    /// Of a configured listener.
    pub fn new(config: &model::Listener, settings: Settings, metrics: &Metrics) -> Self {
        Self {
            name: Arc::clone(&config.name),
            metrics: metrics.listener(&config.name),
            settings: ArcSwap::from_pointee(settings),
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Puts other settings into force, for what begins from now on.
    pub fn adopt(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }
}

/// What of a listener can change while it is open.
pub struct Settings {
    /// Whether the health endpoints are answered here.
    pub health: bool,
    /// Who may read `/metrics` here.
    pub metrics_allow: Vec<IpNet>,
    /// Who says by the PROXY protocol who its client is.
    pub proxy_protocol: Vec<IpNet>,
}

impl Settings {
    /// Builds what the configuration asks for.
    pub fn compile(config: &model::Listener) -> Self {
        Self {
            health: config.health,
            metrics_allow: config.metrics_allow.clone(),
            proxy_protocol: config.proxy_protocol.clone(),
        }
    }
}

/// Binds an address, so that one in use is found before anything starts.
pub fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A restart must not wait for old connections in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Accepted sockets inherit both, which saves calls for each.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
