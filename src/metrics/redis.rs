//! What is measured of the shared store: commands, failures, connections.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use prometheus::proto::MetricFamily;

use super::catalogue;
use super::family::Family;
use super::histogram::Histogram;
use super::label::{Counts, Label, label};

label! {
    /// Why a connection or a command failed.
    RedisError {
        /// There was no connection, or none could be made.
        Connect = "connect",
        /// It took too long.
        Timeout = "timeout",
        /// The connection broke.
        Io = "io",
        /// User or password are wrong, or the user may not.
        Auth = "auth",
        /// It is a replica, which takes no writes.
        ReadOnly = "readonly",
        /// It has no memory left.
        OutOfMemory = "oom",
        /// It reads its data after a start.
        Loading = "loading",
        /// No server of a Cluster has the key, or it went from one to the other for too long.
        Cluster = "cluster",
        /// What it answered is not understood.
        Protocol = "protocol",
        /// It refused for another reason.
        Other = "other",
    }
}

label! {
    /// What is asked of the store.
    RedisCommand {
        /// Whether it is there.
        Ping = "ping",
        /// Revoking a token, or taking that back.
        Revoke = "revoke",
        /// Bringing the list of revocations up to date.
        Sync = "sync",
        /// Whose an API key is.
        ApiKey = "api_key",
        /// Whether requests are within their limits.
        RateLimit = "ratelimit",
    }
}

/// What is measured of the shared store.
pub struct RedisMetrics {
    configured: AtomicBool,
    errors: Counts<{ RedisError::ALL.len() }>,
    durations: [Histogram; RedisCommand::ALL.len()],
    connections: AtomicI64,
}

impl Default for RedisMetrics {
    fn default() -> Self {
        Self {
            configured: AtomicBool::new(false),
            errors: Counts::default(),
            durations: std::array::from_fn(|_| Histogram::of_seconds()),
            connections: AtomicI64::new(0),
        }
    }
}

impl RedisMetrics {
    /// States that there is a store. Without one there is nothing to show.
    pub fn set_configured(&self) {
        self.configured.store(true, Relaxed);
    }

    /// Counts a failure.
    pub fn failed(&self, kind: RedisError) {
        self.errors.inc(kind);
    }

    /// Counts an answer and what it took.
    pub fn answered(&self, command: RedisCommand, took: Duration) {
        if let Some(histogram) = self.durations.get(command.index()) {
            histogram.observe_duration(took);
        }
    }

    /// Counts a connection that is there now, or is gone.
    pub fn connected(&self, is_there: bool) {
        self.connections
            .fetch_add(if is_there { 1 } else { -1 }, Relaxed);
    }

    /// Adds the families.
    pub(super) fn collect(&self, namespace: &str, out: &mut Vec<MetricFamily>) {
        if !self.configured.load(Relaxed) {
            return;
        }
        let mut errors = Family::new(namespace, &catalogue::REDIS_ERRORS);
        // All of them, so that a rate over the first failure is right.
        for kind in RedisError::ALL {
            let count = self.errors.count(*kind);
            errors.count(&[("kind", kind.as_str())], count);
        }
        let mut durations = Family::new(namespace, &catalogue::REDIS_COMMAND_DURATION);
        for (command, histogram) in RedisCommand::ALL.iter().zip(&self.durations) {
            durations.histogram(&[("kind", command.as_str())], histogram);
        }
        let mut connections = Family::new(namespace, &catalogue::REDIS_CONNECTIONS);
        connections.gauge(&[], self.connections.load(Relaxed));
        out.extend([errors, durations, connections].map(Family::finish));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Metrics, render};
    use super::*;

    #[test]
    fn shows_what_was_counted_once_there_is_a_store() {
        let metrics = Metrics::new("gateway");
        let page = || String::from_utf8_lossy(&render(&metrics, Format::Text).1).into_owned();
        metrics.redis().failed(RedisError::ReadOnly);
        assert!(!page().contains("_redis_"));
        metrics.redis().set_configured();
        metrics.redis().connected(true);
        let took = Duration::from_millis(2);
        metrics.redis().answered(RedisCommand::Sync, took);
        let text = page();
        for line in [
            "gateway_redis_errors_total{kind=\"readonly\"} 1",
            "gateway_redis_errors_total{kind=\"connect\"} 0",
            "gateway_redis_connections 1",
            "gateway_redis_command_duration_seconds_count{kind=\"sync\"} 1",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} in\n{text}");
        }
    }
}
