//! How many requests there were in a sliding window, and how many of them failed.
//!
//! The window is ten buckets, each of which knows which tenth of time it counts; counting one that is
//! over begins it anew. A request that succeeds costs one addition.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Parts of a window.
const BUCKETS: u64 = 10;

/// Counts of the last while.
#[derive(Debug, Default)]
pub(super) struct Window {
    buckets: [Bucket; BUCKETS as usize],
}

#[derive(Debug, Default)]
struct Bucket {
    total: Count,
    failed: Count,
}

/// The number of a tenth in the upper half, a count in the lower.
#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Count {
    fn add(&self, tenth: u32) {
        let value = self.0.load(Relaxed);
        if (value >> 32) as u32 == tenth {
            self.0.fetch_add(1, Relaxed);
            return;
        }
        let fresh = u64::from(tenth) << 32 | 1;
        if self
            .0
            .compare_exchange(value, fresh, Relaxed, Relaxed)
            .is_err()
        {
            // Somebody else has just begun it.
            self.0.fetch_add(1, Relaxed);
        }
    }

    /// What was counted, if it was in one of the tenths up to this one.
    fn read(&self, tenth: u32) -> u32 {
        let value = self.0.load(Relaxed);
        let age = tenth.wrapping_sub((value >> 32) as u32);
        if u64::from(age) < BUCKETS {
            value as u32
        } else {
            0
        }
    }
}

impl Window {
    /// Counts a request at this time, in milliseconds, of a window of this length.
    pub fn count(&self, millis: u64, length: Duration) {
        let tenth = tenth(millis, length);
        self.bucket(tenth).total.add(tenth);
    }

    /// Counts a failure. That it was a request, too, is counted for itself.
    pub fn count_failure(&self, millis: u64, length: Duration) {
        let tenth = tenth(millis, length);
        self.bucket(tenth).failed.add(tenth);
    }

    /// How many failed, and how many there were.
    pub fn read(&self, millis: u64, length: Duration) -> (u32, u32) {
        let tenth = tenth(millis, length);
        let sum = |(failed, total): (u32, u32), bucket: &Bucket| {
            let (more_failed, more) = (bucket.failed.read(tenth), bucket.total.read(tenth));
            (
                failed.saturating_add(more_failed),
                total.saturating_add(more),
            )
        };
        self.buckets.iter().fold((0, 0), sum)
    }

    /// Forgets everything.
    pub fn clear(&self) {
        for bucket in &self.buckets {
            bucket.total.0.store(0, Relaxed);
            bucket.failed.0.store(0, Relaxed);
        }
    }

    fn bucket(&self, tenth: u32) -> &Bucket {
        &self.buckets[(u64::from(tenth) % BUCKETS) as usize]
    }
}

/// Which tenth a time is in. Its number begins at ten, since nothing was counted in those before.
fn tenth(millis: u64, length: Duration) -> u32 {
    let each = (length.as_millis() as u64 / BUCKETS).max(1);
    (millis / each + BUCKETS) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(10);

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let window = Window::default();
        assert_eq!(window.read(0, LENGTH), (0, 0));
        for second in 0..10 {
            window.count(second * 1000, LENGTH);
            if second < 5 {
                window.count_failure(second * 1000, LENGTH);
            }
        }
        assert_eq!(window.read(9_999, LENGTH), (5, 10));
        assert_eq!(window.read(10_000, LENGTH), (4, 9));
        assert_eq!(window.read(14_000, LENGTH), (0, 5));
        assert_eq!(window.read(100_000, LENGTH), (0, 0));
    }

    #[test]
    fn a_bucket_that_is_over_begins_anew() {
        let window = Window::default();
        window.count(500, LENGTH);
        window.count(10_500, LENGTH);
        assert_eq!(window.read(10_500, LENGTH), (0, 1));
        window.clear();
        assert_eq!(window.read(10_500, LENGTH), (0, 0));
    }

    #[test]
    fn threads_lose_no_count() {
        let window = Window::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| window.count(1500, LENGTH)));
            }
        });
        assert_eq!(window.read(1500, LENGTH), (0, 40_000));
    }
}
