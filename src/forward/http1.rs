//! A request and its response on a connection of HTTP/1.1 to a backend.

use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode};
use pingora_core::protocols::Stream;

use super::answer;
use super::failed::Failed;
use crate::listener::framing::{Chunk, Framing};
use crate::listener::head;
use crate::listener::respond::chunk_size;
use crate::listener::wire::Wire;
use crate::message::{Request, Response};
use crate::metrics::FailureReason;

/// The longest head of a response.
const MAX_HEAD_BYTES: usize = 128 * 1024;
/// What is read at once while a head is expected: most small responses come as a whole.
const HEAD_READ_BYTES: usize = 8 * 1024;
/// Interim responses before the final one.
const MAX_INTERIM: usize = 100;

/// A connection during one request.
pub struct Http1 {
    wire: Wire<Stream>,
    method: Method,
    /// How the request's body is framed.
    body: Framing,
    /// The size of the chunk at hand has been written.
    in_chunk: bool,
    /// The request was written to its end.
    sent: bool,
    /// Whether the connection can be used again.
    keep_alive: bool,
    /// The final head has been read.
    answered: bool,
    /// Bytes of a head that were searched for its end.
    searched: usize,
    interim: usize,
    trailers: BytesMut,
}

impl Http1 {
    /// On a connection that is free.
    pub fn new(stream: Stream) -> Self {
        Self {
            wire: Wire::new(stream),
            method: Method::GET,
            body: Framing::Done,
            in_chunk: false,
            sent: false,
            keep_alive: false,
            answered: false,
            searched: 0,
            interim: 0,
            trailers: BytesMut::new(),
        }
    }

    /// Writes the request's head.
    pub fn send_head(&mut self, request: &Request, target: &str, body: Framing) {
        self.method.clone_from(&request.method);
        self.body = body;
        let out = self.wire.outbound();
        out.reserve(target.len() + 64 + 48 * request.headers.len());
        out.put_slice(request.method.as_str().as_bytes());
        out.put_u8(b' ');
        out.put_slice(target.as_bytes());
        out.put_slice(b" HTTP/1.1\r\n");
        for (name, value) in &request.headers {
            let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
            out.reserve(name.len() + value.len() + 4);
            out.put_slice(name);
            out.put_slice(b": ");
            out.put_slice(value);
            out.put_slice(b"\r\n");
        }
        if matches!(body, Framing::Chunked(_)) {
            out.put_slice(b"transfer-encoding: chunked\r\n");
        }
        out.put_slice(b"\r\n");
    }

    /// Sends a piece of the body.
    pub fn poll_send(
        &mut self,
        piece: &mut Bytes,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Failed>> {
        if piece.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let is_chunked = self.body == Framing::Chunked(Chunk::START);
        if is_chunked && !self.in_chunk {
            self.in_chunk = true;
            chunk_size(self.wire.outbound(), piece.len());
        }
        ready!(self.wire.poll_send(piece, context))?;
        if is_chunked {
            self.in_chunk = false;
            self.wire.outbound().put_slice(b"\r\n");
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the request.
    pub fn end_body(&mut self) {
        if self.body == Framing::Chunked(Chunk::START) {
            self.wire.outbound().put_slice(b"0\r\n\r\n");
        }
        self.sent = true;
    }

    /// Writes what waits.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        self.wire.poll_flush(context).map_err(Failed::from)
    }

    /// Since when the backend takes nothing.
    pub fn stalled_since(&self) -> Option<Instant> {
        self.wire.stalled_since()
    }

    /// The next head of a response.
    pub fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<Response, Failed>> {
        loop {
            if let Some(end) = head::end_of_head(&self.wire.inbound, self.searched) {
                return Poll::Ready(self.read_head(end));
            }
            self.searched = self.wire.inbound.len();
            if self.searched > MAX_HEAD_BYTES {
                return Poll::Ready(Err(Failed::protocol("head too large")));
            }
            if is_hopeless(&self.wire.inbound) {
                return Poll::Ready(Err(Failed::protocol("status line")));
            }
            if ready!(self.wire.poll_fill(HEAD_READ_BYTES, context))? == 0 {
                return Poll::Ready(Err(Failed::new(FailureReason::Reset)));
            }
        }
    }

    fn read_head(&mut self, end: usize) -> Result<Response, Failed> {
        let head = self.wire.inbound.split_to(end).freeze();
        self.searched = 0;
        let answer = answer::judge(&head, &self.method)?;
        if answer.response.is_interim() {
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return Err(Failed::protocol("too many interim responses"));
            }
            return Ok(answer.response);
        }
        self.answered = true;
        self.keep_alive = answer.keep_alive;
        self.wire.framing = answer.framing;
        if answer.response.status == StatusCode::SWITCHING_PROTOCOLS {
            self.keep_alive = false;
            self.wire.framing = Framing::Tunnel;
        }
        Ok(answer.response)
    }

    /// The next piece of the response's body.
    pub fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Failed>> {
        let piece = self.wire.poll_piece(Some(&mut self.trailers), context);
        let piece = ready!(piece)?;
        if piece.is_none() {
            // Where the end of the connection was the end of the body.
            self.wire.framing = Framing::Done;
        }
        Poll::Ready(Ok(piece))
    }

    /// Whether nothing of the response is left.
    pub fn is_over(&self) -> bool {
        self.answered && self.wire.framing.is_done()
    }

    /// The trailers, if there are any that can be read.
    pub fn trailers(&mut self) -> Option<HeaderMap> {
        let lines = std::mem::take(&mut self.trailers).freeze();
        if lines.len() <= 2 {
            return None;
        }
        let mut trailers = head::fields(&lines, 0)?;
        // They were read without what these say (RFC 9110 section 6.5.1).
        for name in [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
            trailers.remove(name);
        }
        (!trailers.is_empty()).then_some(trailers)
    }

    /// The bytes.
    pub fn wire(&mut self) -> &mut Wire<Stream> {
        &mut self.wire
    }

    /// The connection, if it can be used again: request and response are complete, and nothing came
    /// behind it that nobody asked for.
    pub fn into_free(self) -> Option<Stream> {
        let is_free = self.keep_alive && self.sent && self.is_over() && self.wire.is_clean();
        is_free.then_some(self.wire.carrier)
    }
}

/// Whether this is not the beginning of a response, so that its end need not be waited for.
fn is_hopeless(bytes: &[u8]) -> bool {
    const BEGINNING: &[u8] = b"HTTP/1.";
    let seen = bytes.len().min(BEGINNING.len());
    bytes[..seen] != BEGINNING[..seen]
}
