//! What `mirror` means: who gets copies of a route's requests.

use std::sync::Arc;
use std::time::Duration;

/// Copies of a route's requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// Who gets them, by its place in [`Config::upstreams`](super::Config::upstreams).
    pub upstream: usize,
    /// Of how many of the requests, above 0.0 to 1.0.
    pub share: f64,
    /// On their way at the same time.
    pub max_in_flight: usize,
    /// How long one may take.
    pub timeout: Duration,
    /// The longest body of one.
    pub max_body: usize,
    /// What is put behind the name in `Host`.
    pub host_suffix: Option<Arc<str>>,
}
