//! What is known of a backend, whatever generation of the configuration asks: it outlives reloads.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use super::age::Age;
use super::balance::peak_ewma::Latency;
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
    /// How soon it answers, where that is asked for.
    pub latency: Latency,
    /// Since when it is in.
    pub age: Age,
    draining: AtomicBool,
    in_flight: AtomicUsize,
    /// Connections to it that are kept unused, where that is bounded.
    pub idle: Arc<AtomicUsize>,
}

impl Known {
    /// A backend nothing is known of, which is taken to be up or not until it is probed. One that comes
    /// to others is a newcomer.
    pub fn nothing(up: bool, is_newcomer: bool, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Relaxed),
            outlier: Outlier::new(now),
            probed: Probed::new(up),
            latency: Latency::new(now),
            age: match is_newcomer {
                true => Age::newcomer(now),
                false => Age::settled(now),
            },
            draining: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            idle: Arc::default(),
        })
    }

    /// Whether an operator lets it finish what it has, and no more.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Lets it finish what it has, or takes it back in; says whether that is a change.
    pub fn set_draining(&self, draining: bool) -> bool {
        self.draining.swap(draining, Relaxed) != draining
    }

    /// Requests it is answering.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// Counts a request, unless it has so many already.
    pub fn begin(&self, most: Option<NonZeroU32>) -> bool {
        let Some(most) = most else {
            self.in_flight.fetch_add(1, Relaxed);
            return true;
        };
        let room = |now: usize| (now < most.get() as usize).then(|| now + 1);
        let begun = self.in_flight.fetch_update(Relaxed, Relaxed, room);
        begun.is_ok()
    }

    pub fn end(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }
}
