//! What `sticky` means: clients that come back to their backend.

use std::sync::Arc;
use std::time::Duration;

use super::Secret;

/// The most keys at the same time.
pub const MAX_STICKY_KEYS: usize = 4;

/// Clients are told by a cookie which backend is theirs.
#[derive(Clone, Debug, PartialEq)]
pub struct Sticky {
    /// The name of the cookie.
    pub cookie: Arc<str>,
    /// How long it holds.
    pub ttl: Duration,
    /// The first one signs; never empty, at most [`MAX_STICKY_KEYS`].
    pub keys: Vec<Secret>,
}
