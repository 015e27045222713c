//! The edge towards clients: accepting connections and judging what comes in through them before
//! anything acts on it.

pub mod accept;
pub mod arrival;
pub mod client_addr;
pub mod clients;
pub mod connection;
pub mod ending;
pub mod exchange;
pub mod framing;
pub mod h2;
pub mod handshake;
pub mod head;
pub mod nominated;
pub mod normalize;
pub mod pace;
#[cfg(test)]
mod panics;
pub mod proxy_protocol;
pub mod respond;
pub mod stream;
pub mod transport;
pub mod turn;
pub mod websocket;
pub mod wire;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;

use crate::config::Fault;
use crate::config::model;
use crate::metrics::{ListenerMetrics, Metrics};
use crate::tls::Terminator;

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
        let state = Self {
            name: Arc::clone(&config.name),
            metrics: metrics.listener(&config.name),
            settings: ArcSwap::from_pointee(settings),
        };
        state.tell_expiries(&state.settings());
        state
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Where requests are sent, if this plain listener serves none. Asked for every request, so it
    /// does not touch what the workers share.
    pub fn https_redirect(&self) -> Option<model::Redirect> {
        self.settings.load().https_redirect.clone()
    }

    /// Puts other settings into force, for what begins from now on.
    pub fn adopt(&self, settings: Settings) {
        let settings = Arc::new(settings);
        self.settings.rcu(|current| {
            settings.inherit(current);
            Arc::clone(&settings)
        });
        self.tell_expiries(&settings);
    }

    /// The same, unless other settings than `current` are in force by now. Says whether it was done.
    pub fn adopt_after(&self, current: &Arc<Settings>, settings: Settings) -> bool {
        settings.inherit(current);
        let settings = Arc::new(settings);
        let before = self
            .settings
            .compare_and_swap(current, Arc::clone(&settings));
        let done = Arc::ptr_eq(&before, current);
        if done {
            self.tell_expiries(&settings);
        }
        done
    }

    fn tell_expiries(&self, settings: &Settings) {
        let expiries = settings.tls.iter().flat_map(|tls| tls.expiries());
        self.metrics.tls().set_expiries(
            expiries
                .map(|expiry| (expiry.server_name, expiry.not_after))
                .collect(),
        );
    }
}

/// What of a listener can change while it is open.
#[derive(Clone)]
pub struct Settings {
    /// Whether the health endpoints are answered here.
    pub health: bool,
    /// Whether HTTP/2 is spoken without TLS, to clients that begin with it.
    pub h2c: bool,
    /// Who may read `/metrics` here.
    pub metrics_allow: Vec<IpNet>,
    /// What handshakes need; `None` for a plain listener.
    pub tls: Option<Arc<Terminator>>,
    /// Where a plain listener sends its requests.
    pub https_redirect: Option<model::Redirect>,
    /// Who says by the PROXY protocol who its client is.
    pub proxy_protocol: Vec<IpNet>,
}

impl Settings {
    /// Builds what the configuration asks for, and reads the files that it names.
    ///
    /// # Errors
    ///
    /// When a file of `tls` cannot be used. Keys begin below the listener's `tls`.
    pub fn compile(config: &model::Listener) -> Result<Self, Vec<Fault>> {
        let tls = config.tls.as_ref().map(Terminator::load).transpose()?;
        Ok(Self {
            health: config.health,
            h2c: config.h2c,
            metrics_allow: config.metrics_allow.clone(),
            proxy_protocol: config.proxy_protocol.clone(),
            tls: tls.map(Arc::new),
            https_redirect: config.https_redirect.map(to_https),
        })
    }

    /// Takes over what has to outlive a change of settings.
    fn inherit(&self, previous: &Self) {
        if let (Some(own), Some(previous)) = (&self.tls, &previous.tls) {
            own.inherit(previous);
        }
    }
}

/// The same URL by `https`. Clients repeat method and body (RFC 9110 section 15.4.9).
fn to_https(port: u16) -> model::Redirect {
    model::Redirect {
        status: http::StatusCode::PERMANENT_REDIRECT,
        scheme: Some("https".to_owned()),
        host: None,
        port: Some(port),
        path: None,
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
