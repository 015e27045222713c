//! What is written about the shared store.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, Secret, secs};

/// See [`super::File::redis`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// Where a single server is: `redis://HOST:PORT/DATABASE`, or `rediss://` for TLS, with
    /// `USER:PASSWORD@` before the host where it asks who calls; `%` escapes what a URL cannot hold. The
    /// host is resolved again for each connection. It is never shown. Best a reference, such as
    /// `${REDIS_URL}`.
    #[schemars(extend("examples" = ["${REDIS_URL}"]))]
    pub url: Option<Secret>,
    /// In the place of `url`: a master that sentinels know, and that another server may become.
    pub sentinel: Option<RedisSentinel>,
    /// In the place of `url`: a Redis Cluster.
    pub cluster: Option<RedisCluster>,
    /// Who calls, with `sentinel` or `cluster`. When left out, the server's default user.
    pub username: Option<String>,
    /// The password, with `sentinel` or `cluster`. Best a reference, such as `${REDIS_PASSWORD}`.
    #[schemars(extend("examples" = ["${REDIS_PASSWORD}"]))]
    pub password: Option<Secret>,
    /// The number of the database, with `sentinel`. A Cluster has one alone.
    #[serde(default)]
    pub database: u32,
    /// Whether the servers are reached by TLS, with `sentinel` or `cluster`. Their certificates must be
    /// for the addresses that the sentinels or the Cluster name.
    #[serde(default)]
    pub tls: bool,
    /// Connections kept open to it, or to each master of a Cluster, shared by all requests. One more
    /// listens for what other instances tell.
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
    /// For TLS: a PEM file of the authorities that may vouch for it. When left out, those of
    /// the system.
    #[schemars(extend("examples" = ["tls/redis-ca.pem"]))]
    pub ca: Option<String>,
    /// For TLS: a PEM file with the certificate that the gateway shows, and its chain.
    pub client_cert: Option<String>,
    /// A PEM file with the private key of `client_cert`.
    pub client_key: Option<String>,
}

/// See [`Redis::sentinel`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisSentinel {
    /// What the sentinels call the master.
    #[schemars(extend("examples" = ["mymaster"]))]
    pub master: String,
    /// The sentinels, as `HOST:PORT`; the port is 26379 when left out. Best all of them.
    #[schemars(extend("examples" = [["sentinel-0:26379", "sentinel-1:26379", "sentinel-2:26379"]]))]
    pub nodes: Vec<String>,
    /// Who calls the sentinels, which have users of their own.
    pub username: Option<String>,
    /// The password for the sentinels.
    pub password: Option<Secret>,
    /// Whether the sentinels are reached by TLS, with `ca`, `client_cert` and `client_key` of `redis`.
    #[serde(default)]
    pub tls: bool,
}

/// See [`Redis::cluster`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisCluster {
    /// Some of its servers, as `HOST:PORT`; the port is 6379 when left out. The others are found by
    /// asking them.
    #[schemars(extend("examples" = [["redis-0:6379", "redis-1:6379", "redis-2:6379"]]))]
    pub nodes: Vec<String>,
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
