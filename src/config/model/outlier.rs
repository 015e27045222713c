//! What `outlier` means.

use std::time::Duration;

/// Passive ejection: a backend that fails real requests is left out for a while. The default ejects none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outlier {
    /// Failed attempts in a row (connect errors, resets, timeouts), or answers in a row that were broken
    /// off, that eject; 0: any number.
    pub consecutive_failures: u32,
    /// Answers in a row from 500 on that eject; 0: any number.
    pub consecutive_5xx: u32,
    /// The share of failures that ejects who fails more than the others, 0.0 to 1.0; 0.0: none.
    pub failure_rate: f64,
    /// How many times as slow as the others is too slow; 0: any.
    pub slow_factor: u32,
    /// What is not slow in any case.
    pub slow_at_least: Duration,
    /// Attempts before backends are compared; at least 1.
    pub minimum_requests: u32,
    /// How far back they are compared; at least a second.
    pub window: Duration,
    /// The first ejection, within a tenth; each further one doubles it.
    pub base_ejection: Duration,
    /// The longest ejection.
    pub max_ejection: Duration,
    /// The share of an upstream that may be ejected at once, 0.0 to 1.0.
    pub max_ejected: f64,
}

impl Outlier {
    /// Whether backends are compared with each other.
    pub fn compares(&self) -> bool {
        self.failure_rate > 0.0 || self.slow_factor > 0
    }
}
