//! What is written about the shared store.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, Secret, secs};

/// See [`super::File::redis`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// Where it is: `redis://HOST:PORT/DATABASE`, or `rediss://` for TLS, with `USER:PASSWORD@`
    /// before the host where it asks who calls; `%` escapes what a URL cannot hold. The host is
    /// resolved again for each connection. It is never shown. Best a reference, such as
    /// `${REDIS_URL}`.
    #[schemars(extend("examples" = ["${REDIS_URL}"]))]
    pub url: Secret,
    /// Connections kept open to it, shared by all requests. One more listens for what other
    /// instances tell.
    #[serde(default = "pool_size")]
    #[schemars(range(min = 1, max = 256))]
    pub pool_size: u32,
    /// How long it may take until a connection can be used: resolving, TCP, TLS and login.
    #[serde(default = "connect_timeout")]
    #[schemars(extend("x-min" = "10ms", "x-max" = "1m"))]
    pub connect_timeout: Duration,
    /// How long an answer may take.
    #[serde(default = "command_timeout")]
    #[schemars(extend("x-min" = "10ms", "x-max" = "1m"))]
    pub command_timeout: Duration,
    /// For `rediss://`: a PEM file of the authorities that may vouch for it. When left out, those of
    /// the system.
    #[schemars(extend("examples" = ["tls/redis-ca.pem"]))]
    pub ca: Option<String>,
    /// For `rediss://`: a PEM file with the certificate that the gateway shows, and its chain.
    pub client_cert: Option<String>,
    /// A PEM file with the private key of `client_cert`.
    pub client_key: Option<String>,
}

fn pool_size() -> u32 {
    8
}

fn connect_timeout() -> Duration {
    secs(1)
}

fn command_timeout() -> Duration {
    Duration(std::time::Duration::from_millis(500))
}
