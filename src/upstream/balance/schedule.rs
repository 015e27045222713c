//! Smooth weighted round robin over a schedule that is computed beforehand.
//!
//! The schedule is what nginx' smooth weighted round robin would choose in one cycle (the choice
//! with the highest running weight goes first and pays the total), so a member with weight 5 among
//! 5, 1, 1 is not taken five times in a row. Walking it costs one atomic addition.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The longest cycle; weights that need a longer one are scaled to it, the smallest staying 1.
const MAX_SLOTS: u64 = 4096;

/// One cycle of choices, walked by any number of threads.
#[derive(Debug)]
pub struct Schedule {
    slots: Box<[u16]>,
    turn: AtomicUsize,
}

impl Schedule {
    /// A cycle over `(choice, weight)`; a weight of 0 leaves the choice out.
    pub fn new(choices: &[(u16, u32)]) -> Self {
        let weighted: Vec<(u16, u64)> = reduce(choices);
        let total: u64 = weighted.iter().map(|(_, weight)| weight).sum();
        let mut running = vec![0i64; weighted.len()];
        let mut slots = Vec::with_capacity(total as usize);
        for _ in 0..total {
            let mut best = 0;
            for (at, (_, weight)) in weighted.iter().enumerate() {
                running[at] += *weight as i64;
                if running[at] > running[best] {
                    best = at;
                }
            }
            running[best] -= total as i64;
            slots.push(weighted[best].0);
        }
        Self {
            slots: slots.into(),
            turn: AtomicUsize::new(0),
        }
    }

    /// The next choice.
    pub fn next(&self) -> Option<u16> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let slot = turn.checked_rem(self.slots.len())?;
        self.slots.get(slot).copied()
    }

    /// A choice beside the turn, the first from here that `accepts` takes.
    ///
    /// The turn stays where it is: were it moved, every retry would send the next request to the
    /// member that the retry was to avoid.
    pub fn other(&self, accepts: impl Fn(u16) -> bool) -> Option<u16> {
        let count = self.slots.len();
        let start = self.turn.load(Ordering::Relaxed).checked_rem(count)?;
        let from_here = self.slots[start..].iter().chain(&self.slots[..start]);
        from_here.copied().find(|choice| accepts(*choice))
    }
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
    for (_, weight) in &mut weighted {
        *weight /= divisor;
        if total > MAX_SLOTS {
            *weight = (*weight * MAX_SLOTS / total).max(1);
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
        assert_eq!(walk(&schedule, 7), [0, 0, 1, 0, 2, 0, 0]);
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
        assert_eq!(Schedule::new(&[]).other(|_| true), None);
    }

    #[test]
    fn a_refused_choice_is_passed_over_when_there_is_another() {
        let schedule = Schedule::new(&[(0, 1), (1, 1)]);
        assert_eq!(schedule.other(|choice| choice != 0), Some(1));
        assert_eq!(walk(&schedule, 2), [0, 1], "the turn has not moved");
        assert_eq!(schedule.other(|_| false), None);
    }

    #[test]
    fn odd_weights_keep_the_cycle_bounded() {
        let schedule = Schedule::new(&[(0, 999_983), (1, 1_000_003), (2, 1)]);
        assert!(schedule.slots.len() <= MAX_SLOTS as usize + 3);
        assert!(schedule.slots.contains(&2));
    }
}
