//! What `health_check` means: what is asked of a backend, and how often.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

/// Active probing of the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub question: Question,
    /// The port that is asked; `None`: the one of requests.
    pub port: Option<u16>,
    /// How often, and what decides.
    pub pace: Pace,
    /// Whether a member takes requests before its first result.
    pub starts_healthy: bool,
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// For a connection, with the TLS handshake where there is TLS.
    Connection,
    /// By HTTP.
    Http(HttpQuestion),
    /// By gRPC.
    Grpc(GrpcQuestion),
}

/// A request and what its response must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpQuestion {
    /// Its method.
    pub method: Method,
    /// Its path, with a query if there is one.
    pub path: String,
    /// The `Host` sent; default: the backend's name.
    pub host: Option<String>,
    /// Further fields.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Statuses that count as good, as inclusive ranges.
    pub expected_statuses: Vec<(u16, u16)>,
    /// What the body must have somewhere; never empty.
    pub expected_body: Option<String>,
}

/// A call of `grpc.health.v1.Health/Check`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GrpcQuestion {
    /// The authority sent; default: the backend's name.
    pub host: Option<String>,
    /// The service asked for; empty is the server as a whole.
    pub service: String,
    /// Whether a server without the health service is well.
    pub accept_unimplemented: bool,
}

/// How often is asked, and what decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pace {
    /// Between two probes of one backend.
    pub interval: Duration,
    /// The same while a row of results is counted.
    pub fast_interval: Duration,
    /// What a probe may take.
    pub timeout: Duration,
    /// Failed probes in a row after which a backend is out.
    pub unhealthy_after: u32,
    /// Good probes in a row after which it is back.
    pub healthy_after: u32,
}
