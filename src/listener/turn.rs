//! How much one request may move before the others of its thread have their turn.
//!
//! A task that finds its sockets ready goes on for as long as tokio lets it, which is many large reads
//! and writes. With a thousand transfers at once a small request would wait for all of them.

use std::task::{Context, Poll};

/// Bytes of a turn: enough that a transfer does not notice, and some ten microseconds of copying.
const SHARE: usize = 64 * 1024;

/// What a request has moved, in both directions, since the others had their turn.
#[derive(Debug, Default)]
pub struct Turn {
    moved: usize,
}

impl Turn {
    /// Pending, and woken at once, when it is the others' turn.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.moved < SHARE {
            return Poll::Ready(());
        }
        self.moved = 0;
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// So many bytes were moved.
    pub fn moved(&mut self, bytes: usize) {
        self.moved += bytes;
    }

    /// The task waits for a socket, so that the others have their turn anyway.
    pub fn ended(&mut self) {
        self.moved = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn others_have_their_turn_after_a_share_and_not_before() {
        let mut context = Context::from_waker(Waker::noop());
        let mut turn = Turn::default();
        turn.moved(SHARE - 1);
        assert!(turn.poll(&mut context).is_ready());
        turn.moved(1);
        assert!(turn.poll(&mut context).is_pending());
        assert!(turn.poll(&mut context).is_ready(), "it is woken at once");
        turn.moved(SHARE - 1);
        turn.ended();
        turn.moved(SHARE - 1);
        assert!(turn.poll(&mut context).is_ready());
    }
}
