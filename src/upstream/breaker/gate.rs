//! The states of a circuit: closed, open for a time, half-open for probes.
//!
//! Every change begins another generation, and whoever was let in by an earlier one decides nothing any
//! more. Changes are made under a lock; whoever finds the circuit closed, or open, only reads.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::change::{Change, State, Why};

/// When to come back while others probe.
const WHILE_PROBING: Duration = Duration::from_secs(1);

/// How long a probe keeps others away. One that takes longer, such as a call that goes on for hours, must not
/// keep the circuit half-open: another one is let in beside it.
const PROBE_TIME: Duration = Duration::from_secs(10);

/// A request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When trying again makes sense.
    pub retry_after: Duration,
}

/// A request was let in.
#[derive(Debug)]
pub enum Pass {
    /// While the circuit was closed, in this generation.
    Ordinary(u64),
    /// To find out.
    Probe(Probe),
}

/// A place among the probes, given back when it is dropped, whatever became of it.
#[derive(Debug)]
pub struct Probe {
    rest: Arc<Rest>,
    pub(super) generation: u64,
    /// Those that have the places together.
    round: u64,
}

impl Drop for Probe {
    fn drop(&mut self) {
        let inner = self.rest.lock();
        // A change, or being late, takes all places back.
        if inner.round == self.round {
            self.rest.probing.fetch_sub(1, Relaxed);
        }
    }
}

/// How a circuit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its state.
    pub state: State,
    /// Whether an operator holds it there.
    pub forced: bool,
    /// For how long.
    pub since: Duration,
    /// How long it stays open.
    pub remaining: Option<Duration>,
    /// Probes under way.
    pub probing: u32,
    /// How often it opened.
    pub opened: u64,
}

/// A circuit. Small, since whoever asks a closed one reads nothing else.
pub struct Gate {
    /// The state in the two lowest bits, the generation above. Changed under `inner`.
    view: AtomicU64,
    rest: Arc<Rest>,
}

/// What is of use while the circuit is not closed.
struct Rest {
    /// When it is open no longer, or probes keep others away no longer, in milliseconds since `epoch`;
    /// `u64::MAX` for never.
    until: AtomicU64,
    /// Places that probes have. Changed under `inner`.
    probing: AtomicU32,
    inner: Mutex<Inner>,
    epoch: Instant,
    tell: Box<dyn Fn(&Change) + Send + Sync>,
}

struct Inner {
    forced: bool,
    /// Successful probes of this generation.
    successes: u32,
    /// One of them has an answer that has begun well; so many good ones are needed.
    begun: Option<u32>,
    /// Grows when places are taken back from those that have them.
    round: u64,
    since: Instant,
    opened: u64,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gate").field(&self.state()).finish()
    }
}

impl fmt::Debug for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rest").field(&self.probing).finish()
    }
}

impl Rest {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while the lock was held leaves values that are still whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.millis(now) >= self.until.load(Relaxed)
    }

    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.epoch);
        since.as_secs() * 1000 + u64::from(since.subsec_millis())
    }
}

impl Gate {
    /// A closed circuit. `tell` hears of each change, and must not ask the circuit.
    pub fn new(now: Instant, tell: Box<dyn Fn(&Change) + Send + Sync>) -> Self {
        let inner = Inner {
            forced: false,
            successes: 0,
            begun: None,
            round: 0,
            since: now,
            opened: 0,
        };
        Self {
            view: AtomicU64::new(0),
            rest: Arc::new(Rest {
                until: AtomicU64::new(0),
                probing: AtomicU32::new(0),
                inner: Mutex::new(inner),
                epoch: now,
                tell,
            }),
        }
    }

    /// Its state.
    pub fn state(&self) -> State {
        state_of(self.view.load(Relaxed))
    }

    /// Its state at this time: one that is open for no longer is as good as half-open.
    pub fn state_at(&self, now: Instant) -> State {
        match self.state() {
            State::Open if self.rest.is_due(now) => State::HalfOpen,
            state => state,
        }
    }

    /// Whether there is room for another probe, of so many at the same time.
    pub fn has_room(&self, probes: u32, now: Instant) -> bool {
        self.rest.probing.load(Relaxed) < probes || self.rest.is_due(now)
    }

    /// When it is open no longer.
    pub fn open_until(&self) -> Option<Instant> {
        let until = self.rest.until.load(Relaxed);
        let is_open = self.state() == State::Open && until != u64::MAX;
        is_open.then(|| self.rest.epoch + Duration::from_millis(until))
    }

    /// Whether it is closed, in this generation.
    pub fn is_closed_in(&self, generation: u64) -> bool {
        self.view.load(Relaxed) == generation << 2
    }

    /// Whether it is half-open still, in the generation of this probe.
    pub fn is_probed_by(&self, probe: &Probe) -> bool {
        self.view.load(Relaxed) == probe.generation << 2 | State::HalfOpen as u64
    }

    /// Asks to be let in, with at most so many probes at the same time.
    pub fn admit(&self, probes: u32, now: Instant) -> Result<Pass, Refused> {
        let view = self.view.load(Relaxed);
        match state_of(view) {
            State::Closed => Ok(Pass::Ordinary(view >> 2)),
            State::HalfOpen if !self.has_room(probes, now) => Err(BUSY),
            State::Open if !self.rest.is_due(now) => Err(self.refused(now)),
            State::HalfOpen | State::Open => self.admit_probe(probes, now),
        }
    }

    fn admit_probe(&self, probes: u32, now: Instant) -> Result<Pass, Refused> {
        let mut inner = self.rest.lock();
        self.half_open_when_due(&mut inner, now);
        self.go_on_without_late_ones(&mut inner, probes, now);
        match self.state() {
            State::Closed => Ok(Pass::Ordinary(self.generation())),
            State::Open => Err(self.refused(now)),
            State::HalfOpen if !self.has_room(probes, now) => Err(BUSY),
            State::HalfOpen => {
                self.rest.probing.fetch_add(1, Relaxed);
                let until = self.rest.millis(now + PROBE_TIME);
                self.rest.until.store(until, Relaxed);
                Ok(Pass::Probe(Probe {
                    rest: Arc::clone(&self.rest),
                    generation: self.generation(),
                    round: inner.round,
                }))
            }
        }
    }

    /// Probes that have had their time give their places to others. What they say in the end still counts.
    fn go_on_without_late_ones(&self, inner: &mut Inner, probes: u32, now: Instant) {
        let is_full = self.rest.probing.load(Relaxed) >= probes;
        if self.state() != State::HalfOpen || !is_full || !self.has_room(probes, now) {
            return;
        }
        inner.round += 1;
        self.rest.probing.store(0, Relaxed);
        if let Some(needed) = inner.begun.take() {
            self.count_success(inner, needed, Why::ProbeGoesOn, now);
        }
    }

    fn refused(&self, now: Instant) -> Refused {
        let retry_after = match self.rest.until.load(Relaxed) {
            u64::MAX => WHILE_PROBING,
            until => Duration::from_millis(until.saturating_sub(self.rest.millis(now))),
        };
        Refused { retry_after }
    }

    /// Opens it for this long, if it is still as it was in this generation. Says whether it did.
    pub fn open(&self, generation: u64, lasts: Duration, why: Why, now: Instant) -> bool {
        let mut inner = self.rest.lock();
        if inner.forced || self.generation() != generation {
            return false;
        }
        self.change(&mut inner, State::Open, why, Some(lasts), now);
        true
    }

    /// Opens it for this long, unless it is open. Says whether it did.
    pub fn open_now(&self, lasts: Duration, why: Why, now: Instant) -> bool {
        let mut inner = self.rest.lock();
        if inner.forced || self.state_at(now) == State::Open {
            return false;
        }
        self.change(&mut inner, State::Open, why, Some(lasts), now);
        true
    }

    /// Counts a probe that succeeded; `needed` of them close the circuit. Says whether this one did.
    pub fn succeeded(&self, probe: &Probe, needed: u32, now: Instant) -> bool {
        let mut inner = self.rest.lock();
        if inner.forced || self.generation() != probe.generation {
            return false;
        }
        self.count_success(&mut inner, needed, Why::ProbesSucceeded, now)
    }

    /// Notes that the answer to a probe has begun well. One that goes on and on counts as a good one of
    /// those that are `needed`, when the next probe is due.
    pub fn begun(&self, probe: &Probe, needed: u32) {
        let mut inner = self.rest.lock();
        if self.generation() == probe.generation {
            inner.begun = Some(needed);
        }
    }

    fn count_success(&self, inner: &mut Inner, needed: u32, why: Why, now: Instant) -> bool {
        inner.successes += 1;
        let closes = inner.successes >= needed;
        if closes {
            self.change(inner, State::Closed, why, None, now);
        }
        closes
    }

    /// Lets probes in once the time is over, though no request has asked.
    pub fn tick(&self, now: Instant) {
        if self.state() == State::Open && self.rest.is_due(now) {
            self.half_open_when_due(&mut self.rest.lock(), now);
        }
    }

    /// Lets probes in before the time is over, if it has been open for at least this long. Says whether
    /// it did.
    pub fn half_open_early(&self, least: Duration, why: Why, now: Instant) -> bool {
        if self.state() != State::Open {
            return false;
        }
        let mut inner = self.rest.lock();
        let is_long = now.saturating_duration_since(inner.since) >= least;
        let may = is_long && self.state() == State::Open && !inner.forced;
        if may {
            self.change(&mut inner, State::HalfOpen, why, None, now);
        }
        may
    }

    /// Holds it open or closed, or leaves it to itself again, closed at first.
    pub fn force(&self, open: Option<bool>, now: Instant) {
        let mut inner = self.rest.lock();
        if open.is_none() && !inner.forced {
            return;
        }
        inner.forced = open.is_some();
        let (to, why) = match open {
            Some(true) => (State::Open, Why::Forced),
            Some(false) => (State::Closed, Why::Forced),
            None => (State::Closed, Why::Released),
        };
        self.change(&mut inner, to, why, None, now);
    }

    /// Begins anew with it closed, unless an operator holds it: who was let in decides nothing any more.
    pub fn renew(&self, why: Why, now: Instant) {
        let mut inner = self.rest.lock();
        if !inner.forced {
            self.change(&mut inner, State::Closed, why, None, now);
        }
    }

    /// Closes it, unless an operator holds it open.
    pub fn close(&self, why: Why, now: Instant) {
        let mut inner = self.rest.lock();
        if !inner.forced && self.state() != State::Closed {
            self.change(&mut inner, State::Closed, why, None, now);
        }
    }

    /// How it stands.
    pub fn standing(&self, now: Instant) -> Standing {
        let inner = self.rest.lock();
        let state = self.state();
        let until = self.rest.until.load(Relaxed);
        let ends = state == State::Open && until != u64::MAX;
        Standing {
            state,
            forced: inner.forced,
            since: now.saturating_duration_since(inner.since),
            remaining: ends
                .then(|| Duration::from_millis(until.saturating_sub(self.rest.millis(now)))),
            probing: self.rest.probing.load(Relaxed),
            opened: inner.opened,
        }
    }

    fn half_open_when_due(&self, inner: &mut Inner, now: Instant) {
        if self.state() == State::Open && self.rest.is_due(now) {
            self.change(inner, State::HalfOpen, Why::TimeOver, None, now);
        }
    }

    fn change(
        &self,
        inner: &mut Inner,
        to: State,
        why: Why,
        lasts: Option<Duration>,
        now: Instant,
    ) {
        inner.successes = 0;
        inner.begun = None;
        inner.round += 1;
        inner.since = now;
        if to == State::Open {
            inner.opened += 1;
        }
        self.rest.probing.store(0, Relaxed);
        let until = lasts.map(|lasts| self.rest.millis(now + lasts));
        self.rest.until.store(until.unwrap_or(u64::MAX), Relaxed);
        let generation = self.generation().wrapping_add(1);
        self.view.store(generation << 2 | to as u64, Relaxed);
        (self.rest.tell)(&Change { to, why, lasts });
    }

    fn generation(&self) -> u64 {
        self.view.load(Relaxed) >> 2
    }
}

/// The state in a gate's word.
fn state_of(view: u64) -> State {
    match view & 3 {
        0 => State::Closed,
        1 => State::HalfOpen,
        _ => State::Open,
    }
}

const BUSY: Refused = Refused {
    retry_after: WHILE_PROBING,
};
