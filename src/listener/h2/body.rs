//! The body of an HTTP/2 request: read with flow control, counted, and kept for a repetition while it
//! is small.

use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use tokio::time::timeout;

use super::running::Guard;
use crate::listener::connection::{DRAIN_BYTES, LINGER};

/// A body that is larger is not kept, and its request not repeated.
const KEPT_BYTES: usize = 64 * 1024;

/// What is kept of a body that may have to be sent again.
#[derive(Debug)]
enum Kept {
    /// Nobody asked for it.
    Nothing,
    /// All of it so far.
    Whole(BytesMut),
    /// It was too much.
    Truncated,
}

/// The body of one request.
#[derive(Debug)]
pub struct Body {
    stream: RecvStream,
    /// It was empty from the start.
    empty: bool,
    done: bool,
    read: usize,
    kept: Kept,
    /// Since when the client owes more of it.
    waiting: Option<Instant>,
}

impl Body {
    /// Behind a header that promises no body when `empty`.
    pub fn new(stream: RecvStream, empty: bool) -> Self {
        Self {
            stream,
            empty,
            done: empty,
            read: 0,
            kept: Kept::Nothing,
            waiting: None,
        }
    }

    /// The next piece; `None` at the end.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        if self.is_done() {
            return Poll::Ready(None);
        }
        let Poll::Ready(next) = self.stream.poll_data(context) else {
            self.waiting.get_or_insert_with(Instant::now);
            return Poll::Pending;
        };
        self.waiting = None;
        Poll::Ready(match next {
            Some(Ok(piece)) => {
                self.read += piece.len();
                self.keep(&piece);
                // It fails when the stream is gone, which the next read says as well.
                let _ = self.stream.flow_control().release_capacity(piece.len());
                Some(Ok(piece))
            }
            Some(Err(error)) => Some(Err(error)),
            None => {
                self.done = true;
                None
            }
        })
    }

    /// When the client has paused for too long.
    pub fn deadline(&self, patience: Option<Duration>) -> Option<Instant> {
        Some(self.waiting? + patience?)
    }

    /// It is not the client that is waited for.
    pub fn pause(&mut self) {
        self.waiting = None;
    }

    /// Whether all of it was read.
    pub fn is_done(&self) -> bool {
        self.done || self.stream.is_end_stream()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.empty || (self.read == 0 && self.is_done())
    }

    /// Bytes read so far.
    pub fn bytes_read(&self) -> usize {
        self.read
    }

    /// From now on what is read is kept.
    pub fn begin_keeping(&mut self) {
        if matches!(self.kept, Kept::Nothing) {
            self.kept = Kept::Whole(BytesMut::new());
        }
    }

    fn keep(&mut self, piece: &Bytes) {
        if let Kept::Whole(kept) = &mut self.kept {
            if kept.len() + piece.len() <= KEPT_BYTES {
                kept.extend_from_slice(piece);
            } else {
                self.kept = Kept::Truncated;
            }
        }
    }

    /// Whether there was more than is kept.
    pub fn is_truncated(&self) -> bool {
        matches!(self.kept, Kept::Truncated)
    }

    /// What is kept, if that is everything so far.
    pub fn kept(&self) -> Option<Bytes> {
        match &self.kept {
            Kept::Whole(kept) if !kept.is_empty() => Some(kept.clone().freeze()),
            _ => None,
        }
    }

    /// Reads and forgets a small rest behind a complete response, so that the client can finish and
    /// need not be reset (RFC 9113 section 8.1).
    pub fn forget(mut self, guard: Guard) {
        if self.is_done() || self.empty {
            return;
        }
        tokio::spawn(async move {
            let _guard = guard;
            let end = self.read + DRAIN_BYTES;
            let rest = std::future::poll_fn(|context| {
                while let Some(piece) = ready!(self.poll(context)) {
                    if piece.is_err() || self.read > end {
                        break;
                    }
                }
                Poll::Ready(())
            });
            // What has not come by then is cut off with NO_ERROR when the stream is dropped.
            let _ = timeout(LINGER, rest).await;
        });
    }
}
