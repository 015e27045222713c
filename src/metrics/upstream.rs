//! What is measured of an upstream: attempts, failures, retries, connections.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus::proto::MetricFamily;

use super::catalogue;
use super::family::Family;
use super::grpc::GrpcCode;
use super::histogram::Histogram;
use super::label::{Counts, Label, label};
use super::shared::SharedConnection;
use super::status::StatusCounts;

label! {
    /// What made a further attempt necessary.
    RetryReason {
        /// No connection could be made.
        Connect = "connect",
        /// Making a connection took too long.
        ConnectTimeout = "connect_timeout",
        /// The backend closed the connection before it answered.
        Reset = "reset",
        /// A kept connection turned out to be closed.
        StaleConnection = "stale_connection",
        /// The answer was not HTTP.
        Protocol = "protocol",
        /// The backend gave the request back without having done anything with it (HTTP/2).
        Refused = "refused",
        /// The response did not begin in time.
        Timeout = "timeout",
        /// The backend answered with a status that is retried.
        Status = "status",
        /// A gRPC call ended at once with a status that is retried.
        GrpcStatus = "grpc_status",
    }
}

label! {
    /// Why there was no further attempt where one was called for.
    RetrySkip {
        /// There had been as many as there may be.
        Attempts = "attempts",
        /// The budget is used up.
        Budget = "budget",
        /// The backend may have acted on it, and its method is not idempotent.
        NotIdempotent = "not_idempotent",
        /// More of the body was sent than is kept.
        BodyTooLarge = "body_too_large",
        /// The time for the whole request would have been over.
        Deadline = "deadline",
        /// The backend wants to be left alone for longer than is waited.
        RetryAfter = "retry_after",
    }
}

label! {
    /// What became of a second attempt beside the first.
    HedgeResult {
        /// It was answered first.
        Won = "won",
        /// The first one was.
        Lost = "lost",
        /// It failed.
        Failed = "failed",
    }
}

label! {
    /// Why an attempt ended without a complete answer.
    FailureReason {
        /// No connection could be made.
        Connect = "connect",
        /// Making a connection took too long.
        ConnectTimeout = "connect_timeout",
        /// The TLS handshake failed: another certificate than expected, or no common ground.
        Tls = "tls",
        /// The backend gave the request back without having done anything with it (HTTP/2).
        Refused = "refused",
        /// The connection broke before the response header was complete.
        Reset = "reset",
        /// The connection broke inside the response body.
        ResetInBody = "reset_in_body",
        /// The response header did not come in time.
        Timeout = "timeout",
        /// The response body stopped coming.
        TimeoutInBody = "timeout_in_body",
        /// The answer was not HTTP.
        Protocol = "protocol",
    }
}

impl FailureReason {
    /// Whether a backend that had the request took too long.
    pub fn is_timeout(self) -> bool {
        matches!(self, Self::Timeout | Self::TimeoutInBody)
    }
}

/// What is measured of an upstream.
pub struct UpstreamMetrics {
    statuses: StatusCounts,
    duration: Histogram,
    failures: Counts<{ FailureReason::ALL.len() }>,
    retries: Counts<{ RetryReason::ALL.len() }>,
    retries_skipped: Counts<{ RetrySkip::ALL.len() }>,
    hedges: Counts<{ HedgeResult::ALL.len() }>,
    grpc_errors: Counts<{ GrpcCode::ALL.len() }>,
    pool_reused: AtomicU64,
    pool_created: AtomicU64,
    pool_in_use: AtomicI64,
    pool_open: AtomicI64,
    priority: AtomicU8,
    panics: AtomicBool,
}

impl Default for UpstreamMetrics {
    fn default() -> Self {
        Self {
            statuses: StatusCounts::default(),
            duration: Histogram::of_seconds(),
            failures: Counts::default(),
            retries: Counts::default(),
            retries_skipped: Counts::default(),
            hedges: Counts::default(),
            grpc_errors: Counts::default(),
            pool_reused: AtomicU64::new(0),
            pool_created: AtomicU64::new(0),
            pool_in_use: AtomicI64::new(0),
            pool_open: AtomicI64::new(0),
            priority: AtomicU8::new(0),
            panics: AtomicBool::new(false),
        }
    }
}

impl UpstreamMetrics {
    /// Observes an attempt that ended with this status from the backend, or with 502 or 504 when
    /// the backend gave none.
    pub fn observe(&self, status: u16, duration: Duration) {
        self.statuses.inc(status);
        self.duration.observe_duration(duration);
    }

    /// Counts an attempt without a complete answer.
    pub fn failed(&self, reason: FailureReason) {
        self.failures.inc(reason);
    }

    /// Counts a further attempt.
    pub fn retried(&self, reason: RetryReason) {
        self.retries.inc(reason);
    }

    /// Counts a second attempt beside the first.
    pub fn hedged(&self, result: HedgeResult) {
        self.hedges.inc(result);
    }

    /// Counts a further attempt that there could not be.
    pub fn retry_skipped(&self, reason: RetrySkip) {
        self.retries_skipped.inc(reason);
    }

    /// Counts a gRPC call that a backend ended with this `grpc-status`, unless that is OK.
    pub fn call_ended(&self, status: &[u8]) {
        match GrpcCode::read(status) {
            GrpcCode::Ok => {}
            code => self.grpc_errors.inc(code),
        }
    }

    /// States which priority group of backends is used, and whether all of it is, up or not.
    pub fn set_selection(&self, priority: u8, panics: bool) {
        self.priority.store(priority, Relaxed);
        self.panics.store(panics, Relaxed);
    }

    /// States that a connection to a backend was made.
    pub fn connection_opened(&self) {
        self.pool_open.fetch_add(1, Relaxed);
    }

    /// States that one was closed.
    pub fn connection_closed(&self) {
        self.pool_open.fetch_sub(1, Relaxed);
    }

    /// Counts a connection that an attempt got; it is in use until the guard is dropped.
    pub fn connection(self: &Arc<Self>, reused: bool) -> PooledConnection {
        self.pool_in_use.fetch_add(1, Relaxed);
        self.pooled(reused, None)
    }

    /// The same for a connection that other attempts may share: it is in use until the last of them
    /// is over. `connection` is a value that all of them hold.
    pub fn shared_connection(
        self: &Arc<Self>,
        reused: bool,
        connection: Arc<dyn Any + Send + Sync>,
    ) -> PooledConnection {
        let shared = SharedConnection::join(connection);
        if shared.is_alone() {
            self.pool_in_use.fetch_add(1, Relaxed);
        }
        self.pooled(reused, Some(shared))
    }

    fn pooled(
        self: &Arc<Self>,
        reused: bool,
        shared: Option<SharedConnection>,
    ) -> PooledConnection {
        let counter = if reused {
            &self.pool_reused
        } else {
            &self.pool_created
        };
        counter.fetch_add(1, Relaxed);
        PooledConnection {
            metrics: Arc::clone(self),
            shared,
        }
    }
}

/// A connection to a backend while it carries a request.
pub struct PooledConnection {
    metrics: Arc<UpstreamMetrics>,
    shared: Option<SharedConnection>,
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        if self.shared.as_ref().is_none_or(SharedConnection::is_alone) {
            self.metrics.pool_in_use.fetch_sub(1, Relaxed);
        }
    }
}

/// Adds the families of all upstreams.
pub(super) fn collect(
    namespace: &str,
    held: &[(Arc<str>, Arc<UpstreamMetrics>)],
    out: &mut Vec<MetricFamily>,
) {
    let mut requests = Family::new(namespace, &catalogue::BACKEND_REQUESTS);
    let mut durations = Family::new(namespace, &catalogue::BACKEND_DURATION);
    let mut failures = Family::new(namespace, &catalogue::BACKEND_FAILURES);
    let mut retries = Family::new(namespace, &catalogue::BACKEND_RETRIES);
    let mut skipped = Family::new(namespace, &catalogue::BACKEND_RETRIES_SKIPPED);
    let mut hedges = Family::new(namespace, &catalogue::BACKEND_HEDGES);
    let mut grpc_errors = Family::new(namespace, &catalogue::UPSTREAM_GRPC_ERRORS);
    let mut priorities = Family::new(namespace, &catalogue::UPSTREAM_PRIORITY);
    let mut panics = Family::new(namespace, &catalogue::UPSTREAM_PANIC);
    let mut pool = Pool::new(namespace);
    for (upstream, metrics) in held {
        let own = ("backend_service", &**upstream);
        priorities.gauge(&[own], metrics.priority.load(Relaxed).into());
        panics.gauge(&[own], metrics.panics.load(Relaxed).into());
        durations.histogram(&[own], &metrics.duration);
        metrics
            .statuses
            .read(|code, count| requests.count(&[own, ("status_code", code)], count));
        for (reason, count) in metrics.failures.read::<FailureReason>() {
            failures.count(&[own, ("reason", reason)], count);
        }
        for (reason, count) in metrics.retries.read::<RetryReason>() {
            retries.count(&[own, ("reason", reason)], count);
        }
        for (reason, count) in metrics.retries_skipped.read::<RetrySkip>() {
            skipped.count(&[own, ("reason", reason)], count);
        }
        for (result, count) in metrics.hedges.read::<HedgeResult>() {
            hedges.count(&[own, ("result", result)], count);
        }
        for (code, count) in metrics.grpc_errors.read::<GrpcCode>() {
            grpc_errors.count(&[own, ("grpc_code", code)], count);
        }
        pool.add(own, metrics);
    }
    out.extend([requests, durations, failures, retries, skipped, grpc_errors].map(Family::finish));
    out.push(hedges.finish());
    out.extend([priorities, panics].map(Family::finish));
    out.extend([pool.in_use, pool.idle, pool.reused, pool.created].map(Family::finish));
}

struct Pool {
    in_use: Family,
    idle: Family,
    reused: Family,
    created: Family,
}

impl Pool {
    fn new(namespace: &str) -> Self {
        Self {
            in_use: Family::new(namespace, &catalogue::POOL_IN_USE),
            idle: Family::new(namespace, &catalogue::POOL_IDLE),
            reused: Family::new(namespace, &catalogue::POOL_REUSED),
            created: Family::new(namespace, &catalogue::POOL_CREATED),
        }
    }

    fn add(&mut self, own: (&str, &str), metrics: &UpstreamMetrics) {
        let in_use = metrics.pool_in_use.load(Relaxed);
        // The two counts are read one after the other; between them one may have moved.
        let idle = (metrics.pool_open.load(Relaxed) - in_use).max(0);
        self.in_use.gauge(&[own], in_use);
        self.idle.gauge(&[own], idle);
        self.reused.count(&[own], metrics.pool_reused.load(Relaxed));
        self.created
            .count(&[own], metrics.pool_created.load(Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Metrics, render};
    use super::*;

    #[test]
    fn a_connection_is_in_use_once_however_many_requests_it_carries() {
        let metrics = Arc::new(UpstreamMetrics::default());
        let in_use = || metrics.pool_in_use.load(Relaxed);
        let (one, other) = (Arc::new(1), Arc::new(2));
        let first = metrics.shared_connection(false, one.clone());
        let second = metrics.shared_connection(true, one);
        let third = metrics.shared_connection(false, other);
        assert_eq!(in_use(), 2);
        drop(first);
        assert_eq!(in_use(), 2);
        drop(second);
        assert_eq!(in_use(), 1);
        drop(third);
        assert_eq!(in_use(), 0);
    }

    #[test]
    fn counts_attempts_failures_retries_and_connections() {
        let metrics = Metrics::new("gateway");
        let upstream = metrics.upstream("users");
        upstream.observe(502, Duration::from_millis(3));
        upstream.failed(FailureReason::ResetInBody);
        upstream.retried(RetryReason::StaleConnection);
        let first = upstream.connection(false);
        let second = upstream.connection(true);
        drop(first);
        let text = String::from_utf8_lossy(&render(&metrics, Format::Text).1).into_owned();
        drop(second);
        for line in [
            "gateway_backend_requests_total{backend_service=\"users\",status_code=\"502\"} 1",
            "gateway_backend_duration_seconds_count{backend_service=\"users\"} 1",
            "gateway_backend_failures_total{backend_service=\"users\",reason=\"reset_in_body\"} 1",
            "gateway_backend_retries_total{backend_service=\"users\",reason=\"stale_connection\"} 1",
            "gateway_connection_pool_in_use{backend_service=\"users\"} 1",
            "gateway_connection_pool_reused_total{backend_service=\"users\"} 1",
            "gateway_connection_pool_created_total{backend_service=\"users\"} 1",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} in\n{text}");
        }
    }
}
