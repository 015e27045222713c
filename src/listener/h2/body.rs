//! The body of an HTTP/2 request: read with flow control.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use tokio::time::timeout;

use super::running::Guard;
use crate::listener::connection::{DRAIN_BYTES, LINGER};

/// The body of one request.
#[derive(Debug)]
pub struct Body {
    stream: RecvStream,
    /// It was empty from the start.
    empty: bool,
    done: bool,
    read: usize,
}

impl Body {
    /// Behind a header that promises no body when `empty`.
    pub fn new(stream: RecvStream, empty: bool) -> Self {
        Self {
            stream,
            empty,
            done: empty,
            read: 0,
        }
    }

    /// The next piece; `None` at the end.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        if self.is_done() {
            return Poll::Ready(None);
        }
        let Poll::Ready(next) = self.stream.poll_data(context) else {
            return Poll::Pending;
        };
        Poll::Ready(match next {
            Some(Ok(piece)) => {
                self.read += piece.len();
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

    /// Whether all of it was read.
    pub fn is_done(&self) -> bool {
        self.done || self.stream.is_end_stream()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.empty || (self.read == 0 && self.is_done())
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
