//! What `circuit_breaker` and `fallback` mean.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::FixedResponse;

/// When the circuit to an upstream opens, and how it closes again.
#[derive(Clone, Debug, PartialEq)]
pub struct CircuitBreaker {
    /// Failures in a row that open it; 0: any number.
    pub failure_threshold: u32,
    /// The share of failures that opens it; 0.0: none.
    pub error_rate: f64,
    /// Requests within `window` before the share counts; at least 1.
    pub minimum_requests: u32,
    /// How far back the share is counted; at least a second.
    pub window: Duration,
    /// How long it stays open at first, within a tenth; twice as long after each probe that fails.
    pub first_timeout: Duration,
    /// How long it stays open at most, within a tenth.
    pub timeout: Duration,
    /// Successful probes that close it; at least 1.
    pub success_threshold: u32,
    /// Probes at the same time; at least 1.
    pub half_open_requests: u32,
    /// What a failure is.
    pub failure_on: FailureOn,
}

/// Which requests count as failed.
#[derive(Clone, Debug, PartialEq)]
pub struct FailureOn {
    /// Answered with one of these statuses, as inclusive ranges.
    pub statuses: Vec<(u16, u16)>,
    /// Without a complete answer.
    pub errors: bool,
    /// Not answered in time.
    pub timeouts: bool,
    /// Answered later than this.
    pub slower_than: Option<Duration>,
}

impl FailureOn {
    /// Whether an answer with this status, so long after it could begin, is a failure.
    pub fn is_failure(&self, status: u16, latency: Duration) -> bool {
        let within = |(from, to): &(u16, u16)| (*from..=*to).contains(&status);
        self.statuses.iter().any(within) || self.slower_than.is_some_and(|limit| latency > limit)
    }
}

/// What is done in the place of refusing.
#[derive(Clone, Debug, PartialEq)]
pub enum Fallback {
    /// Another upstream, by its place in [`Config::upstreams`](super::Config::upstreams).
    Upstream(usize),
    /// A fixed response.
    Respond(FallbackResponse),
}

/// A fixed response with fields of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct FallbackResponse {
    /// Status, content type and body.
    pub fixed: FixedResponse,
    /// Further fields.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}
