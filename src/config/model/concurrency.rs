//! What `concurrency` means: how many requests may be in flight at the same time.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::{KeyPart, Priority};

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

/// The limit of an upstream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UpstreamConcurrency {
    /// How many, and how many more; with `adaptive` how many in the beginning.
    pub bounds: Bounds,
    /// How many at each backend, and so how many times this at all of them.
    pub per_backend: Option<NonZeroU32>,
    /// How the limit follows what the backends can do; `None`: it is fixed.
    pub adaptive: Option<Adaptive>,
    /// The most important class of the routes that lead here.
    pub top: Priority,
}

/// How a limit follows latency.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adaptive {
    /// The limit is never lower; at least 1.
    pub min: u32,
    /// Nor higher.
    pub max: u32,
    /// How far latency may rise above what it is without load, as a share of that.
    pub slack: f64,
}
