//! A request that waits for a fetch: bounded in number and in time.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout_at;

use super::{Demand, RemoteKeys};

/// Most requests that wait for one provider's keys. Others are answered as if no fetch could help: a
/// fetch takes some hundred milliseconds, and only tokens of a new key wait for it.
const MAX_WAITING: usize = 1000;

/// One request that waits.
pub struct Waiter {
    keys: Arc<RemoteKeys>,
    finished: watch::Receiver<u64>,
    /// The fetch that is waited for, and the last one that is over.
    fetch: u64,
    seen: u64,
    began: Instant,
    look_now: bool,
}

impl RemoteKeys {
    /// Whether a token with an unknown key is worth another look, now or later.
    pub fn unknown_key(self: &Arc<Self>, now: Instant) -> Option<Waiter> {
        let mut state = self.lock();
        let demand = state.schedule.unknown_key(now);
        let waiter = self.waiter(demand, state.schedule.finished(), now);
        drop(state);
        if matches!(demand, Demand::Wait(_)) {
            self.wanted.notify_one();
        }
        waiter
    }

    /// The same, for a token that nothing can be said of because there are no keys.
    pub fn without_keys(self: &Arc<Self>, now: Instant) -> Option<Waiter> {
        let state = self.lock();
        self.waiter(
            state.schedule.without_keys(),
            state.schedule.finished(),
            now,
        )
    }

    /// Under the lock of the state, so that no fetch ends between the decision and the wait.
    fn waiter(self: &Arc<Self>, demand: Demand, seen: u64, now: Instant) -> Option<Waiter> {
        let (fetch, look_now) = match demand {
            Demand::Refused => return None,
            Demand::LookAgain => (seen, true),
            Demand::Wait(fetch) => (fetch, false),
        };
        if self.waiting.fetch_add(1, Relaxed) >= MAX_WAITING {
            self.waiting.fetch_sub(1, Relaxed);
            return None;
        }
        if !look_now {
            self.metrics.waits();
        }
        Some(Waiter {
            keys: Arc::clone(self),
            finished: self.finished.subscribe(),
            fetch,
            seen,
            began: now,
            look_now,
        })
    }
}

impl Waiter {
    /// Waits until it is worth looking again; then says how long the request has waited. `None`: it
    /// no longer is.
    pub async fn next(&mut self) -> Option<Duration> {
        if std::mem::take(&mut self.look_now) {
            return Some(Duration::ZERO);
        }
        if self.seen >= self.fetch {
            return None;
        }
        let deadline = (self.began + self.keys.config.timeout).into();
        let changed = timeout_at(deadline, self.finished.changed()).await;
        changed.ok()?.ok()?;
        self.seen = *self.finished.borrow_and_update();
        Some(self.began.elapsed())
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.keys.waiting.fetch_sub(1, Relaxed);
    }
}
