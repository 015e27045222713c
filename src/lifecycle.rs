//! Starting, ready, draining: what the process says about itself, and when it is idle.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst};

use tokio::sync::Notify;

/// What must be true before the process is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// A configuration is loaded and compiled.
    Config,
    /// Every listener is bound.
    Listeners,
    /// Every key set that is fetched is there, or its first fetch has taken too long.
    KeySets,
    /// Every backend that gets nothing before its first health check has had one, or it has taken too
    /// long.
    HealthChecks,
}

impl Condition {
    const ALL: [Self; 4] = [
        Self::Config,
        Self::Listeners,
        Self::KeySets,
        Self::HealthChecks,
    ];

    fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The condition as the answer of `/ready` names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Listeners => "listeners",
            Self::KeySets => "key_sets",
            Self::HealthChecks => "health_checks",
        }
    }
}

/// Apart from the bits of all conditions.
const DRAINING: u8 = 1 << 7;
/// A successor takes the requests: the service is as ready as it was.
const SUCCEEDED: u8 = 1 << 6;
/// What the process cannot do without at present is away.
const REDIS_MISSING: u8 = 1 << 5;
/// An upstream has no backend that the process cannot do without.
const UNDISCOVERED: u8 = 1 << 4;

/// Where in its life the process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Some condition is not met yet.
    Starting,
    /// Requests are welcome.
    Ready,
    /// The process is ending; there is no way back.
    Draining,
}

impl State {
    /// The state as status and logs name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

/// The life of the process, shared by `Arc`.
#[derive(Debug, Default)]
pub struct Lifecycle {
    flags: AtomicU8,
    in_flight: AtomicUsize,
    open: AtomicUsize,
    waiting: AtomicUsize,
    idle: Notify,
}

impl Lifecycle {
    /// States that a condition is met.
    pub fn met(&self, condition: Condition) {
        self.flags.fetch_or(condition.bit(), SeqCst);
    }

    /// States whether Redis is away although readiness depends on it.
    pub fn set_redis_missing(&self, is_missing: bool) {
        if is_missing {
            self.flags.fetch_or(REDIS_MISSING, SeqCst);
        } else {
            self.flags.fetch_and(!REDIS_MISSING, SeqCst);
        }
    }

    /// States whether an upstream has no backend that the process cannot do without.
    pub fn set_undiscovered(&self, is_missing: bool) {
        if is_missing {
            self.flags.fetch_or(UNDISCOVERED, SeqCst);
        } else {
            self.flags.fetch_and(!UNDISCOVERED, SeqCst);
        }
    }

    /// Ends readiness for good. Says whether this was the call that did.
    pub fn begin_drain(&self) -> bool {
        self.flags.fetch_or(DRAINING, SeqCst) & DRAINING == 0
    }

    /// Begins to drain because a successor has taken over. Whoever still asks here is told that the
    /// service is ready, because it is.
    pub fn begin_succession(&self) {
        self.flags.fetch_or(DRAINING | SUCCEEDED, SeqCst);
    }

    /// Where in its life the process is.
    pub fn state(&self) -> State {
        let flags = self.flags.load(SeqCst);
        if flags & DRAINING != 0 {
            State::Draining
        } else if Condition::ALL.iter().all(|c| flags & c.bit() != 0) {
            State::Ready
        } else {
            State::Starting
        }
    }

    /// Whether requests are welcome.
    pub fn is_ready(&self) -> bool {
        self.not_ready_reasons().is_empty()
    }

    /// Whether it is ending because another process has taken over.
    pub fn has_successor(&self) -> bool {
        self.flags.load(SeqCst) & SUCCEEDED != 0
    }

    /// Whether the process is ending.
    pub fn is_draining(&self) -> bool {
        self.flags.load(SeqCst) & DRAINING != 0
    }

    /// What is not ready; empty when everything is.
    pub fn not_ready_reasons(&self) -> Vec<&'static str> {
        let flags = self.flags.load(SeqCst);
        let unmet = Condition::ALL.iter().filter(|c| flags & c.bit() == 0);
        let ends_service = flags & (DRAINING | SUCCEEDED) == DRAINING;
        let draining = ends_service.then_some("draining");
        let redis = (flags & REDIS_MISSING != 0).then_some("redis");
        let undiscovered = (flags & UNDISCOVERED != 0).then_some("discovery");
        let unmet = unmet.map(|c| c.as_str());
        let missing = redis.into_iter().chain(undiscovered);
        unmet.chain(missing).chain(draining).collect()
    }

    /// Counts a request as in flight until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, SeqCst);
        InFlight(Arc::clone(self))
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(SeqCst)
    }

    /// Counts a client's connection as open until the guard is dropped.
    pub fn open(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, SeqCst);
        Open(Arc::clone(self))
    }

    /// Clients' connections that are open.
    pub fn connections(&self) -> usize {
        self.open.load(SeqCst)
    }

    fn ended(&self, counted: &AtomicUsize) {
        let last = counted.fetch_sub(1, SeqCst) == 1;
        if last && self.waiting.load(SeqCst) > 0 {
            self.idle.notify_waiters();
        }
    }

    /// Waits until nothing is in flight and no connection is open. The caller sets the deadline.
    pub async fn idle(&self) {
        let _waiting = Waiting::on(self);
        loop {
            let notified = self.idle.notified();
            if self.in_flight() == 0 && self.connections() == 0 {
                return;
            }
            notified.await;
        }
    }
}

/// A request while it is in flight.
#[derive(Debug)]
pub struct InFlight(Arc<Lifecycle>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.ended(&self.0.in_flight);
    }
}

/// A client's connection while it is open.
#[derive(Debug)]
pub struct Open(Arc<Lifecycle>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.ended(&self.0.open);
    }
}

/// Somebody who waits, so that requests need not look for them in ordinary times.
struct Waiting<'a>(&'a Lifecycle);

impl<'a> Waiting<'a> {
    fn on(lifecycle: &'a Lifecycle) -> Self {
        lifecycle.waiting.fetch_add(1, SeqCst);
        Self(lifecycle)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn is_ready_when_every_condition_is_met_and_never_after_the_drain_began() {
        let life = Lifecycle::default();
        assert_eq!(life.state(), State::Starting);
        assert_eq!(
            life.not_ready_reasons(),
            ["config", "listeners", "key_sets", "health_checks"]
        );
        life.met(Condition::Listeners);
        assert!(!life.is_ready());
        life.met(Condition::Config);
        assert_eq!(life.not_ready_reasons(), ["key_sets", "health_checks"]);
        life.met(Condition::KeySets);
        life.met(Condition::HealthChecks);
        assert!(life.is_ready() && life.not_ready_reasons().is_empty());
        assert!(life.begin_drain(), "the first call begins it");
        assert!(!life.begin_drain());
        life.met(Condition::Config);
        assert_eq!(life.state(), State::Draining);
        assert_eq!(life.not_ready_reasons(), ["draining"]);
    }

    #[test]
    fn redis_comes_and_goes() {
        let life = Lifecycle::default();
        for condition in Condition::ALL {
            life.met(condition);
        }
        life.set_redis_missing(true);
        assert_eq!(life.not_ready_reasons(), ["redis"]);
        life.set_redis_missing(false);
        assert!(life.is_ready());
        life.set_undiscovered(true);
        assert_eq!(life.not_ready_reasons(), ["discovery"]);
        life.set_undiscovered(false);
        assert!(life.is_ready());
    }

    #[test]
    fn a_process_with_a_successor_drains_and_is_ready_all_the_same() {
        let life = Lifecycle::default();
        for condition in Condition::ALL {
            life.met(condition);
        }
        life.begin_succession();
        assert_eq!(life.state(), State::Draining);
        assert!(life.is_ready() && life.is_draining());
    }

    #[test]
    fn an_open_connection_is_waited_for() {
        let life = Arc::new(Lifecycle::default());
        let open = life.open();
        assert_eq!((life.in_flight(), life.connections()), (0, 1));
        let mut idle = Box::pin(life.idle());
        assert_eq!((&mut idle).now_or_never(), None);
        drop(open);
        assert_eq!((&mut idle).now_or_never(), Some(()));
    }

    #[test]
    fn is_idle_when_the_last_request_ends() {
        let life = Arc::new(Lifecycle::default());
        assert_eq!(life.idle().now_or_never(), Some(()));
        let (first, second) = (life.begin(), life.begin());
        let mut idle = Box::pin(life.idle());
        assert_eq!((&mut idle).now_or_never(), None);
        drop(first);
        assert_eq!((&mut idle).now_or_never(), None);
        drop(second);
        assert_eq!((&mut idle).now_or_never(), Some(()));
        assert_eq!(life.in_flight(), 0);
    }

    #[test]
    fn a_request_that_began_meanwhile_is_waited_for() {
        let life = Arc::new(Lifecycle::default());
        let first = life.begin();
        let mut idle = Box::pin(life.idle());
        assert_eq!((&mut idle).now_or_never(), None);
        drop(first);
        let second = life.begin();
        assert_eq!((&mut idle).now_or_never(), None);
        drop(second);
        assert_eq!((&mut idle).now_or_never(), Some(()));
    }
}
