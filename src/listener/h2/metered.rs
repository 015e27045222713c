//! The bytes under the HTTP/2 library: counted as they pass, dosed, and closed with patience.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::meter::Meter;
use crate::listener::transport::Transport;
use crate::metrics::ConnectionClose;

/// What is read in one turn before others have theirs: at least two full frames, at most 3 600 of
/// the smallest.
const BYTES_A_TURN: usize = 32 * 1024;
/// What a client may still send while its connection is being closed, so that it can read why.
const LINGER_BYTES: usize = 1024 * 1024;

/// A moment that has come, or not.
#[derive(Debug, Default)]
struct Moment(AtomicU64);

impl Moment {
    /// The first call decides until the moment is cleared.
    fn mark(&self, epoch: Instant) {
        if self.0.load(Relaxed) == 0 {
            // 0 stands for none.
            let millis = epoch.elapsed().as_millis() as u64;
            self.0.store(millis.max(1), Relaxed);
        }
    }

    /// The last call decides.
    fn move_on(&self, epoch: Instant) {
        self.clear();
        self.mark(epoch);
    }

    fn clear(&self) {
        self.0.store(0, Relaxed);
    }

    fn get(&self, epoch: Instant) -> Option<Instant> {
        match self.0.load(Relaxed) {
            0 => None,
            millis => Some(epoch + Duration::from_millis(millis)),
        }
    }
}

/// What the connection's loop learns of the bytes below.
#[derive(Debug)]
pub struct Signals {
    epoch: Instant,
    /// Why the client has to go.
    excess: OnceLock<ConnectionClose>,
    /// What may still be read in this turn.
    budget: AtomicUsize,
    /// Since when a header block is incomplete.
    header: Moment,
    /// Since when nothing can be written.
    blocked: Moment,
    /// When a piece of a body was written last.
    progress: Moment,
    /// Since when the connection is being closed.
    closing: Moment,
    /// The error code of the GOAWAY sent last; 0, which is no error, as long as there was none.
    goaway: AtomicU32,
}

impl Signals {
    /// Of a connection that begins now.
    pub fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            excess: OnceLock::new(),
            budget: AtomicUsize::new(BYTES_A_TURN),
            header: Moment::default(),
            blocked: Moment::default(),
            progress: Moment::default(),
            closing: Moment::default(),
            goaway: AtomicU32::new(0),
        }
    }

    /// Begins a turn.
    pub fn begin_turn(&self) {
        self.budget.store(BYTES_A_TURN, Relaxed);
    }

    /// Why the client has to go, if it has to.
    pub fn excess(&self) -> Option<ConnectionClose> {
        self.excess.get().copied()
    }

    /// Since when a header block is incomplete.
    pub fn header_since(&self) -> Option<Instant> {
        self.header.get(self.epoch)
    }

    /// Since when nothing can be written.
    pub fn blocked_since(&self) -> Option<Instant> {
        self.blocked.get(self.epoch)
    }

    /// When a piece of a body was written last.
    pub fn last_progress(&self) -> Option<Instant> {
        self.progress.get(self.epoch)
    }

    /// The error that the client was sent away with; 0 for none.
    pub fn goaway(&self) -> u32 {
        self.goaway.load(Relaxed)
    }

    /// Since when the connection is being closed.
    pub fn closing_since(&self) -> Option<Instant> {
        self.closing.get(self.epoch)
    }
}

/// A client's connection under the HTTP/2 library.
#[derive(Debug)]
pub struct Metered {
    transport: Transport,
    meter: Meter,
    signals: Arc<Signals>,
    /// Whether our side of the connection has been closed.
    shut: bool,
    /// What may still be read and forgotten.
    linger: usize,
}

impl Metered {
    /// Counts what passes, and says in `signals` what comes of it.
    pub fn new(transport: Transport, signals: Arc<Signals>) -> Self {
        Self {
            transport,
            meter: Meter::new(signals.epoch),
            signals,
            shut: false,
            linger: LINGER_BYTES,
        }
    }

    fn note_excess(&self, excess: Option<ConnectionClose>) {
        if let Some(reason) = excess {
            // The first reason stays.
            let _ = self.signals.excess.set(reason);
        }
    }

    fn note_sent(&mut self, bytes: &[u8], now: Instant) {
        let before = self.meter.data_frames();
        let excess = self.meter.send(bytes, now);
        self.note_excess(excess);
        if self.meter.data_frames() != before {
            self.signals.progress.move_on(self.signals.epoch);
        }
    }

    fn note_write(&self, pending: bool) {
        if pending {
            self.signals.blocked.mark(self.signals.epoch);
        } else {
            self.signals.blocked.clear();
        }
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.signals.excess().is_some() {
            // The loop sees it in the same turn and ends the connection.
            return Poll::Pending;
        }
        let budget = this.signals.budget.load(Relaxed);
        if budget == 0 {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.transport).poll_read(context, buffer))?;
        let bytes = &buffer.filled()[before..];
        this.signals
            .budget
            .store(budget.saturating_sub(bytes.len()), Relaxed);
        let excess = this.meter.receive(bytes, Instant::now());
        if this.meter.in_header_block() {
            this.signals.header.mark(this.signals.epoch);
        } else {
            this.signals.header.clear();
        }
        if excess.is_some() {
            this.note_excess(excess);
            buffer.set_filled(before);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.transport).poll_write(context, bytes);
        self.note_write(written.is_pending());
        let count = ready!(written)?;
        self.note_sent(&bytes[..count], Instant::now());
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.transport).poll_write_vectored(context, slices);
        self.note_write(written.is_pending());
        let count = ready!(written)?;
        let (now, mut left) = (Instant::now(), count);
        for slice in slices {
            let part = left.min(slice.len());
            self.note_sent(&slice[..part], now);
            left -= part;
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.transport).poll_flush(context);
        self.note_write(flushed.is_pending());
        flushed
    }

    /// Closes our side, and then reads and forgets until the client has closed its own: a socket
    /// closed with unread bytes in it takes back what was sent last, the reason above all.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.signals
            .goaway
            .store(this.meter.goaway().unwrap_or(0), Relaxed);
        this.signals.closing.mark(this.signals.epoch);
        if !this.shut {
            ready!(Pin::new(&mut this.transport).poll_shutdown(context))?;
            this.shut = true;
        }
        let mut space = [0; 4096];
        while this.linger > 0 {
            let mut buffer = ReadBuf::new(&mut space);
            let read = ready!(Pin::new(&mut this.transport).poll_read(context, &mut buffer));
            let count = buffer.filled().len();
            if read.is_err() || count == 0 {
                break;
            }
            this.linger = this.linger.saturating_sub(count);
        }
        Poll::Ready(Ok(()))
    }
}
