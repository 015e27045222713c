//! A connection lent to Pingora for one request, and what both sides know of it meanwhile.
//!
//! The [`Lease`] shows Pingora the current request's bytes and no others, and hands the connection
//! back when Pingora lets go of it, so that the loop in [`super::connection`] alone decides whether
//! it is used again.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use pingora_core::server::ShutdownWatch;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::arrival::TlsFacts;
use super::ending::Ending;
use super::pace::{Pace, TooSlow};
use super::stream::Connection;
use super::turn::Turn;
use super::websocket::{ToClient, Tunnel};
use crate::filter::forwarding::Peer;

/// The largest piece where they are small: a frame of HTTP/2, as it is unless agreed otherwise.
const SMALL_PIECE: usize = 16 * 1024;

/// The wait for a response's first byte is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no response in time")]
pub struct FirstByteTimeout;

/// What the connection's loop and the phases of a request share.
#[derive(Debug)]
pub struct Shared {
    /// The peer's address.
    pub peer: SocketAddr,
    /// The peer as forwarding headers name it.
    pub forwarded: Peer,
    /// What the TLS handshake said; `None` for a plain connection.
    pub tls: Option<Arc<TlsFacts>>,
    /// When the response must have begun, in milliseconds since `epoch`; 0 for no deadline.
    first_byte_deadline: AtomicU64,
    /// Whether the request's body is read in small pieces.
    small_pieces: AtomicBool,
    /// Whether the body may come as slowly as it likes.
    any_pace: AtomicBool,
    /// Set when the gateway answered by itself, completely, and the connection can go on.
    answered: AtomicBool,
    /// Set when the connection is to be broken rather than ended.
    cut: AtomicBool,
    /// Where a lease leaves the connection.
    returned: Mutex<Option<Connection>>,
    epoch: Instant,
    /// What ends it before its time.
    pub ending: Ending,
}

impl Shared {
    /// For a connection from this address.
    pub fn new(peer: SocketAddr, tls: Option<Arc<TlsFacts>>) -> Self {
        Self {
            peer,
            forwarded: Peer::new(peer.ip().to_canonical()),
            tls,
            first_byte_deadline: AtomicU64::new(0),
            small_pieces: AtomicBool::new(false),
            any_pace: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            returned: Mutex::new(None),
            epoch: Instant::now(),
            ending: Ending::default(),
        }
    }

    /// For one of several requests that are under way at once on the same connection.
    pub fn for_stream(&self) -> Self {
        Self {
            peer: self.peer,
            forwarded: self.forwarded.clone(),
            tls: self.tls.clone(),
            first_byte_deadline: AtomicU64::new(0),
            small_pieces: AtomicBool::new(false),
            any_pace: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            returned: Mutex::new(None),
            epoch: Instant::now(),
            ending: Ending::default(),
        }
    }

    /// The scheme that the client used.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// From now on the response must begin within this time.
    pub fn expect_first_byte(&self, within: Duration) {
        let deadline = (self.epoch.elapsed() + within).as_millis() as u64;
        self.first_byte_deadline.store(deadline, Ordering::Relaxed);
    }

    /// The response has begun, or nothing waits for it any longer.
    pub fn first_byte_arrived(&self) {
        self.first_byte_deadline.store(0, Ordering::Relaxed);
    }

    /// From now on the request's body is read in small pieces.
    ///
    /// While Pingora waits for room to send a piece to an HTTP/2 backend, it takes nothing of the
    /// response. A backend that answers as it reads would wait for the gateway then, and the gateway
    /// for it. When the body makes way for the response after each piece, Pingora takes up to four
    /// frames of it meanwhile, so that more is taken than sent and nothing is left to wait.
    pub fn read_in_small_pieces(&self) {
        self.small_pieces.store(true, Ordering::Relaxed);
    }

    /// From now on the request's body may come as slowly as it likes. HTTP/2 requests alone ask.
    pub fn set_any_pace(&self) {
        self.any_pace.store(true, Ordering::Relaxed);
    }

    /// Whether it may.
    pub(super) fn is_any_pace(&self) -> bool {
        self.any_pace.load(Ordering::Relaxed)
    }

    /// A complete response of the gateway's own was written.
    pub fn set_answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// The connection is to be broken: the response broke off and an orderly end would make it look
    /// complete, or the client does not take what it is sent.
    pub fn set_cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Whether the connection is to be broken.
    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// When the response must have begun, if that is limited now.
    pub(super) fn first_byte_deadline(&self) -> Option<Instant> {
        match self.first_byte_deadline.load(Ordering::Relaxed) {
            0 => None,
            millis => Some(self.epoch + Duration::from_millis(millis)),
        }
    }

    /// Takes the connection back after a request: with whether a response of the gateway's own
    /// says that it can go on. `None` when it is gone.
    pub fn take_back(&self) -> Option<(Connection, bool)> {
        let connection = self
            .returned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()?;
        self.first_byte_arrived();
        self.small_pieces.store(false, Ordering::Relaxed);
        self.ending.clear();
        Some((connection, self.answered.swap(false, Ordering::Relaxed)))
    }
}

/// A connection lent to Pingora for one request.
#[derive(Debug)]
pub struct Lease {
    /// Always there until drop.
    connection: Option<Connection>,
    shared: Arc<Shared>,
    /// How long a write may make no progress. Pingora would bound the writes of bodies alone.
    write_timeout: Duration,
    /// There when the client asked for a WebSocket.
    tunnel: Option<Box<Tunnel>>,
    /// Whether the last read gave a small piece, behind which others have their turn.
    had_a_piece: bool,
    /// What was moved since others had their turn.
    turn: Turn,
    /// How slowly the request's body may come.
    pace: Pace,
}

impl Lease {
    /// Lends the connection; it comes back through [`Shared::take_back`].
    pub fn new(
        connection: Connection,
        shared: Arc<Shared>,
        write_timeout: Duration,
        pace: Pace,
    ) -> Self {
        Self {
            connection: Some(connection),
            shared,
            write_timeout,
            tunnel: None,
            had_a_piece: false,
            turn: Turn::default(),
            pace,
        }
    }

    /// Lends it for what may become a WebSocket, which is told to close when `ending` turns true.
    pub fn closing_websocket(mut self, ending: &ShutdownWatch) -> Self {
        self.tunnel = Some(Box::new(Tunnel::new(ending)));
        self
    }

    /// Tells both sides of a WebSocket to close, each as soon as it is between two frames. Ready is
    /// the frame for the backend, or the end.
    fn poll_goodbye(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (Some(tunnel), Some(connection)) = (&mut self.tunnel, &mut self.connection) else {
            return Poll::Pending;
        };
        if self.shared.ending.poll(context).is_ready() {
            tunnel.break_off();
        }
        if !tunnel.poll_ending(context) {
            return Poll::Pending;
        }
        // The client may be slow to read; the backend need not wait for that.
        let _ = poll_tell_client(tunnel, connection, context)?;
        if tunnel.tell_backend() {
            let frame = tunnel.close_to_backend();
            if buffer.remaining() < frame.len() {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            buffer.put_slice(&frame);
            return Poll::Ready(Ok(()));
        }
        if tunnel.is_over() {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    /// Writes, regarding the frames of a WebSocket.
    fn poll_write_tunnel(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let patience = self.write_timeout;
        let (Some(tunnel), Some(connection)) = (&mut self.tunnel, &mut self.connection) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        if self.shared.ending.poll(context).is_ready() {
            tunnel.break_off();
        }
        if tunnel.poll_ending(context) {
            let told = poll_tell_client(tunnel, connection, context);
            ready!(connection.limit_write(told, patience, context))?;
        }
        let passed = match tunnel.to_client(bytes) {
            ToClient::Pass(count) => &bytes[..count],
            ToClient::Discard => {
                tunnel.sent(bytes);
                return Poll::Ready(Ok(bytes.len()));
            }
        };
        let written = connection.poll_send(context, passed);
        let count = ready!(connection.limit_write(written, patience, context))?;
        tunnel.sent(&passed[..count]);
        Poll::Ready(Ok(count))
    }

    /// Reads, regarding the frames of a WebSocket.
    fn poll_tunnel(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let goodbye = self.poll_goodbye(context, buffer)?;
            if goodbye.is_ready() {
                return Poll::Ready(Ok(()));
            }
            if self.tunnel.as_ref().is_some_and(|t| !t.is_accepted()) {
                // Nobody knows yet whether what follows are frames or the next request.
                return self.connection()?.poll_departure(context);
            }
            let begin = buffer.filled().len();
            ready!(self.connection()?.poll_request(context, buffer))?;
            let Some(tunnel) = &mut self.tunnel else {
                return Poll::Ready(Ok(()));
            };
            let read = &buffer.filled()[begin..];
            let passed = tunnel.from_client(read);
            let (is_end, rest) = (read.is_empty(), bytes::BytesMut::from(&read[passed..]));
            if is_end {
                return Poll::Ready(Ok(()));
            }
            if tunnel.discards_requests() {
                buffer.set_filled(begin);
                continue;
            }
            buffer.set_filled(begin + passed);
            if !rest.is_empty() {
                self.connection()?.put_back(rest);
            }
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn connection(&mut self) -> io::Result<&mut Connection> {
        self.connection.as_mut().ok_or_else(gone)
    }
}

/// Tells the client to close, if that is due and it is between two frames.
fn poll_tell_client(
    tunnel: &mut Tunnel,
    connection: &mut Connection,
    context: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    if tunnel.client_is_due() {
        // Behind this there is room for the frame, so that it is taken as a whole.
        ready!(connection.poll_flush(context))?;
        ready!(connection.poll_send(context, &tunnel.close_to_client()))?;
        tunnel.told_client();
    }
    connection.poll_flush(context)
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl Drop for Lease {
    fn drop(&mut self) {
        *self
            .shared
            .returned
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = self.connection.take();
    }
}

impl AsyncRead for Lease {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.turn.poll(context));
        let begin = buffer.filled().len();
        let read = if self.tunnel.is_some() {
            self.poll_tunnel(context, buffer)
        } else if self.shared.small_pieces.load(Ordering::Relaxed) {
            self.poll_piece(context, buffer)
        } else {
            self.connection()?.poll_request(context, buffer)
        };
        if read.is_ready() {
            let count = buffer.filled().len() - begin;
            if count > 0 {
                self.turn.moved(count);
                self.pace.received(count, Instant::now());
            }
            return read;
        }
        self.poll_waiting(context)
    }
}

impl Lease {
    /// Pending until whoever is waited for, the backend or the client, has taken too long.
    fn poll_waiting(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let over = match self.tunnel {
            Some(_) => self.shared.ending.poll_overdue(context),
            None => self.shared.ending.poll(context),
        };
        if let Poll::Ready(why) = over {
            self.shared.set_cut();
            return Poll::Ready(Err(io::Error::other(why.into_error())));
        }
        let connection = self.connection.as_mut().ok_or_else(gone)?;
        if let Some(deadline) = self.shared.first_byte_deadline() {
            if self.pace.is_waiting() {
                self.pace.pause(Instant::now());
            }
            return connection
                .poll_deadline(deadline, context)
                .map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, FirstByteTimeout)));
        }
        if connection.framing().is_done() {
            return Poll::Pending;
        }
        match self.pace.wait(Instant::now()) {
            Some(deadline) => connection
                .poll_deadline(deadline, context)
                .map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, TooSlow))),
            None => Poll::Pending,
        }
    }

    /// Reads a small piece, and lets others have their turn before the next one.
    fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.had_a_piece) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let connection = self.connection()?;
        let room = buffer.remaining().min(SMALL_PIECE);
        let mut piece = ReadBuf::new(buffer.initialize_unfilled_to(room));
        let read = connection.poll_request(context, &mut piece);
        let filled = piece.filled().len();
        buffer.advance(filled);
        self.had_a_piece = filled > 0;
        read
    }
}

impl AsyncWrite for Lease {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.turn.poll(context));
        let patience = self.write_timeout;
        if self.tunnel.is_some() {
            return self.poll_write_tunnel(context, bytes);
        }
        let connection = self.connection()?;
        let written = connection.poll_send(context, bytes);
        let written = connection.limit_write(written, patience, context);
        if written.is_pending()
            && let Poll::Ready(why) = self.shared.ending.poll(context)
        {
            self.shared.set_cut();
            return Poll::Ready(Err(io::Error::other(why.into_error())));
        }
        match &written {
            Poll::Ready(Ok(count)) => self.turn.moved(*count),
            _ => self.turn.ended(),
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let patience = self.write_timeout;
        let connection = self.connection()?;
        let flushed = connection.poll_flush(context);
        connection.limit_write(flushed, patience, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(context))?;
        self.connection()?.poll_shut_down(context)
    }
}

#[async_trait]
impl Shutdown for Lease {
    async fn shutdown(&mut self) {
        // The connection's loop closes it, with regard to what the client has yet to read.
        let _ = tokio::io::AsyncWriteExt::flush(self).await;
    }
}

impl UniqueID for Lease {
    fn id(&self) -> UniqueIDType {
        self.connection.as_ref().map_or(0, Connection::id)
    }
}

impl Ssl for Lease {}

impl GetTimingDigest for Lease {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Lease {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Lease {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

#[async_trait]
impl Peek for Lease {}
