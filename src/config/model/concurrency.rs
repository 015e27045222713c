//! What `concurrency` means: how many requests may be in flight at the same time.

use std::sync::Arc;
use std::time::Duration;

use super::KeyPart;

/// The most limits of one route.
pub const MAX_CONCURRENCY_LIMITS: usize = 3;

/// One limit of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct Concurrency {
    /// What requests are counted by, together; empty counts all of them as one.
    pub key: Vec<KeyPart>,
    /// The key as it is written, for metrics.
    pub label: Arc<str>,
    /// How many, and how many more.
    pub bounds: Bounds,
}

/// How many requests may be in flight, and wait for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// In flight; at least 1.
    pub limit: u32,
    /// Waiting for a place.
    pub queue: u32,
    /// How long one may wait.
    pub queue_timeout: Duration,
}
