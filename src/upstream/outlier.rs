//! Passive ejection: a backend that fails real requests is left out for a while.
//!
//! Consecutive failures eject; the time out doubles with each ejection that follows another without
//! a success in between, up to a bound. After its time the backend is given requests again, and one
//! failure is enough to eject it anew.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::config::model;

/// What is known of one backend from the requests it was given.
#[derive(Debug)]
pub struct Outlier {
    epoch: Instant,
    consecutive: AtomicU32,
    ejections: AtomicU32,
    /// Milliseconds since `epoch`; 0 when not ejected.
    until: AtomicU64,
}

impl Outlier {
    /// A backend nothing is known of.
    pub fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            consecutive: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            until: AtomicU64::new(0),
        }
    }

    /// Records an attempt that succeeded.
    pub fn succeeded(&self) {
        // Loads first: on the good path nothing is written, and no cache line changes hands.
        if self.consecutive.load(Ordering::Relaxed) != 0 {
            self.consecutive.store(0, Ordering::Relaxed);
        }
        if self.ejections.load(Ordering::Relaxed) != 0 {
            self.ejections.store(0, Ordering::Relaxed);
        }
    }

    /// Records an attempt that failed; says whether the backend should be ejected now.
    pub fn failed(&self, policy: &model::Outlier) -> bool {
        let failures = self.consecutive.fetch_add(1, Ordering::Relaxed) + 1;
        let again = self.ejections.load(Ordering::Relaxed) > 0;
        policy.consecutive_failures > 0 && (again || failures >= policy.consecutive_failures)
    }

    /// Ejects the backend from now on and says for how long.
    pub fn eject(&self, policy: &model::Outlier, now: Instant) -> Duration {
        let times = self.ejections.fetch_add(1, Ordering::Relaxed).min(16);
        let time = policy
            .base_ejection
            .saturating_mul(1 << times)
            .min(policy.max_ejection);
        self.until.store(self.millis(now + time), Ordering::Relaxed);
        self.consecutive.store(0, Ordering::Relaxed);
        time
    }

    /// When the backend returns, if it is ejected at `now`.
    pub fn ejected_until(&self, now: Instant) -> Option<Instant> {
        let until = self.until.load(Ordering::Relaxed);
        (until > self.millis(now)).then(|| self.epoch + Duration::from_millis(until))
    }

    fn millis(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> model::Outlier {
        model::Outlier {
            consecutive_failures: 3,
            base_ejection: Duration::from_secs(10),
            max_ejection: Duration::from_secs(30),
            max_ejected: 0.5,
        }
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_starts_over() {
        let outlier = Outlier::new(Instant::now());
        assert!(!outlier.failed(&policy()));
        assert!(!outlier.failed(&policy()));
        outlier.succeeded();
        assert!(!outlier.failed(&policy()));
        assert!(!outlier.failed(&policy()));
        assert!(outlier.failed(&policy()));
    }

    #[test]
    fn an_ejection_ends_and_grows_when_nothing_got_better() {
        let start = Instant::now();
        let secs = Duration::from_secs;
        let outlier = Outlier::new(start);
        assert_eq!(outlier.eject(&policy(), start), secs(10));
        assert!(outlier.ejected_until(start + secs(9)).is_some());
        assert!(outlier.ejected_until(start + secs(10)).is_none());
        assert!(outlier.failed(&policy()), "one failure is enough now");
        assert_eq!(outlier.eject(&policy(), start + secs(10)), secs(20));
        assert_eq!(outlier.eject(&policy(), start + secs(30)), secs(30));
        outlier.succeeded();
        assert!(!outlier.failed(&policy()));
        assert_eq!(outlier.eject(&policy(), start + secs(90)), secs(10));
    }

    #[test]
    fn a_threshold_of_zero_never_ejects() {
        let off = model::Outlier {
            consecutive_failures: 0,
            ..policy()
        };
        let outlier = Outlier::new(Instant::now());
        assert!((0..100).all(|_| !outlier.failed(&off)));
    }
}
