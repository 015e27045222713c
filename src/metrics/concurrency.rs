//! What is measured of limits on requests at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering::Relaxed};

use prometheus::proto::MetricFamily;

use super::catalogue;
use super::family::Family;
use super::label::{Counts, Label, label};

label! {
    /// Why a request was not given a place.
    ConcurrencyRefusal {
        /// It waited, and gave way to a more important one, or to a later one that can still be served.
        Displaced = "displaced",
        /// Too many wait already.
        Full = "full",
        /// It waited for too long.
        Timeout = "timeout",
    }
}

/// Route, upstream (one of them is empty), and what the limit counts by.
pub(super) type Key = (Arc<str>, Arc<str>, Arc<str>);

/// What is measured of one limit.
#[derive(Default)]
pub struct ConcurrencyMetrics {
    in_flight: AtomicI64,
    queued: AtomicI64,
    limit: AtomicU32,
    refused: Counts<{ ConcurrencyRefusal::ALL.len() }>,
}

impl ConcurrencyMetrics {
    /// Counts requests that have a place, or have it no longer.
    pub fn in_flight(&self, change: i64) {
        self.in_flight.fetch_add(change, Relaxed);
    }

    /// Counts requests that wait, or do so no longer.
    pub fn queued(&self, change: i64) {
        self.queued.fetch_add(change, Relaxed);
    }

    /// States how many may have a place, each key for itself if there is one.
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Relaxed);
    }

    /// Counts a request that was not given a place.
    pub fn refused(&self, reason: ConcurrencyRefusal) {
        self.refused.inc(reason);
    }
}

/// Adds the families of all limits.
pub(super) fn collect(
    namespace: &str,
    held: &[(Key, Arc<ConcurrencyMetrics>)],
    out: &mut Vec<MetricFamily>,
) {
    let mut in_flight = Family::new(namespace, &catalogue::CONCURRENCY_IN_FLIGHT);
    let mut limit = Family::new(namespace, &catalogue::CONCURRENCY_LIMIT);
    let mut queued = Family::new(namespace, &catalogue::CONCURRENCY_QUEUED);
    let mut rejected = Family::new(namespace, &catalogue::CONCURRENCY_REJECTED);
    for ((route, upstream, key), metrics) in held {
        let (upstream, key, route) = (
            ("backend_service", &**upstream),
            ("key", &**key),
            ("route", &**route),
        );
        let labels = [upstream, key, route];
        in_flight.gauge(&labels, metrics.in_flight.load(Relaxed));
        limit.gauge(&labels, metrics.limit.load(Relaxed).into());
        queued.gauge(&labels, metrics.queued.load(Relaxed));
        for (reason, count) in metrics.refused.read::<ConcurrencyRefusal>() {
            rejected.count(&[upstream, key, ("reason", reason), route], count);
        }
    }
    out.extend([in_flight, limit, queued, rejected].map(Family::finish));
}
