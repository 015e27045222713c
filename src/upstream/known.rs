//! What is known of a backend, whatever generation of the configuration asks: it outlives reloads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use super::outlier::Outlier;

/// Numbers for backends, in the order in which they are first heard of.
static NEXT_ID: AtomicU32 = AtomicU32::new(0);

/// What was learned of one backend, shared by every generation and every membership that has it.
#[derive(Debug)]
pub(super) struct Known {
    /// Tells it from every other backend, whatever place it has among the members.
    pub id: u32,
    /// What its requests say of it.
    pub outlier: Outlier,
    probed_up: AtomicBool,
    in_flight: AtomicUsize,
}

impl Known {
    /// A backend nothing is known of is taken to be up.
    pub fn nothing(now: Instant) -> Arc<Self> {
        Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Relaxed),
            outlier: Outlier::new(now),
            probed_up: AtomicBool::new(true),
            in_flight: AtomicUsize::new(0),
        })
    }

    /// Whether its probes say that it is well, or nothing.
    pub fn is_probed_up(&self) -> bool {
        self.probed_up.load(Relaxed)
    }

    /// Takes over what probes found; says whether that is a change.
    pub fn set_probed(&self, up: bool) -> bool {
        self.probed_up.swap(up, Relaxed) != up
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
