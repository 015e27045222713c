//! How slowly a client may send a request body.
//!
//! A body earns time with every byte, and waiting for the client spends it. Time in which nobody
//! waits for the client (the backend is slow, the response has to be written) costs nothing. What
//! can be earned ahead is bounded, so that a body that came quickly at first cannot trickle for
//! hours afterwards.

use std::time::{Duration, Instant};

/// What a body may take before its first byte has earned anything, and for small ones altogether.
pub const GRACE: Duration = Duration::from_secs(5);

/// The pace of one request body.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes a second; 0 when there is no minimum.
    min_rate: u64,
    /// The most that can be had at once.
    most: Duration,
    /// What waiting may still take.
    left: Duration,
    /// Since when the client has been waited for.
    waiting: Option<Instant>,
}

impl Pace {
    /// Of a body that must come with so many bytes a second; 0 is no minimum. A client that was
    /// quick may pause for `pause`.
    pub fn new(min_rate: u64, pause: Duration) -> Self {
        Self {
            min_rate,
            most: pause.max(GRACE),
            left: GRACE,
            waiting: None,
        }
    }

    /// Of what may come as slowly as it likes.
    pub fn any() -> Self {
        Self::new(0, Duration::ZERO)
    }

    /// Nothing has come: the client is waited for. The instant at which it is too slow.
    pub fn wait(&mut self, now: Instant) -> Option<Instant> {
        if self.min_rate == 0 {
            return None;
        }
        let since = *self.waiting.get_or_insert(now);
        Some(since + self.left)
    }

    /// So many bytes have come.
    pub fn received(&mut self, bytes: usize, now: Instant) {
        if self.min_rate == 0 {
            return;
        }
        self.pause(now);
        let earned = Duration::from_secs_f64(bytes as f64 / self.min_rate as f64);
        self.left = (self.left + earned).min(self.most);
    }

    /// Whether there is a minimum.
    pub fn is_limited(&self) -> bool {
        self.min_rate > 0
    }

    /// The client is not waited for any longer.
    pub fn pause(&mut self, now: Instant) {
        if let Some(since) = self.waiting.take() {
            let waited = now.saturating_duration_since(since);
            self.left = self.left.saturating_sub(waited);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(30);
    const SECOND: Duration = Duration::from_secs(1);

    /// Sends so many bytes every so often, and says after which time it was too slow.
    fn too_slow_after(bytes: usize, every: Duration, for_so_long: Duration) -> Option<Duration> {
        let mut pace = Pace::new(1024, PAUSE);
        let start = Instant::now();
        let mut now = start;
        while now - start < for_so_long {
            let end = pace.wait(now)?;
            now += every;
            if end <= now {
                return Some(end - start);
            }
            pace.received(bytes, now);
        }
        None
    }

    #[test]
    fn a_body_at_the_minimum_goes_on_for_ever() {
        assert_eq!(too_slow_after(1024, SECOND, 600 * SECOND), None);
        assert_eq!(too_slow_after(128, SECOND / 8, 600 * SECOND), None);
        assert_eq!(too_slow_after(1 << 20, 4 * SECOND, 600 * SECOND), None);
    }

    #[test]
    fn a_body_that_trickles_ends_soon_behind_the_grace() {
        let after = too_slow_after(1, SECOND / 10, 600 * SECOND).unwrap_or_default();
        assert!(after >= GRACE && after < GRACE + SECOND, "{after:?}");
        let after = too_slow_after(512, SECOND, 600 * SECOND).unwrap_or_default();
        assert!(after >= GRACE && after < 3 * GRACE, "{after:?}");
    }

    #[test]
    fn a_body_that_never_begins_has_the_grace() {
        let mut pace = Pace::new(1024, PAUSE);
        let now = Instant::now();
        assert_eq!(pace.wait(now), Some(now + GRACE));
        assert_eq!(pace.wait(now + SECOND), Some(now + GRACE));
    }

    #[test]
    fn what_is_earned_ahead_is_bounded() {
        let mut pace = Pace::new(1024, PAUSE);
        let now = Instant::now();
        pace.received(1 << 30, now);
        assert_eq!(pace.wait(now), Some(now + PAUSE));
    }

    #[test]
    fn only_waiting_for_the_client_costs() {
        let mut pace = Pace::new(1024, PAUSE);
        let start = Instant::now();
        pace.wait(start);
        pace.pause(start + SECOND);
        // Half an hour with the backend.
        let later = start + 1800 * SECOND;
        assert_eq!(pace.wait(later), Some(later + GRACE - SECOND));
    }

    #[test]
    fn without_a_minimum_nothing_is_too_slow() {
        let mut pace = Pace::any();
        let now = Instant::now();
        assert_eq!(pace.wait(now), None);
        pace.received(1, now + 1_000_000 * SECOND);
        assert_eq!(pace.wait(now), None);
    }
}
