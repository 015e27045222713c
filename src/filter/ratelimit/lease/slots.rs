//! Entries by key: open addressing with linear probing (Knuth, The Art of Computer Programming, volume 3,
//! section 6.4, algorithms L and R).
//!
//! A request that finds its key has read one line of the cache. With a hash map of a library it reads two or
//! three, one behind the other, and where there are many keys each of them is waited for in memory. Keys are
//! hashes already, which nobody can foresee, so they say themselves where they belong.

/// What a table begins with.
const FEWEST: usize = 8;

/// Entries of so many keys at most. It grows as they come, and does not shrink.
pub(super) struct Slots<T> {
    slots: Box<[Slot<T>]>,
    count: usize,
    most: usize,
}

/// A line of the cache, if an entry has 56 bytes.
#[repr(align(64))]
pub(super) struct Slot<T>(Option<(u64, T)>);

impl<T> Slots<T> {
    /// For so many keys.
    pub fn new(most: usize) -> Self {
        Self {
            slots: Box::default(),
            count: 0,
            most,
        }
    }

    /// How many there is room for at present.
    pub fn room(&self) -> usize {
        self.slots.len()
    }

    /// How many there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether there are as many as there may be.
    pub fn is_full(&self) -> bool {
        self.count >= self.most
    }

    /// The entry of a key.
    pub fn get_mut(&mut self, key: u64) -> Option<&mut T> {
        let place = self.find(key).ok()?;
        self.slots[place].0.as_mut().map(|(_, entry)| entry)
    }

    /// Adds a key's entry, in the place of one that it has already. `None`: there are as many as there may be.
    pub fn insert(&mut self, key: u64, entry: T) -> Option<&mut T> {
        let place = match self.find(key) {
            Ok(place) => place,
            Err(_) if self.is_full() => return None,
            Err(_) => {
                self.make_room();
                self.count += 1;
                // There is room now.
                self.find(key).err()?
            }
        };
        let (_, entry) = self.slots[place].0.insert((key, entry));
        Some(entry)
    }

    /// Entries from the place on, which is any number, and behind them those before it; each with its place.
    pub fn from(&self, place: usize) -> impl Iterator<Item = (usize, &T)> {
        let count = self.slots.len();
        let begin = place.checked_rem(count).unwrap_or(0);
        let places = (begin..count).chain(0..begin);
        places.filter_map(|place| {
            let (_, entry) = self.slots[place].0.as_ref()?;
            Some((place, entry))
        })
    }

    /// Forgets the entry at a place; places of others are others afterwards. Those behind it that it has kept
    /// from their places move up.
    pub fn remove(&mut self, place: usize) {
        if self.slots[place].0.take().is_none() {
            return;
        }
        self.count -= 1;
        let count = self.slots.len();
        // How far the second is behind the first, around the end.
        let behind = |first: usize, second: usize| (second + count - first) % count;
        let mut hole = place;
        for place in (place + 1..count).chain(0..place) {
            let Some((key, _)) = self.slots[place].0 else {
                return;
            };
            if behind(self.home(key), place) >= behind(hole, place) {
                self.slots.swap(hole, place);
                hole = place;
            }
        }
    }

    /// Forgets those of which `keeps` says so. It may be asked twice of one.
    pub fn retain(&mut self, mut keeps: impl FnMut(u64, &mut T) -> bool) {
        let mut place = 0;
        if self.is_empty() {
            return;
        }
        while let Some(Slot(slot)) = self.slots.get_mut(place) {
            let stays = match slot {
                Some((key, entry)) => keeps(*key, entry),
                None => true,
            };
            match stays {
                true => place += 1,
                // Another one may stand there then.
                false => self.remove(place),
            }
        }
    }

    /// Where the key is, or else where it would be.
    fn find(&self, key: u64) -> Result<usize, usize> {
        let count = self.slots.len();
        let home = self.home(key);
        for place in (home..count).chain(0..home) {
            match &self.slots[place].0 {
                None => return Err(place),
                Some((other, _)) if *other == key => return Ok(place),
                Some(_) => {}
            }
        }
        Err(0)
    }

    /// By the bits below those that have chosen the shard.
    fn home(&self, key: u64) -> usize {
        let bits = key << super::SHARD_BITS;
        ((u128::from(bits) * self.slots.len() as u128) >> u64::BITS) as usize
    }

    /// Three of four slots are in use at most: a key that is there is found behind 1.5 others then, on an
    /// average.
    fn make_room(&mut self) {
        let count = self.slots.len();
        if (self.count + 1) * 4 <= count * 3 {
            return;
        }
        let whole = self.most + self.most.div_ceil(3);
        let more = (count * 2).min(whole).max(FEWEST);
        let slots = (0..more).map(|_| Slot(None)).collect();
        for Slot(slot) in std::mem::replace(&mut self.slots, slots) {
            let Some((key, entry)) = slot else { continue };
            if let Err(place) = self.find(key) {
                self.slots[place].0 = Some((key, entry));
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Act {
        Insert(u64),
        Remove(u64),
        Retain(u64),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        // Few homes, those at the end among them, so that keys are in each other's way around the end.
        let key = (0_u64..40).prop_map(|number| match number % 3 {
            0 => u64::MAX >> super::super::SHARD_BITS,
            1 => number << 50,
            _ => 1 << 57,
        } ^ number);
        let act = prop_oneof![
            6 => key.clone().prop_map(Act::Insert),
            3 => key.prop_map(Act::Remove),
            1 => (2_u64..5).prop_map(Act::Retain),
        ];
        prop::collection::vec(act, 1..200)
    }

    proptest! {
        #[test]
        fn it_is_a_map(acts in acts(), most in 1_usize..40) {
            let (mut slots, mut map) = (Slots::new(most), HashMap::new());
            for (number, act) in acts.into_iter().enumerate() {
                match act {
                    Act::Insert(key) => {
                        let fits = map.len() < most || map.contains_key(&key);
                        prop_assert_eq!(slots.insert(key, number).is_some(), fits);
                        if fits {
                            map.insert(key, number);
                        }
                    }
                    Act::Remove(key) => {
                        prop_assert_eq!(slots.find(key).is_ok(), map.remove(&key).is_some());
                        if let Ok(place) = slots.find(key) {
                            slots.remove(place);
                        }
                    }
                    Act::Retain(part) => {
                        slots.retain(|key, _| key % part > 0);
                        map.retain(|key, _| key % part > 0);
                    }
                }
                prop_assert_eq!(slots.len(), map.len());
                prop_assert_eq!(slots.is_full(), map.len() >= most);
                for (key, value) in &map {
                    prop_assert_eq!(slots.get_mut(*key).copied(), Some(*value));
                }
                let mut all: Vec<_> = slots.from(number).map(|(_, value)| *value).collect();
                let mut expected: Vec<_> = map.values().copied().collect();
                all.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(all, expected);
            }
        }
    }

    #[test]
    fn it_takes_no_more_room_than_it_needs() {
        let mut slots = Slots::new(300);
        assert!(slots.get_mut(1).is_none());
        for number in 0..300_u64 {
            slots
                .insert(number.wrapping_mul(0x9E37_79B9_7F4A_7C15), ())
                .unwrap();
            let count = slots.slots.len();
            assert!(count <= (slots.len() * 3).max(FEWEST) && count <= 400);
        }
        assert!(slots.insert(1, ()).is_none());
    }
}
