//! One end of a connection of HTTP/1 as bytes: what was read too early, what waits to be written, and
//! how much of the current message is left. Clients' connections and backends' have this in common.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::framing::{Framing, MalformedChunk, Run};

/// Bytes gathered before they are written; a header and a small body go out together.
const WRITE_BYTES: usize = 16 * 1024;
/// Room for a header and a small body, so that the second need not move the first.
const FIRST_WRITE_BYTES: usize = 2 * 1024;
/// What is read of a body at once.
const BODY_READ_BYTES: usize = 32 * 1024;
/// What is read of one that is nearly there.
const LAST_READ_BYTES: usize = 4 * 1024;

/// What carries the bytes.
pub trait Carrier: AsyncRead + AsyncWrite + Unpin {
    /// Reads once, up to `room` bytes. 0 is the end of the stream.
    fn poll_fill(
        &mut self,
        into: &mut BytesMut,
        room: usize,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        into.reserve(room);
        std::pin::pin!(self.read_buf(into)).as_mut().poll(context)
    }

    /// Whether what was written may wait here for a flush.
    fn holds_back(&self) -> bool;
}

impl Carrier for pingora_core::protocols::Stream {
    fn holds_back(&self) -> bool {
        true
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct Wire<T> {
    /// What carries the bytes.
    pub carrier: T,
    /// Read and not yet handed out.
    pub inbound: BytesMut,
    /// Handed in and not yet written.
    outbound: BytesMut,
    /// What is left of the current message.
    pub framing: Framing,
    /// Something was written to a carrier that may hold it back.
    unflushed: bool,
    /// Since when the peer takes nothing of what it is sent; `None` while it does.
    stalled_since: Option<Instant>,
    /// The peer has sent its last byte.
    pub ended: bool,
}

impl<T: Carrier> Wire<T> {
    /// A fresh connection.
    pub fn new(carrier: T) -> Self {
        Self {
            carrier,
            inbound: BytesMut::new(),
            outbound: BytesMut::new(),
            framing: Framing::Done,
            unflushed: false,
            stalled_since: None,
            ended: false,
        }
    }

    /// Reads more into the buffer. 0 is the end of the stream.
    pub fn poll_fill(&mut self, room: usize, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        let read = self.carrier.poll_fill(&mut self.inbound, room, context);
        let count = ready!(read)?;
        self.ended = count == 0;
        Poll::Ready(Ok(count))
    }

    /// Gives back what only a message needs.
    pub fn go_idle(&mut self) {
        if self.outbound.is_empty() {
            self.outbound = BytesMut::new();
        }
        if self.inbound.is_empty() {
            self.inbound = BytesMut::new();
        }
    }

    /// Whether there is neither anything to write nor anything that was read.
    pub fn is_clean(&self) -> bool {
        self.outbound.is_empty() && self.inbound.is_empty() && !self.ended
    }

    /// Room for what is to be written next: a header, or what frames a piece of a body.
    pub fn outbound(&mut self) -> &mut BytesMut {
        if self.outbound.capacity() == 0 {
            self.outbound.reserve(FIRST_WRITE_BYTES);
        }
        &mut self.outbound
    }

    /// Takes bytes of a body: few are gathered, many written at once with what waits. Ready when all
    /// are taken; what is not is left.
    pub fn poll_send(
        &mut self,
        bytes: &mut Bytes,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !bytes.is_empty() {
            if self.outbound.len() + bytes.len() <= WRITE_BYTES {
                self.outbound().extend_from_slice(bytes);
                bytes.clear();
                break;
            }
            let waiting = self.outbound.len();
            let both = [io::IoSlice::new(&self.outbound), io::IoSlice::new(bytes)];
            let written = Pin::new(&mut self.carrier).poll_write_vectored(context, &both);
            let count = ready!(self.progress(written))?;
            self.outbound.advance(count.min(waiting));
            bytes.advance(count.saturating_sub(waiting));
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what waits.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbound.is_empty() {
            let written = Pin::new(&mut self.carrier).poll_write(context, &self.outbound);
            let count = ready!(self.progress(written))?;
            self.outbound.advance(count);
        }
        if self.unflushed {
            let flushed = Pin::new(&mut self.carrier).poll_flush(context);
            ready!(self.progress(flushed.map_ok(|()| 1)))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Notes whether the peer takes something.
    fn progress(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => {
                self.stalled_since.get_or_insert_with(Instant::now);
                Poll::Pending
            }
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(written) => {
                self.stalled_since = None;
                self.unflushed = self.carrier.holds_back();
                Poll::Ready(written)
            }
        }
    }

    /// Since when the peer takes nothing, though there is something for it.
    pub fn stalled_since(&self) -> Option<Instant> {
        self.stalled_since
    }

    /// The next piece of the current message's body, and nothing behind it; `None` at its end. Lines
    /// of its trailer section go to `trailers`.
    ///
    /// `InvalidData` is a body that breaks its grammar, `UnexpectedEof` one that is cut short.
    pub fn poll_piece(
        &mut self,
        mut trailers: Option<&mut BytesMut>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            if self.framing.is_done() {
                return Poll::Ready(Ok(None));
            }
            if self.inbound.is_empty() {
                let room = self.room();
                if ready!(self.poll_fill(room, context))? == 0 {
                    return Poll::Ready(match self.framing {
                        Framing::Tunnel => Ok(None),
                        _ => Err(io::ErrorKind::UnexpectedEof.into()),
                    });
                }
            }
            match self.framing.run(&self.inbound).map_err(malformed)? {
                Run::Data(count) => {
                    let piece = self.inbound.split_to(count).freeze();
                    return Poll::Ready(Ok(Some(piece)));
                }
                Run::Between(count) => self.inbound.advance(count),
                Run::Trailer(count) => {
                    if let Some(trailers) = &mut trailers {
                        trailers.extend_from_slice(&self.inbound[..count]);
                    }
                    self.inbound.advance(count);
                }
            }
        }
    }

    /// How much to read of a body.
    fn room(&self) -> usize {
        match self.framing {
            Framing::Length(left) => usize::try_from(left).map_or(BODY_READ_BYTES, |left| {
                left.clamp(LAST_READ_BYTES, BODY_READ_BYTES)
            }),
            _ => BODY_READ_BYTES,
        }
    }

    /// Takes bytes back that were read and are not wanted yet.
    pub fn put_back(&mut self, bytes: &[u8]) {
        let mut bytes = BytesMut::from(bytes);
        bytes.unsplit(std::mem::take(&mut self.inbound));
        self.inbound = bytes;
    }
}

fn malformed(error: MalformedChunk) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
