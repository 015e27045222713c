//! What is written below `health_check` of an upstream.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::scalar::{Duration, List, Statuses};
use super::secs;

/// See [`Upstream::health_check`](super::Upstream::health_check).
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealthCheck {
    /// The path to ask for by HTTP. Without it and without `grpc`, a connection is enough.
    #[schemars(extend("examples" = ["/health"]))]
    pub path: Option<String>,
    /// The method to ask with: GET, HEAD, POST or OPTIONS. When left out, GET. Only with `path`.
    pub method: Option<String>,
    /// The `Host` to send. When left out, the backend's address as written.
    pub host: Option<String>,
    /// Further header fields to send. Only with `path`.
    #[schemars(extend("examples" = [{ "x-probe": "gateway" }]))]
    pub headers: BTreeMap<String, String>,
    /// Statuses that count as good. Only with `path`.
    pub expected_statuses: List<Statuses>,
    /// A text that the first 64 KiB of the body must have somewhere. Only with `path`.
    #[schemars(extend("examples" = ["\"status\":\"ok\""]))]
    pub expected_body: Option<String>,
    /// Asks by gRPC (`grpc.health.v1.Health/Check`), over HTTP/2; `{}` asks for the server as a whole.
    /// In the place of `path`.
    #[schemars(extend("examples" = [{ "service": "users.v1.Users" }]))]
    pub grpc: Option<GrpcHealthCheck>,
    /// The port to probe. When left out, the one that requests go to.
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// The time between two probes of one backend, give or take a tenth.
    #[schemars(extend("x-min" = "100ms"))]
    pub interval: Duration,
    /// The time until the next probe while a row of results is counted: after a bad one of a backend
    /// that is up, and after a good one of a backend that is down. When left out, a fifth of
    /// `interval`, at least 100ms.
    #[schemars(extend("x-min" = "50ms"))]
    pub fast_interval: Option<Duration>,
    /// How long one probe may take; at most the interval.
    pub timeout: Duration,
    /// Failed probes in a row after which a backend is out.
    #[schemars(range(min = 1, max = 100))]
    pub unhealthy_after: u32,
    /// Good probes in a row after which it is back. A backend that was never judged needs only one.
    #[schemars(range(min = 1, max = 100))]
    pub healthy_after: u32,
    /// What a backend is taken for until its probes say something: `healthy` gives it requests at once,
    /// `unhealthy` after its first good probe.
    pub initial: InitialHealth,
}

/// See [`HealthCheck::grpc`].
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GrpcHealthCheck {
    /// The service to ask for. When left out, the server as a whole.
    pub service: String,
    /// Whether a server without the health service (UNIMPLEMENTED) is well all the same.
    pub accept_unimplemented: bool,
}

/// See [`HealthCheck::initial`].
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InitialHealth {
    /// It is given requests.
    #[default]
    Healthy,
    /// It is given none.
    Unhealthy,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            path: None,
            method: None,
            host: None,
            headers: BTreeMap::new(),
            expected_statuses: vec![Statuses((200, 399))].into(),
            expected_body: None,
            grpc: None,
            port: None,
            interval: secs(5),
            fast_interval: None,
            timeout: secs(2),
            unhealthy_after: 3,
            healthy_after: 2,
            initial: InitialHealth::Healthy,
        }
    }
}
