//! How soon a backend is expected to answer: a peak of its latency that fades.
//!
//! The rule is that of Finagle's `PeakEwma`: an answer slower than the estimate replaces it at once, a
//! faster one draws it down with the time that went by, and so does silence, so that a backend that was
//! slow is asked again some day.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long an attempt counts at least that was not answered, or with an error: a backend that refuses
/// at once is no fast one.
pub const FAILED: Duration = Duration::from_millis(250);

/// What is known of one backend's latency: one word, written without a lock.
#[derive(Debug)]
pub struct Latency {
    epoch: Instant,
    /// Microseconds, as the bits of an `f32`, in the lower half; when that was, in milliseconds since
    /// `epoch`, in the upper.
    state: AtomicU64,
}

impl Latency {
    /// Nothing is known yet.
    pub fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            state: AtomicU64::new(0),
        }
    }

    /// Takes an answer in.
    pub fn observe(&self, latency: Duration, decay: Duration, now: Instant) {
        let latency = latency.as_secs_f32() * 1e6;
        let at = self.millis(now);
        let take = |state: u64| {
            let (before, then) = unpack(state);
            let estimate = if latency >= before {
                latency
            } else {
                let kept = fading(at.saturating_sub(then), decay);
                before * kept + latency * (1.0 - kept)
            };
            Some(u64::from(at) << 32 | u64::from(estimate.to_bits()))
        };
        // It never declines, so it cannot fail.
        let _ = self.state.fetch_update(Relaxed, Relaxed, take);
    }

    /// The estimate now, in microseconds; 0 when nothing is known.
    pub fn estimate(&self, decay: Duration, now: Instant) -> f32 {
        let (estimate, then) = unpack(self.state.load(Relaxed));
        if estimate == 0.0 {
            return 0.0;
        }
        let estimate = estimate * fading(self.millis(now).saturating_sub(then), decay);
        // So little says nothing any more.
        if estimate < 1.0 { 0.0 } else { estimate }
    }

    /// Wide enough for 49 days; afterwards estimates do not fade any more until they are replaced.
    fn millis(&self, at: Instant) -> u32 {
        let millis = at.saturating_duration_since(self.epoch).as_millis();
        u32::try_from(millis).unwrap_or(u32::MAX)
    }
}

fn unpack(state: u64) -> (f32, u32) {
    (f32::from_bits(state as u32), (state >> 32) as u32)
}

/// What is left after this time.
fn fading(millis: u32, decay: Duration) -> f32 {
    if millis == 0 {
        return 1.0;
    }
    (-(millis as f32) / (decay.as_secs_f32() * 1e3)).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECAY: Duration = Duration::from_secs(10);

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let start = Instant::now();
        let latency = Latency::new(start);
        let millis = Duration::from_millis;
        assert_eq!(latency.estimate(DECAY, start), 0.0);
        latency.observe(millis(5), DECAY, start);
        assert_eq!(latency.estimate(DECAY, start), 5_000.0);
        latency.observe(millis(900), DECAY, start);
        assert_eq!(latency.estimate(DECAY, start), 900_000.0);
        latency.observe(millis(5), DECAY, start);
        assert_eq!(latency.estimate(DECAY, start), 900_000.0, "no time went by");
        let later = start + DECAY;
        let third = latency.estimate(DECAY, later);
        assert!(
            (third - 900_000.0 / std::f32::consts::E).abs() < 100.0,
            "{third}"
        );
        latency.observe(millis(5), DECAY, later);
        let drawn_down = latency.estimate(DECAY, later);
        assert!(
            drawn_down > third && drawn_down < third + 5_000.0,
            "{drawn_down}"
        );
        assert_eq!(latency.estimate(DECAY, start + 20 * DECAY), 0.0);
    }

    #[test]
    fn threads_do_not_lose_a_peak() {
        let start = Instant::now();
        let latency = Latency::new(start);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let latency = &latency;
                scope.spawn(move || {
                    for step in 0..1000 {
                        let micros = Duration::from_micros(1 + (step * 4 + thread) % 4000);
                        latency.observe(micros, DECAY, start);
                    }
                });
            }
        });
        let estimate = latency.estimate(DECAY, start);
        assert!((estimate - 4000.0).abs() < 0.01, "{estimate}");
    }
}
