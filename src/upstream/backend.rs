//! One member of an upstream: what is known of it, and how it is dialled.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use pingora_core::upstreams::peer::HttpPeer;

use super::breaker::{Pass, State as CircuitState};
use super::known::Known;
use super::peer::{Peers, Purpose};
use super::probed::Findings;
use crate::config::model;
use crate::metrics::{BackendMetrics, ProbeResult};

/// A member of an upstream. What each request reads comes first, beside the count of who holds it.
#[repr(C)]
pub struct Backend {
    pub(super) known: Arc<Known>,
    /// How many requests it is given at the same time.
    pub(super) most: Option<NonZeroU32>,
    /// Its share of the traffic.
    pub weight: u32,
    /// The requests in flight at all members of the upstream, where the choice regards that.
    pub(super) of_all: Option<Arc<AtomicUsize>>,
    pub(super) peers: Arc<Peers>,
    pub(super) metrics: Arc<BackendMetrics>,
    /// As configured: `host:port`, the `backend` of metrics and logs.
    pub name: Arc<str>,
    /// How its connections are kept.
    pub(super) pool: model::Pool,
    /// What it was made from.
    pub config: model::Backend,
}

/// How a backend stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is given requests.
    Up,
    /// Its probes fail.
    Down,
    /// Its requests failed; it is left out for a while.
    Ejected,
    /// Its ejection is over: a few requests find out whether it is well.
    Returning,
    /// Its weight is 0.
    Drained,
    /// An operator lets it finish what it has.
    Draining,
}

impl State {
    /// The word for it in `/status`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Ejected => "ejected",
            Self::Returning => "returning",
            Self::Drained => "drained",
            Self::Draining => "draining",
        }
    }
}

impl Backend {
    /// How it stands.
    pub fn state(&self, now: Instant) -> State {
        if self.weight == 0 {
            State::Drained
        } else if self.known.is_draining() {
            State::Draining
        } else if !self.known.probed.is_up() {
            State::Down
        } else {
            match self.known.outlier.state(now) {
                CircuitState::Closed => State::Up,
                CircuitState::HalfOpen => State::Returning,
                CircuitState::Open => State::Ejected,
            }
        }
    }

    /// Whether it may be given a request now, if it is among those that may be chosen.
    pub fn accepts(&self, now: Instant) -> bool {
        self.weight > 0 && self.known.accepts(self.most, now)
    }

    /// Whether it has as many requests as it may be given.
    pub(super) fn is_full(&self) -> bool {
        self.known.is_full(self.most)
    }

    /// Whether an operator lets it finish what it has.
    pub fn is_draining(&self) -> bool {
        self.known.is_draining()
    }

    /// What tells it from other backends, also of other generations.
    pub fn id(&self) -> u32 {
        self.known.id
    }

    /// What its probes found.
    pub fn findings(&self) -> Findings {
        self.known.probed.findings()
    }

    /// Notes the result of a probe: what was wrong, if anything.
    pub fn note_probe(&self, error: Option<&str>) {
        self.metrics.probed(match error {
            None => ProbeResult::Success,
            Some(_) => ProbeResult::Failure,
        });
        self.known.probed.note(error);
    }

    /// Differs when TLS towards it does; `None` without TLS.
    pub fn tls_fingerprint(&self) -> Option<u64> {
        self.peers.tls_fingerprint()
    }

    /// Ends when it belongs to no upstream any more; lasts across reloads.
    pub fn membership(&self) -> Membership {
        Membership(Arc::downgrade(&self.known))
    }

    /// How long a connection to it may be unused.
    pub fn idle_timeout(&self) -> Duration {
        self.pool.idle_timeout
    }

    /// Counts another connection to it that is kept unused, unless there are as many as there may be.
    pub fn idle_place(&self) -> Option<IdlePlace> {
        let Some(most) = self.pool.max_idle else {
            return Some(IdlePlace(None));
        };
        let idle = &self.known.idle;
        let room = |now: usize| (now < most as usize).then(|| now + 1);
        idle.fetch_update(Relaxed, Relaxed, room).ok()?;
        Some(IdlePlace(Some(Arc::clone(idle))))
    }

    /// Requests it is answering.
    pub fn in_flight(&self) -> usize {
        self.known.in_flight()
    }

    /// Its address.
    pub fn address(&self) -> &pingora_core::protocols::l4::socket::SocketAddr {
        self.peers.address()
    }

    /// The peer to dial.
    pub fn peer(&self, purpose: Purpose) -> Box<HttpPeer> {
        self.peers.get(purpose)
    }

    /// What tells its connections from others, for this purpose.
    pub fn key(&self, purpose: Purpose) -> u64 {
        self.peers.key(purpose)
    }

    /// Whether it may be spoken to by HTTP/2 for this purpose.
    pub fn shares(&self, purpose: Purpose) -> bool {
        self.peers.shares(purpose)
    }

    /// Whether it is reached by TLS.
    pub fn is_tls(&self) -> bool {
        self.peers.is_tls()
    }

    /// Whether it may be spoken to by HTTP/2.
    pub fn may_speak_http2(&self) -> bool {
        self.peers.may_share()
    }

    /// Whether it must be spoken to by HTTP/2 and nothing else.
    pub fn insists_on_http2(&self) -> bool {
        self.peers.insists_on_http2()
    }

    /// Counts a request until the guard is dropped. `None`: it is full or returns, and another request
    /// has just taken the place.
    pub(super) fn admit(self: &Arc<Self>, now: Instant) -> Option<Admitted> {
        let pass = self.known.outlier.admit(now)?;
        self.take_in(Some(pass), now)
    }

    /// The same for a request that it is given although it is ejected.
    pub(super) fn admit_guest(self: &Arc<Self>, now: Instant) -> Option<Admitted> {
        let pass = self.known.outlier.admit(now);
        let mut admitted = self.take_in(pass, now)?;
        admitted.is_guest = true;
        self.known.outlier.count_guest(true);
        Some(admitted)
    }

    fn take_in(self: &Arc<Self>, pass: Option<Pass>, now: Instant) -> Option<Admitted> {
        if !self.known.begin(self.most) {
            return None;
        }
        if let Some(all) = &self.of_all {
            all.fetch_add(1, Relaxed);
        }
        Some(Admitted {
            backend: Arc::clone(self),
            pass,
            is_good: false,
            is_guest: false,
            waits_since: Some(now),
            is_over: false,
            is_kept: false,
            is_copy: false,
        })
    }
}

/// A connection that is kept unused, counted until this is dropped, where they are.
pub struct IdlePlace(Option<Arc<AtomicUsize>>);

impl Drop for IdlePlace {
    fn drop(&mut self) {
        if let Some(idle) = &self.0 {
            idle.fetch_sub(1, Relaxed);
        }
    }
}

/// Whether a backend still belongs to an upstream, for whoever keeps something of it.
pub struct Membership(Weak<Known>);

impl Membership {
    /// Whether no upstream has it any more, and no request either.
    pub fn is_over(&self) -> bool {
        self.0.strong_count() == 0
    }

    /// Whether an operator lets it finish what it has.
    pub fn is_draining(&self) -> bool {
        self.0.upgrade().is_some_and(|known| known.is_draining())
    }
}

/// A request that a backend is answering.
pub struct Admitted {
    backend: Arc<Backend>,
    /// What it says of the backend counts for the generation that let it in.
    pub(super) pass: Option<Pass>,
    /// It was answered, and not by a server error; how the answer ends has yet to be seen.
    pub(super) is_good: bool,
    is_guest: bool,
    /// Since when it is the backend that is waited for; `None` while the client sends its request.
    pub(super) waits_since: Option<Instant>,
    /// It was given back.
    is_over: bool,
    is_kept: bool,
    pub(super) is_copy: bool,
}

impl Admitted {
    /// The backend.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Whether it is the backend that the client had before.
    pub fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Since this time the backend is waited for, or, for now, the client.
    pub fn waits(&mut self, since: Option<Instant>) {
        self.waits_since = since;
    }

    /// Gives it back before it is dropped: the attempt is over, and it is only known yet who it was.
    pub fn give_back(&mut self) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        self.pass = None;
        if self.is_guest {
            self.backend.known.outlier.count_guest(false);
        }
        self.backend.known.end();
        if let Some(all) = &self.backend.of_all {
            all.fetch_sub(1, Relaxed);
        }
    }

    /// It is for a copy of a request: what becomes of it says something of the backend, and nothing to
    /// the limit on requests, the retries and the hedges of the upstream.
    pub fn of_copy(mut self) -> Self {
        self.is_copy = true;
        self
    }

    /// Notes whether it is the backend that the client had before.
    pub(super) fn kept(mut self, is_kept: bool) -> Self {
        self.is_kept = is_kept;
        self
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.give_back();
    }
}
