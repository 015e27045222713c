//! What is written below a route's `mirror`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::scalar::{Duration, Share, Size};

/// See [`Route::mirror`](super::Route::mirror).
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// The name of the upstream that gets the copies.
    #[schemars(extend("examples" = ["users-next"]))]
    pub upstream: String,
    /// The share of the requests that is copied.
    #[serde(default = "all")]
    pub share: Share,
    /// Copies on their way at the same time; further ones are left out.
    #[serde(default = "max_in_flight")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_in_flight: u32,
    /// How long a copy may take, its response included.
    #[serde(default = "timeout")]
    #[schemars(extend("x-max" = "1m"))]
    pub timeout: Duration,
    /// How much of a body is kept to be copied; requests with a longer one are left out.
    #[serde(default = "max_body")]
    #[schemars(extend("x-max" = "1MiB"))]
    pub max_body: Size,
    /// What is put behind the name in `Host`, so that backends can tell copies.
    #[serde(default)]
    #[schemars(extend("examples" = ["-shadow"]))]
    pub host_suffix: Option<String>,
}

fn all() -> Share {
    Share(1.0)
}

fn max_in_flight() -> u32 {
    100
}

fn timeout() -> Duration {
    super::secs(5)
}

fn max_body() -> Size {
    Size(64 * 1024)
}
