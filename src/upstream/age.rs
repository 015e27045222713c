//! How long a backend has been in: one that is new, or back, gets its weight by and by.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::config::model::SlowStart;

/// Since when a backend is in.
#[derive(Debug)]
pub(super) struct Age {
    epoch: Instant,
    is_in: AtomicBool,
    /// Milliseconds since `epoch`, and one more; 0 for longer than anybody remembers.
    since: AtomicU64,
}

impl Age {
    /// One of those that the upstream began with: all of them are as old.
    pub fn settled(now: Instant) -> Self {
        Self {
            epoch: now,
            is_in: AtomicBool::new(true),
            since: AtomicU64::new(0),
        }
    }

    /// One that comes to others.
    pub fn newcomer(now: Instant) -> Self {
        Self {
            is_in: AtomicBool::new(false),
            ..Self::settled(now)
        }
    }

    /// Takes over whether the backend is in now.
    pub fn note(&self, is_in: bool, now: Instant) {
        let was_in = self.is_in.swap(is_in, Relaxed);
        if is_in && !was_in {
            let millis = now.saturating_duration_since(self.epoch).as_millis();
            let since = u64::try_from(millis).unwrap_or(u64::MAX - 1) + 1;
            self.since.store(since, Relaxed);
        }
    }

    /// The part of its weight that it has now.
    pub fn ramp(&self, slow_start: &SlowStart, now: Instant) -> f64 {
        let Some(since) = self.since.load(Relaxed).checked_sub(1) else {
            return 1.0;
        };
        let start = self.epoch + Duration::from_millis(since);
        let age = now.saturating_duration_since(start).as_secs_f64();
        let part = age / slow_start.duration.as_secs_f64();
        (slow_start.min_weight + (1.0 - slow_start.min_weight) * part).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: SlowStart = SlowStart {
        duration: Duration::from_secs(10),
        min_weight: 0.1,
    };

    #[test]
    fn weight_grows_from_the_time_at_which_a_backend_is_in() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let age = Age::newcomer(start);
        age.note(false, after(3));
        age.note(true, after(5));
        assert_eq!(age.ramp(&SLOW, after(5)), 0.1);
        age.note(true, after(10));
        assert!((age.ramp(&SLOW, after(10)) - 0.55).abs() < 1e-9);
        assert_eq!(age.ramp(&SLOW, after(15)), 1.0);
        age.note(false, after(20));
        age.note(true, after(30));
        assert_eq!(age.ramp(&SLOW, after(30)), 0.1);
    }

    #[test]
    fn those_that_an_upstream_began_with_have_their_weight() {
        let start = Instant::now();
        let age = Age::settled(start);
        age.note(true, start);
        assert_eq!(age.ramp(&SLOW, start), 1.0);
    }
}
