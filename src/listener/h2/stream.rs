//! One HTTP/2 stream: the body of its request, its response, and how long either may take.

use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;

use super::body::Body;
use super::response::Sender;
use super::running::Guard;
use super::timer::Timer;
use crate::listener::exchange::ClientFault;
use crate::message::Response;

/// What a client has to take of a response to be given its time anew, or what is left if that is
/// less. With every byte, it could hold a stream for ever.
const PROGRESS_BYTES: usize = 64 * 1024;

/// How a client takes one piece of a response.
#[derive(Debug)]
struct Reading {
    /// What was left of it then.
    left: usize,
    since: Instant,
}

impl Reading {
    fn begin(left: usize, now: Instant) -> Self {
        Self { left, since: now }
    }

    /// So much is left now.
    fn note(&mut self, left: usize, now: Instant) {
        let taken = self.left.saturating_sub(left);
        if taken > 0 && taken >= PROGRESS_BYTES.min(self.left) {
            *self = Self::begin(left, now);
        }
    }
}

/// One request and its response.
pub struct Stream {
    /// Always there until drop.
    body: Option<Body>,
    response: Sender,
    /// When the client gives up.
    deadline: Option<Instant>,
    /// There while a piece of the response is not taken.
    reading: Option<Reading>,
    timer: Timer,
    /// There until drop.
    guard: Option<Guard>,
}

impl Stream {
    /// A request's body and the way back to the client. `deadline` is when the client gives up.
    pub fn new(body: Body, response: Sender, deadline: Option<Instant>, guard: Guard) -> Self {
        Self {
            body: Some(body),
            response,
            deadline,
            reading: None,
            timer: Timer::default(),
            guard: Some(guard),
        }
    }

    /// When the client gives up.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Since when the client takes too little of what it is sent.
    pub fn stalled_since(&self) -> Option<Instant> {
        self.reading.as_ref().map(|reading| reading.since)
    }

    /// Whether there is no body.
    pub fn is_body_empty(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_empty)
    }

    /// Whether all of the body was read.
    pub fn is_body_done(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_done)
    }

    /// The next piece of the body; `None` at its end.
    pub fn poll_body(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, ClientFault>> {
        match &mut self.body {
            Some(body) => body
                .poll(context)
                .map(|piece| piece.transpose().map_err(|_| ClientFault::Gone)),
            None => Poll::Ready(Ok(None)),
        }
    }

    /// Ready when the client wants no response any more.
    pub fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.response.poll_gone(context)
    }

    /// Writes a header; `end` when nothing follows.
    pub fn write_head(&mut self, head: Response, end: bool) -> Result<(), ClientFault> {
        self.response.write_head(head, end)
    }

    /// Writes what the client takes of a piece of the body, and leaves the rest in it.
    pub fn poll_write(
        &mut self,
        piece: &mut Bytes,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), ClientFault>> {
        let written = self.response.poll_write(piece, context);
        if written.is_ready() {
            self.reading = None;
        } else {
            let (left, now) = (piece.len(), Instant::now());
            let reading = self.reading.get_or_insert(Reading::begin(left, now));
            reading.note(left, now);
        }
        written
    }

    /// Ends the response.
    pub fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), ClientFault> {
        match trailers {
            Some(trailers) => self.response.write_trailers(trailers),
            None => self.response.finish(),
        }
    }

    /// Tells the client that a response which is not complete will never be.
    pub fn give_up(&mut self) {
        self.response.give_up(Reason::INTERNAL_ERROR);
    }

    /// Ready when this moment has come.
    pub fn poll_until(&mut self, at: Instant, context: &mut Context<'_>) -> Poll<()> {
        self.timer.poll(at, context)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let (Some(body), Some(guard)) = (self.body.take(), self.guard.take())
            && self.response.is_complete()
        {
            body.forget(guard);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_byte_at_a_time_earns_no_time() {
        let start = Instant::now();
        let second = |count: u32| start + count * Duration::from_secs(1);
        let mut reading = Reading::begin(100 * 1024, start);
        for taken in 0..1000 {
            reading.note(100 * 1024 - taken, second(1));
        }
        assert_eq!(reading.since, start);
        reading.note(36 * 1024, second(2));
        assert_eq!(reading.since, second(2));
        reading.note(1, second(3));
        assert_eq!(reading.since, second(2));
        reading.note(0, second(4));
        assert_eq!(reading.since, second(4));
    }
}
