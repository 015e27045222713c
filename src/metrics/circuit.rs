//! What is measured of circuit breakers.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use prometheus::proto::MetricFamily;

use super::catalogue;
use super::family::Family;
use super::label::{Counts, Label, label};

label! {
    /// The states of a circuit, in the order of the gauge's values.
    CircuitState {
        /// Requests go through.
        Closed = "closed",
        /// A few go through, to find out.
        HalfOpen = "half_open",
        /// None goes through.
        Open = "open",
    }
}

/// What is measured of one breaker.
#[derive(Default)]
pub struct CircuitMetrics {
    state: AtomicI64,
    rejected: AtomicU64,
    transitions: Counts<{ CircuitState::ALL.len() }>,
}

impl CircuitMetrics {
    /// Counts a change of state.
    pub fn changed(&self, to: CircuitState) {
        self.state.store(to as i64, Relaxed);
        self.transitions.inc(to);
    }

    /// Counts a request that was not let through.
    pub fn rejected(&self) {
        self.rejected.fetch_add(1, Relaxed);
    }

    /// Requests that were not let through.
    pub fn rejections(&self) -> u64 {
        self.rejected.load(Relaxed)
    }
}

/// Adds the families of all breakers.
pub(super) fn collect(
    namespace: &str,
    held: &[(Arc<str>, Arc<CircuitMetrics>)],
    out: &mut Vec<MetricFamily>,
) {
    let mut states = Family::new(namespace, &catalogue::CIRCUIT_STATE);
    let mut rejected = Family::new(namespace, &catalogue::CIRCUIT_REJECTED);
    let mut transitions = Family::new(namespace, &catalogue::CIRCUIT_TRANSITIONS);
    for (upstream, metrics) in held {
        let own = ("backend_service", &**upstream);
        states.gauge(&[own], metrics.state.load(Relaxed));
        rejected.count(&[own], metrics.rejections());
        // Those that never happened, too: an alert has to see the first one.
        for to in CircuitState::ALL {
            let count = metrics.transitions.count(*to);
            transitions.count(&[own, ("to", to.as_str())], count);
        }
    }
    out.extend([states, rejected, transitions].map(Family::finish));
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Metrics, render};
    use super::*;

    #[test]
    fn the_state_is_a_number_and_changes_are_counted() {
        let metrics = Metrics::new("gateway");
        let circuit = metrics.circuit("u");
        circuit.changed(CircuitState::Open);
        circuit.changed(CircuitState::HalfOpen);
        circuit.rejected();
        let text = String::from_utf8_lossy(&render(&metrics, Format::Text).1).into_owned();
        for line in [
            "gateway_circuit_breaker_state{backend_service=\"u\"} 1",
            "gateway_circuit_breaker_rejected_total{backend_service=\"u\"} 1",
            "gateway_circuit_breaker_transitions_total{backend_service=\"u\",to=\"open\"} 1",
            "gateway_circuit_breaker_transitions_total{backend_service=\"u\",to=\"half_open\"} 1",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} in\n{text}");
        }
    }
}
