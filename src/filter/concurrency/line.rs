//! The places of a limit that counts all requests together.
//!
//! While nobody waits, a place is taken and given back by one exchange of one number, which holds how
//! many are taken and how many wait. Who finds no place takes the lock of the queue. Nobody overtakes
//! whoever waits, but for more important classes: the share of each class in the limit is its own.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::queue::Queue;
use super::{Entered, Place, Waiting};
use crate::config::model::{Bounds, Priority};
use crate::filter::priority::share;
use crate::metrics::{ConcurrencyMetrics, ConcurrencyRefusal};

/// One who waits, in the upper half of the state; the lower one counts the places that are taken.
const WAITER: u64 = 1 << 32;

/// The places of one limit, shared by all workers and generations.
pub(super) struct Line {
    state: AtomicU64,
    limit: AtomicU32,
    /// What the backends that are in use may be given, whatever the limit is.
    cap: AtomicU32,
    /// The most important class that comes here.
    top: AtomicU8,
    /// How long the queue may stand, in milliseconds.
    patience: AtomicU64,
    /// Whether somebody found no place of late.
    held_back: AtomicBool,
    /// The number of what finds the limit; 0 for a fixed one.
    followed: AtomicU64,
    /// The number of the limit that is in force.
    in_force: AtomicU64,
    queue: Mutex<Waiters>,
    pub metrics: Arc<ConcurrencyMetrics>,
}

/// Half of what one may wait: by then, the oldest have little time left.
fn patience(bounds: &Bounds) -> u64 {
    (bounds.queue_timeout / 2).as_millis() as u64
}

type Waiters = Queue<oneshot::Sender<Place>>;

fn taken(state: u64) -> u32 {
    state as u32
}

impl Line {
    pub fn new(bounds: &Bounds, top: Priority, metrics: Arc<ConcurrencyMetrics>) -> Arc<Self> {
        metrics.set_limit(bounds.limit);
        Arc::new(Self {
            state: AtomicU64::new(0),
            limit: AtomicU32::new(bounds.limit),
            cap: AtomicU32::new(u32::MAX),
            top: AtomicU8::new(top as u8),
            patience: AtomicU64::new(patience(bounds)),
            held_back: AtomicBool::new(false),
            followed: AtomicU64::new(0),
            in_force: AtomicU64::new(0),
            queue: Mutex::default(),
            metrics,
        })
    }

    /// How many have a place.
    pub fn taken(&self) -> u32 {
        taken(self.state.load(Relaxed))
    }

    /// Whether somebody has found no place since this was last asked.
    pub fn has_held_back(&self) -> bool {
        self.held_back.swap(false, Relaxed)
    }

    /// How many wait for one.
    pub fn waiting(&self) -> u32 {
        (self.state.load(Relaxed) >> 32) as u32
    }

    /// How many may have one.
    pub fn limit(&self) -> u32 {
        self.limit.load(Relaxed).min(self.cap.load(Relaxed))
    }

    /// From now on the limit is found by what has this number; 0: it is fixed.
    pub fn follow(&self, number: u64) {
        self.followed.store(number, Relaxed);
    }

    /// Whether the limit is found by what has this number.
    pub fn follows(&self, number: u64) -> bool {
        self.followed.load(Relaxed) == number
    }

    /// Other settings hold from now on, but for the limit: those of the limit of this number.
    pub fn adopt(&self, number: u64, bounds: &Bounds, top: Priority) {
        self.in_force.store(number, Relaxed);
        self.top.store(top as u8, Relaxed);
        self.patience.store(patience(bounds), Relaxed);
    }

    /// Another limit holds from now on. What it has room for is given to those who wait.
    pub fn set_limit(self: &Arc<Self>, limit: u32, now: Instant) {
        self.limit.store(limit, Relaxed);
        self.make_room(now);
    }

    /// The backends may be given so many from now on, says the limit of this number. One that is not in
    /// force any more says nothing.
    pub fn set_cap(self: &Arc<Self>, number: u64, cap: u32, now: Instant) {
        let is_in_force = self.in_force.load(Relaxed) == number;
        if is_in_force && self.cap.swap(cap, Relaxed) != cap {
            self.make_room(now);
        }
    }

    fn make_room(self: &Arc<Self>, now: Instant) {
        self.metrics.set_limit(self.limit());
        if self.state.load(Acquire) >= WAITER {
            self.admit_queued(&mut self.lock(), now);
        }
    }

    /// How many may have a place for this class to get one.
    fn room(&self, class: Priority) -> u32 {
        let top = Priority::ALL[usize::from(self.top.load(Relaxed)) % Priority::ALL.len()];
        share(self.limit(), class, top)
    }

    /// A place, if nobody waits.
    pub fn try_enter(self: &Arc<Self>, class: Priority) -> Option<Place> {
        let room = self.room(class);
        let free = |state: u64| (state < WAITER && taken(state) < room).then(|| state + 1);
        let entered = self.state.fetch_update(AcqRel, Relaxed, free).is_ok();
        entered.then(|| self.place())
    }

    /// A place, or one in the queue.
    pub fn enter(self: &Arc<Self>, class: Priority, bounds: &Bounds, now: Instant) -> Entered {
        let mut queue = self.lock();
        let room = self.room(class);
        let free = |state: u64| (taken(state) < room).then(|| state + 1);
        if self.state.fetch_update(AcqRel, Relaxed, free).is_ok() {
            return Entered::In(self.place());
        }
        self.held_back.store(true, Relaxed);
        if queue.len() >= bounds.queue as usize && !self.displace(&mut queue, class, now) {
            self.metrics.refused(ConcurrencyRefusal::Full);
            return Entered::Full;
        }
        // From here on whoever leaves takes the lock. One who has just left must not be missed.
        let waits = |state: u64| match taken(state) < room {
            true => Some(state + 1),
            false => Some(state + WAITER),
        };
        let before = self.state.fetch_update(AcqRel, Acquire, waits);
        if before.is_ok_and(|before| taken(before) < room) {
            return Entered::In(self.place());
        }
        let (turn, place) = oneshot::channel();
        let number = queue.push(class, turn, now);
        self.metrics.queued(1);
        Entered::Queued(Waiting::in_line(Arc::clone(self), class, number, place))
    }

    /// Has somebody less important give way.
    fn displace(&self, queue: &mut Waiters, class: Priority, now: Instant) -> bool {
        // Who is dropped here learns it by that.
        let displaced = queue.displace(class, self.patience(), now).is_some();
        if displaced {
            self.state.fetch_sub(WAITER, AcqRel);
            self.metrics.queued(-1);
            self.metrics.refused(ConcurrencyRefusal::Displaced);
        }
        displaced
    }

    /// Takes somebody out of the queue.
    pub fn give_up(&self, class: Priority, number: u64) {
        if self.lock().remove(class, number).is_some() {
            self.state.fetch_sub(WAITER, AcqRel);
            self.metrics.queued(-1);
        }
    }

    /// Gives a place back, to whoever waits for it.
    pub fn leave(self: &Arc<Self>, now: impl FnOnce() -> Instant) {
        self.metrics.in_flight(-1);
        let last = |state: u64| (state < WAITER).then(|| state - 1);
        if self.state.fetch_update(AcqRel, Acquire, last).is_ok() {
            return;
        }
        let mut queue = self.lock();
        self.state.fetch_sub(1, AcqRel);
        self.admit_queued(&mut queue, now());
    }

    /// Gives free places to those who wait.
    fn admit_queued(self: &Arc<Self>, queue: &mut Waiters, now: Instant) {
        while let Some(class) = queue.next_class() {
            let room = self.room(class);
            let free = |state: u64| (taken(state) < room).then(|| state + 1 - WAITER);
            if self.state.fetch_update(AcqRel, Relaxed, free).is_err() {
                // Those behind are less important, and have less room.
                return;
            }
            // There is one of this class, so there is a next one.
            let Some(turn) = queue.pop(self.patience(), now) else {
                return;
            };
            self.metrics.queued(-1);
            if let Err(place) = turn.send(self.place()) {
                // It has just gone. The lock is in our hands, so the place is given back here.
                place.forget();
                self.state.fetch_sub(1, AcqRel);
            }
        }
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.patience.load(Relaxed))
    }

    fn place(self: &Arc<Self>) -> Place {
        self.metrics.in_flight(1);
        Place::in_line(Arc::clone(self))
    }

    fn lock(&self) -> MutexGuard<'_, Waiters> {
        // A panic while the lock was held leaves counts that are still whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
