//! What is meant about who gets a request.

use std::sync::Arc;
use std::time::Duration;

use super::KeyPart;

/// How a member is chosen of those that are in.
#[derive(Clone, Debug, PartialEq)]
pub enum Balance {
    /// Smooth weighted round robin.
    RoundRobin,
    /// Fewer requests in flight, of two.
    LeastRequests,
    /// Sooner to answer, of two.
    PeakEwma {
        /// In what time a peak fades to its e-th part.
        decay: Duration,
    },
    /// Consistent hashing with bounded load.
    Hash(HashBalance),
    /// Drawn by weight.
    Random,
}

impl Balance {
    /// In what time a peak of latency fades, if latency is regarded at all.
    pub fn decay(&self) -> Option<Duration> {
        match self {
            Self::PeakEwma { decay } => Some(*decay),
            Self::Hash(hash) => hash.fallback.decay(),
            Self::RoundRobin | Self::LeastRequests | Self::Random => None,
        }
    }
}

/// Consistent hashing with bounded load.
#[derive(Clone, Debug, PartialEq)]
pub struct HashBalance {
    /// What goes together; never empty.
    pub key: Vec<HashKey>,
    /// The most that a member may have, in relation to its share of all; at least 1.
    pub load_factor: f64,
    /// For requests without the key; never another `Hash`.
    pub fallback: Box<Balance>,
}

/// A part of what goes together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The path, as it was asked for.
    Path,
    /// What limits know, too.
    Part(KeyPart),
}

/// How a member that is new or back gets its weight.
#[derive(Clone, Debug, PartialEq)]
pub struct SlowStart {
    /// Until it has all of it.
    pub duration: Duration,
    /// The share that it begins with, more than 0.
    pub min_weight: f64,
}

/// When another priority group is used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Failover {
    /// The group in use is left below this share.
    pub threshold: f64,
    /// A better one is taken again from this share on; at least `threshold`.
    pub failback: f64,
}

/// Whether and how far a zone is preferred.
#[derive(Clone, Debug, PartialEq)]
pub struct Zones {
    /// The gateway's own zone; `None`: no zone is preferred.
    pub local: Option<Arc<str>>,
    /// Below this share of it, others help.
    pub min_healthy: f64,
}
