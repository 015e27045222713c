//! What ends an exchange before its time: the token that it was begun with holds no longer.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::filter::auth::watch::{Watch, Why};

/// What the two sides of a WebSocket are given to close it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The end of one exchange, of which most have none but their own.
#[derive(Default)]
pub struct Ending {
    /// Whether there is anything to look at.
    is_set: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
enum State {
    /// It goes on as long as it likes.
    #[default]
    Free,
    /// Until this comes.
    Watched(Pin<Box<dyn Future<Output = Why> + Send>>),
    /// It has come; the other says when patience is at its end.
    Over(Why, Pin<Box<Sleep>>),
}

impl Ending {
    /// The exchange ends with this.
    pub fn set(&self, mut watch: Watch) {
        *self.lock() = State::Watched(Box::pin(async move { watch.ended().await }));
        self.is_set.store(true, Ordering::Release);
    }

    /// What comes next has nothing to do with it.
    pub fn clear(&self) {
        if self.is_set.swap(false, Ordering::AcqRel) {
            *self.lock() = State::Free;
        }
    }

    /// Ready once the exchange has to end. Wakes the task when that comes.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<Why> {
        if !self.is_set.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        let mut state = self.lock();
        if let State::Watched(end) = &mut *state
            && let Poll::Ready(why) = end.as_mut().poll(context)
        {
            *state = State::Over(why, Box::pin(sleep(PATIENCE)));
        }
        match &*state {
            State::Over(why, _) => Poll::Ready(*why),
            State::Free | State::Watched(_) => Poll::Pending,
        }
    }

    /// Ready once it should have ended by itself.
    pub fn poll_overdue(&self, context: &mut Context<'_>) -> Poll<Why> {
        if self.poll(context).is_pending() {
            return Poll::Pending;
        }
        match &mut *self.lock() {
            State::Over(why, patience) => {
                let why = *why;
                patience.as_mut().poll(context).map(|()| why)
            }
            State::Free | State::Watched(_) => Poll::Pending,
        }
    }

    /// Never waits: both halves of an exchange are in one task.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ending").finish_non_exhaustive()
    }
}
