//! What is written below `outlier`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::scalar::{Duration, Share};
use super::secs;

/// See [`Upstream::outlier`](super::Upstream::outlier).
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Outlier {
    /// Failed attempts in a row (refused, reset, timed out) that eject a backend, and answers in a row
    /// that were broken off; 0 for any number.
    #[schemars(range(min = 0, max = 1000))]
    pub consecutive_failures: u32,
    /// Answers in a row with a status of 500 to 599 that eject a backend; 0 for any number.
    #[schemars(range(min = 0, max = 1000))]
    pub consecutive_5xx: u32,
    /// The share of failed attempts, answers with 500 to 599 among them, that ejects a backend, if it is
    /// also three times that of the others together; 0 for none.
    pub failure_rate: Share,
    /// How many times as long as the others' a backend's answers take that ejects it, by the median; 0
    /// for any. A backend that answers nothing while others do is ejected, too.
    #[schemars(range(min = 0, max = 1000))]
    pub slow_factor: u32,
    /// Answers that come sooner than this are not slow, whatever the others do.
    #[schemars(extend("x-min" = "1ms", "x-max" = "10m"))]
    pub slow_at_least: Duration,
    /// How many attempts there must have been within `window` at a backend, and at the others together,
    /// before they are compared.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub minimum_requests: u32,
    /// How far back backends are compared with each other, the recent past counting most.
    #[schemars(extend("x-min" = "1s", "x-max" = "10m"))]
    pub window: Duration,
    /// How long the first ejection lasts, within a tenth. Each further one lasts twice as long, and half as
    /// long again for each stretch of this length that the backend was well.
    pub base_ejection: Duration,
    /// How long an ejection lasts at most.
    pub max_ejection: Duration,
    /// The share of the backends that may be ejected at once, rounded down. An only backend is
    /// never ejected, except with `100%`.
    pub max_ejected: Share,
}

impl Default for Outlier {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            consecutive_5xx: 0,
            failure_rate: Share(0.2),
            slow_factor: 5,
            slow_at_least: Duration(std::time::Duration::from_millis(250)),
            minimum_requests: 20,
            window: secs(10),
            base_ejection: secs(10),
            max_ejection: secs(5 * 60),
            max_ejected: Share(0.5),
        }
    }
}
