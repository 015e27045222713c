//! One request and the way back to its client, whatever version of HTTP the client speaks.
//!
//! What is read and written here never waits by itself: it says `Pending`, tells until when that may
//! last, and leaves it to the caller to wait for several things at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Version, header};

use super::ListenerState;
use super::arrival::TlsFacts;
use super::ending::Ending;
use super::framing::{Framing, MalformedChunk};
use super::h2::Stream;
use super::head::Head;
use super::pace::Pace;
use super::respond::{Delimiter, Writer};
use super::stream::Connection;
use crate::config::model::Limits;
use crate::filter::auth::watch::Why;
use crate::filter::forwarding::Peer;
use crate::message::{Request, Response};

/// Who is at the other end of a connection.
#[derive(Debug)]
pub struct Remote {
    /// The peer's address.
    pub peer: SocketAddr,
    /// The peer as forwarding headers name it.
    pub forwarded: Peer,
    /// What the TLS handshake said; `None` for a plain connection.
    pub tls: Option<Arc<TlsFacts>>,
}

impl Remote {
    /// For a connection from this address.
    pub fn new(peer: SocketAddr, tls: Option<Arc<TlsFacts>>) -> Self {
        Self {
            peer,
            forwarded: Peer::new(peer.ip().to_canonical()),
            tls,
        }
    }

    /// The scheme that the client used.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// Where a request comes from, and what the gate found in its header.
pub struct Origin {
    /// Who sent it.
    pub remote: Arc<Remote>,
    /// The listener it came in through.
    pub listener: Arc<ListenerState>,
    /// What the header gate found.
    pub head: Head,
    /// When the first byte of the request was there.
    pub received: Instant,
}

/// What a client does that ends its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientFault {
    /// It has left.
    #[error("the client has left")]
    Gone,
    /// Its body breaks the grammar.
    #[error("the request body is malformed")]
    Malformed,
    /// Its body paused for too long.
    #[error("the request body has stopped")]
    Paused,
    /// Its body comes more slowly than it may.
    #[error("the request body is too slow")]
    TooSlow,
    /// It takes nothing of the response.
    #[error("the client does not read")]
    NotReading,
    /// The time that it set for the whole call is over.
    #[error("the client's deadline has passed")]
    Deadline,
    /// The time that its request may take as a whole is over.
    #[error("the request took too long")]
    Overdue,
    /// The token that it came with holds no longer.
    #[error("the client's token holds no longer")]
    Over(Why),
}

/// A moment, and what it means when it comes.
pub type Due = (Instant, ClientFault);

/// The connection or stream of a client.
enum Client {
    Http1(Box<Http1>),
    Http2(Box<Stream>),
}

/// A connection during one of its requests.
struct Http1 {
    connection: Connection,
    writer: Writer,
}

/// A request and the way back to its client.
pub struct Exchange {
    /// What is asked for.
    pub request: Request,
    /// Where it comes from.
    pub origin: Origin,
    /// What ends it before its time.
    pub ending: Ending,
    client: Client,
    body_timeout: Duration,
    write_timeout: Duration,
    pace: Pace,
    /// Since when the client owes more of the body.
    waiting_since: Option<Instant>,
    /// When the request has to be over.
    deadline: Option<Due>,
    /// The last header written.
    status: Option<StatusCode>,
    /// Whether the connection may go on behind this.
    keep_alive: bool,
    /// Whether it may, though the rest of the body has yet to be read.
    despite_body: bool,
    complete: bool,
    cut: bool,
    read: u64,
    sent: u64,
}

/// What becomes of a connection behind a request.
pub enum Behind {
    /// It may carry the next one.
    GoesOn(Connection),
    /// It is closed.
    Ends(Connection),
    /// It is broken, so that nobody takes what was sent for all there was.
    Breaks(Connection),
    /// It was a stream, which ends by itself.
    Nothing,
}

impl Exchange {
    /// Of a connection that is at the body of this request.
    pub fn http1(
        connection: Connection,
        request: Request,
        origin: Origin,
        limits: &Limits,
    ) -> Self {
        let keep_alive = origin.head.keep_alive;
        let pace = match origin.head.framing {
            Framing::Length(_) | Framing::Chunked(_) => {
                Pace::new(limits.request_body_min_rate, limits.request_body_timeout)
            }
            Framing::Done | Framing::Tunnel => Pace::any(),
        };
        let writer = Writer::new(&request);
        let client = Client::Http1(Box::new(Http1 { connection, writer }));
        Self::new(client, request, origin, limits, pace, keep_alive)
    }

    /// Of a stream.
    pub fn http2(stream: Stream, request: Request, origin: Origin, limits: &Limits) -> Self {
        let pace = Pace::new(limits.request_body_min_rate, limits.request_body_timeout);
        let client = Client::Http2(Box::new(stream));
        Self::new(client, request, origin, limits, pace, false)
    }

    fn new(
        client: Client,
        request: Request,
        origin: Origin,
        limits: &Limits,
        pace: Pace,
        keep_alive: bool,
    ) -> Self {
        Self {
            // The gateway answers to others with the body unread; to these the backend says whether
            // it is wanted.
            despite_body: origin.head.expects_continue,
            request,
            origin,
            ending: Ending::default(),
            client,
            body_timeout: limits.request_body_timeout,
            write_timeout: limits.response_write_timeout,
            pace,
            waiting_since: None,
            deadline: None,
            status: None,
            keep_alive,
            complete: false,
            cut: false,
            read: 0,
            sent: 0,
        }
    }

    /// Whether the client speaks HTTP/2.
    pub fn is_http2(&self) -> bool {
        matches!(self.client, Client::Http2(_))
    }

    /// Whether there is no body.
    pub fn is_body_empty(&self) -> bool {
        match &self.client {
            Client::Http1(_) => matches!(self.origin.head.framing, Framing::Done | Framing::Tunnel),
            Client::Http2(stream) => stream.is_body_empty(),
        }
    }

    /// Whether all of the body was read.
    pub fn is_body_done(&self) -> bool {
        match &self.client {
            Client::Http1(http1) => http1.connection.framing().is_done(),
            Client::Http2(stream) => stream.is_body_done(),
        }
    }

    /// Bytes of the body read so far.
    pub fn body_read(&self) -> u64 {
        self.read
    }

    /// Bytes of the response's body written so far.
    pub fn body_sent(&self) -> u64 {
        self.sent
    }

    /// The status of the last header written.
    pub fn status(&self) -> Option<StatusCode> {
        self.status
    }

    /// Whether the client was sent a response that nothing can take the place of any more. Behind a
    /// 101 the connection belongs to another protocol.
    pub fn has_begun(&self) -> bool {
        self.status.is_some_and(|status| {
            !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS
        })
    }

    /// Whether a complete response was written.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The connection ends behind this request.
    pub fn close_behind(&mut self) {
        self.keep_alive = false;
    }

    /// Whether the connection may go on though the body has not been read to its end.
    pub fn set_despite_body(&mut self, may: bool) {
        self.despite_body = may;
    }

    /// The connection is to be broken: the client does not take what it is sent.
    pub fn cut(&mut self) {
        self.cut = true;
    }

    /// The response breaks off. Where its end alone would end it, the connection is broken: an orderly
    /// end would make a part of the body look like all of it (RFC 9112 section 8).
    pub fn break_off(&mut self) {
        if let Client::Http1(http1) = &self.client
            && http1.writer.delimiter() == Delimiter::End
            && self.status != Some(StatusCode::SWITCHING_PROTOCOLS)
        {
            self.cut = true;
        }
    }

    /// From now on the body may come when it comes, with pauses of this length.
    pub fn set_any_pace(&mut self, pause: Duration) {
        self.body_timeout = pause;
        if self.is_http2() {
            self.pace = Pace::any();
        }
    }

    /// The next piece of the body; `None` at its end.
    pub fn poll_body(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, ClientFault>> {
        let piece = match &mut self.client {
            Client::Http1(http1) => {
                ready!(http1.connection.wire.poll_piece(None, context)).map_err(fault)
            }
            Client::Http2(stream) => ready!(stream.poll_body(context)),
        };
        self.waiting_since = None;
        if let Ok(Some(piece)) = &piece {
            self.read += piece.len() as u64;
            if self.pace.is_limited() {
                self.pace.received(piece.len(), Instant::now());
            }
        }
        Poll::Ready(piece)
    }

    /// Until when the next piece of the body may be waited for.
    pub fn body_due(&mut self, now: Instant) -> Due {
        let since = *self.waiting_since.get_or_insert(now);
        let pause = (since + self.body_timeout, ClientFault::Paused);
        match self.pace.wait(now) {
            Some(at) if at < pause.0 => (at, ClientFault::TooSlow),
            _ => pause,
        }
    }

    /// It is not the client that is waited for.
    pub fn pause_body(&mut self, now: Instant) {
        self.waiting_since = None;
        self.pace.pause(now);
    }

    /// Ready when the client has left while its request is being answered.
    pub fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.client {
            Client::Http1(http1) => http1.connection.poll_departure(context).map(|_| ()),
            Client::Http2(stream) => stream.poll_gone(context),
        }
    }

    /// Writes the header of a response; `end` when nothing follows. A second final one has no place.
    pub fn write_head(&mut self, head: Response, end: bool) -> Result<(), ClientFault> {
        if self.has_begun() {
            return Ok(());
        }
        let status = head.status;
        let is_final = !head.is_interim();
        let body_done = self.is_body_done();
        match &mut self.client {
            Client::Http1(http1) => {
                if !is_final && self.request.version == Version::HTTP_10 {
                    // HTTP/1.0 knows no interim responses (RFC 9110 section 15.2).
                    return Ok(());
                }
                if is_final && !body_done && !self.despite_body {
                    self.keep_alive = false;
                }
                let out = http1.connection.wire.outbound();
                http1.writer.head(out, &head, &mut self.keep_alive);
            }
            Client::Http2(stream) => stream.write_head(head, end)?,
        }
        self.status = Some(status);
        Ok(())
    }

    /// Writes a piece of the body, and leaves in it what the client does not take yet.
    pub fn poll_write(
        &mut self,
        piece: &mut Bytes,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), ClientFault>> {
        let before = piece.len();
        let written = match &mut self.client {
            Client::Http1(http1) => {
                let Http1 { connection, writer } = &mut **http1;
                writer
                    .poll_body(&mut connection.wire, piece, context)
                    .map_err(|_| ClientFault::Gone)
            }
            Client::Http2(stream) => stream.poll_write(piece, context),
        };
        self.sent += (before - piece.len()) as u64;
        written
    }

    /// Ends the response, with trailers if there are any and the client can have them.
    pub fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), ClientFault> {
        match &mut self.client {
            Client::Http1(http1) => {
                if !http1
                    .writer
                    .finish(http1.connection.wire.outbound(), trailers)
                {
                    // It is shorter than it was said to be.
                    self.keep_alive = false;
                    return Err(ClientFault::Gone);
                }
            }
            Client::Http2(stream) => stream.finish(trailers)?,
        }
        self.complete = true;
        Ok(())
    }

    /// Has what was written go out. Ready at once with HTTP/2, whose connection does that by itself.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ClientFault>> {
        match &mut self.client {
            Client::Http1(http1) => http1
                .connection
                .wire
                .poll_flush(context)
                .map_err(|_| ClientFault::Gone),
            Client::Http2(_) => Poll::Ready(Ok(())),
        }
    }

    /// Has the request be over by then.
    pub fn end_by(&mut self, due: Option<Due>) {
        self.deadline = due;
    }

    /// When the whole request has to be over: the sooner of what its client and the gateway allow.
    pub fn deadline(&self) -> Option<Due> {
        let of_call = match &self.client {
            Client::Http1(_) => None,
            Client::Http2(stream) => stream.deadline(),
        };
        let of_call = of_call.map(|at| (at, ClientFault::Deadline));
        sooner(of_call, self.deadline)
    }

    /// Until when the client may leave what it is sent, and the whole request may take.
    pub fn due(&self) -> Option<Due> {
        let stalled = match &self.client {
            Client::Http1(http1) => http1.connection.wire.stalled_since(),
            Client::Http2(stream) => stream.stalled_since(),
        };
        let stalled = stalled.map(|since| (since + self.write_timeout, ClientFault::NotReading));
        sooner(stalled, self.deadline())
    }

    /// Ready when this moment has come.
    pub fn poll_until(&mut self, at: Instant, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.client {
            Client::Http1(http1) => http1.connection.poll_deadline(at, context),
            Client::Http2(stream) => stream.poll_until(at, context),
        }
    }

    /// Answers with a complete response of the gateway's own, whose head states the body's length.
    pub async fn answer(&mut self, head: Response, mut body: Bytes) -> Result<(), ClientFault> {
        // Nobody goes on with another protocol.
        self.stay_with_http();
        // An answer that says that the time is over has its own.
        self.deadline = None;
        let end = body.is_empty() || self.request.method == Method::HEAD;
        self.write_head(head, end)?;
        if end {
            body.clear();
        }
        std::future::poll_fn(|context| {
            if let Poll::Ready(written) = self.poll_answer(&mut body, context) {
                return Poll::Ready(written);
            }
            match self.due() {
                Some((at, fault)) => self.poll_until(at, context).map(|()| Err(fault)),
                None => Poll::Pending,
            }
        })
        .await
    }

    fn poll_answer(
        &mut self,
        body: &mut Bytes,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), ClientFault>> {
        if !self.complete {
            ready!(self.poll_write(body, context))?;
            self.finish(None)?;
        }
        self.poll_flush(context)
    }

    /// Has an interim response go out as far as the client takes it now.
    pub fn say_continue(&mut self) -> Result<(), ClientFault> {
        self.write_head(Response::new(StatusCode::CONTINUE), false)
    }

    /// The connection, where the client asked for a tunnel through it, and what ends that.
    pub fn tunnel(&mut self) -> Option<(&mut Connection, &mut Ending)> {
        match &mut self.client {
            Client::Http1(http1) => Some((&mut http1.connection, &mut self.ending)),
            Client::Http2(_) => None,
        }
    }

    /// The answer to a wish for a tunnel was another one.
    pub fn stay_with_http(&mut self) {
        if let Client::Http1(http1) = &mut self.client {
            http1.connection.stay_with_http();
        }
    }

    /// Counts bytes that went through a tunnel.
    pub fn count_tunnelled(&mut self, read: usize, sent: usize) {
        self.read += read as u64;
        self.sent += sent as u64;
    }

    /// Whether the client takes trailers in its responses.
    pub fn takes_trailers(&self) -> bool {
        let accepted = self.request.headers.get_all(header::TE);
        let mut words = accepted
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    }

    /// Ends the exchange: what becomes of its connection.
    pub fn end(mut self) -> Behind {
        match self.client {
            Client::Http1(http1) if self.cut => Behind::Breaks(http1.connection),
            Client::Http1(http1) if self.complete && self.keep_alive => {
                Behind::GoesOn(http1.connection)
            }
            Client::Http1(http1) => Behind::Ends(http1.connection),
            Client::Http2(ref mut stream) => {
                if !self.complete {
                    stream.give_up();
                }
                Behind::Nothing
            }
        }
    }
}

fn sooner(one: Option<Due>, other: Option<Due>) -> Option<Due> {
    one.into_iter().chain(other).min_by_key(|due| due.0)
}

/// What a failed read of a body means.
fn fault(error: std::io::Error) -> ClientFault {
    let cause = error.get_ref();
    if cause.is_some_and(|cause| cause.is::<MalformedChunk>()) {
        ClientFault::Malformed
    } else {
        ClientFault::Gone
    }
}
