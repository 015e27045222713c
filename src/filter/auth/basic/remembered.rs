//! Passwords that were found good a while ago. The passwords themselves are not kept.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use foldhash::fast::RandomState;

/// For how long a good password needs no check.
const FOR: Duration = Duration::from_secs(5 * 60);

/// The most that are remembered, whatever the configuration allows for tokens.
const MOST: usize = 100_000;

/// Apart, so that workers seldom wait for each other.
const SHARDS: usize = 16;

/// What stands for a login: a keyed hash of the user's hash, the name and the password.
pub type Mark = [u8; 32];

/// The marks of good logins, each with the time when it was found good.
pub struct Remembered {
    shards: [Mutex<HashMap<Mark, SystemTime, RandomState>>; SHARDS],
    most_a_shard: usize,
}

impl Remembered {
    /// At most that many.
    pub fn new(entries: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            most_a_shard: entries.min(MOST).div_ceil(SHARDS),
        }
    }

    /// Whether this was found good a short while ago.
    pub fn has(&self, mark: &Mark, now: SystemTime) -> bool {
        let shard = self.shard(mark);
        let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        shard.get(mark).is_some_and(|since| is_fresh(*since, now))
    }

    /// Remembers that it is good. At the bound what is over makes way first, and then any other.
    pub fn put(&self, mark: Mark, now: SystemTime) {
        if self.most_a_shard == 0 {
            return;
        }
        let shard = self.shard(&mark);
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= self.most_a_shard {
            shard.retain(|_, since| is_fresh(*since, now));
        }
        if shard.len() >= self.most_a_shard
            && let Some(other) = shard.keys().next().copied()
        {
            shard.remove(&other);
        }
        shard.insert(mark, now);
    }

    fn shard(&self, mark: &Mark) -> &Mutex<HashMap<Mark, SystemTime, RandomState>> {
        &self.shards[usize::from(mark[0]) % SHARDS]
    }
}

/// A clock that was set back makes nothing last longer.
fn is_fresh(since: SystemTime, now: SystemTime) -> bool {
    now.duration_since(since).is_ok_and(|age| age < FOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(number: u32) -> Mark {
        let mut mark = [0; 32];
        mark[..4].copy_from_slice(&number.to_le_bytes());
        mark
    }

    #[test]
    fn it_is_forgotten_after_a_while_and_when_the_clock_is_set_back() {
        let (remembered, start) = (Remembered::new(100), SystemTime::UNIX_EPOCH + FOR);
        remembered.put(mark(1), start);
        assert!(remembered.has(&mark(1), start));
        assert!(remembered.has(&mark(1), start + FOR - Duration::from_secs(1)));
        assert!(!remembered.has(&mark(1), start + FOR));
        assert!(!remembered.has(&mark(1), start - Duration::from_secs(1)));
        assert!(!remembered.has(&mark(2), start));
    }

    #[test]
    fn there_are_never_more_than_the_bound() {
        let (remembered, now) = (Remembered::new(64), SystemTime::UNIX_EPOCH);
        let count = |now| (0..1000).filter(|n| remembered.has(&mark(*n), now)).count();
        for number in 0..1000 {
            remembered.put(mark(number), now);
            assert!(remembered.has(&mark(number), now));
        }
        assert_eq!(count(now), 64);
        // What is over makes way for what is fresh.
        let later = now + FOR;
        (0..64).for_each(|number| remembered.put(mark(number), later));
        assert_eq!(count(later), 64);
        let none = Remembered::new(0);
        none.put(mark(1), now);
        assert!(!none.has(&mark(1), now));
    }
}
