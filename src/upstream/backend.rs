//! One member of an upstream: what is known of it, and how it is dialled.

use std::sync::Arc;
use std::time::Instant;

use pingora_core::upstreams::peer::HttpPeer;

use super::known::Known;
use super::peer::{Peers, Purpose};
use crate::config::model;
use crate::metrics::{BackendMetrics, Metrics};
use crate::tls::backend::BackendTls;

/// A member of an upstream.
pub struct Backend {
    /// As configured: `host:port`, the `backend` of metrics and logs.
    pub name: Arc<str>,
    /// Its share of the traffic.
    pub weight: u32,
    pub(super) known: Arc<Known>,
    pub(super) metrics: Arc<BackendMetrics>,
    pub(super) peers: Peers,
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
        tls: Option<&BackendTls>,
        metrics: &Metrics,
        known: Arc<Known>,
        now: Instant,
    ) -> Self {
        let own = metrics.upstream(&upstream.name);
        Self {
            name: Arc::clone(&backend.name),
            weight: backend.weight,
            known,
            metrics: metrics.backend(&upstream.name, &backend.name),
            peers: Peers::new(upstream, backend, tls, &own, now),
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
        self.peers.address()
    }

    /// The peer to dial.
    pub fn peer(&self, purpose: Purpose) -> Box<HttpPeer> {
        self.peers.get(purpose)
    }

    /// What tells its connections from others, for this purpose.
    pub fn key(&self, purpose: Purpose) -> u64 {
        self.peers.key(purpose)
    }

    /// Whether it may be spoken to by HTTP/2 for this purpose.
    pub fn shares(&self, purpose: Purpose) -> bool {
        self.peers.shares(purpose)
    }

    /// Whether it is reached by TLS.
    pub fn is_tls(&self) -> bool {
        self.peers.is_tls()
    }

    /// Whether it may be spoken to by HTTP/2.
    pub fn may_speak_http2(&self) -> bool {
        self.peers.may_share()
    }

    /// Whether it must be spoken to by HTTP/2 and nothing else.
    pub fn insists_on_http2(&self) -> bool {
        self.peers.insists_on_http2()
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
