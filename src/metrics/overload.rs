//! What is measured of the limits of the process.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus::proto::MetricFamily;

use super::catalogue;
use super::family::Family;
use super::label::{Label, label};

label! {
    /// Why a request was refused for the sake of the process.
    Shed {
        /// Memory is tight.
        Memory = "memory",
        /// Too many are in flight.
        Requests = "requests",
    }
}

/// The classes of requests, in the order of `Priority::ALL`.
const CLASSES: [&str; 4] = ["low", "normal", "high", "critical"];

/// What is measured of overload.
#[derive(Default)]
pub struct OverloadMetrics {
    shed: [[AtomicU64; Shed::ALL.len()]; CLASSES.len()],
    used: AtomicU64,
    available: AtomicU64,
}

impl OverloadMetrics {
    /// Counts a request that was refused, by the index of its class.
    pub fn shed(&self, reason: Shed, class: usize) {
        if let Some(counts) = self.shed.get(class) {
            counts[reason.index()].fetch_add(1, Relaxed);
        }
    }

    /// States how many bytes are in use, and how many may be; 0 for any number.
    pub fn set_memory(&self, used: u64, available: u64) {
        self.used.store(used, Relaxed);
        self.available.store(available, Relaxed);
    }

    pub(super) fn collect(&self, namespace: &str, out: &mut Vec<MetricFamily>) {
        let gauge = |definition, value: &AtomicU64| {
            let mut family = Family::new(namespace, definition);
            let value = i64::try_from(value.load(Relaxed)).unwrap_or(i64::MAX);
            family.gauge(&[], value);
            family.finish()
        };
        out.push(gauge(&catalogue::MEMORY_USED, &self.used));
        out.push(gauge(&catalogue::MEMORY_LIMIT, &self.available));
        let mut shed = Family::new(namespace, &catalogue::OVERLOAD_SHED);
        for (class, counts) in CLASSES.into_iter().zip(&self.shed) {
            // Few and always the same, so they are there before anything is counted.
            for (reason, count) in Shed::ALL.iter().zip(counts) {
                let labels = [("priority", class), ("reason", reason.as_str())];
                shed.count(&labels, count.load(Relaxed));
            }
        }
        out.push(shed.finish());
    }
}
