//! What is measured of one backend.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use prometheus::proto::MetricFamily;

use super::catalogue;
use super::family::Family;
use super::label::{Counts, Label, label};

label! {
    /// What a health check found.
    ProbeResult {
        /// The backend is well.
        Success = "success",
        /// It is not.
        Failure = "failure",
    }
}

label! {
    /// Why a backend was ejected.
    EjectionReason {
        /// Attempts in a row were not answered, or broken off.
        ConsecutiveFailures = "consecutive_failures",
        /// Answers in a row said that it failed.
        ConsecutiveServerErrors = "consecutive_5xx",
        /// It failed more than the others.
        FailureRate = "failure_rate",
        /// It was slower than the others.
        Slow = "slow",
        /// It returned, and failed again.
        Probe = "probe",
    }
}

/// Upstream and backend.
pub(super) type Key = (Arc<str>, Arc<str>);

/// What is measured of one backend. It counts as up until something else is known.
pub struct BackendMetrics {
    up: AtomicBool,
    draining: AtomicBool,
    ejections: Counts<{ EjectionReason::ALL.len() }>,
    probes: Counts<{ ProbeResult::ALL.len() }>,
}

impl Default for BackendMetrics {
    fn default() -> Self {
        Self {
            up: AtomicBool::new(true),
            draining: AtomicBool::new(false),
            ejections: Counts::default(),
            probes: Counts::default(),
        }
    }
}

impl BackendMetrics {
    /// States whether the backend is given requests.
    pub fn set_up(&self, up: bool) {
        self.up.store(up, Relaxed);
    }

    /// States whether it is given no requests because somebody wants it to finish.
    pub fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Relaxed);
    }

    /// Counts an ejection.
    pub fn ejected(&self, reason: EjectionReason) {
        self.ejections.inc(reason);
    }

    /// Counts a health check.
    pub fn probed(&self, result: ProbeResult) {
        self.probes.inc(result);
    }
}

/// Adds the families of all backends.
pub(super) fn collect(
    namespace: &str,
    held: &[(Key, Arc<BackendMetrics>)],
    out: &mut Vec<MetricFamily>,
) {
    let mut up = Family::new(namespace, &catalogue::BACKEND_UP);
    let mut draining = Family::new(namespace, &catalogue::BACKEND_DRAINING);
    let mut ejections = Family::new(namespace, &catalogue::BACKEND_EJECTIONS);
    let mut probes = Family::new(namespace, &catalogue::BACKEND_PROBES);
    for ((upstream, backend), metrics) in held {
        let labels = [("backend", &**backend), ("backend_service", &**upstream)];
        up.gauge(&labels, metrics.up.load(Relaxed).into());
        draining.gauge(&labels, metrics.draining.load(Relaxed).into());
        // Those that never happened, too: an alert has to see the first one.
        for reason in EjectionReason::ALL {
            let count = metrics.ejections.count(*reason);
            ejections.count(&[labels[0], labels[1], ("reason", reason.as_str())], count);
        }
        for (result, count) in metrics.probes.read::<ProbeResult>() {
            probes.count(&[labels[0], labels[1], ("result", result)], count);
        }
    }
    out.extend([up, draining, ejections, probes].map(Family::finish));
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Metrics, render};
    use super::*;

    #[test]
    fn says_whether_a_backend_is_up() {
        let metrics = Metrics::new("gateway");
        let (first, second) = (metrics.backend("u", "a:1"), metrics.backend("u", "b:1"));
        second.set_up(false);
        second.ejected(EjectionReason::Slow);
        first.probed(ProbeResult::Failure);
        let text = String::from_utf8_lossy(&render(&metrics, Format::Text).1).into_owned();
        for line in [
            "gateway_backend_up{backend=\"a:1\",backend_service=\"u\"} 1",
            "gateway_backend_up{backend=\"b:1\",backend_service=\"u\"} 0",
            "gateway_backend_ejections_total{backend=\"b:1\",backend_service=\"u\",reason=\"slow\"} 1",
            "gateway_backend_probes_total{backend=\"a:1\",backend_service=\"u\",result=\"failure\"} 1",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} in\n{text}");
        }
    }
}
