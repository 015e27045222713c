//! The limiter of one instance: a table of TATs of bounded size, exact while it has room for the keys that
//! are limited at the time, and never too generous when it has not.
//!
//! A key, which is a keyed hash, belongs to one set of `WAYS` entries in each window, and sets belong to
//! parts that are locked apart. One lock covers all windows, so they are taken from together. An entry whose
//! TAT has passed says nothing: its bucket is full. The others are live. So there is nothing to sweep, and an
//! entry is never removed, only taken over: a key that is not in its set takes the place with the smallest
//! TAT AND INHERITS THAT TAT. This is Space-Saving (Metwally, Agrawal, El Abbadi, 2005) for times in the
//! place of counts.
//!
//! What a request waits for is memory, so the table begins small enough for the cache. A part whose set gets
//! crowded with live entries doubles (`Sets::double`), until the table has its full size: each set becomes
//! two, and a bit of the tags says which of both an entry belongs to.
//!
//! Whoever floods the table, a key that was pushed out never finds more than it had. For let R be a
//! key's TAT as far as it was admitted, if nothing was ever forgotten. Then, at any time and for
//! any order of clocks, the key's entry is not below R, or, if it has none, no entry of its set is:
//! - An operation on the key's entry moves both on by the same, and `max` and `+` keep order.
//! - The key loses its entry only as the smallest of its set, so none is below it, nor below R.
//! - The smallest TAT of a set never falls: entries only grow, a newcomer begins at the smallest, and
//!   what is given back stops at the smallest of the others (`give_back`).
//! - A set that becomes two leaves either its own entries, and fills it up with its smallest TAT.
//! - So a key without an entry begins with a TAT that is not below R.
//!
//! What is admitted against a TAT that is not below R is admitted against R, which is the limit. The
//! other way round, if a key has no entry and the smallest TAT is past, so is R, and the key begins
//! with a full bucket, as it should. Only while all entries of a set are live does a newcomer get less
//! than its limit. With twice [`Table::new`]'s number of entries this is 1 set in 250 when that many keys
//! are live at once (Poisson with a mean of 8), and fewer than one in 10¹⁰ when a quarter is. Before the table
//! has its full size, a part doubles while a quarter of a set is not live.
//!
//! A sketch in front (`pingora-limits` counts in one) would guard nothing: the first request of each key of a
//! flood takes the table 76 ns, one of a known key 56 to 61 for up to 10 000 keys, and neither takes more memory
//! than there is. The sketch's estimate would refuse the innocent with the guilty, and takes 100 ns. Among a million
//! live keys in turn the table takes 190, most of it waiting for memory (`cargo bench --bench ratelimit`; on an
//! Intel Xeon of 2.5 GHz).
//!
//! TATs are absolute, so a table may be kept when limits change; a key then owes what it owed, but no more than the
//! new limits let anybody owe (`Table::bound`). That bounds all entries, and R, by the same.

use std::array;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::model::MAX_WINDOWS;
use crate::filter::ratelimit::rate::{Nanos, Rate, Verdict};

/// Entries that a key can have in a window.
const WAYS: usize = 16;
/// Parts that are locked apart, few enough for their locks to stay in the cache; more when they would have more
/// than `SETS` sets otherwise. A lock is held for some tens of nanoseconds, or until memory has answered; while a
/// part doubles, for tens of microseconds.
const PARTS: usize = 32;
/// What a part of full size has about, of all windows.
const SETS: usize = 512;
/// How often a part doubles at most: 64 times the size it begins with.
const DOUBLINGS: u32 = 6;
/// So many live entries make a set crowded. Whoever looks has just added one, so that some are left for
/// newcomers when all entries of one set belong to the same of two.
const CROWDED: u64 = 12;

/// The entries' tags, which are the low halves of keys, and their TATs: a line of the cache, and two. A request
/// reads all three at once (`find`). Two keys of a set with one tag would share a bucket; of a million live
/// keys, with the `DOUBLINGS` highest bits the same for all of a set, two do with a probability of 1 in 17.
type Set = ([u32; WAYS], [Nanos; WAYS]);

/// The TATs of a policy's keys, for each of its windows.
pub struct Table {
    parts: Box<[Part]>,
    windows: usize,
    max_keys: usize,
    /// Sets in a part and for a window, to begin with.
    first_sets: usize,
    /// How often a part may double.
    doublings: u32,
}

/// On a cache line of its own, so that threads disturb each other only where they meet.
#[repr(align(64))]
struct Part(Mutex<Sets>);

/// The sets of a part; those of all windows are neighbours.
struct Sets {
    all: Vec<Set>,
    /// How often it has doubled.
    doubled: u32,
}

/// Where a key is in its set, or would be.
#[derive(Clone, Copy, Default)]
struct Place {
    way: usize,
    tat: Nanos,
}

impl Table {
    /// For so many keys that are limited at the same time, and so many windows: 24 bytes for each of
    /// both at most, a small part of that to begin with.
    pub fn new(max_keys: usize, windows: usize) -> Self {
        let windows = windows.clamp(1, MAX_WINDOWS);
        let all_sets = max_keys.saturating_mul(2).div_ceil(WAYS).max(1);
        let most_parts = (all_sets.saturating_mul(windows) / SETS).max(PARTS);
        // Parts of several sets at first, so that rounding adds little to the full size.
        let doublings = (all_sets / (4 * most_parts)).checked_ilog2().unwrap_or(0);
        let doublings = doublings.min(DOUBLINGS);
        let all_first = all_sets.div_ceil(1 << doublings);
        let first_sets = all_first.div_ceil(most_parts);
        let part = || {
            Part(Mutex::new(Sets {
                all: vec![([0; WAYS], [0; WAYS]); first_sets * windows],
                doubled: 0,
            }))
        };
        Self {
            parts: (0..all_first.div_ceil(first_sets))
                .map(|_| part())
                .collect(),
            windows,
            max_keys,
            first_sets,
            doublings,
        }
    }

    /// Whether it can go on for a policy with so many keys and windows.
    pub fn fits(&self, max_keys: usize, windows: usize) -> bool {
        self.max_keys == max_keys && self.windows == windows.clamp(1, MAX_WINDOWS)
    }

    /// What it takes now, and at most.
    #[cfg(test)]
    fn bytes(&self) -> (usize, usize) {
        let of = |sets: usize| size_of::<Part>() + sets * size_of::<Set>();
        let most = (self.first_sets * self.windows) << self.doublings;
        let now = |part: &Part| of(part.lock().all.len());
        (
            self.parts.iter().map(now).sum(),
            self.parts.len() * of(most),
        )
    }

    /// Takes the cost from all windows, or from none if one of them refuses. `rates` are the windows of
    /// the key's tier; more than the table has are left out of account.
    pub fn take(&self, key: u64, rates: &[Rate], cost: u64, now: Nanos) -> Verdict {
        let mut part = self.part(key).lock();
        let may_grow = part.doubled < self.doublings;
        // Nearly all requests: one limit, and a key that was there before. They have little code of their own,
        // since code, too, is waited for in memory.
        if let ([rate], [set]) = (rates, self.sets(&mut part, key))
            && let Some(way) = known(set, key)
        {
            let tat = set.1[way];
            let taken = rate.take(tat, cost, now);
            let after = taken.unwrap_or(tat);
            set.1[way] = after;
            if may_grow && after > tat && tat <= now && is_crowded(set, now) {
                part.double(self.windows);
            }
            return Verdict::new(0, rate, after, now, taken.err());
        }
        self.judge(part, key, rates, cost, now, cost > 0)
    }

    /// Nobody owes more in a window than up to this: what is left of slower limits would shut a key out for as long as
    /// those took.
    pub fn bound(&self, latest: &[Nanos]) {
        for part in &self.parts {
            for of_windows in part.lock().all.chunks_mut(self.windows) {
                for (set, latest) in of_windows.iter_mut().zip(latest) {
                    set.1 = set.1.map(|tat| tat.min(*latest));
                }
            }
        }
    }

    /// What [`Table::take`] would say.
    #[cfg(test)]
    pub fn peek(&self, key: u64, rates: &[Rate], cost: u64, now: Nanos) -> Verdict {
        self.judge(self.part(key).lock(), key, rates, cost, now, false)
    }

    /// Gives back what was taken for a request that was refused by others. At most what is there: between
    /// then and now the bucket may have become full without it, so a burst may be greater by what is given
    /// back while it lasts, but over time no more is let through than came in.
    pub fn give_back(&self, key: u64, rates: &[Rate], cost: u64) {
        let mut part = self.part(key).lock();
        for (set, rate) in self.sets(&mut part, key).iter_mut().zip(rates) {
            let place = find(set, key);
            give_back(set, place, rate.give_back(place.tat, cost));
        }
    }

    /// Takes what a request has turned out to cost, beyond the limit if need be.
    pub fn charge(&self, key: u64, rates: &[Rate], cost: u64, now: Nanos) {
        if cost == 0 {
            return;
        }
        let mut part = self.part(key).lock();
        let may_grow = part.doubled < self.doublings;
        let mut needs_room = false;
        for (set, rate) in self.sets(&mut part, key).iter_mut().zip(rates) {
            let place = find(set, key);
            put(set, key, place.way, rate.charge(place.tat, cost, now));
            needs_room |= may_grow && is_crowded(set, now);
        }
        if needs_room {
            part.double(self.windows);
        }
    }

    #[inline(never)]
    fn judge(
        &self,
        mut part: MutexGuard<'_, Sets>,
        key: u64,
        rates: &[Rate],
        cost: u64,
        now: Nanos,
        commit: bool,
    ) -> Verdict {
        let may_grow = part.doubled < self.doublings;
        let sets = self.sets(&mut part, key);
        let mut places = [Place::default(); MAX_WINDOWS];
        let mut refusal: Option<Verdict> = None;
        let mut admission: Option<Verdict> = None;
        for (window, (set, rate)) in sets.iter().zip(rates).enumerate() {
            let place = find(set, key);
            match rate.take(place.tat, cost, now) {
                Ok(tat) => {
                    places[window] = Place { tat, ..place };
                    if refusal.is_none() {
                        let verdict = Verdict::new(window, rate, tat, now, None);
                        admission = Some(admission.map_or(verdict, |other| other.and(verdict)));
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
            let mut needs_room = false;
            for ((set, place), _) in sets.iter_mut().zip(places).zip(rates) {
                put(set, key, place.way, place.tat);
                needs_room |= may_grow && is_crowded(set, now);
            }
            if needs_room {
                part.double(self.windows);
            }
        }
        admission.unwrap_or(Verdict::FREE)
    }

    fn part(&self, key: u64) -> &Part {
        let (part, _) = scale(key, self.parts.len());
        &self.parts[part]
    }

    /// The key's sets in its part. The high bits of a key choose the part, those below them the sets that
    /// the part began with, and the tag which of those that they became.
    fn sets<'a>(&self, part: &'a mut Sets, key: u64) -> &'a mut [Set] {
        let (_, rest) = scale(key, self.parts.len());
        let (set, _) = scale(rest, self.first_sets);
        let branch = u64::from(tag(key)) << part.doubled >> u32::BITS;
        let first = ((set << part.doubled) + branch as usize) * self.windows;
        &mut part.all[first..first + self.windows]
    }
}

impl Part {
    fn lock(&self) -> MutexGuard<'_, Sets> {
        // A thread that panicked left whole numbers behind: any state of a set is a sound one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sets {
    /// Makes two of each set.
    #[cold]
    fn double(&mut self, windows: usize) {
        // The next of a tag's bits, from the highest.
        let bit = u32::BITS - 1 - self.doubled;
        let mut all = Vec::with_capacity(self.all.len() * 2);
        for of_windows in self.all.chunks(windows) {
            for branch in 0..2 {
                all.extend(of_windows.iter().map(|set| half(set, bit, branch)));
            }
        }
        self.all = all;
        self.doubled += 1;
    }
}

/// The entries of a set whose tags have this bit, and its smallest TAT in the place of the others. Their tags
/// stay: no key of this half has one of them.
fn half(set: &Set, bit: u32, branch: u32) -> Set {
    let (tags, tats) = set;
    let smallest = tats[least(tats)];
    let tats = array::from_fn(|way| match tags[way] >> bit & 1 == branch {
        true => tats[way],
        false => smallest,
    });
    (*tags, tats)
}

/// Whether it is time for more room. The borrow of a difference is the cheapest way to compare.
fn is_crowded((_, tats): &Set, now: Nanos) -> bool {
    let live: u64 = tats.iter().map(|tat| now.wrapping_sub(*tat) >> 63).sum();
    live >= CROWDED
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
    let way = known(set, key).unwrap_or_else(|| least(&set.1));
    let tat = set.1[way];
    Place { way, tat }
}

/// The key's entry.
fn known((tags, tats): &Set, key: u64) -> Option<usize> {
    // Both lines of TATs are fetched beside the tags and not behind them: a key that was not asked for lately
    // is waited for in memory, and that is most of what a limit costs.
    std::hint::black_box((tats[0], tats[WAYS / 2]));
    // All at once: the compiler makes vector operations of it.
    let found = (0..WAYS).fold(0_u32, |found, way| {
        found | (u32::from(tags[way] == tag(key)) << way)
    });
    let way = found.trailing_zeros() as usize;
    (way < WAYS).then_some(way)
}

/// Where the smallest TAT is: four comparisons beside each other, so that each does not wait for the last.
fn least(tats: &[Nanos; WAYS]) -> usize {
    let smaller = |one: usize, other: usize| match tats[other] < tats[one] {
        true => other,
        false => one,
    };
    let quarters: [usize; 4] = array::from_fn(|lane| (lane..WAYS).step_by(4).fold(lane, smaller));
    quarters.into_iter().fold(quarters[0], smaller)
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
