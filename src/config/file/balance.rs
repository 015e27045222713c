//! What is written about who gets a request: `balance`, `slow_start`, `failover` and `zones` of an
//! upstream.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::scalar::{Duration, Factor, Share};
use super::{Texts, secs};

/// The `balance` of an upstream: a policy, or one with settings.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Balance {
    /// A policy with its defaults.
    Policy(Policy),
    /// One with settings.
    Settings(BalanceSettings),
}

/// See [`BalanceSettings::policy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// In turn, by weight, evenly spread.
    #[default]
    RoundRobin,
    /// The one with fewer requests in flight for its weight, of two that are drawn by weight.
    LeastRequests,
    /// The one that is expected to answer sooner, of two that are drawn by weight: by the peaks of its
    /// latency, which fade, and its requests in flight.
    PeakEwma,
    /// The same one for the same `key`, unless that has more than its share (consistent hashing with
    /// bounded load).
    Hash,
    /// Drawn by weight.
    Random,
}

/// See [`Balance::Settings`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BalanceSettings {
    /// How the backend of a request is chosen.
    pub policy: Policy,
    /// With `hash`: what goes together, `client_ip`, `path`, `header:NAME`, `cookie:NAME`,
    /// `path:PARAMETER`, `claim:PATH`, `subject`, `api_key`, or a list of them.
    #[serde(default)]
    #[schemars(extend("examples" = ["client_ip", ["header:x-tenant", "path"]]))]
    pub key: Texts,
    /// With `hash`: how many requests a backend may have in flight, in relation to its share of all.
    /// When left out, 1.25.
    pub load_factor: Option<Factor>,
    /// With `hash`: the policy for requests that lack the `key`. When left out, `round_robin`.
    pub fallback: Option<Policy>,
    /// With `hash`: how much of an IPv6 address tells clients apart. When left out, 64.
    #[schemars(range(min = 16, max = 128))]
    pub ipv6_prefix: Option<u8>,
    /// With `peak_ewma`: in what time a peak fades to about a third. When left out, 10s.
    #[schemars(extend("x-min" = "100ms", "x-max" = "10m"))]
    pub decay: Option<Duration>,
}

/// See [`Upstream::slow_start`](super::Upstream::slow_start).
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SlowStart {
    /// How long it takes until a backend has its whole weight.
    #[schemars(extend("x-min" = "1s", "x-max" = "1h"))]
    pub duration: Duration,
    /// What it begins with.
    pub min_weight: Share,
}

/// See [`Upstream::failover`](super::Upstream::failover).
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Failover {
    /// The group in use is left when less of it is up than this share, by weight.
    pub threshold: Share,
    /// A better group is used again when this share of it is up, by weight.
    pub failback: Share,
}

/// See [`Upstream::zones`](super::Upstream::zones).
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Zones {
    /// Whether backends of the gateway's own zone are preferred. Without `server.zone` none is.
    pub prefer_local: bool,
    /// When less of the own zone is up than this share, by weight, a part of the requests goes to the
    /// other zones: the larger, the less is up.
    pub min_healthy: Share,
}

impl Default for Balance {
    fn default() -> Self {
        Self::Policy(Policy::default())
    }
}

impl Default for SlowStart {
    fn default() -> Self {
        Self {
            duration: secs(30),
            min_weight: Share(0.1),
        }
    }
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            threshold: Share(0.5),
            failback: Share(0.8),
        }
    }
}

impl Default for Zones {
    fn default() -> Self {
        Self {
            prefer_local: true,
            min_healthy: Share(0.7),
        }
    }
}
