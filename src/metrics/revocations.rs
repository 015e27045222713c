//! What is measured of revoked tokens: how many there are, and how they spread.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use prometheus::proto::MetricFamily;

use super::family::Family;
use super::{catalogue, lock};

/// What is measured of revocations.
#[derive(Default)]
pub struct RevocationMetrics {
    tokens: AtomicUsize,
    subjects: AtomicUsize,
    received: AtomicU64,
    pushed: AtomicU64,
    shared: AtomicBool,
    synced: Mutex<Option<Instant>>,
}

impl RevocationMetrics {
    /// States how many there are.
    pub fn set_count(&self, tokens: usize, subjects: usize) {
        self.tokens.store(tokens, Relaxed);
        self.subjects.store(subjects, Relaxed);
    }

    /// Counts what was learned from the store.
    pub fn received(&self, count: usize) {
        self.received.fetch_add(count as u64, Relaxed);
    }

    /// Counts what was written to the store.
    pub fn pushed(&self, count: usize) {
        self.pushed.fetch_add(count as u64, Relaxed);
    }

    /// States whether the list is to be that of the store.
    pub fn set_shared(&self, shared: bool) {
        if self.shared.swap(shared, Relaxed) != shared {
            // The age is that of being configured until there is a first sync.
            *lock(&self.synced) = shared.then(Instant::now);
        }
    }

    /// States that the list is that of the store at this moment.
    pub fn synced(&self, now: Instant) {
        *lock(&self.synced) = Some(now);
    }

    /// Adds the families.
    pub(super) fn collect(&self, namespace: &str, out: &mut Vec<MetricFamily>) {
        let mut count = Family::new(namespace, &catalogue::REVOCATIONS);
        for (kind, value) in [("subject", &self.subjects), ("token", &self.tokens)] {
            let value = i64::try_from(value.load(Relaxed)).unwrap_or(i64::MAX);
            count.gauge(&[("kind", kind)], value);
        }
        let mut received = Family::new(namespace, &catalogue::REVOCATIONS_RECEIVED);
        let mut pushed = Family::new(namespace, &catalogue::REVOCATIONS_PUSHED);
        let mut age = Family::new(namespace, &catalogue::REVOCATIONS_SYNC_AGE);
        if self.shared.load(Relaxed) {
            received.count(&[], self.received.load(Relaxed));
            pushed.count(&[], self.pushed.load(Relaxed));
            if let Some(synced) = *lock(&self.synced) {
                age.gauge(&[], synced.elapsed().as_secs() as i64);
            }
        }
        out.extend([count, received, pushed, age].map(Family::finish));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Metrics, render};
    use super::*;

    #[test]
    fn shows_what_was_counted_and_the_age_only_where_there_is_a_store() {
        let metrics = Metrics::new("gateway");
        let page = || String::from_utf8_lossy(&render(&metrics, Format::Text).1).into_owned();
        let own = metrics.revocations();
        own.set_count(2, 1);
        own.received(3);
        let text = page();
        assert!(text.contains("gateway_revocations{kind=\"token\"} 2\n"));
        assert!(text.contains("gateway_revocations{kind=\"subject\"} 1\n"));
        assert!(!text.contains("gateway_revocations_received_total "));
        own.set_shared(true);
        own.synced(Instant::now());
        let text = page();
        assert!(text.contains("gateway_revocations_received_total 3\n"));
        assert!(text.contains("gateway_revocations_pushed_total 0\n"));
        assert!(text.contains("gateway_revocations_sync_age_seconds 0\n"));
        own.set_shared(false);
        assert!(!page().contains("sync_age"));
    }
}
