//! What is said in the process log of failures that each attempt may repeat: a line now and then.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Between two lines, in milliseconds.
const PAUSE: u64 = 10_000;

/// Admits one complaint in each pause.
#[derive(Debug, Default)]
pub struct Complaints {
    /// When the next one is due, in milliseconds.
    due: AtomicU64,
    /// How many came too early.
    left_out: AtomicU64,
}

impl Complaints {
    /// Whether to speak at this time; then with how many were left out since the last time.
    pub fn admit(&self, now: u64) -> Option<u64> {
        let due = self.due.load(Relaxed);
        let next = now.saturating_add(PAUSE);
        let mine = now >= due
            && self
                .due
                .compare_exchange(due, next, Relaxed, Relaxed)
                .is_ok();
        if mine {
            Some(self.left_out.swap(0, Relaxed))
        } else {
            self.left_out.fetch_add(1, Relaxed);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_repeated_only_after_a_pause() {
        let complaints = Complaints::default();
        assert_eq!(complaints.admit(0), Some(0));
        assert_eq!(complaints.admit(1), None);
        assert_eq!(complaints.admit(PAUSE - 1), None);
        assert_eq!(complaints.admit(PAUSE), Some(2));
        assert_eq!(complaints.admit(PAUSE + 1), None);
    }
}
