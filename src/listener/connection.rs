//! The life of one client connection: wait, read a header, judge it, hand the request over, and
//! decide whether the connection goes on.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use bytes::Buf;
use futures_util::FutureExt;
use futures_util::future::{Fuse, FusedFuture};
use pingora_core::server::ShutdownWatch;
use tokio::net::TcpStream;

use super::ListenerState;
use super::arrival::{self, Arrival, Protocol};
use super::clients::Clients;
use super::exchange::{Behind, Exchange, Origin, Remote};
use super::h2;
use super::head::{self, Bounds, Head};
use super::stream::{Connection, Waited};
use crate::config::model::Limits;
use crate::lifecycle::Lifecycle;
use crate::metrics::ConnectionClose;
use crate::overload::Overload;
use crate::overload::idle::Seated;
use crate::reply::Rejection;
use crate::snapshot::Live;
use crate::telemetry;

/// The rest of a body that is read and forgotten so that the connection can go on.
pub const DRAIN_BYTES: usize = 64 * 1024;
/// What a client may still send after a refusal before its connection is closed for good.
const LINGER_BYTES: usize = 1024 * 1024;
/// How long that, or the rest of a body, may take.
pub const LINGER: Duration = Duration::from_secs(2);

/// What every connection of a worker needs.
pub struct Edge<H> {
    /// What the requests are handed to.
    pub handler: H,
    /// The running configuration.
    pub live: Arc<Live>,
    /// Connections by client, over all workers.
    pub clients: Arc<Clients>,
    /// What the process can bear, and who waits for a request.
    pub overload: Arc<Overload>,
    /// Who is told of requests that never became one.
    pub refusals: Arc<dyn Refusals>,
    /// Whether the process is ending, and what is in flight.
    pub lifecycle: Arc<Lifecycle>,
    /// Turns true when no further connections are accepted, and those that are idle get what is
    /// left of their grace.
    pub closing: ShutdownWatch,
}

/// Answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one, and gives it back with its response written.
    fn handle(&self, exchange: Exchange) -> impl Future<Output = Exchange> + Send;
}

/// Told of what is refused before there is a request.
pub trait Refusals: Send + Sync {
    /// Records the refusal and names the request.
    fn refused(&self, refused: &Refused<'_>) -> String;
}

/// A refusal before there is a request.
pub struct Refused<'a> {
    /// Why.
    pub rejection: &'a Rejection,
    /// From whom.
    pub peer: SocketAddr,
    /// When its first byte came.
    pub received: Instant,
    /// What came, or its first line.
    pub bytes: &'a [u8],
    /// What is known to be spoken, for the access log; `-` when that is not clear.
    pub protocol: &'static str,
}

/// Why there is no header to go on with.
enum NoHead {
    /// The client left, or there is nothing to say to it.
    Closed,
    /// It is refused.
    Refused(Rejection),
}

/// Serves a connection until it ends.
pub async fn serve<H: Handler>(tcp: TcpStream, listener: Arc<ListenerState>, edge: Arc<Edge<H>>) {
    let _open = listener.metrics.connection();
    match arrival::arrive(tcp, &listener, &edge.live, &edge.clients).await {
        Ok(mut arrival) => {
            let _admitted = arrival.admitted.take();
            match arrival.protocol {
                Protocol::Http1 => serve_http1(arrival, listener, edge).await,
                // On the heap, so that those that speak HTTP/1 do not make room for it.
                Protocol::Http2 => Box::pin(h2::serve(arrival, listener, edge)).await,
            }
        }
        Err(Some(reason)) => listener.metrics.closed(reason),
        Err(None) => {}
    }
}

/// Serves one request after the other.
async fn serve_http1<H: Handler>(
    arrival: Arrival,
    listener: Arc<ListenerState>,
    edge: Arc<Edge<H>>,
) {
    let peer = arrival.peer;
    let remote = Arc::new(Remote::new(peer, arrival.tls));
    let mut connection = Connection::new(arrival.transport);
    let mut closing = edge.closing.clone();
    let closing = async move {
        // An error means that nobody can announce an end any more; then there is none.
        if closing.wait_for(|closing| *closing).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let mut closing = pin!(closing.fuse());
    let seat = edge.overload.idle.enter();
    let mut first = true;
    loop {
        let limits = edge.live.limits();
        let patience = if first {
            limits.request_header_timeout
        } else {
            limits.keepalive_timeout
        };
        first = false;
        let grace = edge.live.keepalive_grace();
        if let Some(reason) = idle(&mut connection, &seat, patience, grace, closing.as_mut()).await
        {
            listener.metrics.closed(reason);
            let deadline = Instant::now() + LINGER;
            match reason {
                // A request may be on its way: its sender must see the end, not a reset.
                ConnectionClose::Drain => connection.linger(LINGER_BYTES, deadline).await,
                _ => connection.close(deadline).await,
            }
            return;
        }
        let received = Instant::now();
        let deadline = received + limits.request_header_timeout;
        let (end, head) = match read_head(&mut connection, &limits, deadline).await {
            Ok(found) => found,
            Err(NoHead::Closed) => return,
            Err(NoHead::Refused(rejection)) => {
                listener.metrics.closed(close_reason(&rejection));
                let bytes = connection.buffered();
                let refused = Refused {
                    rejection: &rejection,
                    peer,
                    received,
                    bytes,
                    protocol: "-",
                };
                let request_id = edge.refusals.refused(&refused);
                log_refusal(&listener, peer, &rejection, &request_id);
                let response = rejection.to_bytes(&request_id);
                let deadline = Instant::now() + LINGER;
                if connection.send(&response, deadline).await.is_ok() {
                    connection.linger(LINGER_BYTES, deadline).await;
                }
                return;
            }
        };
        let origin = Origin {
            remote: Arc::clone(&remote),
            listener: Arc::clone(&listener),
            head,
            received,
        };
        let Some(handled) = hand_over(connection, end, origin, &limits, &edge) else {
            return;
        };
        match handled.await {
            Behind::GoesOn(returned) => connection = returned,
            _ => return,
        }
    }
}

/// Waits for the next request. `Some` is why there will be none.
async fn idle(
    connection: &mut Connection,
    seat: &Seated,
    patience: Duration,
    grace: Duration,
    mut closing: Pin<&mut Fuse<impl Future<Output = ()>>>,
) -> Option<ConnectionClose> {
    let now = Instant::now();
    seat.wait(now);
    let mut deadline = now + patience;
    let mut reason = ConnectionClose::IdleTimeout;
    let mut hurry = |deadline: &mut Instant| {
        let graced = Instant::now() + grace;
        if graced < *deadline {
            *deadline = graced;
            reason = ConnectionClose::Drain;
        }
    };
    if closing.is_terminated() {
        hurry(&mut deadline);
    }
    let waited = std::future::poll_fn(|context| {
        let waited = connection.poll_wait(deadline, context);
        if waited.is_ready() {
            return waited.map(Ok);
        }
        if seat.poll_evicted(context).is_ready() {
            return Poll::Ready(Err(ConnectionClose::Evicted));
        }
        if closing.is_terminated() {
            return Poll::Pending;
        }
        ready!(closing.as_mut().poll(context));
        hurry(&mut deadline);
        connection.poll_wait(deadline, context).map(Ok)
    });
    let waited = waited.await;
    seat.resume();
    match waited {
        Ok(Waited::Readable) => None,
        Ok(Waited::TimedOut) => Some(reason),
        Err(evicted) => Some(evicted),
    }
}

/// Reads until the header is complete and judges it: its length and what it says.
async fn read_head(
    connection: &mut Connection,
    limits: &Limits,
    deadline: Instant,
) -> Result<(usize, Head), NoHead> {
    let bounds = Bounds {
        bytes: limits.request_header_bytes,
        fields: limits.request_header_fields,
        target_bytes: limits.uri_bytes,
        strict_paths: limits.strict_paths,
    };
    let mut searched = 0;
    loop {
        let bytes = connection.buffered();
        if searched == 0 {
            let lines = head::leading_empty_lines(bytes)
                .ok_or(NoHead::Refused(Rejection::BadRequest("request line")))?;
            bytes.advance(lines);
        }
        if let Some(end) = head::end_of_head(bytes, searched) {
            return judge(&bytes[..end], &bounds).map_err(NoHead::Refused);
        }
        if let Some(rejection) = too_much(bytes, searched, &bounds) {
            return Err(NoHead::Refused(rejection));
        }
        // The first half of an empty line is not the beginning of a request line.
        searched = if bytes.as_ref() == b"\r" {
            0
        } else {
            bytes.len()
        };
        match connection.fill(deadline).await {
            Ok(0) => return Err(NoHead::Closed),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut && searched > 0 => {
                return Err(NoHead::Refused(Rejection::RequestTimeout));
            }
            Err(_) => return Err(NoHead::Closed),
        }
    }
}

fn judge(bytes: &[u8], bounds: &Bounds) -> Result<(usize, Head), Rejection> {
    if bytes.len() > bounds.bytes {
        return Err(too_large(bytes, bounds));
    }
    head::judge(bytes, bounds).map(|head| (bytes.len(), head))
}

/// Why an incomplete header need not be waited for.
fn too_much(bytes: &[u8], searched: usize, bounds: &Bounds) -> Option<Rejection> {
    if head::hopeless(bytes, searched) {
        return Some(Rejection::BadRequest("line ending"));
    }
    (bytes.len() > bounds.bytes).then(|| too_large(bytes, bounds))
}

/// Which part of a header is too large.
fn too_large(bytes: &[u8], bounds: &Bounds) -> Rejection {
    let line = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len());
    if line > bounds.target_bytes {
        Rejection::UriTooLong
    } else {
        Rejection::HeaderTooLarge
    }
}

fn close_reason(rejection: &Rejection) -> ConnectionClose {
    match rejection {
        Rejection::RequestTimeout => ConnectionClose::HeaderTimeout,
        Rejection::HeaderTooLarge | Rejection::UriTooLong => ConnectionClose::HeaderTooLarge,
        _ => ConnectionClose::ParseError,
    }
}

/// Says what was refused before there was a request, without a byte of it: there may be secrets.
pub fn log_refusal(
    listener: &ListenerState,
    peer: SocketAddr,
    rejection: &Rejection,
    request_id: &str,
) {
    let name = &listener.name;
    let label = rejection.label();
    let part = match rejection {
        Rejection::BadRequest(part) => part,
        _ => "-",
    };
    log::info!(
        target: telemetry::REFUSED,
        "listener={name} client={peer} request_id={request_id} refused: {label} part={part:?}"
    );
}

/// Hands one request over. On the heap for the time of the request alone, so that connections that wait
/// are small.
fn hand_over<'a, H: Handler>(
    mut connection: Connection,
    end: usize,
    origin: Origin,
    limits: &Limits,
    edge: &'a Edge<H>,
) -> Option<Pin<Box<impl Future<Output = Behind> + Send + 'a>>> {
    let in_flight = edge.lifecycle.begin();
    let counted = origin.listener.metrics.request();
    let header = connection.begin(end, origin.head.framing);
    // It was judged, so this cannot fail.
    let request = head::take_apart(&header)?;
    let exchange = Exchange::http1(connection, request, origin, limits);
    Some(Box::pin(async move {
        let _counted = (in_flight, counted);
        let behind = edge.handler.handle(exchange).await.end();
        go_on(behind).await
    }))
}

/// Brings a connection to where its next request begins, or to its end.
async fn go_on(behind: Behind) -> Behind {
    let mut connection = match behind {
        Behind::GoesOn(connection) => connection,
        Behind::Ends(connection) => {
            close(connection).await;
            return Behind::Nothing;
        }
        Behind::Breaks(connection) => {
            connection.abort();
            return Behind::Nothing;
        }
        Behind::Nothing => return Behind::Nothing,
    };
    connection.stay_with_http();
    let deadline = Instant::now() + LINGER;
    if !connection.drain(DRAIN_BYTES, deadline).await {
        close(connection).await;
        return Behind::Nothing;
    }
    connection.wire.go_idle();
    Behind::GoesOn(connection)
}

/// Closes a connection, with patience when the client may still be sending.
async fn close(mut connection: Connection) {
    let deadline = Instant::now() + LINGER;
    if connection.framing().is_done() && connection.buffered().is_empty() {
        if connection.send(&[], deadline).await.is_ok() {
            connection.close(deadline).await;
        }
    } else {
        connection.linger(LINGER_BYTES, deadline).await;
    }
}
