//! A client's connection: its bytes, its one timer, and how it is ended. A connection that waits for its
//! next request holds no buffer.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;
use tokio::time::Sleep;

use super::framing::Framing;
use super::transport::{READ_BYTES, Transport};
use super::wire::Wire;

/// Bytes of following requests that are kept while one is being answered.
const MAX_EARLY_BYTES: usize = 64 * 1024;

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
    /// Its bytes.
    pub wire: Wire<Transport>,
    alarm: Alarm,
    /// The peer had sent its last byte before the current request began: it waits for answers and is
    /// not leaving.
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
            wire: Wire::new(transport),
            alarm: Alarm::default(),
            half_closed: false,
            shut: false,
        }
    }

    /// Bytes that were read and belong to no request yet.
    pub fn buffered(&mut self) -> &mut BytesMut {
        &mut self.wire.inbound
    }

    /// What is left of the current request.
    pub fn framing(&self) -> Framing {
        self.wire.framing
    }

    /// Begins a request: `head` bytes of the buffer are taken out as its header.
    pub fn begin(&mut self, head: usize, framing: Framing) -> Bytes {
        self.wire.framing = framing;
        self.half_closed = self.wire.ended;
        let head = if head == self.wire.inbound.len() {
            std::mem::take(&mut self.wire.inbound)
        } else {
            self.wire.inbound.split_to(head)
        };
        head.freeze()
    }

    /// The current request asked for another protocol and stayed with HTTP.
    pub fn stay_with_http(&mut self) {
        if self.wire.framing == Framing::Tunnel {
            self.wire.framing = Framing::Done;
        }
    }

    /// Waits, without a buffer, until something was read or the deadline has passed.
    pub fn poll_wait(&mut self, deadline: Instant, context: &mut Context<'_>) -> Poll<Waited> {
        if !self.wire.inbound.is_empty() || self.wire.ended {
            return Poll::Ready(Waited::Readable);
        }
        match self.poll_fill(context) {
            Poll::Ready(read) => {
                // Whoever reads next finds the bytes, or the end.
                self.wire.ended |= read.is_err();
                return Poll::Ready(Waited::Readable);
            }
            // A new socket says it is readable before anything came.
            Poll::Pending => self.wire.inbound = BytesMut::new(),
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
        self.wire.poll_fill(READ_BYTES, context)
    }

    /// Reads the rest of the current request and forgets it, up to `limit` bytes.
    ///
    /// Says whether the request has ended.
    pub async fn drain(&mut self, mut limit: usize, deadline: Instant) -> bool {
        loop {
            match self.wire.framing.advance(&self.wire.inbound) {
                Ok(count) if count <= limit => {
                    self.wire.inbound.advance(count);
                    limit -= count;
                }
                _ => return false,
            }
            if self.wire.framing.is_done() {
                return true;
            }
            if !matches!(self.fill(deadline).await, Ok(count) if count > 0) {
                return false;
            }
        }
    }

    /// Writes the bytes and flushes, until the deadline.
    pub async fn send(&mut self, bytes: &[u8], deadline: Instant) -> io::Result<()> {
        self.wire.outbound().extend_from_slice(bytes);
        std::future::poll_fn(|context| {
            if let Poll::Ready(result) = self.wire.poll_flush(context) {
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
        if flushed.is_err() || self.wire.ended {
            return;
        }
        if self.shut_down(deadline).await.is_err() {
            return;
        }
        let mut left = limit;
        while let Ok(count) = self.fill(deadline).await {
            self.wire.inbound.clear();
            if count == 0 || count > left {
                return;
            }
            left -= count;
        }
    }

    /// Closes at once, without anything in flight; a peer that speaks TLS is told.
    pub async fn close(mut self, deadline: Instant) {
        if self.wire.carrier.is_tls() {
            // The peer is told if it can be; the connection ends either way.
            let _ = self.shut_down(deadline).await;
        }
    }

    /// Breaks the connection, so that nobody takes what was sent for all there was.
    pub fn abort(self) {
        let socket = socket2::SockRef::from(self.wire.carrier.tcp());
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
            ready!(Pin::new(&mut self.wire.carrier).poll_shutdown(context))?;
            self.shut = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when the deadline has passed.
    pub fn poll_deadline(&mut self, deadline: Instant, context: &mut Context<'_>) -> Poll<()> {
        self.alarm.poll(deadline, context)
    }

    /// Whether bytes of a further request were read, beyond what is left of the current one.
    fn has_another_request(&self) -> bool {
        let (mut framing, bytes) = (self.wire.framing, &self.wire.inbound);
        // What is malformed is no body that somebody waits for an answer to.
        let own = framing.advance(bytes).unwrap_or(bytes.len());
        framing.is_done() && own < bytes.len()
    }

    /// Watches for the client leaving while its request is being answered.
    ///
    /// What arrives meanwhile is kept for the next request. Ready means that the client has left.
    pub fn poll_departure(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.half_closed || self.wire.inbound.len() >= MAX_EARLY_BYTES {
                return Poll::Pending;
            }
            if ready!(self.poll_fill(context))? == 0 {
                // Half a connection is enough to answer requests that came before its end.
                return if self.has_another_request() {
                    Poll::Pending
                } else {
                    Poll::Ready(Ok(()))
                };
            }
        }
    }
}
