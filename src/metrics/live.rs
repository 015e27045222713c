//! The handles that somebody still holds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use super::lock;

/// Handles by name. An entry ends with the last `Arc` to its handle.
pub(super) struct Live<K, T> {
    entries: Mutex<Entries<K, T>>,
}

struct Entries<K, T> {
    by_key: BTreeMap<K, Weak<T>>,
    // Above this the dropped ones are cleared, so that reloads alone, without a scrape, cannot
    // make the map grow for ever.
    clear_at: usize,
}

impl<K, T> Default for Live<K, T> {
    fn default() -> Self {
        Self {
            entries: Mutex::new(Entries {
                by_key: BTreeMap::new(),
                clear_at: 64,
            }),
        }
    }
}

impl<K: Ord + Clone, T> Live<K, T> {
    /// The handle that is held under this key, or another.
    pub fn get(&self, key: K, make: impl FnOnce() -> T) -> Arc<T> {
        let mut entries = lock(&self.entries);
        if let Some(handle) = entries.by_key.get(&key).and_then(Weak::upgrade) {
            return handle;
        }
        if entries.by_key.len() >= entries.clear_at {
            entries.by_key.retain(|_, handle| handle.strong_count() > 0);
            entries.clear_at = 64 + 2 * entries.by_key.len();
        }
        let handle = Arc::new(make());
        entries.by_key.insert(key, Arc::downgrade(&handle));
        handle
    }

    /// What is held, in order of key.
    pub fn held(&self) -> Vec<(K, Arc<T>)> {
        let mut entries = lock(&self.entries);
        entries.by_key.retain(|_, handle| handle.strong_count() > 0);
        let held = entries.by_key.iter();
        held.filter_map(|(key, handle)| Some((key.clone(), handle.upgrade()?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_what_was_dropped_even_without_a_scrape() {
        let live: Live<usize, u64> = Live::default();
        let kept = live.get(0, || 7);
        for key in 1..10_000 {
            live.get(key, || 0);
        }
        assert!(lock(&live.entries).by_key.len() < 200);
        assert_eq!(live.held(), [(0, Arc::clone(&kept))]);
    }
}
