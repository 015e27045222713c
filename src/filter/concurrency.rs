//! How many requests are in flight at the same time: places in a limited number, and a queue of those
//! who wait for one.
//!
//! The places of a limit are shared by all workers. For each key it knows how many places are taken and who waits,
//! in the order of arrival: nobody overtakes. A [`Place`] is given back when it is dropped, and then
//! goes to the first who waits. A key without requests takes no memory.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

use super::ratelimit::key::{self, Caller, Seed};
use crate::config::model::{Bounds, Concurrency, KeyPart, MAX_CONCURRENCY_LIMITS};
use crate::metrics::{ConcurrencyMetrics, ConcurrencyRefusal, Metrics};

/// Parts of the table of keys, so that workers seldom wait for each other.
const SHARDS: usize = 16;

/// A table that was larger than this gives its memory back when it is empty.
const KEPT_KEYS: usize = 1024;

/// One limit of a generation, over places that all generations share.
pub struct Limit {
    /// How many, and how many more.
    pub bounds: Bounds,
    key: Vec<KeyPart>,
    gate: Arc<Gate>,
}

impl Limit {
    /// The limits of a route, with the places of those that count by the same as before.
    pub fn of_route(
        config: &[Concurrency],
        route: &str,
        metrics: &Metrics,
        previous: &[Self],
    ) -> Box<[Self]> {
        let compile = |config: &Concurrency| {
            let before = previous.iter().find(|before| before.key == config.key);
            let measured = || metrics.concurrency(route, "", &config.label);
            Self {
                bounds: config.bounds,
                gate: match before {
                    Some(before) => Arc::clone(&before.gate),
                    None => Gate::new(!config.key.is_empty(), measured()),
                },
                key: config.key.clone(),
            }
        };
        config.iter().map(compile).collect()
    }

    /// The limit of an upstream, with the places of the one before.
    pub fn of_upstream(
        bounds: Bounds,
        upstream: &str,
        metrics: &Metrics,
        previous: Option<&Self>,
    ) -> Self {
        let measured = || metrics.concurrency("", upstream, "all");
        let gate = previous.map(|previous| Arc::clone(&previous.gate));
        Self {
            bounds,
            key: Vec::new(),
            gate: gate.unwrap_or_else(|| Gate::new(false, measured())),
        }
    }

    /// Whether each key has places of its own.
    pub fn is_keyed(&self) -> bool {
        !self.key.is_empty()
    }

    /// The number of a request's key.
    pub fn key_of(&self, caller: &Caller<'_>) -> u64 {
        match self.is_keyed() {
            true => key::hash(&self.key, caller, self.gate.numbers),
            false => 0,
        }
    }

    /// Asks for a place of this key.
    pub fn enter(&self, key: u64) -> Entered {
        self.gate.enter(key, &self.bounds)
    }

    /// Counts somebody who waited in vain.
    pub fn timed_out(&self) {
        self.gate.metrics.refused(ConcurrencyRefusal::Timeout);
    }
}

/// The places of one request: one of each limit of its route, and one of its upstream's.
#[derive(Default)]
pub struct Places([Option<Place>; MAX_CONCURRENCY_LIMITS + 1]);

impl Places {
    /// Keeps one until the request is over.
    pub fn keep(&mut self, place: Place) {
        let free = self.0.iter_mut().find(|kept| kept.is_none());
        // There is one for each limit that a request can have.
        if let Some(free) = free {
            *free = Some(place);
        }
    }
}

/// The places of all keys of one limit.
struct Gate {
    /// One for a limit that has no keys.
    shards: Box<[Mutex<Lines>]>,
    /// Makes numbers of keys that nobody outside can foresee.
    numbers: Seed,
    metrics: Arc<ConcurrencyMetrics>,
}

type Lines = HashMap<u64, Line>;

/// The places of one key.
#[derive(Default)]
struct Line {
    taken: u32,
    /// As many as the last one to come was told.
    limit: u32,
    queue: VecDeque<Ticket>,
    tickets: u64,
}

/// Who waits.
struct Ticket {
    number: u64,
    turn: oneshot::Sender<Place>,
}

/// What becomes of a request that wants a place.
pub enum Entered {
    /// It has one.
    In(Place),
    /// It has to wait for one.
    Queued(Waiting),
    /// Too many wait already.
    Full,
}

impl Gate {
    /// Without any request; `keyed` when there are many keys.
    fn new(keyed: bool, metrics: Arc<ConcurrencyMetrics>) -> Arc<Self> {
        let shards = if keyed { SHARDS } else { 1 };
        Arc::new(Self {
            numbers: Seed::default(),
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            metrics,
        })
    }

    /// Asks for a place of this key. The bounds are those of who asks: lowered ones hold for whoever
    /// comes from then on.
    fn enter(self: &Arc<Self>, key: u64, bounds: &Bounds) -> Entered {
        let mut lines = self.lines(key);
        let line = lines.entry(key).or_default();
        line.limit = bounds.limit;
        // A raised limit is for those who wait already.
        self.admit_queued(key, line);
        if line.taken < line.limit {
            line.taken += 1;
            return Entered::In(self.place(key));
        }
        if line.queue.len() >= bounds.queue as usize {
            self.metrics.refused(ConcurrencyRefusal::Full);
            return Entered::Full;
        }
        let (turn, place) = oneshot::channel();
        let number = line.tickets;
        line.tickets += 1;
        line.queue.push_back(Ticket { number, turn });
        self.metrics.queued(1);
        Entered::Queued(Waiting {
            gate: Arc::clone(self),
            key,
            number,
            place,
        })
    }

    fn place(self: &Arc<Self>, key: u64) -> Place {
        self.metrics.in_flight(1);
        Place(Some((Arc::clone(self), key)))
    }

    /// Gives free places to those who wait, in order.
    fn admit_queued(self: &Arc<Self>, key: u64, line: &mut Line) {
        while line.taken < line.limit {
            let Some(ticket) = line.queue.pop_front() else {
                return;
            };
            self.metrics.queued(-1);
            match ticket.turn.send(self.place(key)) {
                Ok(()) => line.taken += 1,
                // It has just gone. Its place must not be given back here: the line is in our hands.
                Err(place) => place.forget(),
            }
        }
    }

    fn leave(self: &Arc<Self>, key: u64) {
        self.metrics.in_flight(-1);
        self.change(key, |line| {
            line.taken = line.taken.saturating_sub(1);
            self.admit_queued(key, line);
        });
    }

    /// Changes the line of a key, and drops it when nobody is in it.
    fn change(&self, key: u64, change: impl FnOnce(&mut Line)) {
        let mut lines = self.lines(key);
        if let Entry::Occupied(mut line) = lines.entry(key) {
            change(line.get_mut());
            if line.get().taken == 0 && line.get().queue.is_empty() {
                line.remove();
            }
        }
        if lines.is_empty() && lines.capacity() > KEPT_KEYS {
            lines.shrink_to(0);
        }
    }

    fn lines(&self, key: u64) -> MutexGuard<'_, Lines> {
        // There is at least one, and the remainder is one of them.
        let shard = &self.shards[key as usize % self.shards.len()];
        // A panic while the lock was held leaves counts that are still whole.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place, until it is dropped.
pub struct Place(Option<(Arc<Gate>, u64)>);

impl Place {
    /// Gives nothing back: it was never counted.
    fn forget(mut self) {
        if let Some((gate, _)) = self.0.take() {
            gate.metrics.in_flight(-1);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((gate, key)) = self.0.take() {
            gate.leave(key);
        }
    }
}

/// A wait for a place. Whoever drops it leaves the queue.
pub struct Waiting {
    gate: Arc<Gate>,
    key: u64,
    number: u64,
    /// Holds the place from when it is given until it is taken, and gives it back if nobody takes it.
    place: oneshot::Receiver<Place>,
}

impl Waiting {
    /// Ready with a place when it is this one's turn.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Place> {
        match ready!(Pin::new(&mut self.place).poll(context)) {
            Ok(place) => Poll::Ready(place),
            // Whoever waits is in the queue, or has been sent a place.
            Err(_) => Poll::Pending,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let (gate, number) = (&self.gate, self.number);
        gate.change(self.key, |line| {
            let found = line
                .queue
                .binary_search_by_key(&number, |ticket| ticket.number);
            if let Ok(index) = found {
                line.queue.remove(index);
                gate.metrics.queued(-1);
            }
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests;
