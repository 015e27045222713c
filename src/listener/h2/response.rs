//! The response on an HTTP/2 stream: interim headers, header, body in the client's time, trailers, and
//! resets that say what happened.

use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{HeaderMap, Method};

use super::CONNECTION_FIELDS;
use crate::listener::exchange::ClientFault;
use crate::message::Response;

type Result<T> = std::result::Result<T, ClientFault>;

/// What is written at once; more would let one stream keep the connection's window from others.
const WRITE_BYTES: usize = 32 * 1024;

/// Interim responses that are passed on for one request, and their bytes. They are not subject to
/// flow control: a client that does not read would make the gateway hold them all.
const INTERIM: (usize, usize) = (16, 32 * 1024);

/// How far the response has come.
enum State {
    /// There is no header yet.
    Waiting(SendResponse<Bytes>),
    /// The body may come.
    Streaming(SendStream<Bytes>),
    /// It is complete, or has been given up.
    Ended(SendStream<Bytes>),
    /// It was given up before it began.
    GivenUp,
}

/// Sends the response to one request.
pub struct Sender {
    state: State,
    method: Method,
    /// Interim responses so far, and their bytes.
    interim: (usize, usize),
}

impl Sender {
    /// Nothing is written yet.
    pub fn new(respond: SendResponse<Bytes>, method: &Method) -> Self {
        Self {
            state: State::Waiting(respond),
            method: method.clone(),
            interim: (0, 0),
        }
    }

    /// Whether it is complete.
    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }

    /// Writes a header; `end` when nothing follows.
    pub fn write_head(&mut self, head: Response, end: bool) -> Result<()> {
        let State::Waiting(respond) = &mut self.state else {
            // A second one has no place.
            return Ok(());
        };
        let interim = head.is_interim();
        if interim && !admits(&mut self.interim, size(&head.headers)) {
            return Ok(());
        }
        let end = end || head.is_bodiless(&self.method);
        let message = message(head);
        if interim {
            respond.send_informational(message).map_err(lost)?;
        } else {
            let stream = respond.send_response(message, end).map_err(lost)?;
            self.state = if end {
                State::Ended(stream)
            } else {
                State::Streaming(stream)
            };
        }
        Ok(())
    }

    /// Writes as much of `data` as the client takes, and leaves the rest in it. Ready when nothing is
    /// left.
    pub fn poll_write(&mut self, data: &mut Bytes, context: &mut Context<'_>) -> Poll<Result<()>> {
        let State::Streaming(stream) = &mut self.state else {
            // Body where there can be none: HEAD, 204 and 304.
            data.clear();
            return Poll::Ready(Ok(()));
        };
        while !data.is_empty() {
            let wanted = data.len().min(WRITE_BYTES);
            stream.reserve_capacity(wanted);
            if stream.capacity() == 0 {
                match stream.poll_capacity(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(None) => return Poll::Ready(Err(ClientFault::Gone)),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(lost(error))),
                    Poll::Ready(Some(Ok(_))) => continue,
                }
            }
            let piece = data.split_to(stream.capacity().min(wanted));
            stream.send_data(piece, false).map_err(lost)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes a short body and its end, whether or not the client takes it yet.
    pub fn write_at_once(&mut self, data: Bytes) -> Result<()> {
        if let State::Streaming(stream) = &mut self.state {
            stream.send_data(data, true).map_err(lost)?;
            self.end();
        }
        Ok(())
    }

    /// Ends it with trailers.
    pub fn write_trailers(&mut self, mut trailers: HeaderMap) -> Result<()> {
        let State::Streaming(stream) = &mut self.state else {
            return Ok(());
        };
        for name in &CONNECTION_FIELDS {
            trailers.remove(name);
        }
        stream.send_trailers(trailers).map_err(lost)?;
        self.end();
        Ok(())
    }

    /// Ends it, if it has begun and not ended.
    pub fn finish(&mut self) -> Result<()> {
        if let State::Streaming(stream) = &mut self.state {
            stream.send_data(Bytes::new(), true).map_err(lost)?;
            self.end();
        }
        Ok(())
    }

    fn end(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::GivenUp) {
            State::Streaming(stream) => State::Ended(stream),
            other => other,
        };
    }

    /// Tells the client that a response which is not complete will never be.
    pub fn give_up(&mut self, reason: Reason) {
        match std::mem::replace(&mut self.state, State::GivenUp) {
            State::Waiting(mut respond) => respond.send_reset(reason),
            State::Streaming(mut stream) => stream.send_reset(reason),
            ended => self.state = ended,
        }
    }

    /// Ready when the client wants no response any more.
    pub fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.state {
            State::Waiting(respond) => respond.poll_reset(context).map(|_| ()),
            State::Streaming(stream) | State::Ended(stream) => {
                stream.poll_reset(context).map(|_| ())
            }
            State::GivenUp => Poll::Ready(()),
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.give_up(Reason::INTERNAL_ERROR);
    }
}

/// The header as the library takes it, without what concerns the backend's connection alone.
fn message(head: Response) -> http::Response<()> {
    let mut message = http::Response::new(());
    *message.status_mut() = head.status;
    let mut fields = head.headers;
    for name in &CONNECTION_FIELDS {
        fields.remove(name);
    }
    *message.headers_mut() = fields;
    message
}

/// Whether one more interim response of this size is passed on; then it counts.
fn admits(so_far: &mut (usize, usize), bytes: usize) -> bool {
    let after = (so_far.0 + 1, so_far.1 + bytes);
    let fits = after.0 <= INTERIM.0 && after.1 <= INTERIM.1;
    if fits {
        *so_far = after;
    }
    fits
}

/// The bytes of its fields, as in HTTP/1.
fn size(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum()
}

/// A failure of stream or connection is a client that is gone.
fn lost(_: h2::Error) -> ClientFault {
    ClientFault::Gone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interim_responses_are_bounded() {
        let admitted = |size: usize| {
            let mut so_far = (0, 0);
            (0..100).filter(|_| admits(&mut so_far, size)).count()
        };
        assert_eq!(admitted(10), INTERIM.0);
        assert_eq!(admitted(10 * 1024), 3);
        assert_eq!(admitted(33 * 1024), 0);
    }
}
