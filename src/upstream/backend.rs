//! One member of an upstream: what is known of it, and how it is dialled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use pingora_core::upstreams::peer::HttpPeer;

use super::outlier::Outlier;
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
    /// What its requests say of it.
    pub(super) outlier: Outlier,
    /// What its probes say of it.
    probed_up: AtomicBool,
    in_flight: AtomicUsize,
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
        now: Instant,
    ) -> Self {
        let own = metrics.upstream(&upstream.name);
        Self {
            name: Arc::clone(&backend.name),
            weight: backend.weight,
            outlier: Outlier::new(now),
            probed_up: AtomicBool::new(true),
            in_flight: AtomicUsize::new(0),
            metrics: metrics.backend(&upstream.name, &backend.name),
            peers: Peers::new(upstream, backend, tls, &own, now),
        }
    }

    /// How it stands.
    pub fn state(&self, now: Instant) -> State {
        if self.weight == 0 {
            State::Drained
        } else if !self.probed_up.load(Ordering::Relaxed) {
            State::Down
        } else if self.outlier.ejected_until(now).is_some() {
            State::Ejected
        } else {
            State::Up
        }
    }

    /// Requests it is answering.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Its address.
    pub fn address(&self) -> &pingora_core::protocols::l4::socket::SocketAddr {
        self.peers.address()
    }

    /// Takes over what probes found; says whether that is a change.
    pub(super) fn set_probed(&self, up: bool) -> bool {
        self.probed_up.swap(up, Ordering::Relaxed) != up
    }

    /// The peer to dial for one attempt, with its timeouts set.
    pub fn peer(&self, purpose: Purpose) -> Box<HttpPeer> {
        self.peers.get(purpose)
    }

    /// Whether it must be spoken to by HTTP/2 and nothing else.
    pub fn insists_on_http2(&self) -> bool {
        self.peers.insists_on_http2()
    }

    /// Counts a request until the guard is dropped.
    pub(super) fn admit(self: &Arc<Self>) -> Admitted {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
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
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
