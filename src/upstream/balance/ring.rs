//! Consistent hashing: a ring of points, of which each member has so many as its weight asks for.
//!
//! A key belongs to the next point on the ring. What points a member has depends on itself alone, so one
//! that comes takes over its part of the keys, and one that goes leaves its own to the others; no other
//! key moves. The ring is made of all members, and whoever is out is passed over.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// The points of a member with the greatest weight. The parts of equal members differ by about the root
/// of 1/160 then, 8 %.
const POINTS: u64 = 160;

/// How many points are looked at together: about as many as a part of the ring has.
const STRIDE: usize = 8;

/// The members on a ring.
#[derive(Debug, Default)]
pub struct Ring {
    points: Box<[Point]>,
    /// Where to begin looking, by the upper bits of a key.
    starts: Box<[u32]>,
    /// How many bits of a key do not count for that.
    shift: u32,
    /// What members are mixed with keys by.
    seeds: Box<[u64]>,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    hash: u32,
    member: u16,
}

impl Ring {
    /// Of names and weights, in the order of the members.
    pub fn new<'a>(members: impl Iterator<Item = (&'a str, u32)> + Clone) -> Self {
        let heaviest = members.clone().map(|(_, weight)| weight).max().unwrap_or(0);
        let mut points = Vec::new();
        let mut seeds = Vec::new();
        for (member, (name, weight)) in (0u16..).zip(members) {
            let seed = hash_of(name);
            seeds.push(seed);
            if weight == 0 {
                continue;
            }
            let count = (POINTS * u64::from(weight)).div_ceil(u64::from(heaviest));
            points.extend((0..count).map(|number| Point {
                hash: (mix(seed ^ mix(number)) >> 32) as u32,
                member,
            }));
        }
        // Where two points meet, who comes first must not depend on the order of the members.
        points.sort_by_key(|point| (point.hash, seeds[usize::from(point.member)]));
        let bits = (points.len() as u32 / 4).max(1).ilog2();
        let shift = 32 - bits;
        let starts = (0..1u64 << bits).map(|part| {
            let from = part << shift;
            points.partition_point(|point| u64::from(point.hash) < from) as u32
        });
        Self {
            starts: starts.collect(),
            shift,
            points: points.into(),
            seeds: seeds.into(),
        }
    }

    /// The members from a key on, once around; one may come several times.
    pub fn walk(&self, key: u64) -> impl Iterator<Item = u16> {
        let hash = (mix(key) >> 32) as u32;
        let part = u64::from(hash) >> self.shift;
        let mut at = self.starts.get(part as usize).map_or(0, |at| *at as usize);
        // Several at once: the processor cannot foresee at which of them a loop would end.
        loop {
            let points = self.points.get(at..).unwrap_or_default();
            let points = points.get(..STRIDE).unwrap_or(points);
            let before = points.iter().filter(|point| point.hash < hash).count();
            at += before;
            if before < STRIDE {
                break;
            }
        }
        let (before, behind) = self.points.split_at(at.min(self.points.len()));
        behind.iter().chain(before).map(|point| point.member)
    }

    /// A number for a key and a member, the same whenever it is asked for.
    pub fn lot(&self, member: u16, key: u64) -> u16 {
        let seed = self.seeds.get(usize::from(member)).copied();
        (mix(key ^ seed.unwrap_or_default().rotate_left(17)) >> 48) as u16
    }
}

/// The same on every instance, so that all of them send a key to the same backend.
fn hash_of(name: &str) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(name.as_bytes());
    hasher.finish()
}

/// Spreads the bits of a number: the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: u64 = 50_000;

    fn ring(names: &[String]) -> Ring {
        Ring::new(names.iter().map(|name| (name.as_str(), 1)))
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|at| format!("10.0.0.{at}:80")).collect()
    }

    fn owner<'a>(ring: &Ring, names: &'a [String], key: u64) -> Option<&'a String> {
        names.get(usize::from(ring.walk(key).next()?))
    }

    #[test]
    fn only_the_keys_of_who_comes_or_goes_move() {
        let all = names(10);
        let mut fewer = all.clone();
        let gone = fewer.remove(4);
        // In another order, too: a discovery promises none.
        fewer.reverse();
        let (with, without) = (ring(&all), ring(&fewer));
        let mut moved = 0;
        for key in 0..KEYS {
            let before = owner(&with, &all, key);
            let after = owner(&without, &fewer, key);
            if before == Some(&gone) {
                moved += 1;
            } else {
                assert_eq!(before, after, "{key}");
            }
        }
        let share = f64::from(moved) / KEYS as f64;
        assert!((0.06..0.14).contains(&share), "{share}");
    }

    #[test]
    fn the_keys_of_who_is_out_go_to_many() {
        let all = names(10);
        let ring = ring(&all);
        let mut heirs = std::collections::HashSet::new();
        for key in 0..KEYS {
            let mut walk = ring.walk(key);
            if walk.next() == Some(3) {
                heirs.extend(walk.find(|member| *member != 3));
            }
        }
        assert_eq!(heirs.len(), 9);
    }

    #[test]
    fn keys_follow_the_weights() {
        let ring = Ring::new([("a", 3), ("b", 1), ("c", 0)].into_iter());
        let first = (0..KEYS).filter(|key| ring.walk(*key).next() == Some(0));
        let share = first.count() as f64 / KEYS as f64;
        assert!((0.68..0.82).contains(&share), "{share}");
        assert!((0..100).all(|key| ring.walk(key).all(|member| member != 2)));
    }

    #[test]
    fn an_empty_ring_has_nobody_and_a_walk_goes_around_once() {
        assert_eq!(Ring::new(std::iter::empty()).walk(7).next(), None);
        assert_eq!(Ring::new([("a", 0)].into_iter()).walk(7).next(), None);
        let ring = Ring::new([("a", 1)].into_iter());
        for key in 0..1000 {
            assert_eq!(ring.walk(key).count(), 160);
        }
    }

    #[test]
    fn lots_are_spread_and_stay() {
        let ring = ring(&names(2));
        let below = (0..KEYS).filter(|key| ring.lot(1, *key) < u16::MAX / 10);
        let share = below.count() as f64 / KEYS as f64;
        assert!((0.09..0.11).contains(&share), "{share}");
        assert_eq!(ring.lot(0, 42), ring.lot(0, 42));
    }
}
