//! One attempt under way: the request's body up, the response down, both at once, and how long each may
//! take.
//!
//! Everything that moves is moved here in one place and waits for nothing by itself, so that there is
//! one timer, no channel and no further task.

mod due;

use std::task::{Context as Task, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;

use self::due::Limit;
use super::failure::Failure;
use super::kept::Kept;
use super::{Context, Gateway, forward, retry};
use crate::forward::{Failed, Link};
use crate::listener::exchange::{ClientFault, Exchange};
use crate::listener::turn::Turn;
use crate::message::Response;
use crate::metrics::FailureReason;
use crate::reply::Rejection;

/// How an attempt ended well.
pub(super) enum Relayed {
    /// The response went to the client.
    Complete,
    /// The backend agrees to another protocol.
    Upgraded(Response),
    /// The response is not passed on, and another one asked for after this time.
    Unwanted(Duration),
}

/// Where the request's body is.
enum Up {
    /// More of it is expected from the client.
    Reading,
    /// This piece is on its way to the backend.
    Sending(Bytes),
    /// All of it was sent.
    Done,
    /// The backend takes no more. Its answer may say why.
    Broken(Failed),
}

/// Where the response is.
enum Down {
    /// Its final head is expected.
    Head,
    /// More of its body is expected.
    Body,
    /// This piece is on its way to the client.
    Piece(Bytes),
    /// All of it was written, so long ago.
    Written(Option<Instant>),
}

/// An attempt under way.
pub(super) struct Relay<'a> {
    gateway: &'a Gateway,
    exchange: &'a mut Exchange,
    context: &'a mut Context,
    link: &'a mut Link,
    kept: &'a mut Kept,
    up: Up,
    down: Down,
    turn: Turn,
    limit: Option<u64>,
    timeouts: Timeouts,
    /// Since when the backend owes the beginning of an answer.
    owing_since: Option<Instant>,
    /// Since when nothing more of the response has come, though it was looked for.
    reading_since: Option<Instant>,
    /// A head that had come before.
    early: Option<Response>,
    /// The response was written and has yet to go out.
    flushing: bool,
}

/// What the backend may take.
struct Timeouts {
    first_byte: Duration,
    read: Duration,
    write: Duration,
}

impl<'a> Relay<'a> {
    /// Of a request whose head was handed in.
    pub fn new(
        gateway: &'a Gateway,
        exchange: &'a mut Exchange,
        context: &'a mut Context,
        link: &'a mut Link,
        kept: &'a mut Kept,
    ) -> Self {
        let replay = kept.replay();
        let is_tunnel = forward::is_tunnel(exchange);
        // Whom an earlier attempt has told to go on waits for nobody.
        let asks = forward::expects_continue(exchange) && exchange.status().is_none();
        let waits = (asks && !link.is_http2()) || is_tunnel;
        let owing_since = waits.then(Instant::now);
        if let Some(attempt) = &mut context.attempt {
            attempt.admitted.waits(owing_since);
        }
        let (first_byte, read, write) = forward::timeouts(context);
        let route = context.route.as_ref();
        Self {
            up: match replay.is_empty() {
                true if is_tunnel => Up::Done,
                true => Up::Reading,
                false => Up::Sending(replay),
            },
            down: Down::Head,
            turn: Turn::default(),
            limit: route.and_then(|route| route.max_body_bytes),
            timeouts: Timeouts {
                first_byte,
                read,
                write,
            },
            // The body may wait for the backend, so the backend is not given the body's time.
            owing_since,
            reading_since: None,
            early: None,
            flushing: false,
            gateway,
            exchange,
            context,
            link,
            kept,
        }
    }

    /// This head has come already.
    pub fn begin_with(&mut self, head: Option<Response>) {
        self.early = head;
    }

    /// Moves what can be moved.
    pub fn poll(&mut self, task: &mut Task<'_>) -> Poll<Result<Relayed, Failure>> {
        if let Poll::Ready(why) = self.exchange.ending.poll(task) {
            if !self.exchange.is_http2() {
                self.exchange.cut();
            }
            return Poll::Ready(Err(Failure::Client(ClientFault::Over(why))));
        }
        loop {
            ready!(self.turn.poll(task));
            let up = self.poll_up(task)?;
            let down = match self.poll_down(task)? {
                Poll::Ready(Some(relayed)) => return Poll::Ready(Ok(relayed)),
                Poll::Ready(None) => Poll::Ready(()),
                Poll::Pending => Poll::Pending,
            };
            if up.is_pending() && down.is_pending() {
                break;
            }
        }
        self.turn.ended();
        self.watch_client(task)?;
        match ready!(self.poll_deadline(task)) {
            Limit::Enough => Poll::Ready(Ok(Relayed::Complete)),
            Limit::Failure(failure) => Poll::Ready(Err(failure)),
        }
    }

    /// A client that has sent everything may leave before it is answered.
    fn watch_client(&mut self, task: &mut Task<'_>) -> Result<(), Failure> {
        let waits = matches!(self.up, Up::Done | Up::Broken(_)) && !self.is_written();
        if waits && self.exchange.poll_gone(task).is_ready() {
            return Err(Failure::gone());
        }
        Ok(())
    }

    fn is_written(&self) -> bool {
        matches!(self.down, Down::Written(_))
    }

    /// Moves the request's body on. Pending when it cannot be.
    fn poll_up(&mut self, task: &mut Task<'_>) -> Poll<Result<(), Failure>> {
        match &mut self.up {
            Up::Reading => {
                let Poll::Ready(piece) = self.exchange.poll_body(task) else {
                    self.flush_up(task);
                    return Poll::Pending;
                };
                match self.admit(piece) {
                    Ok(up) => self.up = up,
                    // What becomes of the rest does not matter any more.
                    Err(_) if self.is_written() => self.up = Up::Broken(nobody()),
                    Err(failure) => return Poll::Ready(Err(failure)),
                }
            }
            Up::Sending(piece) => {
                let before = piece.len();
                let sent = self.link.poll_send(piece, task);
                self.turn.moved(before - piece.len());
                match ready!(sent) {
                    Ok(()) => self.up = Up::Reading,
                    Err(failed) => self.up = self.broken(failed),
                }
            }
            Up::Done | Up::Broken(_) => {
                self.flush_up(task);
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// What to do with a piece of the body, or its end.
    fn admit(&mut self, piece: Result<Option<Bytes>, ClientFault>) -> Result<Up, Failure> {
        let Some(piece) = piece.map_err(Failure::Client)? else {
            if let Err(failed) = self.link.end_body() {
                return Ok(self.broken(failed));
            }
            if matches!(self.down, Down::Head) {
                let now = Instant::now();
                let attempt = self.context.attempt.as_mut();
                let sent = attempt.map(|attempt| attempt.note_sent(now));
                self.owing_since = sent.or(Some(now));
            }
            return Ok(Up::Done);
        };
        if self
            .limit
            .is_some_and(|limit| self.exchange.body_read() > limit)
        {
            return Err(Failure::Refused(Rejection::BodyTooLarge));
        }
        if let Down::Written(since) = &mut self.down {
            *since = None;
        }
        self.kept.push(&piece);
        Ok(Up::Sending(piece))
    }

    /// Has go out what was sent to the backend.
    fn flush_up(&mut self, task: &mut Task<'_>) {
        if matches!(self.up, Up::Broken(_)) {
            return;
        }
        if let Poll::Ready(Err(failed)) = self.link.poll_flush(task) {
            self.up = self.broken(failed);
        }
    }

    /// The backend takes no more of the request: it owes the answer that may say why.
    fn broken(&mut self, failed: Failed) -> Up {
        if matches!(self.down, Down::Head) && self.owing_since.is_none() {
            self.owes(Some(Instant::now()));
        }
        Up::Broken(failed)
    }

    /// The backend owes an answer since then, or nothing yet.
    fn owes(&mut self, since: Option<Instant>) {
        self.owing_since = since;
        if let Some(attempt) = &mut self.context.attempt {
            attempt.admitted.waits(since);
        }
    }

    /// Moves the response on. Pending when it cannot be, ready with something when that was all.
    fn poll_down(&mut self, task: &mut Task<'_>) -> Poll<Result<Option<Relayed>, Failure>> {
        match &mut self.down {
            Down::Head => {
                let head = match self.early.take() {
                    Some(head) => Poll::Ready(Ok(head)),
                    None => self.link.poll_head(task),
                };
                match self.look(head, task) {
                    Poll::Ready(Ok(head)) => return Poll::Ready(self.head(head, task)),
                    Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            Down::Body => {
                let piece = self.link.poll_body(task);
                let piece = ready!(self.look(piece, task))?;
                self.down = match piece {
                    Some(piece) => Down::Piece(piece),
                    None => self.end()?,
                };
            }
            Down::Piece(piece) => {
                let before = piece.len();
                let written = self.exchange.poll_write(piece, task);
                self.turn.moved(before - piece.len());
                ready!(written).map_err(Failure::Client)?;
                self.down = match self.link.is_over().map_err(broken_off)? {
                    true => self.end()?,
                    false => Down::Body,
                };
            }
            Down::Written(_) => return self.poll_written(task),
        }
        Poll::Ready(Ok(None))
    }

    /// The response has been handed in: it has to go out, and the rest of the request to arrive, if it
    /// comes soon.
    fn poll_written(&mut self, task: &mut Task<'_>) -> Poll<Result<Option<Relayed>, Failure>> {
        if self.flushing {
            ready!(self.exchange.poll_flush(task)).map_err(Failure::Client)?;
            self.flushing = false;
        }
        // A body that was never asked for need not come.
        let unasked = forward::expects_continue(self.exchange) && self.exchange.body_read() == 0;
        match self.up {
            Up::Done | Up::Broken(_) => Poll::Ready(Ok(Some(Relayed::Complete))),
            Up::Reading if unasked => Poll::Ready(Ok(Some(Relayed::Complete))),
            Up::Reading | Up::Sending(_) => {
                if let Down::Written(since @ None) = &mut self.down {
                    *since = Some(Instant::now());
                }
                Poll::Pending
            }
        }
    }

    /// Passes on what the backend says. When it says nothing yet, what was written goes out.
    fn look<T>(
        &mut self,
        read: Poll<Result<T, Failed>>,
        task: &mut Task<'_>,
    ) -> Poll<Result<T, Failure>> {
        let Poll::Ready(read) = read else {
            self.reading_since.get_or_insert_with(Instant::now);
            if let Poll::Ready(Err(fault)) = self.exchange.poll_flush(task) {
                return Poll::Ready(Err(Failure::Client(fault)));
            }
            return Poll::Pending;
        };
        self.reading_since = None;
        Poll::Ready(read.map_err(|failed| {
            if self.exchange.has_begun() {
                return broken_off(failed);
            }
            match std::mem::replace(&mut self.up, Up::Done) {
                // It stopped taking the request before it said nothing.
                Up::Broken(earlier) if failed.reason == FailureReason::Reset => {
                    Failure::Backend(earlier)
                }
                _ => Failure::Backend(failed),
            }
        }))
    }

    /// A head has come.
    fn head(
        &mut self,
        mut response: Response,
        task: &mut Task<'_>,
    ) -> Result<Option<Relayed>, Failure> {
        let owing_since = self.owing_since.take();
        if response.is_interim() {
            self.owes(matches!(self.up, Up::Done).then(Instant::now));
            response.headers.remove(http::header::CONNECTION);
            self.exchange
                .write_head(response, false)
                .map_err(Failure::Client)?;
            return Ok(None);
        }
        let (exchange, context) = (&mut *self.exchange, &mut *self.context);
        let head = &mut response;
        let received =
            self.gateway
                .receive_head(exchange, context, head, self.kept, owing_since)?;
        if let Some(wait) = received {
            retry::read_rest(self.link, task);
            return Ok(Some(Relayed::Unwanted(wait)));
        }
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Some(Relayed::Upgraded(response)));
        }
        self.exchange.stay_with_http();
        let over = self.link.is_over().map_err(Failure::Backend)?;
        self.exchange
            .write_head(response, over)
            .map_err(Failure::Client)?;
        self.down = match over {
            true => self.end()?,
            false => Down::Body,
        };
        Ok(None)
    }

    /// The response has come to its end.
    fn end(&mut self) -> Result<Down, Failure> {
        let trailers = self.link.trailers();
        if let Some(trailers) = &trailers {
            forward::note_call_end(self.context, trailers);
        }
        self.exchange.finish(trailers).map_err(Failure::Client)?;
        self.flushing = true;
        Ok(Down::Written(None))
    }
}

/// A failure inside of a response.
fn broken_off(failed: Failed) -> Failure {
    Failure::Backend(failed.in_body())
}

/// Nobody wants the rest of the request any longer.
fn nobody() -> Failed {
    Failed::new(FailureReason::Reset)
}
