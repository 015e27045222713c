//! The way to a backend: connections that are kept, and what is spoken on them.
//!
//! What is read and written here says `Pending` and leaves it to the caller to wait, and to say for how
//! long.

mod answer;
mod failed;
mod http1;
mod http2;
mod pool;
pub mod tunnel;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use pingora_core::protocols::Stream;

pub use self::failed::Failed;
use self::http1::Http1;
use self::http2::Http2;
pub use self::pool::Pool;
use crate::listener::framing::Framing;
use crate::listener::wire::Wire;
use crate::message::{Request, Response};

/// A connection to a backend, or a stream on one, for one request.
pub enum Link {
    /// A connection of HTTP/1.1.
    Http1(Box<Http1>),
    /// A stream of HTTP/2.
    Http2(Box<Http2>),
}

impl Link {
    /// Whether HTTP/2 is spoken.
    pub fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// What stands for a connection that several requests share.
    pub fn shared(&self) -> Option<Arc<dyn std::any::Any + Send + Sync>> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(http2) => http2.shared(),
        }
    }

    /// Begins the request, whose body is framed like this. Nothing waits here.
    pub fn send_head(
        &mut self,
        request: Request,
        target: &str,
        body: Framing,
    ) -> Result<(), Failed> {
        match self {
            Self::Http1(http1) => {
                http1.send_head(&request, target, body);
                Ok(())
            }
            Self::Http2(http2) => http2.send_head(request, target, body),
        }
    }

    /// Sends a piece of the body, and leaves in it what is not taken yet.
    pub fn poll_send(
        &mut self,
        piece: &mut Bytes,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Failed>> {
        match self {
            Self::Http1(http1) => http1.poll_send(piece, context),
            Self::Http2(http2) => http2.poll_send(piece, context),
        }
    }

    /// Ends the request.
    pub fn end_body(&mut self) -> Result<(), Failed> {
        match self {
            Self::Http1(http1) => {
                http1.end_body();
                Ok(())
            }
            Self::Http2(http2) => http2.end_body(),
        }
    }

    /// Has go out what was sent.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        match self {
            Self::Http1(http1) => http1.poll_flush(context),
            Self::Http2(_) => Poll::Ready(Ok(())),
        }
    }

    /// Since when the backend takes nothing of the request.
    pub fn stalled_since(&self) -> Option<Instant> {
        match self {
            Self::Http1(http1) => http1.stalled_since(),
            Self::Http2(http2) => http2.stalled_since(),
        }
    }

    /// The next head of a response: interim ones, and the final one at last.
    pub fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<Response, Failed>> {
        match self {
            Self::Http1(http1) => http1.poll_head(context),
            Self::Http2(http2) => http2.poll_head(context),
        }
    }

    /// The next piece of the response's body; `None` at its end.
    pub fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Failed>> {
        match self {
            Self::Http1(http1) => http1.poll_body(context),
            Self::Http2(http2) => http2.poll_body(context),
        }
    }

    /// Whether nothing of the response is left, as far as that can be told without waiting.
    pub fn is_over(&mut self) -> Result<bool, Failed> {
        match self {
            Self::Http1(http1) => Ok(http1.is_over()),
            Self::Http2(http2) => http2.is_over(),
        }
    }

    /// The trailers, once the body has ended.
    pub fn trailers(&mut self) -> Option<HeaderMap> {
        match self {
            Self::Http1(http1) => http1.trailers(),
            Self::Http2(http2) => http2.trailers(),
        }
    }

    /// The bytes, once the protocol was changed. None with HTTP/2, which has no such thing.
    pub fn wire(&mut self) -> Option<&mut Wire<Stream>> {
        match self {
            Self::Http1(http1) => Some(http1.wire()),
            Self::Http2(_) => None,
        }
    }
}
