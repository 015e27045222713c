//! What is written below `concurrency`, in a route and in an upstream.

use std::time::Duration as StdDuration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::scalar::{Duration, Share};
use super::Texts;

/// How many requests of a route may be in flight at the same time.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Concurrency {
    /// How many at the same time, of one key if there is a `key`.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub limit: u32,
    /// How many more may wait, in the order in which they came; beyond it they are refused. Without a
    /// `key`, those who came last come first when the queue has not been empty for half of
    /// `queue_timeout`.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100_000))]
    pub queue: u32,
    /// How long a request may wait; then it is refused.
    #[serde(default = "queue_timeout")]
    #[schemars(extend("x-min" = "1ms", "x-max" = "5m"))]
    pub queue_timeout: Duration,
    /// What requests are counted by, each for itself, as in the `key` of a rate limit: `client_ip`,
    /// `subject`, `header:NAME` and so on, or a list of them. When left out, all of the route's requests
    /// are counted together.
    #[serde(default)]
    #[schemars(extend("examples" = ["client_ip", ["subject", "header:x-tenant"]]))]
    pub key: Texts,
    /// How much of an IPv6 address tells clients apart.
    #[serde(default = "ipv6_prefix")]
    #[schemars(range(min = 16, max = 128))]
    pub ipv6_prefix: u8,
}

/// See [`Upstream::concurrency`](super::Upstream::concurrency).
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConcurrency {
    /// How many at the same time. Either this or `adaptive`.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub limit: Option<u32>,
    /// How many each backend is given at the same time, by all workers of this process together. All of
    /// them together are then given at most as many times this as there are backends in use, so that
    /// requests wait in the queue, and not for a backend. Alone, or beside `limit` or `adaptive`.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub per_backend: Option<u32>,
    /// A limit that follows what the backends can do, by the latency of their answers. `{}` does so with
    /// the defaults.
    pub adaptive: Option<Adaptive>,
    /// How many more may wait; beyond it they are refused. When left out, 100 with `adaptive` and 0
    /// otherwise. The more important come first, otherwise those who came first, and those who came
    /// last when the queue has not been empty for half of `queue_timeout`.
    #[schemars(range(min = 0, max = 100_000))]
    pub queue: Option<u32>,
    /// How long a request may wait; then it is refused.
    #[serde(default = "queue_timeout")]
    #[schemars(extend("x-min" = "1ms", "x-max" = "5m"))]
    pub queue_timeout: Duration,
}

/// See [`UpstreamConcurrency::adaptive`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Adaptive {
    /// The limit never falls below this.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min: u32,
    /// The limit never rises above this.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max: u32,
    /// How far the mean latency of answers may rise above what it is without load before the limit is
    /// lowered: `50%` of 20 ms allows 30 ms.
    pub slack: Share,
}

impl Default for Adaptive {
    fn default() -> Self {
        Self {
            min: 4,
            max: 1_000,
            slack: Share(0.5),
        }
    }
}

fn queue_timeout() -> Duration {
    Duration(StdDuration::from_secs(1))
}

fn ipv6_prefix() -> u8 {
    64
}
