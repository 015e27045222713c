//! A WebSocket between client and backend: bytes in both directions, and the Close frames at the end of
//! the process.

use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pingora_core::protocols::Stream;
use pingora_core::server::ShutdownWatch;

use super::Failed;
use crate::listener::ending::Ending;
use crate::listener::exchange::{ClientFault, Exchange};
use crate::listener::framing::Framing;
use crate::listener::stream::Connection;
use crate::listener::turn::Turn;
use crate::listener::websocket::{Admitted, Tunnel};
use crate::listener::wire::{Carrier, Wire};
use crate::metrics::FailureReason;

/// Why a tunnel broke.
#[derive(Debug)]
pub enum Broken {
    /// The client's side did.
    Client(ClientFault),
    /// The backend's side did, or nothing was said for too long.
    Backend(Failed),
}

/// What is on its way in one direction.
#[derive(Default)]
struct Flow {
    /// May be written.
    piece: Bytes,
    /// Was read and has to wait.
    rest: Bytes,
    ended: bool,
    moved: usize,
}

impl Flow {
    /// Whether everything that will ever come has been handed in.
    fn is_done(&self) -> bool {
        self.ended && self.piece.is_empty() && self.rest.is_empty()
    }

    /// Moves a piece, which is ready. Pending when neither side can.
    fn poll_move<A: Carrier, B: Carrier>(
        &mut self,
        from: &mut Wire<A>,
        to: &mut Wire<B>,
        admit: impl FnOnce(&[u8]) -> Admitted,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        if !self.piece.is_empty() {
            return to.poll_send(&mut self.piece, context);
        }
        if self.rest.is_empty() {
            if self.ended {
                return Poll::Pending;
            }
            match ready!(from.poll_piece(None, context))? {
                Some(piece) => self.rest = piece,
                None => self.ended = true,
            }
        }
        match admit(&self.rest) {
            Admitted::Discard => self.rest.clear(),
            Admitted::Pass(0) if !self.rest.is_empty() => return Poll::Pending,
            Admitted::Pass(count) => {
                self.piece = self.rest.split_to(count);
                self.moved += count;
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Both directions of a tunnel.
struct Tunnelled<'a> {
    client: &'a mut Connection,
    backend: &'a mut Wire<Stream>,
    tunnel: Tunnel,
    /// What ends it before its time.
    ending: &'a mut Ending,
    up: Flow,
    down: Flow,
    turn: Turn,
    /// When something was moved last.
    active: Instant,
    idle: Duration,
}

/// Carries bytes both ways until one side ends, or nothing was said for `idle`.
pub async fn run(
    exchange: &mut Exchange,
    backend: &mut Wire<Stream>,
    ending: &ShutdownWatch,
    idle: Duration,
    patience: Duration,
) -> Result<(), Broken> {
    let Some((client, ending_early)) = exchange.tunnel() else {
        return Err(Broken::Client(ClientFault::Gone));
    };
    client.wire.framing = Framing::Tunnel;
    let mut tunnelled = Tunnelled {
        client,
        backend,
        tunnel: Tunnel::new(ending),
        ending: ending_early,
        up: Flow::default(),
        down: Flow::default(),
        turn: Turn::default(),
        active: Instant::now(),
        idle,
    };
    let result = std::future::poll_fn(|context| tunnelled.poll(patience, context)).await;
    let (up, down) = (tunnelled.up.moved, tunnelled.down.moved);
    exchange.count_tunnelled(up, down);
    result
}

impl Tunnelled<'_> {
    fn poll(&mut self, patience: Duration, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            ready!(self.turn.poll(context));
            if self.ending.poll(context).is_ready() {
                self.tunnel.break_off();
            }
            self.tunnel.poll_ending(context);
            let up = self.poll_up(context)?;
            let down = self.poll_down(context)?;
            if up.is_pending() && down.is_pending() {
                break;
            }
            self.active = Instant::now();
        }
        self.turn.ended();
        let up = self.backend.poll_flush(context).map_err(backend)?;
        let down = self.client.wire.poll_flush(context).map_err(client)?;
        let is_over = (up.is_ready() && self.up.is_done())
            || (down.is_ready() && self.down.is_done())
            || (up.is_ready() && down.is_ready() && self.tunnel.is_over());
        if is_over {
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(why) = self.ending.poll_overdue(context) {
            return Poll::Ready(Err(Broken::Client(ClientFault::Over(why))));
        }
        self.poll_deadlines(patience, context)
    }

    fn poll_up(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.up.piece.is_empty()
            && let Some(close) = self.tunnel.tell_backend()
        {
            self.up.piece = Bytes::copy_from_slice(&close);
        }
        let before = self.up.moved;
        let (tunnel, from) = (&mut self.tunnel, &mut self.client.wire);
        let admit = |bytes: &[u8]| tunnel.from_client(bytes);
        let moved = ready!(self.up.poll_move(from, self.backend, admit, context));
        self.turn.moved(self.up.moved - before);
        // Whose side it was that failed, the next read tells; a client that leaves is nobody's fault.
        Poll::Ready(moved.map_err(client))
    }

    fn poll_down(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.down.piece.is_empty()
            && let Some(close) = self.tunnel.tell_client()
        {
            self.down.piece = Bytes::copy_from_slice(&close);
        }
        let before = self.down.moved;
        let (tunnel, to) = (&mut self.tunnel, &mut self.client.wire);
        let admit = |bytes: &[u8]| tunnel.to_client(bytes);
        let moved = ready!(self.down.poll_move(self.backend, to, admit, context));
        self.turn.moved(self.down.moved - before);
        Poll::Ready(moved.map_err(backend))
    }

    fn poll_deadlines(
        &mut self,
        patience: Duration,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        let idle = self.active + self.idle;
        let stalled = self.client.wire.stalled_since();
        let (at, broken) = match stalled.map(|since| since + patience) {
            Some(at) if at < idle => (at, Broken::Client(ClientFault::NotReading)),
            _ => (
                idle,
                Broken::Backend(Failed::new(FailureReason::TimeoutInBody)),
            ),
        };
        self.client.poll_deadline(at, context).map(|()| Err(broken))
    }
}

fn client(_: std::io::Error) -> Broken {
    Broken::Client(ClientFault::Gone)
}

fn backend(error: std::io::Error) -> Broken {
    Broken::Backend(Failed::from(error).in_body())
}
