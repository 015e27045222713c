//! Limits that instances count together without asking for each request: tokens are leased, used here, and
//! settled beside the requests.
//!
//! A request that finds a token takes it and goes on. Orders of many keys go to the store together, before
//! tokens run out. Only a request that finds none, of a key that may have some, waits for an order.

mod account;
mod entry;
mod order;
mod slots;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::time::timeout_at;

use self::entry::{Entry, Need, Next};
use self::slots::Slots;
use super::rate::{Nanos, Rate, Verdict};
use super::shared::{Shared, Unanswered};
use crate::metrics::RedisError;

pub use self::order::{LIFE, Loan, Order};

/// Apart, so that workers seldom wait for each other. One bit of a word each, and so many bits of a key say which.
const SHARDS: usize = u64::BITS as usize;
const SHARD_BITS: u32 = SHARDS.ilog2();

/// So many orders do not wait for the next round: those of a flood, all at once, would hold everybody up.
const MANY: usize = 64;

/// How many keys are looked at for one that may make way.
const LOOKED_AT: usize = 8;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is decided.
    Decided(Verdict),
    /// The store has to be asked: see [`Leases::wait`].
    Wait,
    /// Nobody can say.
    Unanswered(Unanswered),
}

/// The tokens of one policy's keys.
pub struct Leases {
    shards: Box<[Locked]>,
    /// What times are counted from.
    beginning: Instant,
    /// A bit for each shard that has something to order.
    due: AtomicU64,
    /// How many keys were listed since orders were fetched.
    listed: AtomicUsize,
    shared: Arc<Shared>,
    /// The shard that is swept next.
    turn: AtomicUsize,
}

/// On a cache line of its own.
#[repr(align(64))]
struct Locked(Mutex<Shard>);

struct Shard {
    entries: Slots<Entry>,
    /// Keys that have something to order, each of them once.
    due: Vec<u64>,
}

impl Leases {
    /// Of so many keys at most. Beyond that, those make way that were not used for longest, and where
    /// nobody can, requests of further keys are not answered.
    pub fn new(shared: &Arc<Shared>, max_keys: usize) -> Arc<Self> {
        let shard = || {
            Locked(Mutex::new(Shard {
                entries: Slots::new(max_keys.div_ceil(SHARDS).max(1)),
                due: Vec::new(),
            }))
        };
        let leases = Arc::new(Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            beginning: Instant::now(),
            due: AtomicU64::new(0),
            listed: AtomicUsize::new(0),
            shared: Arc::clone(shared),
            turn: AtomicUsize::new(0),
        });
        shared.lends(Arc::downgrade(&leases));
        leases
    }

    /// Takes a request's cost, if there are tokens for it and nothing else has to be done; most requests of keys in
    /// use find that. If not, ask [`Leases::take`].
    pub fn spend(&self, key: u64, rates: &Arc<[Rate]>, cost: u64, now: Instant) -> bool {
        let now = self.nanos(now);
        let mut shard = self.shard(key);
        let entry = shard.entries.get_mut(key);
        entry.is_some_and(|entry| entry.spend(rates, cost, now))
    }

    /// Takes a request's cost, if it can be said at once whether it is there. `key` is a hash of the key
    /// that nobody can foresee; `name` is asked for when it is new.
    pub fn take(
        &self,
        key: u64,
        name: impl FnOnce() -> String,
        rates: &Arc<[Rate]>,
        cost: u64,
        now: Instant,
    ) -> Taken {
        let now = self.nanos(now);
        let instances = self.creditors();
        let mut shard = self.shard(key);
        let Some(entry) = shard.entry(key, name, rates, now) else {
            return Taken::Unanswered(Unanswered::Busy);
        };
        entry.adopt(rates);
        let (next, need) = entry.decide(cost, instances, now);
        match next {
            Next::Decided(verdict) => {
                self.call(shard, key, need);
                Taken::Decided(verdict)
            }
            Next::Wait if self.shared.is_answering() => Taken::Wait,
            Next::Wait => Taken::Unanswered(Unanswered::Down),
        }
    }

    /// Takes a request's cost once the store has been asked for tokens; waits until then at most.
    pub async fn wait(&self, key: u64, cost: u64, until: Instant) -> Result<Verdict, Unanswered> {
        loop {
            let (mut changed, is_late) = {
                let mut shard = self.shard(key);
                let Some(entry) = shard.entries.get_mut(key) else {
                    return Err(Unanswered::Failed);
                };
                let instances = self.creditors();
                let (next, need) = entry.decide(cost, instances, self.nanos(Instant::now()));
                // What is on its way was ordered without it.
                let is_late = entry.is_ordering();
                let changed = match next {
                    Next::Decided(verdict) => {
                        self.call(shard, key, need);
                        return Ok(verdict);
                    }
                    Next::Wait if !self.shared.is_answering() => return Err(Unanswered::Down),
                    Next::Wait => entry.wait(cost),
                };
                self.call(shard, key, need);
                (changed, is_late)
            };
            let _waiting = Waiting {
                leases: self,
                key,
                cost,
            };
            if timeout_at(until.into(), changed.changed()).await.is_err() {
                self.late(key);
                return Err(Unanswered::Late);
            }
            if *changed.borrow() && !is_late {
                // Another order would fail as soon, and again, until the deadline.
                return Err(Unanswered::Failed);
            }
        }
    }

    /// A request has waited in vain.
    fn late(&self, key: u64) {
        let name = self.shard(key).entries.get_mut(key).map(|one| one.name());
        if let Some(name) = name {
            let server = self.shared.server(&name);
            let now = Instant::now();
            self.shared.failed(server, RedisError::Timeout, now);
        }
    }

    /// Takes what a response turned out to cost, whether it is there or not.
    pub fn charge(
        &self,
        key: u64,
        name: impl FnOnce() -> String,
        rates: &Arc<[Rate]>,
        cost: u64,
        now: Instant,
    ) {
        let now = self.nanos(now);
        let mut shard = self.shard(key);
        if let Some(entry) = shard.entry(key, name, rates, now) {
            entry.charge(cost, now);
            self.call(shard, key, Need::Later);
        }
    }

    /// Gives a cost back that was taken a moment ago, or longer if there is a name.
    pub fn give_back(
        &self,
        key: u64,
        name: Option<&str>,
        rates: &Arc<[Rate]>,
        cost: u64,
        now: Instant,
    ) {
        let now = self.nanos(now);
        let mut shard = self.shard(key);
        let entry = match name {
            Some(name) => shard.entry(key, || name.to_owned(), rates, now),
            None => shard.entries.get_mut(key),
        };
        if let Some(entry) = entry {
            let need = entry.give_back(cost);
            self.call(shard, key, need);
        }
    }

    /// What is to be ordered now. Each order is settled by [`Leases::settle`].
    pub fn orders(&self, now: Instant, orders: &mut Vec<Order>) {
        let now = self.nanos(now);
        let is_answering = self.shared.is_answering();
        self.listed.store(0, Relaxed);
        let busy = self.due.swap(0, Relaxed);
        for (index, shard) in self.shards.iter().enumerate() {
            if busy & (1 << index) == 0 {
                continue;
            }
            let mut shard = shard.lock();
            let Shard { entries, due } = &mut *shard;
            for key in due.drain(..) {
                let Some(entry) = entries.get_mut(key) else {
                    continue;
                };
                entry.is_due = false;
                match is_answering {
                    true => orders.extend(entry.order(key, now)),
                    false => entry.give_up(),
                }
            }
        }
    }

    /// The store answered an order; `None` when it did not, or nobody knows whether it did.
    pub fn settle(&self, order: &Order, loan: Option<Loan>, now: Instant) {
        let now = self.nanos(now);
        let mut shard = self.shard(order.key);
        if let Some(entry) = shard.entries.get_mut(order.key) {
            entry.settle(order, loan, now);
            if entry.is_unsettled() && loan.is_some() {
                // Let through meanwhile, or given back.
                self.call(shard, order.key, Need::Later);
            }
        }
    }

    /// Looks after a part of the keys that nobody asks about, a different one each time. Says how many there is room
    /// for, which is what that takes. Orders are to be fetched behind it.
    pub fn sweep(&self, now: Instant) -> usize {
        let now = self.nanos(now);
        let turn = self.turn.fetch_add(1, Relaxed);
        let index = turn % SHARDS;
        // There are as many.
        let mut shard = self.shards[index].lock();
        let Shard { entries, due } = &mut *shard;
        let room = entries.room();
        entries.retain(|key, entry| {
            let need = entry.rest(now);
            if need == Some(Need::Later) {
                entry.is_due = true;
                due.push(key);
            }
            need.is_some()
        });
        if !due.is_empty() {
            self.due.fetch_or(1 << index, Relaxed);
        }
        room
    }

    /// How many keys are known.
    #[cfg(test)]
    pub fn keys(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().entries.len())
            .sum()
    }

    /// Whether no key is known.
    pub fn is_empty(&self) -> bool {
        let mut shards = self.shards.iter();
        shards.all(|shard| shard.lock().entries.is_empty())
    }

    /// Puts a key on the list, and has those who send orders called if they should not wait for the next round.
    fn call(&self, mut shard: MutexGuard<'_, Shard>, key: u64, need: Need) {
        if need == Need::Nothing {
            return;
        }
        let mut are_many = false;
        let Shard { entries, due } = &mut *shard;
        if let Some(entry) = entries.get_mut(key)
            && !entry.is_due
        {
            entry.is_due = true;
            due.push(key);
            are_many = self.listed.fetch_add(1, Relaxed) + 1 == MANY;
        }
        self.due.fetch_or(1 << shard_of(key), Relaxed);
        drop(shard);
        if need == Need::Now || are_many {
            self.shared.hurry();
        }
    }

    /// How many instances give credit; none while nobody knows how many there are, or whether they will be paid.
    fn creditors(&self) -> u32 {
        match self.shared.is_answering() {
            true => self.shared.known_instances(),
            false => 0,
        }
    }

    fn shard(&self, key: u64) -> MutexGuard<'_, Shard> {
        // There are as many.
        self.shards[shard_of(key)].lock()
    }

    fn nanos(&self, now: Instant) -> Nanos {
        let since = now.saturating_duration_since(self.beginning);
        Nanos::try_from(since.as_nanos()).unwrap_or(Nanos::MAX)
    }
}

/// By the highest bits; those below them choose the place in a shard.
fn shard_of(key: u64) -> usize {
    (key >> (u64::BITS - SHARD_BITS)) as usize
}

impl Shard {
    /// The entry of a key. A new one, if it has none and there is room.
    fn entry(
        &mut self,
        key: u64,
        name: impl FnOnce() -> String,
        rates: &Arc<[Rate]>,
        now: Nanos,
    ) -> Option<&mut Entry> {
        if self.entries.get_mut(key).is_none() {
            self.make_room(now);
            let has_room = !self.entries.is_full();
            return has_room.then(|| self.entries.insert(key, Entry::new(name(), rates, now)))?;
        }
        self.entries.get_mut(key)
    }

    /// Of a few keys the one makes way that was not used for longest. Its tokens lapse.
    fn make_room(&mut self, now: Nanos) {
        if !self.entries.is_full() {
            return;
        }
        // From anywhere: from the beginning, those who cannot make way would gather there.
        let some = self.entries.from(fastrand::usize(..)).take(LOOKED_AT);
        let free = some.filter(|(_, entry)| entry.is_dispensable(now));
        let oldest = free.min_by_key(|(_, entry)| entry.last_use());
        if let Some((place, _)) = oldest {
            self.entries.remove(place);
        }
    }
}

impl Locked {
    fn lock(&self) -> MutexGuard<'_, Shard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits; counted until it is dropped.
struct Waiting<'a> {
    leases: &'a Leases,
    key: u64,
    cost: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.leases.shard(self.key).entries.get_mut(self.key) {
            entry.leave(self.cost);
        }
    }
}

#[cfg(test)]
mod tests;
