//! One member of an upstream: what is known of it, and how it is dialled.

use std::sync::Arc;
use std::time::Instant;

use pingora_core::upstreams::peer::{HttpPeer, Peer, Tracer, Tracing};

use super::known::Known;
use crate::config::model;
use crate::metrics::{BackendMetrics, Metrics, UpstreamMetrics};

/// A member of an upstream.
pub struct Backend {
    /// As configured: `host:port`, the `backend` of metrics and logs.
    pub name: Arc<str>,
    /// Its share of the traffic.
    pub weight: u32,
    pub(super) known: Arc<Known>,
    pub(super) metrics: Arc<BackendMetrics>,
    peer: HttpPeer,
    tunnel_peer: HttpPeer,
}

/// How a backend stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is given requests.
    Up,
    /// Its probes fail.
    Down,
    /// Its requests failed; it is left out for a while.
    Ejected,
    /// Its weight is 0.
    Drained,
}

impl State {
    /// The word for it in `/status`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Ejected => "ejected",
            Self::Drained => "drained",
        }
    }
}

impl Backend {
    pub(super) fn new(
        upstream: &model::Upstream,
        backend: &model::Backend,
        metrics: &Metrics,
        known: Arc<Known>,
    ) -> Self {
        let own = metrics.upstream(&upstream.name);
        Self {
            name: Arc::clone(&backend.name),
            weight: backend.weight,
            known,
            metrics: metrics.backend(&upstream.name, &backend.name),
            peer: peer(upstream, backend, &own, upstream.timeouts.read),
            tunnel_peer: peer(upstream, backend, &own, upstream.timeouts.upgraded_idle),
        }
    }

    /// How it stands.
    pub fn state(&self, now: Instant) -> State {
        if self.weight == 0 {
            State::Drained
        } else if !self.known.is_probed_up() {
            State::Down
        } else if self.known.outlier.ejected_until(now).is_some() {
            State::Ejected
        } else {
            State::Up
        }
    }

    /// Requests it is answering.
    pub fn in_flight(&self) -> usize {
        self.known.in_flight()
    }

    /// Its address.
    pub fn address(&self) -> &pingora_core::protocols::l4::socket::SocketAddr {
        self.peer.address()
    }

    /// The peer to dial for one attempt, with its timeouts set.
    pub fn peer(&self, tunnel: bool) -> Box<HttpPeer> {
        Box::new(if tunnel {
            self.tunnel_peer.clone()
        } else {
            self.peer.clone()
        })
    }

    /// Counts a request until the guard is dropped.
    pub(super) fn admit(self: &Arc<Self>) -> Admitted {
        self.known.begin();
        Admitted(Arc::clone(self))
    }
}

/// A request that a backend is answering.
pub struct Admitted(Arc<Backend>);

impl Admitted {
    /// The backend.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.0
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.known.end();
    }
}

/// A peer with every timeout set: Pingora's default is to wait for ever.
fn peer(
    upstream: &model::Upstream,
    backend: &model::Backend,
    metrics: &Arc<UpstreamMetrics>,
    read: std::time::Duration,
) -> HttpPeer {
    let mut peer = HttpPeer::new(backend.address, false, String::new());
    peer.options.tracer = Some(Tracer(Box::new(OpenConnections(Arc::clone(metrics)))));
    let timeouts = &upstream.timeouts;
    peer.options.connection_timeout = Some(timeouts.connect);
    peer.options.total_connection_timeout = Some(timeouts.connect);
    peer.options.read_timeout = Some(read);
    peer.options.write_timeout = Some(timeouts.write);
    peer.options.idle_timeout = Some(upstream.pool.idle_timeout);
    peer
}

/// Told by Pingora when a connection to a backend is made and when it is closed.
#[derive(Clone)]
struct OpenConnections(Arc<UpstreamMetrics>);

impl Tracing for OpenConnections {
    fn on_connected(&self) {
        self.0.connection_opened();
    }

    fn on_disconnected(&self) {
        self.0.connection_closed();
    }

    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(self.clone())
    }
}

impl std::fmt::Debug for OpenConnections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpenConnections")
    }
}
