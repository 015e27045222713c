//! What is measured of rate limits: decisions, failures, and what asking Redis takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus::proto::MetricFamily;

use super::catalogue;
use super::family::Family;
use super::histogram::Histogram;
use super::label::{Counts, Label, label};

label! {
    /// What was decided about a request.
    LimitResult {
        /// It was let through.
        Allowed = "allowed",
        /// It was refused.
        Limited = "limited",
        /// It was let through because the policy only counts.
        WouldLimit = "would_limit",
        /// It is not limited.
        Exempt = "exempt",
    }
}

label! {
    /// Who decided.
    LimitSource {
        /// This instance by itself.
        Local = "local",
        /// Redis, at that time or with what was leased from it.
        Redis = "redis",
        /// What the failure mode says, because Redis could not.
        Fallback = "fallback",
    }
}

/// What is measured of one policy.
pub struct RateLimitMetrics {
    decisions: [Counts<{ LimitResult::ALL.len() }>; LimitSource::ALL.len()],
    errors: AtomicU64,
    checks: Histogram,
}

impl Default for RateLimitMetrics {
    fn default() -> Self {
        Self {
            decisions: Default::default(),
            errors: AtomicU64::new(0),
            checks: Histogram::of_seconds(),
        }
    }
}

impl RateLimitMetrics {
    /// Counts a decision.
    pub fn decided(&self, result: LimitResult, source: LimitSource) {
        if let Some(counts) = self.decisions.get(source.index()) {
            counts.inc(result);
        }
    }

    /// Counts a request that Redis could not decide about.
    pub fn failed(&self) {
        self.errors.fetch_add(1, Relaxed);
    }

    /// States what a decision took that was waited for.
    pub fn waited(&self, took: Duration) {
        self.checks.observe_duration(took);
    }
}

/// Adds the families of all policies.
pub(super) fn collect(
    namespace: &str,
    held: &[(Arc<str>, Arc<RateLimitMetrics>)],
    out: &mut Vec<MetricFamily>,
) {
    let mut decisions = Family::new(namespace, &catalogue::RATELIMIT_DECISIONS);
    let mut errors = Family::new(namespace, &catalogue::RATELIMIT_ERRORS);
    let mut checks = Family::new(namespace, &catalogue::RATELIMIT_CHECK_DURATION);
    for (policy, metrics) in held {
        let own = ("policy", &**policy);
        for (source, counts) in LimitSource::ALL.iter().zip(&metrics.decisions) {
            for (result, count) in counts.read::<LimitResult>() {
                let labels = [own, ("result", result), ("source", source.as_str())];
                decisions.count(&labels, count);
            }
        }
        errors.count(&[own], metrics.errors.load(Relaxed));
        checks.histogram(&[own], &metrics.checks);
    }
    out.extend([decisions, errors, checks].map(Family::finish));
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Metrics, render};
    use super::*;

    #[test]
    fn shows_what_was_counted() {
        let metrics = Metrics::new("gateway");
        let one = metrics.rate_limit("per-user");
        let page = || String::from_utf8_lossy(&render(&metrics, Format::Text).1).into_owned();
        assert!(page().contains("gateway_ratelimit_errors_total{policy=\"per-user\"} 0\n"));
        one.decided(LimitResult::Limited, LimitSource::Redis);
        one.decided(LimitResult::Allowed, LimitSource::Fallback);
        one.failed();
        one.waited(Duration::from_millis(2));
        let text = page();
        for line in [
            "decisions_total{policy=\"per-user\",result=\"limited\",source=\"redis\"} 1",
            "decisions_total{policy=\"per-user\",result=\"allowed\",source=\"fallback\"} 1",
            "errors_total{policy=\"per-user\"} 1",
            "check_duration_seconds_count{policy=\"per-user\"} 1",
        ] {
            let line = format!("gateway_ratelimit_{line}\n");
            assert!(text.contains(&line), "{line} in\n{text}");
        }
    }
}
