//! Refusing what is too much.

use std::sync::Arc;

use http::HeaderValue;

/// A request beyond a limit of its rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitRefusal {
    /// The policy that refuses; its name needs no escape in JSON.
    pub policy: Arc<str>,
    /// Seconds after which trying again makes sense.
    pub retry_after: u64,
}

impl LimitRefusal {
    /// The value of `Retry-After`; never 0, which clients take for an invitation.
    pub(super) fn retry_after(&self) -> HeaderValue {
        HeaderValue::from(self.retry_after.max(1))
    }
}
