//! What is measured of the discovery of an upstream's backends.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::proto::MetricFamily;

use super::catalogue;
use super::family::Family;
use super::label::{Counts, Label, label};

label! {
    /// What a source answered.
    DiscoveryResult {
        /// Backends.
        Success = "success",
        /// That there are none.
        Missing = "missing",
        /// Nothing that can be understood, or nothing at all.
        Failure = "failure",
    }
}

/// What is measured of one upstream's discovery.
#[derive(Default)]
pub struct DiscoveryMetrics {
    backends: AtomicI64,
    /// In seconds since 1970; 0: never.
    answered: AtomicU64,
    updates: Counts<{ DiscoveryResult::ALL.len() }>,
}

impl DiscoveryMetrics {
    /// Counts an answer.
    pub fn updated(&self, result: DiscoveryResult) {
        self.updates.inc(result);
    }

    /// States how many backends there are.
    pub fn set_backends(&self, count: usize) {
        self.backends
            .store(i64::try_from(count).unwrap_or(i64::MAX), Relaxed);
    }

    /// States when there was a good answer last.
    pub fn set_answered(&self, at: Option<SystemTime>) {
        self.answered.store(at.map_or(0, seconds), Relaxed);
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Adds the families of all upstreams with a discovery.
pub(super) fn collect(
    namespace: &str,
    held: &[(Arc<str>, Arc<DiscoveryMetrics>)],
    out: &mut Vec<MetricFamily>,
) {
    let mut backends = Family::new(namespace, &catalogue::DISCOVERY_BACKENDS);
    let mut age = Family::new(namespace, &catalogue::DISCOVERY_ANSWER_AGE);
    let mut updates = Family::new(namespace, &catalogue::DISCOVERY_UPDATES);
    let now = seconds(SystemTime::now());
    for (upstream, metrics) in held {
        let labels = [("backend_service", &**upstream)];
        backends.gauge(&labels, metrics.backends.load(Relaxed));
        match metrics.answered.load(Relaxed) {
            0 => {}
            at => age.gauge(&labels, now.saturating_sub(at) as i64),
        }
        for (result, count) in metrics.updates.read::<DiscoveryResult>() {
            updates.count(&[labels[0], ("result", result)], count);
        }
    }
    out.extend([backends, age, updates].map(Family::finish));
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Metrics, render};
    use super::*;

    #[test]
    fn an_answer_has_an_age_once_there_was_one() {
        let metrics = Metrics::new("gateway");
        let (first, second) = (metrics.discovery("a"), metrics.discovery("b"));
        first.updated(DiscoveryResult::Failure);
        second.set_backends(6);
        second.set_answered(Some(
            SystemTime::now() - std::time::Duration::from_secs(3600),
        ));
        let text = String::from_utf8_lossy(&render(&metrics, Format::Text).1).into_owned();
        assert!(text.contains("gateway_discovery_backends{backend_service=\"b\"} 6\n"));
        assert!(text.contains("gateway_discovery_answer_age_seconds{backend_service=\"b\"} 36"));
        assert!(!text.contains("gateway_discovery_answer_age_seconds{backend_service=\"a\"}"));
        let failures =
            "gateway_discovery_updates_total{backend_service=\"a\",result=\"failure\"} 1\n";
        assert!(text.contains(failures), "{text}");
    }
}
