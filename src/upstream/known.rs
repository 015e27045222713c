//! What is known of a backend, whatever generation of the configuration asks: it outlives reloads.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use super::age::Age;
use super::balance::peak_ewma::Latency;
use super::outlier::Outlier;
use super::probed::Probed;

/// Numbers for backends, in the order in which they are first heard of.
static NEXT_ID: AtomicU32 = AtomicU32::new(0);

/// What was learned of one backend, shared by every generation and every membership that has it.
///
/// What a choice reads and writes of a backend that is well comes first, in one line of the cache: among a
/// thousand backends each line is a wait for memory. (`peak_ewma` reads another one, with the latency.)
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Known {
    /// Requests in flight in the lower half, and all that were ever begun in the upper: both are written for
    /// each request, and so at once. What was begun wraps; differences stay right.
    requests: AtomicU64,
    /// Tells it from every other backend, whatever place it has among the members.
    pub id: u32,
    draining: AtomicBool,
    /// What its probes say of it.
    pub probed: Probed,
    /// What its requests say of it.
    pub outlier: Outlier,
    /// How soon it answers, where that is asked for.
    pub latency: Latency,
    /// Since when it is in.
    pub age: Age,
    /// Connections to it that are kept unused, where that is bounded.
    pub idle: Arc<AtomicUsize>,
}

impl Known {
    /// A backend nothing is known of, which is taken to be up or not until it is probed. One that comes
    /// to others is a newcomer.
    pub fn nothing(up: bool, is_newcomer: bool, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            requests: AtomicU64::new(0),
            id: NEXT_ID.fetch_add(1, Relaxed),
            draining: AtomicBool::new(false),
            probed: Probed::new(up),
            outlier: Outlier::new(now),
            latency: Latency::new(now),
            age: match is_newcomer {
                true => Age::newcomer(now),
                false => Age::settled(now),
            },
            idle: Arc::default(),
        })
    }

    /// Whether it may be given a request now, beside those that it has, of which it may have so many.
    /// Asked for each candidate, so it costs a few loads.
    pub fn accepts(&self, most: Option<NonZeroU32>, now: Instant) -> bool {
        self.is_there(most) && self.probed.is_up() && self.outlier.has_room(now)
    }

    /// The same in a panic, which passes over what probes and requests say.
    pub fn is_there(&self, most: Option<NonZeroU32>) -> bool {
        !self.is_draining() && !self.is_full(most)
    }

    /// Whether it has as many requests as it may be given.
    pub fn is_full(&self, most: Option<NonZeroU32>) -> bool {
        most.is_some_and(|most| self.in_flight() >= most.get() as usize)
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
        in_flight(self.requests.load(Relaxed))
    }

    /// Requests that were ever begun.
    pub fn begun(&self) -> u32 {
        (self.requests.load(Relaxed) >> 32) as u32
    }

    /// Counts a request, unless it has so many already.
    pub fn begin(&self, most: Option<NonZeroU32>) -> bool {
        let Some(most) = most else {
            self.requests.fetch_add(ONE_MORE, Relaxed);
            return true;
        };
        let room =
            |now: u64| (in_flight(now) < most.get() as usize).then(|| now.wrapping_add(ONE_MORE));
        let begun = self.requests.fetch_update(Relaxed, Relaxed, room);
        begun.is_ok()
    }

    /// Counts a request no longer that was counted.
    pub fn end(&self) {
        self.requests.fetch_sub(1, Relaxed);
    }
}

/// A request more in flight, and one more begun.
const ONE_MORE: u64 = 1 << 32 | 1;

fn in_flight(requests: u64) -> usize {
    requests as u32 as usize
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn what_a_choice_reads_and_writes_is_in_one_line() {
        // Behind it is what only answers regard.
        let gate = offset_of!(Known, outlier);
        assert!(gate + Outlier::ASKED <= 64, "{gate}");
        assert_eq!(align_of::<Known>(), 64);
    }

    #[test]
    fn what_is_in_flight_and_what_was_begun_are_counted_apart() {
        let known = Known::nothing(true, false, Instant::now());
        // All that fit, so that the next one wraps.
        known.requests.store(u64::from(u32::MAX) << 32, Relaxed);
        let two = NonZeroU32::new(2);
        assert!(known.begin(two) && known.begin(None));
        assert!(!known.begin(two), "it is full");
        assert_eq!((known.in_flight(), known.begun()), (2, 1));
        known.end();
        assert!(known.begin(two));
        known.end();
        known.end();
        assert_eq!((known.in_flight(), known.begun()), (0, 2));
    }
}
