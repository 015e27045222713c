//! How a backend is dialled: peers that are ready-made, and cloned for each attempt.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::upstreams::peer::{ALPN, HttpPeer, Peer, Tracer, Tracing};

use crate::config::model::{self, Protocol};
use crate::metrics::UpstreamMetrics;
use crate::tls::backend::BackendTls;

/// What a connection is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A request.
    Request,
    /// A request to change the protocol, which HTTP/1.1 alone has.
    Tunnel,
}

/// The ways to one backend.
pub(super) struct Peers {
    request: HttpPeer,
    tunnel: HttpPeer,
    /// What tells connections of the one and of the other from those to elsewhere.
    keys: (u64, u64),
    protocol: Protocol,
    tls: Option<u64>,
    /// How often its HTTP/2 connections were given up; makes a part of the pool's key.
    generation: AtomicU64,
    /// When it last answered, in microseconds since `epoch`; kept where connections are shared.
    answered: AtomicU64,
    epoch: Instant,
}

impl Peers {
    pub(super) fn new(
        upstream: &model::Upstream,
        backend: &model::Backend,
        tls: Option<&BackendTls>,
        metrics: &Arc<UpstreamMetrics>,
        now: Instant,
    ) -> Self {
        let peer = |alpn| {
            let mut peer = base(upstream, backend, metrics);
            if let Some(tls) = tls {
                tls.encrypt(&mut peer, &backend.server_name);
            }
            peer.group_key = group_key(&upstream.name, tls);
            peer.options.alpn = alpn;
            peer
        };
        let alpn = match (upstream.protocol, tls.is_some()) {
            (Protocol::Http1, _) | (Protocol::Auto, false) => ALPN::H1,
            (Protocol::Auto, true) => ALPN::H2H1,
            (Protocol::Http2, _) => ALPN::H2,
        };
        let request = peer(alpn);
        let tunnel = peer(ALPN::H1);
        Self {
            keys: (request.reuse_hash(), tunnel.reuse_hash()),
            request,
            tunnel,
            protocol: upstream.protocol,
            tls: tls.map(BackendTls::fingerprint),
            generation: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            epoch: now,
        }
    }

    /// What tells its TLS from another; `None` without TLS.
    pub(super) fn tls_fingerprint(&self) -> Option<u64> {
        self.tls
    }

    pub(super) fn address(&self) -> &SocketAddr {
        self.request.address()
    }

    /// The peer to dial.
    pub(super) fn get(&self, purpose: Purpose) -> Box<HttpPeer> {
        let mut peer = Box::new(match purpose {
            Purpose::Tunnel => self.tunnel.clone(),
            Purpose::Request => self.request.clone(),
        });
        peer.group_key = peer.group_key.wrapping_add(self.generation.load(Relaxed));
        peer
    }

    /// What tells its connections from others.
    pub(super) fn key(&self, purpose: Purpose) -> u64 {
        let key = match purpose {
            Purpose::Tunnel => self.keys.1,
            Purpose::Request => self.keys.0,
        };
        key.wrapping_add(self.generation.load(Relaxed))
    }

    /// Whether HTTP/2 may be spoken for this purpose.
    pub(super) fn shares(&self, purpose: Purpose) -> bool {
        match purpose {
            Purpose::Request => self.may_share(),
            Purpose::Tunnel => false,
        }
    }

    /// Whether TLS is spoken.
    pub(super) fn is_tls(&self) -> bool {
        self.request.is_tls()
    }

    /// Whether the backend must be spoken to by HTTP/2 and nothing else.
    pub(super) fn insists_on_http2(&self) -> bool {
        self.protocol == Protocol::Http2
    }

    /// Whether requests may share a connection.
    pub(super) fn may_share(&self) -> bool {
        self.request.options.alpn.get_max_http_version() == 2
    }

    /// The backend answered.
    pub(super) fn answered(&self, now: Instant) {
        if self.may_share() {
            self.answered.store(self.micros(now), Relaxed);
        }
    }

    /// An attempt that began at `started` waited in vain. Says whether the connections are given up.
    ///
    /// A shared connection that hangs would take every further request down with it. When nothing at
    /// all was answered since the attempt began, that is what it looks like, and the next request
    /// gets a new connection. When there were answers, the request alone was slow.
    pub(super) fn waited_in_vain(&self, started: Instant) -> bool {
        let hangs = self.may_share() && self.answered.load(Relaxed) < self.micros(started);
        if hangs {
            self.generation.fetch_add(1, Relaxed);
        }
        hangs
    }

    /// One more than the time, so that 0 is before everything.
    fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_micros() as u64 + 1
    }
}

/// A plain peer with the timeouts of connecting. Those of requests are kept by who makes them.
fn base(
    upstream: &model::Upstream,
    backend: &model::Backend,
    metrics: &Arc<UpstreamMetrics>,
) -> HttpPeer {
    let mut peer = HttpPeer::new(backend.address, false, String::new());
    let options = &mut peer.options;
    options.tracer = Some(Tracer(Box::new(OpenConnections(Arc::clone(metrics)))));
    options.connection_timeout = Some(upstream.timeouts.connect);
    options.total_connection_timeout = Some(upstream.timeouts.connect);
    options.idle_timeout = Some(upstream.pool.idle_timeout);
    let http2 = &upstream.http2;
    options.max_h2_streams = http2.max_streams;
    options.h2_ping_interval = http2.ping_interval;
    options.h2_stream_window_size = Some(http2.stream_window);
    // All streams together can be full, and none has to wait for another one's client.
    let all = http2.max_streams as u64 * u64::from(http2.stream_window);
    options.h2_connection_window_size =
        Some(u32::try_from(all).unwrap_or(MAX_WINDOW).min(MAX_WINDOW));
    peer
}

/// RFC 9113 section 6.9.1.
const MAX_WINDOW: u32 = (1 << 31) - 1;

/// Keeps apart the connections of upstreams, and of one upstream before and after its TLS changed.
fn group_key(upstream: &str, tls: Option<&BackendTls>) -> u64 {
    let mut hasher = DefaultHasher::new();
    upstream.hash(&mut hasher);
    tls.map(BackendTls::fingerprint).hash(&mut hasher);
    hasher.finish()
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
