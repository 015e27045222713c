//! A map that is read without locks, and whose writes copy a small part of it.
//!
//! Readers of different threads touch nothing in common but what they read. 256 parts keep the copy
//! of one small: 400 entries where there are 100 000.
//!
//! Hardly any name that is asked for is there. A filter says so of most of them by one word of memory,
//! where the map costs several that are in no cache (`Filter`).

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use foldhash::fast::RandomState;

const PARTS: usize = 256;

/// Of a filter; 256 KiB.
const WORDS: usize = 1 << 15;
/// Names that may be in a filter and no longer in the map, beside a quarter of those that are.
const STALE: usize = 1000;

type Part<V> = HashMap<Arc<str>, V, RandomState>;

/// Values by name. Whoever writes has to see to it that nobody else does.
pub(super) struct Shards<V> {
    hasher: RandomState,
    /// Has every name that is in a part; there is none before the first.
    filter: ArcSwapOption<Filter>,
    /// How many names the filter has that are in no part.
    stale: AtomicUsize,
    parts: Box<[ArcSwap<Part<V>>]>,
}

/// Names that may be there: a Bloom filter whose two bits of a name are in the same word. Of 100 000
/// names in it, it takes about one in a hundred others for one of them.
struct Filter(Box<[AtomicU64]>);

impl Filter {
    fn empty() -> Self {
        let mut words = Vec::new();
        words.resize_with(WORDS, AtomicU64::default);
        Self(words.into())
    }

    fn add(&self, hash: u64) {
        if let Some(word) = self.word(hash) {
            word.fetch_or(Self::bits(hash), Ordering::Release);
        }
    }

    fn may_have(&self, hash: u64) -> bool {
        let bits = Self::bits(hash);
        let word = self.word(hash);
        word.is_some_and(|word| word.load(Ordering::Acquire) & bits == bits)
    }

    fn word(&self, hash: u64) -> Option<&AtomicU64> {
        // The last bits choose the part.
        self.0.get((hash >> 8) as usize % WORDS)
    }

    fn bits(hash: u64) -> u64 {
        (1 << ((hash >> 32) & 63)) | (1 << ((hash >> 40) & 63))
    }
}

impl<V> Default for Shards<V> {
    fn default() -> Self {
        let mut parts = Vec::new();
        parts.resize_with(PARTS, || ArcSwap::from_pointee(Part::default()));
        Self {
            hasher: RandomState::default(),
            filter: ArcSwapOption::empty(),
            stale: AtomicUsize::new(0),
            parts: parts.into(),
        }
    }
}

impl<V: Copy> Shards<V> {
    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<V> {
        let hash = self.hasher.hash_one(name);
        if !self.filter.load().as_ref()?.may_have(hash) {
            return None;
        }
        let part = self.parts.get(Self::part_of(hash))?;
        part.load().get(name).copied()
    }

    /// Puts values in, `merge` deciding what becomes of a value that is there. Says how many names
    /// are new.
    pub fn insert(
        &self,
        values: impl IntoIterator<Item = (Arc<str>, V)>,
        merge: impl Fn(V, V) -> V,
    ) -> usize {
        let mut by_part: HashMap<usize, Vec<(Arc<str>, V)>> = HashMap::new();
        let filter = self.filter_to_add_to();
        for (name, value) in values {
            let hash = self.hasher.hash_one(&*name);
            filter.add(hash);
            by_part
                .entry(Self::part_of(hash))
                .or_default()
                .push((name, value));
        }
        let mut fresh = 0;
        for (index, values) in by_part {
            let Some(part) = self.parts.get(index) else {
                continue;
            };
            let mut changed = Part::clone(&part.load());
            let before = changed.len();
            for (name, value) in values {
                changed
                    .entry(name)
                    .and_modify(|there| *there = merge(*there, value))
                    .or_insert(value);
            }
            fresh += changed.len() - before;
            part.store(Arc::new(changed));
        }
        fresh
    }

    /// Takes a name out. Says whether it was there.
    pub fn remove(&self, name: &str) -> bool {
        let part = Self::part_of(self.hasher.hash_one(name));
        let Some(part) = self.parts.get(part) else {
            return false;
        };
        let mut changed = Part::clone(&part.load());
        let was_there = changed.remove(name).is_some();
        if was_there {
            part.store(Arc::new(changed));
            self.stale.fetch_add(1, Ordering::Relaxed);
        }
        was_there
    }

    /// Takes out what is not to be kept, and gives the memory back. Says how many were.
    pub fn retain(&self, keep: impl Fn(&V) -> bool) -> usize {
        let mut gone = 0;
        for part in &self.parts {
            let current = part.load();
            let left = current.values().filter(|value| keep(value)).count();
            if left == current.len() {
                continue;
            }
            gone += current.len() - left;
            let kept = current.iter().filter(|(_, value)| keep(value));
            let kept: Part<V> = kept
                .map(|(name, value)| (Arc::clone(name), *value))
                .collect();
            part.store(Arc::new(kept));
        }
        self.stale.fetch_add(gone, Ordering::Relaxed);
        self.renew_filter();
        gone
    }

    fn filter_to_add_to(&self) -> Arc<Filter> {
        self.filter.load_full().unwrap_or_else(|| {
            let filter = Arc::new(Filter::empty());
            self.filter.store(Some(Arc::clone(&filter)));
            filter
        })
    }

    /// Makes another filter when the one there is has too many names that are gone.
    fn renew_filter(&self) {
        let stale = self.stale.load(Ordering::Relaxed);
        let count: usize = self.parts.iter().map(|part| part.load().len()).sum();
        if stale < STALE + count / 4 {
            return;
        }
        let filter = Filter::empty();
        self.for_each(|name, _| filter.add(self.hasher.hash_one(&**name)));
        self.filter.store(Some(Arc::new(filter)));
        self.stale.store(0, Ordering::Relaxed);
    }

    /// Visits everything, a part at a time.
    pub fn for_each(&self, mut visit: impl FnMut(&Arc<str>, &V)) {
        for part in &self.parts {
            let part = part.load();
            part.iter().for_each(|(name, value)| visit(name, value));
        }
    }

    fn part_of(hash: u64) -> usize {
        // The map within uses other bits of a hash of its own.
        (hash % PARTS as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_put_in_until_it_is_taken_out() {
        let shards = Shards::default();
        let named = |range: std::ops::Range<u64>| range.map(|n| (Arc::from(n.to_string()), n));
        assert_eq!(shards.insert(named(0..2000), u64::max), 2000);
        assert_eq!(shards.insert(named(1000..3000), u64::max), 1000);
        let bigger = [(Arc::from("7"), 70)];
        assert_eq!(shards.insert(bigger, u64::max), 0);
        assert_eq!(
            (shards.get("7"), shards.get("2999")),
            (Some(70), Some(2999))
        );
        assert_eq!(shards.get("3000"), None);
        assert!(shards.remove("7") && !shards.remove("7"));
        assert_eq!(shards.retain(|value| value % 2 == 0), 1499);
        let mut left = 0;
        shards.for_each(|name, value| {
            assert_eq!(**name, value.to_string());
            left += 1;
        });
        assert_eq!(left, 1500);
    }

    #[test]
    fn names_that_are_gone_leave_the_filter() {
        let shards = Shards::default();
        assert_eq!(shards.get("0"), None);
        let names = (0..4000u64).map(|n| (Arc::from(n.to_string()), n));
        shards.insert(names, u64::max);
        let passed = |range: std::ops::Range<u64>| {
            let filter = shards.filter.load();
            let filter = filter.as_ref().map(Arc::clone);
            let hash = |n: u64| shards.hasher.hash_one(n.to_string().as_str());
            let may_have = |n: &u64| filter.as_ref().is_some_and(|f| f.may_have(hash(*n)));
            range.filter(may_have).count()
        };
        assert_eq!(passed(0..4000), 4000);
        assert!(passed(4000..8000) < 40, "{}", passed(4000..8000));
        shards.retain(|value| *value < 3900);
        assert_eq!(passed(3900..4000), 100, "a few make no difference");
        shards.retain(|value| *value < 1000);
        assert_eq!(passed(0..1000), 1000);
        assert!(passed(1000..4000) < 30, "{}", passed(1000..4000));
    }
}
