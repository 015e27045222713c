//! What requests leave behind at a backend, to be compared with the others now and then: how many failed, and
//! how long the answers took. How many were begun is counted beside those in flight.
//!
//! On the way of a request each is one addition. Whoever compares reads what was added since the last time,
//! and keeps sums that fade, so that the recent past counts most.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Half octaves from 64 microseconds to a minute; what is beyond is in the first and last.
const BUCKETS: usize = 40;
const SHORTEST: u64 = 64;

/// Counts of one backend. They wrap; differences stay right.
#[derive(Debug)]
pub struct Tally {
    failed: AtomicU32,
    latency: [AtomicU32; BUCKETS],
    seen: Mutex<Seen>,
}

/// What there was the last time, and what has faded.
#[derive(Debug)]
struct Seen {
    begun: u32,
    failed: u32,
    latency: [u32; BUCKETS],
    /// Begun between the last two looks, when nothing was answered then.
    unanswered: u32,
    faded: Sample,
}

/// What happened in some time.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Attempts that were not answered, or badly.
    pub failed: f32,
    /// Answers by how long they took.
    latency: [f32; BUCKETS],
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            begun: 0,
            failed: 0,
            latency: [0; BUCKETS],
            unanswered: 0,
            faded: Sample::default(),
        }
    }
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            failed: 0.0,
            latency: [0.0; BUCKETS],
        }
    }
}

/// What a look finds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// Since the last look.
    pub fresh: Sample,
    /// Before, too, the less the longer ago.
    pub faded: Sample,
    /// So many were begun before the last look, and nothing was answered then or since.
    pub stalled: u32,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            failed: AtomicU32::new(0),
            latency: std::array::from_fn(|_| AtomicU32::new(0)),
            seen: Mutex::default(),
        }
    }
}

impl Tally {
    /// An answer came after this time; `failed` when it is one that says so.
    pub fn answered(&self, latency: Duration, failed: bool) {
        self.latency[bucket(latency)].fetch_add(1, Relaxed);
        if failed {
            self.failed.fetch_add(1, Relaxed);
        }
    }

    /// An attempt failed; `unanswered` when there was no answer before.
    pub fn failed(&self, waited: Option<Duration>) {
        self.failed.fetch_add(1, Relaxed);
        if let Some(waited) = waited {
            self.latency[bucket(waited)].fetch_add(1, Relaxed);
        }
    }

    /// What there was since the last look, and before, of which this share is left, with all attempts that
    /// were ever begun. To be called by one thread at a time.
    pub fn look(&self, left: f32, begun: u32) -> Look {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = Sample::default();
        let failed = self.failed.load(Relaxed);
        fresh.failed = failed.wrapping_sub(seen.failed) as f32;
        seen.failed = failed;
        for (place, count) in self.latency.iter().enumerate() {
            let count = count.load(Relaxed);
            fresh.latency[place] = count.wrapping_sub(seen.latency[place]) as f32;
            seen.latency[place] = count;
        }
        seen.faded.fade(left);
        seen.faded.add(&fresh);
        let since = begun.wrapping_sub(seen.begun);
        seen.begun = begun;
        let is_silent = fresh.total() == 0.0;
        let stalled = if is_silent { seen.unanswered } else { 0 };
        seen.unanswered = if is_silent { since } else { 0 };
        Look {
            fresh,
            faded: seen.faded.clone(),
            stalled,
        }
    }

    /// Forgets what was before, because the backend was out meanwhile.
    pub fn forget(&self, begun: u32) {
        self.look(0.0, begun);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.faded = Sample::default();
        seen.unanswered = 0;
    }
}

impl Sample {
    /// Attempts that are over.
    pub fn total(&self) -> f32 {
        self.latency.iter().sum()
    }

    /// The share of them that failed.
    pub fn failure_rate(&self) -> f32 {
        let total = self.total();
        if total > 0.0 {
            self.failed / total
        } else {
            0.0
        }
    }

    /// What half of the answers took at least.
    pub fn median(&self) -> Duration {
        let half = self.total() / 2.0;
        let mut sum = 0.0;
        for (place, count) in self.latency.iter().enumerate() {
            sum += count;
            if sum > half {
                return edge(place);
            }
        }
        Duration::ZERO
    }

    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        self.failed += other.failed;
        for (own, other) in self.latency.iter_mut().zip(&other.latency) {
            *own += other;
        }
    }

    /// What is left without this part.
    pub fn without(&self, part: &Self) -> Self {
        // Rounding must not leave less than nothing.
        let rest = |all: f32, part: f32| (all - part).max(0.0);
        Self {
            failed: rest(self.failed, part.failed),
            latency: std::array::from_fn(|place| rest(self.latency[place], part.latency[place])),
        }
    }

    fn fade(&mut self, left: f32) {
        self.failed *= left;
        self.latency.iter_mut().for_each(|count| *count *= left);
    }
}

/// Which half octave a time is in.
fn bucket(time: Duration) -> usize {
    // More than an hour is as good as an hour, and can be multiplied.
    let micros = (time.as_micros() as u64).clamp(SHORTEST, 3_600_000_000);
    let octave = (micros / SHORTEST).ilog2() as usize;
    // Whether it is in the upper half: above the root of two, by 181/128.
    let upper = micros * 128 >= (181 * SHORTEST) << octave;
    (octave * 2 + usize::from(upper)).min(BUCKETS - 1)
}

/// Where a half octave begins.
fn edge(place: usize) -> Duration {
    let octave = SHORTEST << (place / 2);
    let micros = if place.is_multiple_of(2) {
        octave
    } else {
        octave * 181 / 128
    };
    Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn times_are_found_again_within_a_half_octave() {
        for micros in [64, 100, 500, 1000, 5000, 70_000, 2_000_000, 30_000_000] {
            let time = Duration::from_micros(micros);
            let found = edge(bucket(time));
            assert!(found <= time && time < found * 3 / 2, "{micros}: {found:?}");
        }
        assert_eq!(bucket(Duration::ZERO), 0);
        assert_eq!(bucket(Duration::from_secs(3600)), BUCKETS - 1);
    }

    #[test]
    fn a_look_sees_what_came_since_the_last_one_and_remembers_less_and_less() {
        let tally = Tally::default();
        (0..8).for_each(|_| tally.answered(5 * MILLI, false));
        tally.failed(Some(MILLI));
        tally.failed(None);
        let look = tally.look(0.5, 0);
        assert_eq!((look.fresh.total(), look.fresh.failed), (9.0, 2.0));
        assert_eq!(look.fresh, look.faded);
        tally.answered(2000 * MILLI, true);
        let look = tally.look(0.5, 0);
        assert_eq!((look.fresh.total(), look.fresh.failed), (1.0, 1.0));
        assert_eq!((look.faded.total(), look.faded.failed), (5.5, 2.0));
        assert!(look.fresh.median() > 1000 * MILLI);
        assert!(look.faded.median() < 10 * MILLI);
        tally.forget(0);
        assert_eq!(tally.look(1.0, 0), Look::default());
    }

    #[test]
    fn a_backend_that_answers_nothing_is_seen_after_two_looks() {
        let tally = Tally::default();
        assert_eq!(
            tally.look(0.9, 5).stalled,
            0,
            "they may have begun just now"
        );
        assert_eq!(tally.look(0.9, 8).stalled, 5);
        tally.answered(MILLI, false);
        assert_eq!(tally.look(0.9, 8).stalled, 0);
        assert_eq!(tally.look(0.9, 8).stalled, 0, "nothing was begun");
    }
}
