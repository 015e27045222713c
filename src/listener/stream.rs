//! A client's connection as bytes: what was read too early, what waits to be written, and how much
//! of the current request is left. A connection that waits for its next request holds no buffer.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use pingora_core::protocols::UniqueIDType;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::framing::{Framing, MalformedChunk};
use super::transport::Transport;

/// Bytes of following requests that are kept while one is being answered.
const MAX_EARLY_BYTES: usize = 64 * 1024;
/// Response bytes gathered before they are written; a header and a small body go out together.
const WRITE_BYTES: usize = 16 * 1024;

/// Room for a response header and a small body, so that the second need not move the first.
const FIRST_WRITE_BYTES: usize = 2 * 1024;

/// One timer for every deadline of a connection.
///
/// It is moved only when a deadline comes sooner than what it is set to; when it fires early for
/// the deadline in force, it is set again. A busy connection so touches the timer wheel once in
/// many requests.
#[derive(Debug, Default)]
struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Ready when `deadline` has passed; wakes the task then.
    fn poll(&mut self, deadline: Instant, context: &mut Context<'_>) -> Poll<()> {
        let deadline = tokio::time::Instant::from_std(deadline);
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if deadline < sleep.deadline() {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(context).is_ready() {
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

/// A client's connection.
#[derive(Debug)]
pub struct Connection {
    transport: Transport,
    /// Read and not yet handed out.
    inbound: BytesMut,
    /// Handed in and not yet written.
    outbound: BytesMut,
    /// What is left of the current request.
    framing: Framing,
    alarm: Alarm,
    /// When the peer must have taken some of what it is sent; `None` while it does.
    write_deadline: Option<Instant>,
    /// The peer has sent its last byte.
    ended: bool,
    /// It had done so before the current request began: it waits for answers and is not leaving.
    half_closed: bool,
    /// Our side was shut down.
    shut: bool,
}

/// How a wait for bytes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// There are bytes, or the end was reached.
    Readable,
    /// The deadline passed.
    TimedOut,
}

impl Connection {
    /// A fresh connection.
    pub fn new(transport: Transport) -> Self {
        Self {
            transport,
            inbound: BytesMut::new(),
            outbound: BytesMut::new(),
            framing: Framing::Done,
            alarm: Alarm::default(),
            write_deadline: None,
            ended: false,
            half_closed: false,
            shut: false,
        }
    }

    /// Bytes that were read and belong to no request yet.
    pub fn buffered(&mut self) -> &mut BytesMut {
        &mut self.inbound
    }

    /// What is left of the current request.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Begins a request: `head` bytes of the buffer are taken out as its header.
    pub fn begin(&mut self, head: usize, framing: Framing) -> BytesMut {
        self.framing = framing;
        self.half_closed = self.ended;
        if head == self.inbound.len() {
            std::mem::take(&mut self.inbound)
        } else {
            self.inbound.split_to(head)
        }
    }

    /// The current request asked for another protocol and stayed with HTTP.
    pub fn stay_with_http(&mut self) {
        if self.framing == Framing::Tunnel {
            self.framing = Framing::Done;
        }
    }

    /// Gives back what only a request needs.
    pub fn go_idle(&mut self) {
        if self.outbound.is_empty() {
            self.outbound = BytesMut::new();
        }
        if self.inbound.is_empty() {
            self.inbound = BytesMut::new();
        }
    }

    /// Waits, without a buffer, until something was read or the deadline has passed.
    pub fn poll_wait(&mut self, deadline: Instant, context: &mut Context<'_>) -> Poll<Waited> {
        if !self.inbound.is_empty() || self.ended {
            return Poll::Ready(Waited::Readable);
        }
        match self.poll_fill(context) {
            Poll::Ready(read) => {
                // Whoever reads next finds the bytes, or the end.
                self.ended |= read.is_err();
                return Poll::Ready(Waited::Readable);
            }
            // A new socket says it is readable before anything came.
            Poll::Pending => self.inbound = BytesMut::new(),
        }
        self.alarm
            .poll(deadline, context)
            .map(|()| Waited::TimedOut)
    }

    /// Reads more into the buffer. 0 is the end of the stream; `TimedOut` is the deadline.
    pub async fn fill(&mut self, deadline: Instant) -> io::Result<usize> {
        std::future::poll_fn(|context| {
            if let Poll::Ready(result) = self.poll_fill(context) {
                return Poll::Ready(result);
            }
            self.alarm
                .poll(deadline, context)
                .map(|()| Err(io::ErrorKind::TimedOut.into()))
        })
        .await
    }

    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        let count = ready!(self.transport.poll_fill(&mut self.inbound, context))?;
        self.ended = count == 0;
        Poll::Ready(Ok(count))
    }

    /// Reads the rest of the current request and forgets it, up to `limit` bytes.
    ///
    /// Says whether the request has ended.
    pub async fn drain(&mut self, mut limit: usize, deadline: Instant) -> bool {
        loop {
            match self.framing.advance(&self.inbound) {
                Ok(count) if count <= limit => {
                    self.inbound.advance(count);
                    limit -= count;
                }
                _ => return false,
            }
            if self.framing.is_done() {
                return true;
            }
            if !matches!(self.fill(deadline).await, Ok(count) if count > 0) {
                return false;
            }
        }
    }

    /// Writes the bytes and flushes, until the deadline.
    pub async fn send(&mut self, bytes: &[u8], deadline: Instant) -> io::Result<()> {
        self.outbound.extend_from_slice(bytes);
        std::future::poll_fn(|context| {
            if let Poll::Ready(result) = self.poll_flush(context) {
                return Poll::Ready(result);
            }
            self.alarm
                .poll(deadline, context)
                .map(|()| Err(io::ErrorKind::TimedOut.into()))
        })
        .await
    }

    /// Closes so that the peer can still read what was written to it.
    ///
    /// Closing a socket with unread bytes resets the connection, which may take the response away
    /// from the client; so what still arrives is read and thrown away for a while (RFC 9112
    /// section 9.6).
    pub async fn linger(mut self, limit: usize, deadline: Instant) {
        let flushed = self.send(&[], deadline).await;
        if flushed.is_err() || self.ended {
            return;
        }
        if self.shut_down(deadline).await.is_err() {
            return;
        }
        let mut left = limit;
        while let Ok(count) = self.fill(deadline).await {
            self.inbound.clear();
            if count == 0 || count > left {
                return;
            }
            left -= count;
        }
    }

    /// Closes at once, without anything in flight; a peer that speaks TLS is told.
    pub async fn close(mut self, deadline: Instant) {
        if self.transport.is_tls() {
            // The peer is told if it can be; the connection ends either way.
            let _ = self.shut_down(deadline).await;
        }
    }

    /// Breaks the connection, so that nobody takes what was sent for all there was.
    pub fn abort(self) {
        let socket = socket2::SockRef::from(self.transport.tcp());
        // Without this the system would end the connection in good order.
        if let Err(error) = socket.set_linger(Some(Duration::ZERO)) {
            log::warn!("a connection cannot be reset: {error}");
        }
    }

    /// Ends our side, until the deadline.
    async fn shut_down(&mut self, deadline: Instant) -> io::Result<()> {
        std::future::poll_fn(|context| {
            if let Poll::Ready(result) = self.poll_shut_down(context) {
                return Poll::Ready(result);
            }
            self.alarm
                .poll(deadline, context)
                .map(|()| Err(io::ErrorKind::TimedOut.into()))
        })
        .await
    }

    /// Ends our side. What was handed in before must have been flushed.
    pub(super) fn poll_shut_down(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shut {
            ready!(Pin::new(&mut self.transport).poll_shutdown(context))?;
            self.shut = true;
        }
        Poll::Ready(Ok(()))
    }

    /// The descriptor, which Pingora tells connections apart by.
    pub(super) fn id(&self) -> UniqueIDType {
        self.transport.id()
    }

    /// Ready when the deadline has passed.
    pub(super) fn poll_deadline(
        &mut self,
        deadline: Instant,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        self.alarm.poll(deadline, context)
    }

    /// Takes response bytes: small ones are gathered, large ones written at once with what waits.
    pub(super) fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.outbound.len() + bytes.len() <= WRITE_BYTES {
            if self.outbound.capacity() == 0 {
                self.outbound.reserve(FIRST_WRITE_BYTES);
            }
            self.outbound.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        loop {
            let waiting = self.outbound.len();
            if waiting == 0 {
                return Pin::new(&mut self.transport).poll_write(context, bytes);
            }
            let both = [io::IoSlice::new(&self.outbound), io::IoSlice::new(bytes)];
            let written =
                ready!(Pin::new(&mut self.transport).poll_write_vectored(context, &both))?;
            if written > waiting {
                self.outbound.clear();
                return Poll::Ready(Ok(written - waiting));
            }
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outbound.advance(written);
            self.write_deadline = None;
        }
    }

    /// Writes what waits.
    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbound.is_empty() {
            let count = ready!(Pin::new(&mut self.transport).poll_write(context, &self.outbound))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outbound.advance(count);
            self.write_deadline = None;
        }
        Pin::new(&mut self.transport).poll_flush(context)
    }

    /// Passes the outcome of a write on, and ends one that makes no progress for so long.
    pub(super) fn limit_write<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        patience: Duration,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_deadline = None;
            return written;
        }
        let deadline = *self
            .write_deadline
            .get_or_insert_with(|| Instant::now() + patience);
        self.alarm
            .poll(deadline, context)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Reads the current request's bytes, and none behind them, into `buffer`.
    ///
    /// Behind its end nothing is read into `buffer`; ready means then that the client has left.
    pub(super) fn poll_request(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.framing.is_done() {
            return self.poll_departure(context);
        }
        let begin = buffer.filled().len();
        if self.inbound.is_empty() {
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            ready!(Pin::new(&mut self.transport).poll_read(context, buffer))?;
            self.ended = buffer.filled().len() == begin;
        } else {
            let count = self.inbound.len().min(buffer.remaining());
            buffer.put_slice(&self.inbound[..count]);
            self.inbound.advance(count);
        }
        let read = &buffer.filled()[begin..];
        let own = self.framing.advance(read).map_err(malformed)?;
        if own < read.len() {
            let mut early = BytesMut::from(&read[own..]);
            early.unsplit(std::mem::take(&mut self.inbound));
            self.inbound = early;
            buffer.set_filled(begin + own);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes bytes back that were read and are not wanted yet.
    pub(super) fn put_back(&mut self, mut bytes: BytesMut) {
        bytes.unsplit(std::mem::take(&mut self.inbound));
        self.inbound = bytes;
    }

    /// Watches for the client leaving while its request is being answered.
    ///
    /// What arrives meanwhile is kept for the next request. Ready means that the client has left.
    pub(super) fn poll_departure(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.half_closed || self.inbound.len() >= MAX_EARLY_BYTES {
                return Poll::Pending;
            }
            if ready!(self.poll_fill(context))? == 0 {
                // Half a connection is enough to answer requests that came before its end.
                return if self.inbound.is_empty() {
                    Poll::Ready(Ok(()))
                } else {
                    Poll::Pending
                };
            }
        }
    }
}

fn malformed(error: MalformedChunk) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
