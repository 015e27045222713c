//! Weighted choice between the upstreams of a route, for canary releases.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::model::WeightedUpstream;

/// Slots of the longest schedule. Shares below a hundredth of a percent are rounded up to that.
const MAX_SLOTS: u64 = 10_000;

/// Walks a schedule that is laid out once: no lock, exact over each cycle, and evenly spread.
#[derive(Debug)]
pub struct Split {
    /// Upstreams in order of their turns; never empty when there is a branch.
    schedule: Box<[usize]>,
    turn: AtomicUsize,
}

impl Split {
    /// Lays the schedule out. Branches without weight get no turn.
    pub fn compile(branches: &[WeightedUpstream]) -> Self {
        let weights = reduce(branches);
        Self {
            schedule: spread(branches, &weights),
            turn: AtomicUsize::new(0),
        }
    }

    /// The next upstream, as an index into `Config::upstreams`.
    pub fn next(&self) -> usize {
        match *self.schedule {
            // A checked configuration has no split without a branch.
            [] => 0,
            [only] => only,
            ref schedule => {
                // Nothing else is ordered by the counter.
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                schedule[turn % schedule.len()]
            }
        }
    }
}

/// The weights divided by what they have in common, and scaled down if they still add up to more
/// than the longest schedule.
fn reduce(branches: &[WeightedUpstream]) -> Vec<u64> {
    let weights = || branches.iter().map(|branch| u64::from(branch.weight));
    let divisor = weights().fold(0, greatest_common_divisor).max(1);
    let sum = weights().sum::<u64>() / divisor;
    let scaled = |weight: u64| {
        if weight == 0 || sum <= MAX_SLOTS {
            weight
        } else {
            ((weight * MAX_SLOTS + sum / 2) / sum).max(1)
        }
    };
    weights().map(|weight| scaled(weight / divisor)).collect()
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

/// Smooth weighted round robin: each turn every branch earns its weight, and the richest pays for
/// the turn with the sum of all. Branches are thereby never bunched.
fn spread(branches: &[WeightedUpstream], weights: &[u64]) -> Box<[usize]> {
    let sum: u64 = weights.iter().sum();
    if sum == 0 {
        // Weights that are all zero express no preference; a checked configuration has none.
        return branches.iter().map(|branch| branch.upstream).collect();
    }
    // Sums are about `MAX_SLOTS`, so signed numbers hold every balance.
    let weights: Vec<i64> = weights.iter().map(|&weight| weight as i64).collect();
    let mut balances = vec![0; weights.len()];
    let turn = |_| {
        for (balance, weight) in balances.iter_mut().zip(&weights) {
            *balance += weight;
        }
        // Of equals the first branch goes first.
        let (richest, _) = balances
            .iter()
            .enumerate()
            .rev()
            .max_by_key(|(_, balance)| **balance)?;
        balances[richest] -= sum as i64;
        Some(branches[richest].upstream)
    };
    (0..sum).filter_map(turn).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

    use std::thread;

    use super::*;

    fn split(weights: &[u32]) -> Split {
        let branch = |(upstream, &weight)| WeightedUpstream { upstream, weight };
        Split::compile(&weights.iter().enumerate().map(branch).collect::<Vec<_>>())
    }

    fn turns(split: &Split, count: usize) -> Vec<usize> {
        (0..count).map(|_| split.next()).collect()
    }

    #[test]
    fn spreads_turns_evenly() {
        assert_eq!(turns(&split(&[5, 1, 1]), 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(turns(&split(&[1, 1]), 4), [0, 1, 0, 1]);
    }

    #[test]
    fn is_exact_over_every_cycle() {
        let split = split(&[95, 5]);
        assert_eq!(split.schedule.len(), 20, "19 and 1 are enough");
        for _ in 0..5 {
            let canary = turns(&split, 20)
                .into_iter()
                .filter(|&turn| turn == 1)
                .count();
            assert_eq!(canary, 1);
        }
    }

    #[test]
    fn no_weight_means_no_turn() {
        assert_eq!(turns(&split(&[0, 3]), 3), [1, 1, 1]);
        assert_eq!(turns(&split(&[1]), 2), [0, 0]);
        assert_eq!(turns(&split(&[0, 0]), 3), [0, 1, 0]);
        assert_eq!(turns(&split(&[]), 1), [0]);
    }

    #[test]
    fn the_schedule_is_bounded_and_nobody_is_forgotten() {
        let split = split(&[u32::MAX, 1, u32::MAX - 1]);
        let length = split.schedule.len();
        assert!((9_990..=10_010).contains(&length), "{length}");
        let count = |branch| {
            split
                .schedule
                .iter()
                .filter(|&&turn| turn == branch)
                .count()
        };
        assert_eq!(count(1), 1);
        assert!(count(0).abs_diff(count(2)) <= 1);
    }

    #[test]
    fn threads_share_one_cycle() {
        let split = split(&[3, 1]);
        let canary: usize = thread::scope(|scope| {
            let count = || {
                turns(&split, 1000)
                    .into_iter()
                    .filter(|&turn| turn == 1)
                    .count()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(canary, 1000);
    }
}
