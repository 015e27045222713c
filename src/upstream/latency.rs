//! How long answers take: a histogram that forgets, from which a share of them can be read.
//!
//! Edges grow by a quarter of a power of two, so a reading is at most a fifth too long. Counts are halved
//! when there are many, so that the last few thousand answers decide.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// From 64 microseconds to more than an hour.
const SLOTS: usize = 104;
/// The first edge, as a power of two of microseconds.
const FIRST: u32 = 6;
/// Answers after which counts are halved.
const MANY: u32 = 4096;
/// With less than this nothing is read.
const FEW: u32 = 100;

/// Answers by how long they took.
#[derive(Debug)]
pub struct Latencies {
    counts: [AtomicU32; SLOTS],
    since_halved: AtomicU32,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            counts: [const { AtomicU32::new(0) }; SLOTS],
            since_halved: AtomicU32::new(0),
        }
    }
}

impl Latencies {
    /// Counts an answer.
    pub fn observe(&self, latency: Duration) {
        if let Some(count) = self.counts.get(slot(latency)) {
            count.fetch_add(1, Relaxed);
        }
        if self.since_halved.fetch_add(1, Relaxed) == MANY {
            for count in &self.counts {
                // What is counted meanwhile may be lost, of thousands.
                count.store(count.load(Relaxed) / 2, Relaxed);
            }
            self.since_halved.store(0, Relaxed);
        }
    }

    /// How long this share of the answers takes at most; `None` while there are too few.
    pub fn percentile(&self, share: f64) -> Option<Duration> {
        let counts = || self.counts.iter().map(|count| count.load(Relaxed));
        let all: u32 = counts().sum();
        if all < FEW {
            return None;
        }
        let wanted = (f64::from(all) * share).ceil() as u32;
        let mut seen = 0;
        let at = counts().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(edge(at))
    }
}

/// The slot whose upper edge is the first that is not below.
fn slot(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
    if micros <= 1 << FIRST {
        return 0;
    }
    let octave = 63 - (micros - 1).leading_zeros();
    let quarter = ((micros - 1) >> (octave - 2)) & 3;
    let place = 4 * (octave - FIRST) as usize + quarter as usize + 1;
    place.min(SLOTS - 1)
}

/// The upper edge of a slot.
fn edge(slot: usize) -> Duration {
    if slot == 0 {
        return Duration::from_micros(1 << FIRST);
    }
    let (octave, quarter) = ((slot - 1) / 4, (slot - 1) % 4);
    let base = 1u64 << (FIRST as usize + octave);
    Duration::from_micros(base + base / 4 * (quarter as u64 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_never_above_its_edge_and_less_than_a_fifth_below() {
        for micros in (65..100_000).chain([1 << 20, (1 << 30) + 1]) {
            let latency = Duration::from_micros(micros);
            let edge = edge(slot(latency));
            assert!(latency <= edge, "{micros}: {edge:?}");
            assert!(edge < latency.mul_f64(1.25), "{micros}: {edge:?}");
        }
        assert_eq!(slot(Duration::ZERO), 0);
        assert_eq!(slot(Duration::MAX), SLOTS - 1);
    }

    #[test]
    fn a_share_of_the_answers_is_read() {
        let latencies = Latencies::default();
        for millis in 1..FEW {
            latencies.observe(Duration::from_millis(millis.into()));
        }
        assert_eq!(latencies.percentile(0.5), None, "too few");
        latencies.observe(Duration::from_millis(100));
        let half = latencies.percentile(0.5).unwrap_or_default().as_millis();
        assert!((50..=62).contains(&half), "{half}");
        let most = latencies.percentile(0.95).unwrap_or_default().as_millis();
        assert!((95..=118).contains(&most), "{most}");
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let latencies = Latencies::default();
        (0..10_000).for_each(|_| latencies.observe(Duration::from_secs(1)));
        (0..60_000).for_each(|_| latencies.observe(Duration::from_millis(1)));
        let most = latencies.percentile(0.95).unwrap_or_default();
        assert!(most < Duration::from_millis(2), "{most:?}");
    }
}
