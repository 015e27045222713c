//! Connections to backends: made, kept while they are not used, and given out again.
//!
//! Those of HTTP/2 are Pingora's to keep. Those of HTTP/1 are kept here: Pingora's pool starts a task
//! for each request that gives one back, which costs more than the rest of the way.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use pingora_core::connectors::TransportConnector;
use pingora_core::connectors::http::v2;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::HttpPeer;
use tokio::io::{AsyncRead, ReadBuf};

use super::http1::Http1;
use super::http2::Http2;
use super::{Failed, Link};
use crate::tls::backend::connector_options;
use crate::upstream::{Backend, IdlePlace, Membership, Purpose};

/// Connections that one worker keeps. One that comes back beyond that is closed.
const MOST: usize = 4096;
/// How often those that were closed, or not used for too long, are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// The connections of one worker.
pub struct Pool {
    http1: TransportConnector,
    http2: v2::Connector,
    kept: Arc<Kept>,
}

/// Connections that are not used.
#[derive(Default)]
struct Kept(Mutex<Shelves>);

/// By backend and what else tells them apart.
#[derive(Default)]
struct Shelves {
    shelves: HashMap<u64, Shelf, RandomState>,
    count: usize,
    /// Somebody looks after them.
    tended: bool,
}

/// The connections of one backend for one purpose.
struct Shelf {
    idle: VecDeque<Idle>,
    /// Those of a backend that no upstream has, or that is drained, are closed.
    owner: Membership,
}

struct Idle {
    stream: Stream,
    until: Instant,
    /// Where they are counted.
    _place: IdlePlace,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            http1: TransportConnector::new(Some(connector_options())),
            http2: v2::Connector::new(Some(connector_options())),
            kept: Arc::default(),
        }
    }
}

impl Pool {
    /// A connection to this backend, and whether it had been used before. `patience` is how long it may
    /// take to make one, in the place of what the upstream says.
    pub async fn open(
        &self,
        backend: &Backend,
        purpose: Purpose,
        patience: Option<Duration>,
    ) -> Result<(Link, bool), Failed> {
        // What is seldom waited for is on the heap, or every request would make room for it.
        if backend.shares(purpose) {
            return Box::pin(self.open_shared(backend, purpose, patience)).await;
        }
        if let Some(stream) = self.kept.take(backend.key(purpose)) {
            return Ok((http1(stream), true));
        }
        let peer = peer(backend, purpose, patience);
        let made = Box::pin(self.http1.new_stream(&*peer)).await;
        Ok((http1(made.map_err(Failed::connecting)?), false))
    }

    /// The same where the backend may speak HTTP/2.
    async fn open_shared(
        &self,
        backend: &Backend,
        purpose: Purpose,
        patience: Option<Duration>,
    ) -> Result<(Link, bool), Failed> {
        let peer = peer(backend, purpose, patience);
        let reused = self.http2.reused_http_session(&*peer).await;
        if let Some(session) = reused.map_err(Failed::connecting)? {
            let http2 = Http2::new(session, peer, backend.is_tls());
            return Ok((Link::Http2(Box::new(http2)), true));
        }
        if let Some(stream) = self.kept.take(backend.key(purpose)) {
            return Ok((http1(stream), true));
        }
        let made = self.http2.new_http_session::<_, ()>(&*peer).await;
        match made.map_err(Failed::connecting)? {
            HttpSession::H2(session) => {
                let http2 = Http2::new(session, peer, backend.is_tls());
                Ok((Link::Http2(Box::new(http2)), false))
            }
            HttpSession::H1(session) if !backend.insists_on_http2() => {
                Ok((http1(session.into_inner()), false))
            }
            _ => Err(Failed::protocol(
                "the backend does not agree to speak HTTP/2",
            )),
        }
    }

    /// Takes a connection back, if it can be used again and may be kept.
    pub fn close(&self, link: Link, backend: &Backend, purpose: Purpose) {
        match link {
            Link::Http1(http1) => {
                if let Some(stream) = http1.into_free() {
                    self.kept.put(backend, purpose, stream);
                }
            }
            Link::Http2(http2) => {
                let (session, peer) = http2.into_parts();
                let idle = Some(backend.idle_timeout());
                self.http2.release_http_session(session, &*peer, idle);
            }
        }
    }
}

/// The peer to dial, within this time.
fn peer(backend: &Backend, purpose: Purpose, patience: Option<Duration>) -> Box<HttpPeer> {
    let mut peer = backend.peer(purpose);
    if patience.is_some() {
        peer.options.connection_timeout = patience;
        peer.options.total_connection_timeout = patience;
    }
    peer
}

fn http1(stream: Stream) -> Link {
    Link::Http1(Box::new(Http1::new(stream)))
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, Shelves> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one used last, if it is still open.
    fn take(&self, key: u64) -> Option<Stream> {
        let mut shelves = self.lock();
        loop {
            let idle = shelves.shelves.get_mut(&key)?.idle.pop_back()?;
            shelves.count -= 1;
            let mut stream = idle.stream;
            if is_quiet(&mut stream) {
                return Some(stream);
            }
        }
    }

    fn put(self: &Arc<Self>, backend: &Backend, purpose: Purpose, mut stream: Stream) {
        // Looking also has it forget the task that read from it last, and so the memory of that.
        if !is_quiet(&mut stream) {
            return;
        }
        let Some(place) = backend.idle_place() else {
            return;
        };
        let mut shelves = self.lock();
        if shelves.count >= MOST {
            return;
        }
        shelves.count += 1;
        let until = Instant::now() + backend.idle_timeout();
        let shelf = shelves.shelves.entry(backend.key(purpose));
        let shelf = shelf.or_insert_with(|| Shelf {
            idle: VecDeque::new(),
            owner: backend.membership(),
        });
        if shelf.owner.is_over() {
            // It went, and has come back.
            shelf.owner = backend.membership();
        }
        shelf.idle.push_back(Idle {
            stream,
            until,
            _place: place,
        });
        if !shelves.tended {
            shelves.tended = true;
            tokio::spawn(tend(Arc::downgrade(self)));
        }
    }

    /// Closes what is of no use any more. Says whether anything is left.
    fn sweep(&self, now: Instant) -> bool {
        let mut shelves = self.lock();
        shelves.shelves.retain(|_, shelf| {
            let is_over = shelf.owner.is_over() || shelf.owner.is_draining();
            let idle = &mut shelf.idle;
            idle.retain_mut(|idle| !is_over && now < idle.until && is_quiet(&mut idle.stream));
            !idle.is_empty()
        });
        shelves.count = shelves.shelves.values().map(|shelf| shelf.idle.len()).sum();
        shelves.tended = shelves.count > 0;
        shelves.tended
    }
}

/// Looks after idle connections for as long as there are any.
async fn tend(kept: Weak<Kept>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(kept) = kept.upgrade() else { return };
        if !kept.sweep(Instant::now()) {
            return;
        }
    }
}

/// Whether the backend has neither closed an idle connection nor sent what nobody asked for. The
/// reactor has heard of both, so this asks no system.
fn is_quiet(stream: &mut Stream) -> bool {
    let mut byte = [0];
    let mut buffer = ReadBuf::new(&mut byte);
    let mut context = Context::from_waker(Waker::noop());
    // Whether there is something to read does not depend on the task's share of time.
    let read = std::pin::pin!(tokio::task::unconstrained(std::future::poll_fn(
        |context| { Pin::new(&mut *stream).poll_read(context, &mut buffer) }
    )));
    read.poll(&mut context).is_pending()
}
