//! A histogram that costs two atomic additions an observation.
//!
//! The count is derived from the buckets, so a scrape in the middle of an observation is still
//! consistent; only the sum may be one observation ahead or behind.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper edges of durations in nanoseconds. 5, 15, 50, 500 ms and 1 s are thresholds of alerts and
/// of the service level, which can be computed exactly only on an edge.
const DURATION_EDGES: [u64; 16] = [
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    15_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
];

/// Upper edges of sizes in bytes: powers of four from 256 B to 1 GiB.
const SIZE_EDGES: [u64; 12] = [
    1 << 8,
    1 << 10,
    1 << 12,
    1 << 14,
    1 << 16,
    1 << 18,
    1 << 20,
    1 << 22,
    1 << 24,
    1 << 26,
    1 << 28,
    1 << 30,
];

/// Enough for the longer list of edges and what lies above it.
const SLOTS: usize = DURATION_EDGES.len() + 1;

#[derive(Clone, Copy)]
enum Scale {
    Seconds,
    Bytes,
}

/// Counts of observations by size.
pub struct Histogram {
    scale: Scale,
    counts: [AtomicU64; SLOTS],
    // Microseconds or bytes. In nanoseconds, 50 000 long requests at a time would fill 64 bits
    // within days.
    sum: AtomicU64,
}

/// A histogram at one moment, in seconds or bytes.
pub(super) struct Reading {
    /// Upper edges, each with the number of observations up to it.
    pub cumulative: Vec<(f64, u64)>,
    pub count: u64,
    pub sum: f64,
}

impl Histogram {
    /// A histogram of durations.
    pub fn of_seconds() -> Self {
        Self::new(Scale::Seconds)
    }

    /// A histogram of sizes.
    pub fn of_bytes() -> Self {
        Self::new(Scale::Bytes)
    }

    fn new(scale: Scale) -> Self {
        Self {
            scale,
            counts: [const { AtomicU64::new(0) }; SLOTS],
            sum: AtomicU64::new(0),
        }
    }

    /// Observes a duration.
    pub fn observe_duration(&self, duration: Duration) {
        let nanos = duration.as_secs().saturating_mul(1_000_000_000);
        let nanos = nanos.saturating_add(u64::from(duration.subsec_nanos()));
        self.add(slot(&DURATION_EDGES, nanos), nanos / 1000);
    }

    /// Observes a size.
    pub fn observe_bytes(&self, bytes: u64) {
        self.add(slot(&SIZE_EDGES, bytes), bytes);
    }

    fn add(&self, slot: usize, amount: u64) {
        if let Some(count) = self.counts.get(slot) {
            count.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(amount, Relaxed);
    }

    pub(super) fn read(&self) -> Reading {
        let (edges, edge_unit, sum_unit): (&[u64], f64, f64) = match self.scale {
            Scale::Seconds => (&DURATION_EDGES, 1e9, 1e6),
            Scale::Bytes => (&SIZE_EDGES, 1.0, 1.0),
        };
        let mut count = 0;
        let mut cumulative = Vec::with_capacity(edges.len());
        for (slot, observed) in self.counts.iter().enumerate() {
            count += observed.load(Relaxed);
            if let Some(&edge) = edges.get(slot) {
                cumulative.push((edge as f64 / edge_unit, count));
            }
        }
        Reading {
            cumulative,
            count,
            sum: self.sum.load(Relaxed) as f64 / sum_unit,
        }
    }
}

/// The first edge that the value does not exceed. Most values are small, so a scan from below is
/// faster than a bisection.
fn slot(edges: &[u64], value: u64) -> usize {
    edges
        .iter()
        .position(|&edge| value <= edge)
        .unwrap_or(edges.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count_at(reading: &Reading, edge: f64) -> u64 {
        let found = reading.cumulative.iter().find(|(at, _)| *at == edge);
        found.map_or(u64::MAX, |(_, count)| *count)
    }

    #[test]
    fn every_threshold_is_an_edge_and_an_edge_is_inclusive() {
        for millis in [5, 15, 50, 500, 1000] {
            let histogram = Histogram::of_seconds();
            let edge = Duration::from_millis(millis);
            histogram.observe_duration(edge);
            histogram.observe_duration(edge + Duration::from_nanos(1));
            let reading = histogram.read();
            assert_eq!(count_at(&reading, millis as f64 / 1000.0), 1, "{millis} ms");
            assert_eq!(reading.count, 2);
        }
    }

    #[test]
    fn what_exceeds_all_edges_is_counted() {
        let durations = Histogram::of_seconds();
        durations.observe_duration(Duration::MAX);
        durations.observe_duration(Duration::from_micros(250));
        let reading = durations.read();
        assert_eq!(count_at(&reading, 60.0), 1);
        assert_eq!(reading.count, 2);

        let sizes = Histogram::of_bytes();
        sizes.observe_bytes(0);
        sizes.observe_bytes(256);
        sizes.observe_bytes((1 << 30) + 1);
        let reading = sizes.read();
        assert_eq!(count_at(&reading, 256.0), 2);
        assert_eq!(count_at(&reading, (1u64 << 30) as f64), 2);
        assert_eq!((reading.count, reading.cumulative.len()), (3, 12));
        assert_eq!(reading.sum, 256.0 + (1u64 << 30) as f64 + 1.0);
    }

    #[test]
    fn the_sum_is_in_seconds() {
        let histogram = Histogram::of_seconds();
        histogram.observe_duration(Duration::from_millis(1500));
        histogram.observe_duration(Duration::from_millis(250));
        assert_eq!(histogram.read().sum, 1.75);
    }

    #[test]
    fn edges_ascend() {
        assert!(DURATION_EDGES.is_sorted() && SIZE_EDGES.is_sorted());
    }
}
