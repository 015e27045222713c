//! What operators are told of a provider's fetched keys.

use std::time::{Instant, SystemTime};

use super::{Failure, RemoteKeys, Saved};

/// What there is to tell.
#[derive(Clone, Debug)]
pub struct Report {
    /// When the keys in use were last fetched or found unchanged.
    pub fetched: Option<SystemTime>,
    /// When they are fetched next.
    pub next_fetch: SystemTime,
    /// What went wrong the last time, and when; `None` once it went well.
    pub last_error: Option<(SystemTime, Failure)>,
    /// Whether the keys in use could not be refreshed when they were to be.
    pub stale: bool,
}

impl RemoteKeys {
    /// As it is now.
    pub fn report(&self, now: Instant, wall: SystemTime) -> Report {
        let state = self.lock();
        let has_keys = self.has_keys();
        Report {
            fetched: state
                .saved
                .as_ref()
                .filter(|_| has_keys)
                .map(Saved::fetched),
            next_fetch: wall + state.schedule.due().saturating_duration_since(now),
            last_error: state.last_error.clone(),
            stale: has_keys && state.schedule.failures() > 0,
        }
    }
}
