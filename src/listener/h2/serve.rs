//! The loop of one HTTP/2 connection: requests out, deadlines, floods, the end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use tokio::time::timeout;

use super::body::Body;
use super::delivery::Delivery;
use super::metered::{Metered, Signals};
use super::refuse::refuse;
use super::response::Sender;
use super::running::Running;
use super::stream::Stream;
use super::timer::Timer;
use super::{STREAMS, builder, gate};
use crate::config::model::Limits;
use crate::grpc;
use crate::lifecycle::{InFlight, Lifecycle};
use crate::listener::ListenerState;
use crate::listener::arrival::Arrival;
use crate::listener::connection::{Edge, Handler, LINGER};
use crate::listener::exchange::{Exchange, Origin, Remote};
use crate::listener::head::Bounds;
use crate::message;
use crate::metrics::ConnectionClose;
use crate::overload::idle::Seated;
use crate::reply::Rejection;

/// Serves a connection until it ends.
pub async fn serve<H: Handler>(arrival: Arrival, listener: Arc<ListenerState>, edge: Arc<Edge<H>>) {
    let _open = listener.metrics.http2_connection();
    let limits = edge.live.limits();
    let now = Instant::now();
    let signals = Arc::new(Signals::new(now));
    let remote = Arc::new(Remote::new(arrival.peer, arrival.tls));
    let delivery = Delivery::of(arrival.transport.id());
    let io = Metered::new(arrival.transport, Arc::clone(&signals));
    let handshake = builder(&limits).handshake(io);
    let connection = match timeout(limits.request_header_timeout, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            let reason = error.reason().filter(|_| !error.is_remote());
            return count_error(reason.unwrap_or(Reason::NO_ERROR), &listener);
        }
        Err(_) => return listener.metrics.closed(ConnectionClose::HeaderTimeout),
    };
    let mut closing = edge.closing.clone();
    let mut served = Served {
        connection,
        signals,
        limits,
        running: Arc::default(),
        timer: Timer::default(),
        quiet_since: Some(now),
        idle_since: Some(now),
        flushing: None,
        lifecycle: Arc::clone(&edge.lifecycle),
        delivery,
        draining: None,
        ended: false,
        closing: Box::pin(async move {
            // An error means that nobody can announce an end any more; then there is none.
            if closing.wait_for(|closing| *closing).await.is_err() {
                std::future::pending::<()>().await;
            }
        }),
        listener,
        seat: edge.overload.idle.enter(),
    };
    served.seat.wait(now);
    while let Some((request, respond)) = served.next().await {
        served.limits = edge.live.limits();
        served.begin(request, respond, &remote, &edge);
    }
}

/// A connection while it is served.
struct Served {
    connection: Connection<Metered, Bytes>,
    signals: Arc<Signals>,
    limits: Limits,
    listener: Arc<ListenerState>,
    running: Arc<Running>,
    timer: Timer,
    /// Since when no request is being handled.
    quiet_since: Option<Instant>,
    /// Since when, moreover, all of every response has been written.
    idle_since: Option<Instant>,
    /// There while responses are written whose requests are no longer handled.
    flushing: Option<InFlight>,
    lifecycle: Arc<Lifecycle>,
    delivery: Delivery,
    /// Since when no further requests are wanted.
    draining: Option<Instant>,
    /// The client was told that this is the end.
    ended: bool,
    closing: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Where it is noted that it waits for a request.
    seat: Seated,
}

type Next = (Request<RecvStream>, SendResponse<Bytes>);

impl Served {
    /// The next request; `None` when the connection is over.
    async fn next(&mut self) -> Option<Next> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Next>> {
        self.signals.begin_turn();
        loop {
            let running = self.running.count(context.waker());
            if let Poll::Ready(next) = self.poll_connection(running, context) {
                return Poll::Ready(next);
            }
            self.note_rest(running);
            if self.end_excess() || self.begin_drain(context) || self.make_room(context) {
                // What was said has yet to be sent.
                continue;
            }
            let Some((deadline, reason)) = self.deadline() else {
                return Poll::Pending;
            };
            if self.timer.poll(deadline, context).is_pending() {
                return Poll::Pending;
            }
            if !self.expire(reason) {
                return Poll::Ready(None);
            }
        }
    }

    /// Notes what is left to do: nothing, to write what the library holds, or to handle requests.
    fn note_rest(&mut self, running: usize) {
        if running > 0 {
            self.seat.resume();
            (self.quiet_since, self.idle_since, self.flushing) = (None, None, None);
            return;
        }
        self.quiet_since = self.quiet_since.or_else(|| Some(Instant::now()));
        if self.connection.has_streams() {
            self.idle_since = None;
            let flushing = self.flushing.take();
            self.flushing = flushing.or_else(|| Some(self.lifecycle.begin()));
        } else {
            if self.idle_since.is_none() {
                let now = Instant::now();
                self.seat.wait(now);
                self.idle_since = Some(now);
            }
            self.flushing = None;
        }
    }

    /// Since when a client has not taken any of the responses that are only to be written.
    fn unread_since(&self) -> Option<Instant> {
        let quiet = self.quiet_since.filter(|_| self.idle_since.is_none())?;
        let progress = self.signals.last_progress();
        Some(progress.map_or(quiet, |progress| progress.max(quiet)))
    }

    /// Lets the library read and write, and takes a request if there may be one more.
    fn poll_connection(&mut self, running: usize, context: &mut Context<'_>) -> Poll<Option<Next>> {
        let result = if running < STREAMS as usize {
            match self.connection.poll_accept(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(next))) => return Poll::Ready(Some(next)),
                Poll::Ready(Some(Err(error))) => Err(error),
                Poll::Ready(None) => Ok(()),
            }
        } else {
            // Streams that the client has reset make room in the library, not here.
            match self.connection.poll_closed(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(result) => result,
            }
        };
        if let Err(error) = result {
            log::debug!("listener={} HTTP/2 ended: {error}", self.listener.name);
        }
        self.count_end();
        Poll::Ready(None)
    }

    /// Counts why the library ended the connection, if it did.
    fn count_end(&self) {
        if !self.ended {
            count_error(Reason::from(self.signals.goaway()), &self.listener);
        }
    }

    /// Ends the connection of a client that sends too much of something. True: it was just told.
    fn end_excess(&mut self) -> bool {
        let Some(reason) = self.signals.excess().filter(|_| !self.ended) else {
            return false;
        };
        self.listener.metrics.closed(reason);
        self.end(Reason::ENHANCE_YOUR_CALM);
        true
    }

    /// Says that there is no need for further requests, once the process is ending.
    fn begin_drain(&mut self, context: &mut Context<'_>) -> bool {
        if self.draining.is_some() || self.closing.as_mut().poll(context).is_pending() {
            return false;
        }
        self.drain(ConnectionClose::Drain);
        true
    }

    /// Ends a connection that waits for a request, if others need its room.
    fn make_room(&mut self, context: &mut Context<'_>) -> bool {
        let waits = self.idle_since.is_some() && self.draining.is_none();
        if !waits || self.seat.poll_evicted(context).is_pending() {
            return false;
        }
        self.drain(ConnectionClose::Evicted);
        true
    }

    fn drain(&mut self, reason: ConnectionClose) {
        self.draining = Some(Instant::now());
        self.listener.metrics.closed(reason);
        self.connection.graceful_shutdown();
    }

    fn end(&mut self, reason: Reason) {
        self.ended = true;
        self.draining.get_or_insert_with(Instant::now);
        self.connection.abrupt_shutdown(reason);
    }

    /// What comes next if the client does nothing.
    fn deadline(&self) -> Option<(Instant, Expiry)> {
        let limits = &self.limits;
        let linger = |since: Option<Instant>| since.map(|since| since + LINGER);
        let drained = match (self.draining, self.idle_since) {
            _ if self.ended => linger(self.draining),
            (Some(drain), Some(idle)) => Some(drain.max(idle) + LINGER),
            _ => None,
        };
        let idle = self.idle_since.filter(|_| self.draining.is_none());
        let header = self.signals.header_since().filter(|_| !self.ended);
        let blocked = self.signals.blocked_since();
        let unread = self.unread_since();
        let over = |at: Option<Instant>| at.map(|at| self.delivery.defer(at));
        [
            (over(linger(self.signals.closing_since())), Expiry::Over),
            (over(drained), Expiry::Over),
            (
                unread.map(|since| since + limits.response_write_timeout),
                Expiry::Blocked,
            ),
            (
                idle.map(|since| since + limits.keepalive_timeout),
                Expiry::Idle,
            ),
            (
                header.map(|since| since + limits.request_header_timeout),
                Expiry::Header,
            ),
            (
                blocked.map(|since| since + limits.response_write_timeout),
                Expiry::Blocked,
            ),
        ]
        .into_iter()
        .filter_map(|(at, expiry)| Some((at?, expiry)))
        .min_by_key(|(at, _)| *at)
    }

    /// Does what a deadline asks for. False: the connection is over.
    fn expire(&mut self, expiry: Expiry) -> bool {
        match expiry {
            Expiry::Over => {
                let patience = self.limits.response_write_timeout;
                if !self.ended && self.delivery.goes_on(Instant::now(), patience) {
                    return true;
                }
                self.count_end();
                return false;
            }
            Expiry::Idle => self.drain(ConnectionClose::IdleTimeout),
            Expiry::Header => {
                self.listener.metrics.closed(ConnectionClose::HeaderTimeout);
                self.end(Reason::ENHANCE_YOUR_CALM);
            }
            Expiry::Blocked => {
                self.listener.metrics.closed(ConnectionClose::WriteTimeout);
                return false;
            }
        }
        true
    }

    /// Judges a request and hands it over, or refuses it.
    fn begin<H: Handler>(
        &self,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        remote: &Arc<Remote>,
        edge: &Arc<Edge<H>>,
    ) {
        let received = Instant::now();
        let guard = self.running.begin();
        self.listener.metrics.http2_stream();
        let (mut parts, stream) = request.into_parts();
        let ended = stream.is_end_stream();
        let judged = gate::judge(&mut parts, ended, &bounds(&self.limits))
            .and_then(|head| Ok((head, deadline(&parts, received)?)));
        let (head, deadline) = match judged {
            Ok(judged) => judged,
            Err(rejection) => {
                let stream = (Body::new(stream, ended), respond);
                let from = (&*self.listener, remote.peer, received);
                return refuse(&rejection, &parts, stream, from, &*edge.refusals, guard);
            }
        };
        let body = Body::new(stream, head.framing.is_done());
        let response = Sender::new(respond, &parts.method);
        let origin = Origin {
            remote: Arc::clone(remote),
            listener: Arc::clone(&self.listener),
            head,
            received,
        };
        let request = message::Request {
            method: parts.method,
            version: parts.version,
            headers: parts.headers,
        };
        let stream = Stream::new(body, response, deadline, guard);
        let exchange = Exchange::http2(stream, request, origin, &self.limits);
        tokio::spawn(handle(exchange, Arc::clone(edge)));
    }
}

/// What a deadline means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expiry {
    /// The client had its time to hear that this is the end.
    Over,
    /// Nothing was asked for.
    Idle,
    /// A header block was not completed.
    Header,
    /// Nothing was read.
    Blocked,
}

fn bounds(limits: &Limits) -> Bounds {
    Bounds {
        bytes: limits.request_header_bytes,
        fields: limits.request_header_fields,
        target_bytes: limits.uri_bytes,
        strict_paths: limits.strict_paths,
    }
}

/// When the client of a gRPC call gives up.
fn deadline(parts: &http::request::Parts, received: Instant) -> Result<Option<Instant>, Rejection> {
    if !grpc::is_call(&parts.headers) {
        return Ok(None);
    }
    match grpc::timeout(&parts.headers) {
        Ok(timeout) => Ok(timeout.and_then(|timeout| received.checked_add(timeout))),
        Err(grpc::Malformed) => Err(Rejection::BadRequest("grpc-timeout")),
    }
}

/// Counts a connection that ends with this error.
fn count_error(reason: Reason, listener: &ListenerState) {
    listener.metrics.closed(match reason {
        // The client left, or there was nothing more to say.
        Reason::NO_ERROR => return,
        Reason::ENHANCE_YOUR_CALM => ConnectionClose::Http2Excess,
        _ => ConnectionClose::ParseError,
    });
}

/// Hands one request over.
async fn handle<H: Handler>(exchange: Exchange, edge: Arc<Edge<H>>) {
    let _in_flight = edge.lifecycle.begin();
    let _counted = exchange.origin.listener.metrics.request();
    // A stream is not used again.
    edge.handler.handle(exchange).await.end();
}
