//! The limiter of one instance: a table of TATs of a fixed size, exact while it has room for the keys that
//! are limited at the time, and never too generous when it has not.
//!
//! A key, which is a keyed hash, belongs to one set of `WAYS` entries in each window, and sets belong to
//! parts that are locked apart. One lock covers all windows, so they are taken from together. An entry whose TAT has passed says nothing: its bucket is full. So there
//! is nothing to sweep, and an entry is never removed, only taken over: a key that is not in its set takes
//! the place with the smallest TAT AND INHERITS THAT TAT. This is Space-Saving (Metwally, Agrawal, El Abbadi,
//! 2005) for times in the place of counts.
//!
//! Whoever floods the table, a key that was pushed out never finds more than it had. For let R be a
//! key's TAT as far as it was admitted, if nothing was ever forgotten. Then, at any time and for
//! any order of clocks, the key's entry is not below R, or, if it has none, no entry of its set is:
//! - An operation on the key's entry moves both on by the same, and `max` and `+` keep order.
//! - The key loses its entry only as the smallest of its set, so none is below it, nor below R.
//! - The smallest TAT of a set never falls: entries only grow, a newcomer begins at the smallest, and
//!   what is given back stops at the smallest of the others (`give_back`).
//! - So a key without an entry begins with a TAT that is not below R.
//!
//! What is admitted against a TAT that is not below R is admitted against R, which is the limit. The
//! other way round, if a key has no entry and the smallest TAT is past, so is R, and the key begins
//! with a full bucket, as it should. Only while all entries of a set are live does a newcomer get less
//! than its limit. With twice [`Table::new`]'s number of entries this is 1 set in 250 when that many keys
//! are live at once (Poisson with a mean of 8), and fewer than one in 10¹⁰ when a quarter is.
//!
//! A sketch in front (`pingora-limits` counts in one) would guard nothing: the table already takes the
//! same memory and time for a known key and for the first of a flood. The sketch's estimate would refuse
//! the innocent with the guilty, and costs more than the table: 135 ns beside 50 to 70 ns for up to
//! 10 000 keys (`cargo bench --bench ratelimit`; on an Intel Xeon of 2.5 GHz). Among a million keys in
//! turn it is 220 ns, most of it waiting for memory.
//!
//! TATs are absolute, so a table may be kept when limits change; a key then owes what it owed.

use std::array;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::model::MAX_WINDOWS;
use crate::filter::ratelimit::rate::{Nanos, Rate, Verdict};

/// Entries that a key can have in a window.
const WAYS: usize = 16;
/// Parts that are locked apart, few enough for their locks to stay in the cache. A lock is held for some
/// tens of nanoseconds, or until memory has answered.
const PARTS: usize = 32;

/// The entries' tags, which are the low halves of keys, and their TATs: a line of the cache, and two. A request
/// reads all three at once (`find`). Two keys of a set with one tag would share a bucket; of a million live keys two do with a
/// probability of 1 in 500. A plain tuple, because `vec!` asks for zeroed memory for it, which is not
/// touched before it is used.
type Set = ([u32; WAYS], [Nanos; WAYS]);

/// The TATs of a policy's keys, for each of its windows.
pub struct Table {
    parts: Box<[Part]>,
    windows: usize,
    max_keys: usize,
    /// Sets in a part and for a window.
    sets: usize,
}

/// On a cache line of its own, so that threads disturb each other only where they meet.
#[repr(align(64))]
struct Part(Mutex<Vec<Set>>);

/// Where a key is in its set, or would be.
#[derive(Clone, Copy, Default)]
struct Place {
    way: usize,
    tat: Nanos,
}

impl Table {
    /// For so many keys that are limited at the same time, and so many windows: 24 bytes for each of
    /// both. A large table takes from the system only what is used.
    pub fn new(max_keys: usize, windows: usize) -> Self {
        let windows = windows.clamp(1, MAX_WINDOWS);
        let sets = max_keys.saturating_mul(2).div_ceil(WAYS).max(1);
        let parts = sets.min(PARTS);
        let sets = sets.div_ceil(parts);
        let part = || Part(Mutex::new(vec![([0; WAYS], [0; WAYS]); sets * windows]));
        Self {
            parts: (0..parts).map(|_| part()).collect(),
            windows,
            max_keys,
            sets,
        }
    }

    /// Whether it can go on for a policy with so many keys and windows.
    pub fn fits(&self, max_keys: usize, windows: usize) -> bool {
        self.max_keys == max_keys && self.windows == windows.clamp(1, MAX_WINDOWS)
    }

    /// What it takes at most.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.parts.len() * (size_of::<Part>() + self.sets * self.windows * size_of::<Set>())
    }

    /// Takes the cost from all windows, or from none if one of them refuses. `rates` are the windows of
    /// the key's tier; more than the table has are left out of account.
    pub fn take(&self, key: u64, rates: &[Rate], cost: u64, now: Nanos) -> Verdict {
        self.judge(key, rates, cost, now, cost > 0)
    }

    /// What [`Table::take`] would say.
    #[cfg(test)]
    pub fn peek(&self, key: u64, rates: &[Rate], cost: u64, now: Nanos) -> Verdict {
        self.judge(key, rates, cost, now, false)
    }

    /// Gives back what was taken for a request that was refused by others. At most what is there: between
    /// then and now the bucket may have become full without it, so a burst may be greater by what is given
    /// back while it lasts, but over time no more is let through than came in.
    pub fn give_back(&self, key: u64, rates: &[Rate], cost: u64) {
        self.each(key, rates, |set, place, rate| {
            give_back(set, place, rate.give_back(place.tat, cost));
        });
    }

    /// Takes what a request has turned out to cost, beyond the limit if need be.
    pub fn charge(&self, key: u64, rates: &[Rate], cost: u64, now: Nanos) {
        if cost == 0 {
            return;
        }
        self.each(key, rates, |set, place, rate| {
            put(set, key, place.way, rate.charge(place.tat, cost, now));
        });
    }

    fn judge(&self, key: u64, rates: &[Rate], cost: u64, now: Nanos, commit: bool) -> Verdict {
        let (mut part, first) = self.part(key);
        let sets = &mut part[first..first + self.windows];
        let mut places = [Place::default(); MAX_WINDOWS];
        let mut refusal: Option<Verdict> = None;
        let mut admission = Verdict::FREE;
        for (window, (set, rate)) in sets.iter().zip(rates).enumerate() {
            let place = find(set, key);
            match rate.take(place.tat, cost, now) {
                Ok(tat) => {
                    places[window] = Place { tat, ..place };
                    if refusal.is_none() {
                        let verdict = Verdict::new(window, rate, tat, now, None);
                        admission = admission.and(verdict);
                    }
                }
                Err(wait) => {
                    let verdict = Verdict::new(window, rate, place.tat, now, Some(wait));
                    refusal = Some(refusal.map_or(verdict, |other| other.and(verdict)));
                }
            }
        }
        if let Some(refusal) = refusal {
            return refusal;
        }
        if commit {
            for ((set, place), _) in sets.iter_mut().zip(places).zip(rates) {
                put(set, key, place.way, place.tat);
            }
        }
        admission
    }

    fn each(&self, key: u64, rates: &[Rate], mut act: impl FnMut(&mut Set, Place, &Rate)) {
        let (mut part, first) = self.part(key);
        for (set, rate) in part[first..first + self.windows].iter_mut().zip(rates) {
            let place = find(set, key);
            act(set, place, rate);
        }
    }

    /// The key's part, locked, and its sets' place there: those of all windows are neighbours. The high
    /// bits of a key choose the part, those below them the sets.
    fn part(&self, key: u64) -> (MutexGuard<'_, Vec<Set>>, usize) {
        let (part, rest) = scale(key, self.parts.len());
        let (set, _) = scale(rest, self.sets);
        // A thread that panicked left whole numbers behind: any state of a set is a sound one.
        let part = self.parts[part].0.lock();
        let part = part.unwrap_or_else(PoisonError::into_inner);
        (part, set * self.windows)
    }
}

/// A number below `count`, evenly from the high bits, and what is left of the bits.
fn scale(bits: u64, count: usize) -> (usize, u64) {
    let product = u128::from(bits) * count as u128;
    ((product >> 64) as usize, product as u64)
}

/// What tells keys of a set apart: the bits that did not choose the set.
fn tag(key: u64) -> u32 {
    key as u32
}

/// The key's entry, or else the one with the smallest TAT.
fn find(set: &Set, key: u64) -> Place {
    let (tags, tats) = set;
    // Both lines of TATs are fetched beside the tags and not behind them: a key that was not asked for lately
    // is waited for in memory, and that is most of what a limit costs.
    std::hint::black_box((tats[0], tats[WAYS / 2]));
    // All at once: the compiler makes vector operations of it.
    let found = (0..WAYS).fold(0_u32, |found, way| {
        found | (u32::from(tags[way] == tag(key)) << way)
    });
    let known = found.trailing_zeros() as usize;
    let way = match known < WAYS {
        true => known,
        false => (1..WAYS).fold(0, |least, way| match tats[way] < tats[least] {
            true => way,
            false => least,
        }),
    };
    let tat = tats[way];
    Place { way, tat }
}

fn put(set: &mut Set, key: u64, way: usize, tat: Nanos) {
    set.0[way] = tag(key);
    set.1[way] = tat;
}

/// Lowers an entry, but not below the smallest of the others: keys that were pushed out rely on that. It
/// changes nothing for a key without an entry, whose place is the smallest.
fn give_back(set: &mut Set, place: Place, lower: Nanos) {
    let others = array::from_fn::<_, WAYS, _>(|way| match way == place.way {
        true => Nanos::MAX,
        false => set.1[way],
    });
    let least = others.into_iter().min().unwrap_or(0);
    set.1[place.way] = lower.max(least.min(place.tat));
}

#[cfg(test)]
mod tests;
