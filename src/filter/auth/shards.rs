//! A map that is read without locks, and whose writes copy a small part of it.
//!
//! Readers of different threads touch nothing in common but what they read. 256 parts keep the copy
//! of one small: 400 entries where there are 100 000.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;

const PARTS: usize = 256;

type Part<V> = HashMap<Arc<str>, V, RandomState>;

/// Values by name. Whoever writes has to see to it that nobody else does.
pub(super) struct Shards<V> {
    hasher: RandomState,
    parts: Box<[ArcSwap<Part<V>>]>,
}

impl<V> Default for Shards<V> {
    fn default() -> Self {
        let mut parts = Vec::new();
        parts.resize_with(PARTS, || ArcSwap::from_pointee(Part::default()));
        Self {
            hasher: RandomState::default(),
            parts: parts.into(),
        }
    }
}

impl<V: Copy> Shards<V> {
    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<V> {
        let part = self.parts.get(self.part_of(name))?;
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
        for (name, value) in values {
            let part = self.part_of(&name);
            by_part.entry(part).or_default().push((name, value));
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
        let Some(part) = self.parts.get(self.part_of(name)) else {
            return false;
        };
        let mut changed = Part::clone(&part.load());
        let was_there = changed.remove(name).is_some();
        if was_there {
            part.store(Arc::new(changed));
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
        gone
    }

    /// Visits everything, a part at a time.
    pub fn for_each(&self, mut visit: impl FnMut(&Arc<str>, &V)) {
        for part in &self.parts {
            let part = part.load();
            part.iter().for_each(|(name, value)| visit(name, value));
        }
    }

    fn part_of(&self, name: &str) -> usize {
        // The map within uses other bits of a hash of its own.
        (self.hasher.hash_one(name) % PARTS as u64) as usize
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
}
