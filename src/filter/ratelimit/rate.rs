//! GCRA, the generic cell rate algorithm (ITU-T I.371), on one number for each key.
//!
//! The number is the theoretical arrival time: when the bucket would be full again. A request is let
//! through if that time, moved on by what the request costs, is not further away than the bucket is
//! deep. Times are nanoseconds since a beginning that is the caller's.

use std::time::Duration;

use crate::config::model::Window;

/// Nanoseconds since the caller's beginning.
pub type Nanos = u64;

/// One window of a policy, as it is computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// What one unit takes to come back, rounded up so that the limit is never exceeded.
    pub interval: Nanos,
    /// What a whole bucket takes to fill.
    pub depth: Nanos,
    /// As configured.
    pub window: Window,
}

/// What a limiter says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is let through.
    pub admitted: bool,
    /// The window that says the rest: the one that refuses, or else the one with the least left.
    pub window: usize,
    /// What is left of it at once.
    pub remaining: u64,
    /// When trying again makes sense; zero for a request that is let through.
    pub retry_after: Duration,
    /// When the bucket is full again.
    pub reset: Duration,
}

impl Rate {
    /// Of a window.
    pub fn new(window: Window) -> Self {
        let period = u64::try_from(window.period.as_nanos()).unwrap_or(u64::MAX);
        let interval = period.div_ceil(window.limit.max(1));
        Self {
            interval,
            depth: interval.saturating_mul(window.burst),
            window,
        }
    }
}
