//! What is written below `discovery` of an upstream.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::scalar::{Address, Duration, List};
use super::secs;
use super::upstream::one;

/// See [`Upstream::discovery`](super::Upstream::discovery).
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Discovery {
    /// Asks name servers.
    pub dns: Option<DnsDiscovery>,
    /// Reads a file.
    pub file: Option<FileDiscovery>,
    /// Whether `/ready` answers 503 (`discovery`) while the upstream has no backend.
    pub required: bool,
}

/// See [`Discovery::dns`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsDiscovery {
    /// The name to ask for.
    #[schemars(extend("examples" = ["users.internal", "_http._tcp.users.internal"]))]
    pub name: String,
    /// What is asked for. `auto` are IPv4 addresses (A), or IPv6 addresses (AAAA) if there are none;
    /// `all` are both. `srv` are names with ports and weights.
    #[serde(default, rename = "type")]
    pub records: Records,
    /// The port of the backends. Needed unless `type` is `srv`, which tells it.
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// The weight of each backend; with `srv` the record tells it.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u32,
    /// The name servers. When left out, those of the system (`/etc/resolv.conf`, and `/etc/hosts` before
    /// them).
    #[serde(default)]
    #[schemars(extend("examples" = [["10.0.0.2:53"]]))]
    pub resolvers: List<Address>,
    /// How long the name servers may take for one question. All are asked at the same time, and twice when
    /// none answers.
    #[serde(default = "two_seconds")]
    #[schemars(extend("x-min" = "10ms", "x-max" = "30s"))]
    pub timeout: Duration,
    /// How long an answer counts at least, whatever its TTL.
    #[serde(default = "one_second")]
    #[schemars(extend("x-min" = "100ms", "x-max" = "1h"))]
    pub min_ttl: Duration,
    /// How long an answer counts at most, whatever its TTL.
    #[serde(default = "one_minute")]
    #[schemars(extend("x-min" = "100ms", "x-max" = "1d"))]
    pub max_ttl: Duration,
    /// How long the last backends are kept when the name is gone or has no records.
    #[serde(default = "half_a_minute")]
    #[schemars(extend("x-min" = "0s", "x-max" = "1d"))]
    pub keep_missing: Duration,
    /// How long the last backends are kept when there is no answer. When left out, for ever.
    #[schemars(extend("x-min" = "0s", "x-max" = "30d"))]
    pub keep_stale: Option<Duration>,
}

/// See [`DnsDiscovery::records`].
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Records {
    /// A, or else AAAA.
    #[default]
    Auto,
    /// A.
    A,
    /// AAAA.
    Aaaa,
    /// A and AAAA.
    All,
    /// SRV.
    Srv,
}

/// See [`Discovery::file`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileDiscovery {
    /// A YAML or JSON file with a list as in `backends`. A relative path begins at the configuration's
    /// folder. It is looked at twice a second.
    #[schemars(extend("examples" = ["backends.yaml"]))]
    pub path: String,
}

fn one_second() -> Duration {
    secs(1)
}

fn two_seconds() -> Duration {
    secs(2)
}

fn half_a_minute() -> Duration {
    secs(30)
}

fn one_minute() -> Duration {
    secs(60)
}
