//! What an upstream means: its backends, and how they are spoken to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::{
    Balance, CircuitBreaker, Discovery, Failover, Fallback, HealthCheck, Outlier, Retries,
    SlowStart, Sticky, UpstreamConcurrency, Zones,
};

/// A named group of backends.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Its name, the `backend_service` of metrics and logs.
    pub name: Arc<str>,
    /// Its members that are written; never empty without a discovery.
    pub backends: Vec<Backend>,
    /// Where further members come from.
    pub discovery: Option<Discovery>,
    /// What is spoken with its members.
    pub protocol: Protocol,
    /// TLS towards its members, if there is any.
    pub tls: Option<UpstreamTls>,
    /// HTTP/2 towards its members.
    pub http2: Http2,
    /// How a member is chosen.
    pub balance: Balance,
    /// How a member begins that is new or back; `None`: with all of its weight.
    pub slow_start: Option<SlowStart>,
    /// Below this share of members that are up, all are used, 0.0 to 1.0; 0 turns it off.
    pub panic_threshold: f64,
    /// When another priority group is used.
    pub failover: Failover,
    /// Which zone is preferred.
    pub zones: Zones,
    /// Whether clients come back to their backend.
    pub sticky: Option<Sticky>,
    /// What an attempt may take.
    pub timeouts: Timeouts,
    /// How many requests may be in flight to it; `None`: any number.
    pub concurrency: Option<UpstreamConcurrency>,
    /// How connections are kept.
    pub pool: Pool,
    /// When a request is tried again.
    pub retries: Retries,
    /// Active probing, when configured.
    pub health_check: Option<HealthCheck>,
    /// Passive ejection of failing members.
    pub outlier: Outlier,
    /// When the circuit to it opens; `None`: never by itself.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// What is done while it cannot be used, where the route says nothing of it.
    pub fallback: Option<Fallback>,
}

/// One member of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// As written: `host:port`. Host names are resolved once, when the configuration is loaded.
    pub name: Arc<str>,
    /// Where it is dialled.
    pub address: SocketAddr,
    /// Its share of the traffic; 0 takes it out.
    pub weight: u32,
    /// Its priority group: the lowest that is well enough is used.
    pub priority: u8,
    /// Where it is.
    pub zone: Option<Arc<str>>,
    /// The name that its certificate must have: a host name or an IP address, never empty when its
    /// upstream has TLS.
    pub server_name: Arc<str>,
}

/// What is spoken with the members of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: agreed on by ALPN over TLS, at once without.
    Http2,
    /// By ALPN; HTTP/1.1 without TLS.
    Auto,
}

/// TLS towards the members of an upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamTls {
    /// The authorities that may vouch for a member. Empty only without `verify`.
    pub authorities: Arc<[Der]>,
    /// What the gateway shows when it is asked who it is.
    pub client: Option<ClientCertificate>,
    /// Whether a member must prove who it is.
    pub verify: bool,
}

/// A certificate as its file has it, without the armour.
pub type Der = Vec<u8>;

/// A certificate with its key, which match.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, then those that vouch for it; never empty.
    pub chain: Vec<Der>,
    /// Its private key.
    pub key: Der,
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientCertificate")
    }
}

/// HTTP/2 towards the members of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http2 {
    /// Requests at the same time on one connection.
    pub max_streams: usize,
    /// Bytes of a response that may come before they are asked for.
    pub stream_window: u32,
    /// Between two questions whether a connection is alive.
    pub ping_interval: Option<Duration>,
}

/// What an attempt may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Establishing a connection.
    pub connect: Duration,
    /// From the request sent to the first byte of the response.
    pub first_byte: Duration,
    /// Between two reads of the response body.
    pub read: Duration,
    /// Between two writes of the request.
    pub write: Duration,
    /// How long an upgraded connection (WebSocket) may be silent.
    pub upgraded_idle: Duration,
    /// From the first byte of the request to the last one of the response; `None`: no end.
    pub request: Option<Duration>,
    /// Tells backends how many milliseconds are left.
    pub deadline_header: Option<HeaderName>,
}

/// The number of the last priority group.
pub const MAX_PRIORITY: u8 = 9;

/// How connections to backends are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// How long an unused connection is kept; below the backends' own keep-alive.
    pub idle_timeout: Duration,
    /// How many unused ones of HTTP/1 to each backend are kept; `None`: as many as there is room for.
    pub max_idle: Option<u32>,
}
