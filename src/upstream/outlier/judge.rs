//! Which backends stand out from the others of their upstream.
//!
//! What all of them do is no reason to eject one: a failure of something behind them, a request that
//! brings each of them down, or work that takes its time. So each is compared with the others together.

use std::time::Duration;

use super::Ejection;
use super::tally::{Look, Sample};
use crate::config::model;

/// How much more often than at the others attempts have to fail.
const MORE_OFTEN: f32 = 3.0;

/// Attempts that must wait in vain before a backend counts as stalled.
const WAITING: u32 = 5;

/// Those that are to be ejected, by their place, the worst first.
pub fn judge(policy: &model::Outlier, looks: &[Look], between: Duration) -> Vec<(usize, Ejection)> {
    let mut found: Vec<(usize, f32, Ejection)> = Vec::new();
    let all = |part: fn(&Look) -> &Sample| {
        let mut sum = Sample::default();
        looks.iter().for_each(|look| sum.add(part(look)));
        sum
    };
    let (all_fresh, all_faded) = (all(|look| &look.fresh), all(|look| &look.faded));
    for (place, look) in looks.iter().enumerate() {
        let (fresh, faded) = (
            all_fresh.without(&look.fresh),
            all_faded.without(&look.faded),
        );
        let verdict = failing(policy, &look.fresh, &fresh)
            .or_else(|| failing(policy, &look.faded, &faded))
            .or_else(|| slow(policy, &look.fresh, &fresh))
            .or_else(|| slow(policy, &look.faded, &faded))
            .or_else(|| stalled(policy, look, &fresh, between));
        found.extend(verdict.map(|(badness, ejection)| (place, badness, ejection)));
    }
    found.sort_by(|one, other| other.1.total_cmp(&one.1));
    found
        .into_iter()
        .map(|(place, _, why)| (place, why))
        .collect()
}

fn failing(policy: &model::Outlier, own: &Sample, others: &Sample) -> Option<(f32, Ejection)> {
    let enough = policy.minimum_requests as f32;
    if policy.failure_rate == 0.0 || own.total() < enough || others.total() < enough {
        return None;
    }
    let (rate, theirs) = (own.failure_rate(), others.failure_rate());
    let stands_out = rate >= policy.failure_rate as f32 && rate >= theirs * MORE_OFTEN;
    // Failing is worse than being slow.
    let ejection = Ejection::FailureRate(rate.into(), theirs.into());
    stands_out.then_some((1.0 + rate, ejection))
}

fn slow(policy: &model::Outlier, own: &Sample, others: &Sample) -> Option<(f32, Ejection)> {
    let enough = policy.minimum_requests as f32;
    if policy.slow_factor == 0 || own.total() < enough || others.total() < enough {
        return None;
    }
    let (median, theirs) = (own.median(), others.median());
    is_slow(policy, median, theirs).then_some((0.5, Ejection::Slow(median, theirs)))
}

/// Nothing was answered between two looks, though enough was begun before them.
fn stalled(
    policy: &model::Outlier,
    own: &Look,
    others: &Sample,
    between: Duration,
) -> Option<(f32, Ejection)> {
    let others_answer = others.total() >= policy.minimum_requests as f32;
    if policy.slow_factor == 0 || own.stalled < WAITING || !others_answer {
        return None;
    }
    // Its answers take at least as long as the time between the looks.
    let at_least = between.max(policy.slow_at_least);
    is_slow(policy, at_least, others.median()).then_some((0.75, Ejection::Stalled))
}

fn is_slow(policy: &model::Outlier, own: Duration, others: Duration) -> bool {
    own >= policy.slow_at_least && own >= others.saturating_mul(policy.slow_factor)
}

#[cfg(test)]
mod tests {
    use super::super::tally::Tally;
    use super::*;

    const LOOK: Duration = Duration::from_millis(500);
    const MILLI: Duration = Duration::from_millis(1);

    fn policy() -> model::Outlier {
        model::Outlier {
            consecutive_failures: 5,
            consecutive_5xx: 0,
            failure_rate: 0.2,
            slow_factor: 5,
            slow_at_least: Duration::from_millis(250),
            minimum_requests: 20,
            window: Duration::from_secs(10),
            base_ejection: Duration::from_secs(10),
            max_ejection: Duration::from_secs(300),
            max_ejected: 0.5,
        }
    }

    /// So many answers of which so many failed, each after this time.
    fn look(total: u32, failed: u32, latency: Duration) -> Look {
        let tally = Tally::default();
        (0..total).for_each(|number| tally.answered(latency, number < failed));
        tally.look(0.9, 10)
    }

    fn ejected(looks: &[Look]) -> Vec<usize> {
        let verdicts = judge(&policy(), looks, LOOK);
        verdicts.into_iter().map(|(place, _)| place).collect()
    }

    #[test]
    fn who_fails_more_than_the_others_stands_out_the_worst_first() {
        let well = || look(100, 1, MILLI);
        assert!(ejected(&[well(), well(), well()]).is_empty());
        assert_eq!(ejected(&[well(), look(100, 30, MILLI), well()]), [1]);
        let (bad, worse) = (look(100, 60, MILLI), look(100, 70, MILLI));
        let many: Vec<_> = [bad, worse]
            .into_iter()
            .chain((0..6).map(|_| well()))
            .collect();
        assert_eq!(ejected(&many), [1, 0]);
        // What fails everywhere is no backend's own fault.
        let bad = || look(100, 40, MILLI);
        assert!(ejected(&[bad(), bad(), look(100, 60, MILLI)]).is_empty());
    }

    #[test]
    fn a_few_requests_prove_nothing_and_neither_does_being_alone() {
        assert!(ejected(&[look(100, 0, MILLI), look(19, 19, MILLI)]).is_empty());
        assert!(ejected(&[look(0, 0, MILLI), look(100, 100, MILLI)]).is_empty());
        assert!(ejected(&[look(100, 100, MILLI)]).is_empty());
        assert!(ejected(&[]).is_empty());
    }

    #[test]
    fn who_answers_much_later_stands_out_and_a_few_long_waits_do_not() {
        let quick = || look(100, 0, 5 * MILLI);
        assert_eq!(
            ejected(&[quick(), look(100, 0, 2000 * MILLI), quick()]),
            [1]
        );
        // Slower by far, and still quick.
        assert!(ejected(&[quick(), look(100, 0, 100 * MILLI), quick()]).is_empty());
        // All of them are slow.
        let slow = || look(100, 0, 900 * MILLI);
        assert!(ejected(&[slow(), look(100, 0, 2000 * MILLI), slow()]).is_empty());
        let tally = Tally::default();
        (0..60).for_each(|_| tally.answered(5 * MILLI, false));
        (0..40).for_each(|_| tally.answered(30_000 * MILLI, false));
        assert!(ejected(&[quick(), tally.look(0.9, 10), quick()]).is_empty());
    }

    #[test]
    fn who_answers_nothing_while_others_do_stands_out() {
        let silent = || {
            let tally = Tally::default();
            tally.look(0.9, 10);
            tally.look(0.9, 10)
        };
        let quick = || look(100, 0, 5 * MILLI);
        assert_eq!(ejected(&[quick(), silent()]), [1]);
        assert!(ejected(&[silent(), silent()]).is_empty(), "nobody answers");
        assert!(ejected(&[look(100, 0, 400 * MILLI), silent()]).is_empty());
    }
}
