//! What is written below `upstreams`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::scalar::{Duration, List, Share, Size};
use super::balance::{Balance, Failover, SlowStart, Zones};
use super::circuit_breaker::{CircuitBreaker, Fallback};
use super::concurrency::UpstreamConcurrency;
use super::discovery::Discovery;
use super::health_check::HealthCheck;
use super::outlier::Outlier;
use super::sticky::Sticky;
use super::{Retries, secs};

/// One upstream.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Upstream {
    /// The backends; at least one with a weight above 0, unless there is a `discovery`.
    #[schemars(extend("examples" = [["10.0.0.11:3000", { "address": "10.0.0.12:3000", "weight": 2 }]]))]
    pub backends: List<Backend>,
    /// Where further backends come from, which may change at any time. When left out, there are none.
    #[schemars(extend("examples" = [{ "dns": { "name": "users.internal", "port": 3000 } }]))]
    pub discovery: Option<Discovery>,
    /// What is spoken with the backends. With `auto` it is agreed on in the TLS handshake (ALPN);
    /// without TLS that is HTTP/1.1. `http2` without TLS begins at once (prior knowledge).
    pub protocol: Protocol,
    /// TLS towards the backends. When left out, there is none; `{}` is TLS with the defaults.
    pub tls: Option<Tls>,
    /// HTTP/2 towards the backends.
    pub http2: Http2,
    /// How the backend of a request is chosen: a policy, or one with settings.
    #[schemars(extend("examples" = ["least_requests", { "policy": "hash", "key": "client_ip" }]))]
    pub balance: Balance,
    /// Backends that are new, or back after they were out, get their weight by and by. When left out,
    /// at once; `{}` has the defaults.
    pub slow_start: Option<SlowStart>,
    /// When less of the backends is up than this share, all are used, up or not, as it is more likely
    /// that the judgement is wrong, or that those left would break down. When left out, never.
    #[schemars(extend("examples" = ["30%"]))]
    pub panic_threshold: Option<Share>,
    /// When requests go to backends of another `priority`, and when they come back.
    pub failover: Failover,
    /// How far backends in the gateway's own zone are preferred.
    pub zones: Zones,
    /// A cookie by which clients come back to their backend. When left out, there is none.
    pub sticky: Option<Sticky>,
    /// What one attempt may take.
    pub timeouts: Timeouts,
    /// How many requests may be in flight to the upstream at the same time, from all routes together.
    /// When left out, there is no limit. Each instance counts by itself.
    #[schemars(extend("examples" = [
        { "limit": 200, "queue": 100, "queue_timeout": "2s" },
        { "adaptive": {} },
    ]))]
    pub concurrency: Option<UpstreamConcurrency>,
    /// How connections to the backends are kept.
    pub pool: Pool,
    /// When a request is tried again.
    pub retries: Retries,
    /// Probing of the backends. When left out, there is none; `{}` probes with the defaults.
    pub health_check: Option<HealthCheck>,
    /// Ejection: a backend that fails real requests is left out for a while.
    pub outlier: Outlier,
    /// The circuit breaker: an upstream that fails as a whole is left alone for a while, and requests are
    /// refused at once with 503 and `Retry-After`, or answered by the `fallback`.
    pub circuit_breaker: CircuitBreaker,
    /// What is done in the place of refusing while the circuit is open, or no backend is in service. Routes
    /// may have their own.
    #[schemars(extend("examples" = [
        { "upstream": "users-standby" },
        { "respond": { "status": 200, "body": "[]" } },
    ]))]
    pub fallback: Option<Fallback>,
}

/// One backend: `host:port`, or that with a weight.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Backend {
    /// `host:port`.
    Address(String),
    /// With a weight.
    Weighted(WeightedBackend),
}

/// See [`Backend::Weighted`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightedBackend {
    /// `host:port`. A host name is resolved once, when the configuration is loaded, and its first
    /// address is used; `discovery` follows a name.
    pub address: String,
    /// Its share of the requests in relation to the other backends; 0 sends none.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub weight: u32,
    /// Its priority group. The group with the lowest number is used, as long as enough of it is up; see
    /// `failover`.
    #[serde(default)]
    #[schemars(range(min = 0, max = 9))]
    pub priority: u8,
    /// Where it is; see `zones`.
    #[schemars(extend("examples" = ["eu-central-1a"]))]
    pub zone: Option<String>,
}

/// See [`Upstream::protocol`].
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2, and nothing else.
    Http2,
    /// HTTP/2 if the backend offers it in the TLS handshake, HTTP/1.1 otherwise.
    Auto,
}

/// See [`Upstream::tls`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// A PEM file of the authorities that may vouch for the backends. When left out, those of the
    /// system.
    #[schemars(extend("examples" = ["tls/backends-ca.pem"]))]
    pub ca: Option<String>,
    /// The name that a backend's certificate must have, sent to it as SNI. When left out, the
    /// backend's own host name or IP address.
    #[schemars(extend("examples" = ["users.internal"]))]
    pub server_name: Option<String>,
    /// A PEM file with the certificate that the gateway shows to the backends, and its chain.
    pub client_cert: Option<String>,
    /// A PEM file with the private key of `client_cert`.
    pub client_key: Option<String>,
    /// Whether a backend must prove who it is. `false` lets anybody between it and the gateway
    /// read and change everything.
    pub verify: bool,
}

/// See [`Upstream::http2`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Http2 {
    /// Requests at the same time on one connection; further ones get another connection. A backend
    /// may allow less.
    #[schemars(range(min = 1, max = 1000))]
    pub max_streams: u32,
    /// How much of a response a backend may send before its client has taken it.
    #[schemars(extend("x-min" = "64KiB", "x-max" = "8MiB"))]
    pub stream_window: Size,
    /// How often a connection is asked whether it is alive; it is closed when there is no answer
    /// within 5s. When left out, never: many gRPC servers refuse to be asked more often than every
    /// five minutes.
    #[schemars(extend("x-min" = "1s"))]
    pub ping_interval: Option<Duration>,
}

/// See [`Upstream::timeouts`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// How long establishing a connection may take, with the TLS handshake; then another attempt,
    /// or 502.
    #[schemars(extend("x-max" = "5s"))]
    pub connect: Duration,
    /// How long the response header may take once the whole request is sent; then 504.
    pub first_byte: Duration,
    /// How long the backend may pause inside its response; then the response is cut off.
    pub read: Duration,
    /// How long the backend may leave the request unread; then 504.
    pub write: Duration,
    /// How long an upgraded connection (WebSocket) may be silent in both directions.
    pub upgraded_idle: Duration,
    /// How long a request may take as a whole: from its first byte to the last byte of the response, all
    /// attempts and waits between them included; then 504, or the response is cut off. It holds for
    /// streams and gRPC calls too, and for a WebSocket until it is one. When left out, there is no end.
    #[schemars(extend("examples" = ["30s"]))]
    pub request: Option<Duration>,
    /// A header in which backends are told how many milliseconds are left of the request's time. From a
    /// peer among `trusted_proxies` the same header is heeded; from others it is taken away.
    #[schemars(extend("examples" = ["x-request-timeout-ms"]))]
    pub deadline_header: Option<String>,
}

/// See [`Upstream::pool`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Pool {
    /// How long an unused connection is kept. Set it below the backends' own keep-alive time.
    pub idle_timeout: Duration,
    /// How many unused connections of HTTP/1 to each backend are kept, by all workers together; 0 uses
    /// each for one request. When left out, as many as a worker keeps in all.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_idle: Option<u32>,
}

pub(super) fn one() -> u32 {
    1
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            ca: None,
            server_name: None,
            client_cert: None,
            client_key: None,
            verify: true,
        }
    }
}

impl Default for Http2 {
    fn default() -> Self {
        Self {
            max_streams: 100,
            stream_window: Size(512 * 1024),
            ping_interval: None,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: secs(1),
            first_byte: secs(15),
            read: secs(60),
            write: secs(60),
            upgraded_idle: secs(60 * 60),
            request: None,
            deadline_header: None,
        }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            idle_timeout: secs(30),
            max_idle: None,
        }
    }
}
