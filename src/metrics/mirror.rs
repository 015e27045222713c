//! What is measured of copies of requests.

use std::sync::Arc;

use prometheus::proto::MetricFamily;

use super::catalogue;
use super::family::Family;
use super::label::{Counts, Label, label};

label! {
    /// What became of a copy that was due.
    MirrorResult {
        /// It was answered, whatever the status.
        Answered = "answered",
        /// It failed.
        Failed = "failed",
        /// It took too long.
        Timeout = "timeout",
        /// No backend of the other upstream was in service.
        NoBackend = "no_backend",
        /// Too many were on their way.
        Full = "full",
        /// The body was longer than is kept.
        BodyTooLarge = "body_too_large",
        /// The body did not come to its end.
        Incomplete = "incomplete",
    }
}

/// What is measured of the copies of one route.
#[derive(Default)]
pub struct MirrorMetrics {
    results: Counts<{ MirrorResult::ALL.len() }>,
}

impl MirrorMetrics {
    /// Counts what became of one.
    pub fn ended(&self, result: MirrorResult) {
        self.results.inc(result);
    }
}

/// Adds the family of all routes.
pub(super) fn collect(
    namespace: &str,
    held: &[(Arc<str>, Arc<MirrorMetrics>)],
    out: &mut Vec<MetricFamily>,
) {
    let mut requests = Family::new(namespace, &catalogue::MIRROR_REQUESTS);
    for (route, metrics) in held {
        for (result, count) in metrics.results.read::<MirrorResult>() {
            requests.count(&[("result", result), ("route", route)], count);
        }
    }
    out.push(requests.finish());
}
