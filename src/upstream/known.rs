//! What is known of a backend, whatever generation of the configuration asks: it outlives reloads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use super::outlier::Outlier;
use super::probed::Probed;

/// Numbers for backends, in the order in which they are first heard of.
static NEXT_ID: AtomicU32 = AtomicU32::new(0);

/// What was learned of one backend, shared by every generation and every membership that has it.
#[derive(Debug)]
pub(super) struct Known {
    /// Tells it from every other backend, whatever place it has among the members.
    pub id: u32,
    /// What its requests say of it.
    pub outlier: Outlier,
    /// What its probes say of it.
    pub probed: Probed,
    in_flight: AtomicUsize,
}

impl Known {
    /// A backend nothing is known of, which is taken to be up or not until it is probed.
    pub fn nothing(up: bool, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Relaxed),
            outlier: Outlier::new(now),
            probed: Probed::new(up),
            in_flight: AtomicUsize::new(0),
        })
    }

    /// Requests it is answering.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    pub fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub fn end(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }
}
