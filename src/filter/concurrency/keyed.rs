//! The places of a limit that has a key: so many for each.
//!
//! For each key it is known how many places are taken and who waits, in the order of arrival: nobody
//! overtakes. A key without requests takes no memory.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::super::ratelimit::key::Seed;
use super::{Entered, Place, Waiting};
use crate::config::model::Bounds;
use crate::metrics::{ConcurrencyMetrics, ConcurrencyRefusal};

/// Parts of the table of keys, so that workers seldom wait for each other.
const SHARDS: usize = 16;

/// A table that was larger than this gives its memory back when it is empty.
const KEPT_KEYS: usize = 1024;

/// The places of all keys of one limit.
pub(super) struct Gate {
    shards: [Mutex<Lines>; SHARDS],
    /// Makes numbers of keys that nobody outside can foresee.
    pub numbers: Seed,
    pub metrics: Arc<ConcurrencyMetrics>,
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

impl Gate {
    /// Without any request.
    pub fn new(metrics: Arc<ConcurrencyMetrics>) -> Arc<Self> {
        Arc::new(Self {
            numbers: Seed::default(),
            shards: std::array::from_fn(|_| Mutex::default()),
            metrics,
        })
    }

    /// Asks for a place of this key. The bounds are those of who asks: lowered ones hold for whoever
    /// comes from then on.
    pub fn enter(self: &Arc<Self>, key: u64, bounds: &Bounds) -> Entered {
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
        Entered::Queued(Waiting::at_gate(Arc::clone(self), key, number, place))
    }

    fn place(self: &Arc<Self>, key: u64) -> Place {
        self.metrics.in_flight(1);
        Place::at_gate(Arc::clone(self), key)
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

    pub fn leave(self: &Arc<Self>, key: u64) {
        self.metrics.in_flight(-1);
        self.change(key, |line| {
            line.taken = line.taken.saturating_sub(1);
            self.admit_queued(key, line);
        });
    }

    /// Takes somebody out of a queue.
    pub fn give_up(&self, key: u64, number: u64) {
        self.change(key, |line| {
            let numbers = |ticket: &Ticket| ticket.number;
            if let Ok(index) = line.queue.binary_search_by_key(&number, numbers) {
                line.queue.remove(index);
                self.metrics.queued(-1);
            }
        });
    }

    /// Another limit holds from now on. What it has room for is given to those who wait.
    pub fn set_limit(self: &Arc<Self>, limit: u32) {
        self.metrics.set_limit(limit);
        for shard in &self.shards {
            for (key, line) in lock(shard).iter_mut() {
                line.limit = limit;
                self.admit_queued(*key, line);
            }
        }
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
        lock(&self.shards[key as usize % SHARDS])
    }
}

fn lock(shard: &Mutex<Lines>) -> MutexGuard<'_, Lines> {
    // A panic while the lock was held leaves counts that are still whole.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "keyed_tests.rs"]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests;
