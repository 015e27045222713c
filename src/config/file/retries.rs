//! What is written below `retries`, in an upstream and in a route.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::cause::Cause;
use super::super::scalar::{Duration, List, RetryCause, Share, Size};

/// See [`Upstream::retries`](super::Upstream::retries).
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retries {
    /// Attempts after the first; 0 turns retrying off.
    #[schemars(range(min = 0, max = 10))]
    pub attempts: u32,
    /// What a request is tried again for. `connect_failure`: no connection could be made.
    /// `refused_stream`: the backend gave the request back undone (HTTP/2). `reset`: the connection
    /// broke, or something else than HTTP came, before the response. `timeout`: the response did not
    /// begin in time. A status such as `503`, or a range such as `502-504`: the backend answered
    /// with it. `grpc_unavailable` and the like: a gRPC call ended with it at once.
    #[schemars(extend("examples" = [["connect_failure", "refused_stream", "reset", "timeout", "502-504", 429]]))]
    pub on: List<RetryCause>,
    /// Whether a request is sent again that a backend may have acted on already, though its method is
    /// not idempotent (POST, PATCH). What was never sent is in any case, and so is a gRPC call that
    /// ended with a status in `on`.
    pub non_idempotent: bool,
    /// Whether a request with an `Idempotency-Key` counts as idempotent. Backends must honour it.
    pub idempotency_key: bool,
    /// How long a retry waits. The first one after a connection that could not be made waits for
    /// nothing if there is another backend.
    pub backoff: Backoff,
    /// How much of a request's body is kept to be sent again. A longer one is not tried again once
    /// more than this was read.
    #[schemars(extend("x-max" = "1MiB"))]
    pub max_body: Size,
    /// A second attempt at another backend before the first one has come to anything, of requests that are
    /// idempotent and have no body; the first answer is taken. When left out, there is none.
    pub hedge: Option<Hedge>,
    /// How many retries there may be in relation to requests. 100 can be saved up.
    pub budget: Share,
    /// How many retries a second are allowed even when the budget is used up.
    #[schemars(range(min = 0, max = 100_000))]
    pub min_per_second: u32,
}

/// See [`Retries::backoff`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Backoff {
    /// The first wait is a random time up to this, each further one up to twice as much.
    #[schemars(extend("x-max" = "1m"))]
    pub base: Duration,
    /// The longest wait, and the longest `Retry-After` of a backend that is waited for; a response
    /// with a longer one is passed on.
    #[schemars(extend("x-max" = "1m"))]
    pub max: Duration,
}

/// See [`Retries::hedge`].
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Hedge {
    /// How long the first attempt is waited for.
    #[schemars(extend("examples" = ["50ms"], "x-max" = "1m"))]
    pub after: Option<Duration>,
    /// In the place of `after`: for as long as this share of the upstream's answers takes at most.
    #[schemars(extend("examples" = ["95%"]))]
    pub percentile: Option<Share>,
}

/// See [`Route::retries`](super::Route::retries).
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouteRetries {
    /// Attempts after the first; 0 turns retrying off.
    #[schemars(range(min = 0, max = 10))]
    pub attempts: Option<u32>,
    /// What a request is tried again for.
    #[schemars(extend("examples" = [["connect_failure", "refused_stream"]]))]
    pub on: Option<List<RetryCause>>,
    /// Whether a request is sent again though its method is not idempotent.
    pub non_idempotent: Option<bool>,
    /// Whether a request with an `Idempotency-Key` counts as idempotent.
    pub idempotency_key: Option<bool>,
    /// A second attempt at another backend before the first one has come to anything.
    pub hedge: Option<Hedge>,
}

impl Default for Retries {
    fn default() -> Self {
        let on = [Cause::ConnectFailure, Cause::RefusedStream, Cause::Reset];
        Self {
            attempts: 1,
            on: on.map(RetryCause).to_vec().into(),
            non_idempotent: false,
            idempotency_key: false,
            backoff: Backoff::default(),
            max_body: Size(64 * 1024),
            hedge: None,
            budget: Share(0.2),
            min_per_second: 3,
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: super::millis(25),
            max: super::millis(250),
        }
    }
}
