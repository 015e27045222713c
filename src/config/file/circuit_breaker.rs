//! What is written below `circuit_breaker` and `fallback`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::scalar::{Duration, List, Share, Statuses};
use super::secs;

/// See [`Upstream::circuit_breaker`](super::Upstream::circuit_breaker).
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CircuitBreaker {
    /// Whether failures open it. `false` leaves it closed unless an operator opens it.
    pub enabled: bool,
    /// Failed requests in a row that open it; 0 for any number.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub failure_threshold: u32,
    /// The share of failed requests within `window` that opens it; 0 for none.
    pub error_rate: Share,
    /// How many requests there must have been within `window` before their share of failures counts.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub minimum_requests: u32,
    /// How far back failures are counted for `error_rate`.
    #[schemars(extend("x-min" = "1s", "x-max" = "10m"))]
    pub window: Duration,
    /// How long it stays open, within a tenth, before requests probe the upstream. When left out, 2s at
    /// first, and twice as long after each probe that fails, up to 30s.
    #[schemars(extend("x-min" = "10ms", "x-max" = "1h", "examples" = ["30s"]))]
    pub timeout: Option<Duration>,
    /// The same as `timeout`, in seconds.
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_secs: Option<u32>,
    /// Successful probes that close it.
    #[schemars(range(min = 1, max = 1000))]
    pub success_threshold: u32,
    /// How many requests may probe at the same time; the others are still refused.
    #[schemars(range(min = 1, max = 1000))]
    pub half_open_requests: u32,
    /// Which requests count as failed.
    pub failure_on: FailureOn,
}

/// See [`CircuitBreaker::failure_on`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FailureOn {
    /// Answers of the backend with one of these statuses. A gRPC call that ends with `UNAVAILABLE` and
    /// no message counts as 503. With `500-599` a fault of the application counts as well, and clients
    /// who find a request that causes one can open the circuit for everybody.
    #[schemars(extend("examples" = [["502-504"], ["500-599", 429]]))]
    pub statuses: List<Statuses>,
    /// Requests without a complete answer: no connection, a broken one, or no HTTP.
    pub errors: bool,
    /// Requests that were not answered in time.
    pub timeouts: bool,
    /// Answers that began later than this, whatever their status. When left out, there is no limit.
    #[schemars(extend("x-min" = "1ms", "examples" = ["2s"]))]
    pub slower_than: Option<Duration>,
}

/// What is done instead of refusing: one of `upstream` and `respond`.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Fallback {
    /// The name of another upstream, or a URL. Its own fallback is not used.
    pub upstream: Option<String>,
    /// A fixed response.
    pub respond: Option<FallbackResponse>,
}

/// See [`Fallback::respond`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FallbackResponse {
    /// The status.
    #[schemars(range(min = 200, max = 599))]
    pub status: u16,
    /// The content type.
    pub content_type: String,
    /// Further headers.
    #[schemars(extend("examples" = [{ "cache-control": "no-store" }]))]
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: String,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            enabled: true,
            failure_threshold: 5,
            error_rate: Share(0.5),
            minimum_requests: 20,
            window: secs(10),
            timeout: None,
            timeout_secs: None,
            success_threshold: 2,
            half_open_requests: 1,
            failure_on: FailureOn::default(),
        }
    }
}

impl Default for FailureOn {
    fn default() -> Self {
        Self {
            statuses: vec![Statuses((502, 504))].into(),
            errors: true,
            timeouts: true,
            slower_than: None,
        }
    }
}

impl Default for FallbackResponse {
    fn default() -> Self {
        Self {
            status: 503,
            content_type: "application/json".to_owned(),
            headers: BTreeMap::new(),
            body: String::new(),
        }
    }
}
