//! What is written below `sticky` of an upstream.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::scalar::{Duration, List, Secret};
use super::secs;

/// See [`Upstream::sticky`](super::Upstream::sticky).
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sticky {
    /// What cookies are signed with: the first signs, all of them are believed. To change a key, put
    /// the new one in front, and take the old one away after `ttl`. At least 16 characters each.
    #[schemars(extend("examples" = [["file:secrets/sticky.key"]]))]
    pub keys: List<Secret>,
    /// The name of the cookie. When left out, `sticky_` and the name of the upstream.
    pub cookie: Option<String>,
    /// How long a client comes back to its backend after its last request. The cookie is renewed when
    /// half of it is over.
    #[serde(default = "ttl")]
    #[schemars(extend("x-min" = "1m", "x-max" = "30d"))]
    pub ttl: Duration,
}

fn ttl() -> Duration {
    secs(60 * 60)
}
