//! What ends an exchange before its time: the token that it was begun with holds no longer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::filter::auth::watch::{Watch, Why};

/// What the two sides of a WebSocket are given to close it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The end of one exchange, of which most have none but their own.
#[derive(Default)]
pub struct Ending(State);

#[derive(Default)]
enum State {
    /// It goes on as long as it likes.
    #[default]
    Free,
    /// Until this comes.
    Watched(Pin<Box<dyn Future<Output = Why> + Send + Sync>>),
    /// It has come; the other says when patience is at its end.
    Over(Why, Pin<Box<Sleep>>),
}

impl Ending {
    /// The exchange ends with this.
    pub fn set(&mut self, mut watch: Watch) {
        self.0 = State::Watched(Box::pin(async move { watch.ended().await }));
    }

    /// Ready once the exchange has to end. Wakes the task when that comes.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Why> {
        if let State::Watched(end) = &mut self.0
            && let Poll::Ready(why) = end.as_mut().poll(context)
        {
            self.0 = State::Over(why, Box::pin(sleep(PATIENCE)));
        }
        match &self.0 {
            State::Over(why, _) => Poll::Ready(*why),
            State::Free | State::Watched(_) => Poll::Pending,
        }
    }

    /// Ready once it should have ended by itself.
    pub fn poll_overdue(&mut self, context: &mut Context<'_>) -> Poll<Why> {
        if self.poll(context).is_pending() {
            return Poll::Pending;
        }
        match &mut self.0 {
            State::Over(why, patience) => {
                let why = *why;
                patience.as_mut().poll(context).map(|()| why)
            }
            State::Free | State::Watched(_) => Poll::Pending,
        }
    }
}

impl std::fmt::Debug for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ending").finish_non_exhaustive()
    }
}
