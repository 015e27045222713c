//! Smooth weighted round robin over a schedule that is computed beforehand.
//!
//! A cycle has a slot for each unit of weight, and the slots of a member are spread over it evenly, so
//! a member with weight 5 among 5, 1, 1 is not taken five times in a row. Walking it costs one atomic
//! addition. Making it costs no more than sorting its slots, which matters with many members.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The longest cycle, for few choices and for many; weights that need a longer one are scaled to it, the
/// smallest staying 1. A slot for each choice's thirty-second is enough to tell weights apart.
const MAX_SLOTS: std::ops::RangeInclusive<u64> = 1024..=16_384;
const SLOTS_OF_ONE: u64 = 32;

/// How long a cycle is while it is made: long beside the slots, and far from overflowing.
const CYCLE: u64 = 1 << 32;

/// One cycle of choices, walked by any number of threads.
#[derive(Debug)]
pub struct Schedule {
    slots: Box<[u16]>,
    turn: Arc<AtomicUsize>,
}

impl Schedule {
    /// A cycle over `(choice, weight)`; a weight of 0 leaves the choice out.
    pub fn new(choices: &[(u16, u32)]) -> Self {
        Self::at(choices, Arc::default())
    }

    /// The same in the place of another cycle, whose turn goes on: were it to begin anew each time, its
    /// first choices would have more than their share.
    pub fn at(choices: &[(u16, u32)], turn: Arc<AtomicUsize>) -> Self {
        Self {
            slots: spread(&reduce(choices)),
            turn,
        }
    }

    /// The next choice.
    pub fn next(&self) -> Option<u16> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let slot = turn.checked_rem(self.slots.len())?;
        self.slots.get(slot).copied()
    }

    /// The choices beside the turn, from here on.
    ///
    /// The turn stays where it is: were it moved, every retry would send the next request to the
    /// member that the retry was to avoid.
    pub fn others(&self) -> impl Iterator<Item = u16> {
        let turn = self.turn.load(Ordering::Relaxed);
        let start = turn.checked_rem(self.slots.len()).unwrap_or(0);
        let (before, from_here) = self.slots.split_at(start);
        from_here.iter().chain(before).copied()
    }
}

/// Puts each choice on so many slots as it has weight: each time at the middle of its part of the cycle, and
/// in the order of these times. Those of the same weight are shifted against each other.
fn spread(weighted: &[(u16, u64)]) -> Box<[u16]> {
    let mut order: Vec<(u16, u64)> = weighted.to_vec();
    order.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
    let mut times = Vec::new();
    for alike in order.chunk_by(|one, other| one.1 == other.1) {
        let count = alike.len() as u64;
        for (index, (choice, weight)) in (0u64..).zip(alike) {
            times.extend((0..*weight).map(|turn| {
                // The middle of its part of the cycle, for the middle one of those alike.
                let parts = 2 * (turn * count + index) + 1;
                (parts * CYCLE / (2 * weight * count), *choice)
            }));
        }
    }
    // Stable: of what is due at the same time, the heaviest goes first.
    times.sort_by_key(|(time, _)| *time);
    times.into_iter().map(|(_, choice)| choice).collect()
}

/// Divides the weights by what they have in common and bounds their sum.
fn reduce(choices: &[(u16, u32)]) -> Vec<(u16, u64)> {
    let used = choices.iter().filter(|(_, weight)| *weight > 0);
    let mut weighted: Vec<(u16, u64)> =
        used.map(|(id, weight)| (*id, u64::from(*weight))).collect();
    let divisor = weighted.iter().fold(0, |a, (_, weight)| gcd(a, *weight));
    let total: u64 = weighted
        .iter()
        .map(|(_, weight)| weight / divisor.max(1))
        .sum();
    let most = weighted.len() as u64 * SLOTS_OF_ONE;
    let most = most.clamp(*MAX_SLOTS.start(), *MAX_SLOTS.end());
    for (_, weight) in &mut weighted {
        *weight /= divisor;
        if total > most {
            *weight = (*weight * most / total).max(1);
        }
    }
    weighted
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn walk(schedule: &Schedule, steps: usize) -> Vec<u16> {
        (0..steps).filter_map(|_| schedule.next()).collect()
    }

    #[test]
    fn equal_weights_take_turns() {
        let schedule = Schedule::new(&[(0, 7), (1, 7), (2, 7)]);
        assert_eq!(walk(&schedule, 6), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_heavy_choice_is_spread_over_the_cycle() {
        let schedule = Schedule::new(&[(0, 5), (1, 1), (2, 1)]);
        assert_eq!(walk(&schedule, 7), [0, 1, 0, 0, 0, 2, 0]);
    }

    #[test]
    fn every_cycle_is_exact() {
        let schedule = Schedule::new(&[(0, 90), (1, 10)]);
        for _ in 0..3 {
            let cycle = walk(&schedule, 10);
            assert_eq!(cycle.iter().filter(|choice| **choice == 1).count(), 1);
        }
    }

    #[test]
    fn weight_zero_takes_no_part_and_nothing_is_chosen_from_nothing() {
        assert_eq!(walk(&Schedule::new(&[(0, 0), (1, 3)]), 2), [1, 1]);
        assert_eq!(Schedule::new(&[(0, 0)]).next(), None);
        assert_eq!(Schedule::new(&[]).others().next(), None);
    }

    #[test]
    fn choices_beside_the_turn_leave_it_where_it_is() {
        let schedule = Schedule::new(&[(0, 1), (1, 1)]);
        assert_eq!(schedule.others().find(|choice| *choice != 0), Some(1));
        assert_eq!(schedule.others().count(), 2);
        assert_eq!(walk(&schedule, 2), [0, 1], "the turn has not moved");
    }

    #[test]
    fn another_cycle_goes_on_where_the_one_before_was() {
        let turn = Arc::default();
        let choices = [(0, 1), (1, 1), (2, 1)];
        assert_eq!(walk(&Schedule::at(&choices, Arc::clone(&turn)), 2), [0, 1]);
        assert_eq!(walk(&Schedule::at(&choices, turn), 2), [2, 0]);
    }

    #[test]
    fn odd_weights_keep_the_cycle_bounded() {
        let schedule = Schedule::new(&[(0, 999_983), (1, 1_000_003), (2, 1)]);
        assert!(schedule.slots.len() <= 1024 + 3);
        assert!(schedule.slots.contains(&2));
    }

    proptest! {
        #[test]
        fn a_cycle_has_each_choice_by_its_weight_and_spread(
            // Their sum is less than a cycle may have, so that none is scaled.
            weights in prop::collection::vec(0u32..26, 1..40),
        ) {
            let choices: Vec<_> = (0u16..).zip(weights.iter().copied()).collect();
            let schedule = Schedule::new(&choices);
            let divisor = weights.iter().fold(0, |a, weight| gcd(a, u64::from(*weight))).max(1);
            let total = schedule.slots.len() as f64;
            for (choice, weight) in choices {
                let at: Vec<_> = (0..schedule.slots.len())
                    .filter(|slot| schedule.slots[*slot] == choice)
                    .collect();
                prop_assert_eq!(at.len() as u64, u64::from(weight) / divisor);
                // Within any half of the cycle nobody has much more than half of its slots.
                let half = at.iter().filter(|slot| **slot * 2 < schedule.slots.len()).count();
                let all = at.len() as f64;
                prop_assert!((half as f64 - all / 2.0).abs() <= 1.0 + all.sqrt(), "{half} of {all} in {total}");
            }
        }
    }
}
