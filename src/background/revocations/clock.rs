//! The time of day, as tokens and the store have it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// This moment.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let since = since.unwrap_or_default().as_millis();
        Self(u64::try_from(since).unwrap_or(u64::MAX))
    }

    /// Whole seconds, as tokens have them.
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }
}
