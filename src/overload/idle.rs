//! Connections that wait for a request, which can be closed without harm when there is no room
//! for others.
//!
//! Each connection has a `Seat` for as long as it lasts, and notes in it since when it waits: two stores
//! a request. Who has to go is found by looking at a few of them and taking the one that has waited
//! longest, as Redis does with keys: no order is kept, and no request waits for a lock.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::task::AtomicWaker;

/// Parts of the table, so that workers seldom wait for each other.
const SHARDS: usize = 16;
/// A shard that had room for more gives memory back when it empties.
const KEPT: usize = 64;
/// How many connections are looked at to find one that has waited for long.
const LOOKS: usize = 48;

/// The connections of the process.
pub struct IdleConnections {
    shards: [Mutex<Vec<Arc<Seat>>>; SHARDS],
    next: AtomicUsize,
    epoch: Instant,
}

impl Default for IdleConnections {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            next: AtomicUsize::new(0),
            epoch: Instant::now(),
        }
    }
}

/// What is known of one connection.
struct Seat {
    shard: usize,
    /// Its place in the shard.
    place: AtomicUsize,
    /// Since when it waits, in milliseconds since the epoch and 1; 0: it does not.
    idle_since: AtomicU64,
    evicted: AtomicBool,
    waker: AtomicWaker,
}

/// A connection's seat, until it is dropped.
pub struct Seated {
    seat: Arc<Seat>,
    connections: Arc<IdleConnections>,
}

impl IdleConnections {
    /// A connection has begun. It does not wait yet.
    pub fn enter(self: &Arc<Self>) -> Seated {
        let shard = self.next.fetch_add(1, Relaxed) % SHARDS;
        let mut seats = lock(&self.shards[shard]);
        let seat = Arc::new(Seat {
            shard,
            place: AtomicUsize::new(seats.len()),
            idle_since: AtomicU64::new(0),
            evicted: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        seats.push(Arc::clone(&seat));
        Seated {
            seat,
            connections: Arc::clone(self),
        }
    }

    /// Has one go that has waited for long. False: none was found that waits.
    pub fn evict(&self) -> bool {
        let first = fastrand::usize(..SHARDS);
        let looks = (0..LOOKS).filter_map(|index| self.look((first + index) % SHARDS));
        let longest = looks.min_by_key(|found| found.0);
        let Some((_, seat)) = longest else {
            return false;
        };
        seat.evicted.store(true, Relaxed);
        // Whoever is woken finds what was stored before.
        seat.waker.wake();
        true
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One of a shard that waits, and since when.
    fn look(&self, shard: usize) -> Option<(u64, Arc<Seat>)> {
        let seats = lock(&self.shards[shard]);
        let seat = seats.get(fastrand::usize(..seats.len().max(1)))?;
        let since = seat.idle_since.load(Relaxed);
        let waits = since > 0 && !seat.evicted.load(Relaxed);
        waits.then(|| (since, Arc::clone(seat)))
    }
}

impl Seated {
    /// The connection waits from now on.
    pub fn wait(&self, now: Instant) {
        let since = now.saturating_duration_since(self.connections.epoch);
        self.seat
            .idle_since
            .store(since.as_millis() as u64 + 1, Relaxed);
    }

    /// It waits no longer.
    pub fn resume(&self) {
        self.seat.idle_since.store(0, Relaxed);
    }

    /// Ready when the connection has to go.
    pub fn poll_evicted(&self, context: &mut Context<'_>) -> Poll<()> {
        self.seat.waker.register(context.waker());
        match self.seat.evicted.load(Relaxed) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        let mut seats = lock(&self.connections.shards[self.seat.shard]);
        let place = self.seat.place.load(Relaxed);
        seats.swap_remove(place);
        if let Some(moved) = seats.get(place) {
            moved.place.store(place, Relaxed);
        }
        if seats.capacity() > KEPT && seats.len() * 4 < seats.capacity() {
            let kept = KEPT.max(seats.len() * 2);
            seats.shrink_to(kept);
        }
    }
}

fn lock(seats: &Mutex<Vec<Arc<Seat>>>) -> MutexGuard<'_, Vec<Arc<Seat>>> {
    // A panic while the lock was held leaves a list that is still whole.
    seats.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::task::Waker;
    use std::time::Duration;

    use super::*;

    fn is_evicted(seated: &Seated) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        seated.poll_evicted(&mut context).is_ready()
    }

    #[test]
    fn only_those_who_wait_go_each_once_and_the_longest_first() {
        let connections = Arc::new(IdleConnections::default());
        let seats: Vec<_> = (0..16).map(|_| connections.enter()).collect();
        assert!(!connections.evict(), "nobody waits");
        let now = connections.epoch;
        for (index, seated) in (0u32..).zip(&seats[..3]) {
            seated.wait(now + Duration::from_secs(1) * (3 - index));
        }
        seats[2].resume();
        // Among few, one that is looked for is found sooner or later.
        let mut evicted = 0;
        for _ in 0..1000 {
            evicted += u32::from(connections.evict());
        }
        assert_eq!(evicted, 2);
        assert!(is_evicted(&seats[0]) && is_evicted(&seats[1]));
        assert!(!seats[2..].iter().any(is_evicted));
    }

    #[test]
    fn who_goes_is_among_those_who_waited_longest() {
        let connections = Arc::new(IdleConnections::default());
        let seats: Vec<_> = (0..1000).map(|_| connections.enter()).collect();
        for (index, seated) in (0u32..).zip(&seats) {
            seated.wait(connections.epoch + Duration::from_secs(1) * index);
        }
        for _ in 0..50 {
            assert!(connections.evict());
        }
        let places = seats.iter().enumerate();
        let sum: usize = places
            .filter(|(_, seated)| is_evicted(seated))
            .map(|(at, _)| at)
            .sum();
        // By chance alone it would be 500 on average; the best of 48 is in the first few hundred.
        assert!(sum / 50 < 150, "{}", sum / 50);
    }

    #[test]
    fn who_leaves_leaves_nothing() {
        let connections = Arc::new(IdleConnections::default());
        let mut seats: Vec<_> = (0..500).map(|_| connections.enter()).collect();
        while !seats.is_empty() {
            let gone = seats.swap_remove(fastrand::usize(..seats.len()));
            drop(gone);
            assert_eq!(connections.len(), seats.len());
            for seated in &seats {
                let shard = lock(&connections.shards[seated.seat.shard]);
                assert!(Arc::ptr_eq(
                    &shard[seated.seat.place.load(Relaxed)],
                    &seated.seat
                ));
            }
        }
        assert!(connections.is_empty());
    }
}
