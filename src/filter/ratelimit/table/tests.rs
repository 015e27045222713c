//! Windows, debts, floods and threads; and whatever comes, against an exact limiter.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::model::Window;

const SECOND: Nanos = 1_000_000_000;

fn rate(limit: u64, seconds: u64, burst: u64) -> Rate {
    let period = Duration::from_secs(seconds);
    Rate::new(Window {
        limit,
        period,
        burst,
    })
}

/// A key whose bits are spread as those of a hash.
fn key(number: u64) -> u64 {
    let mixed = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

#[test]
fn several_windows_are_taken_from_together_or_not_at_all() {
    let table = Table::new(100, 2);
    let rates = [rate(10, 1, 10), rate(12, 60, 12)];
    let take = |cost, now| table.take(key(1), &rates, cost, now);
    let first = take(8, 0);
    assert!(first.admitted);
    assert_eq!((first.window, first.remaining()), (0, 2));
    assert_eq!(first.reset(), Duration::from_millis(800));
    // The second window refuses, so the first keeps what it has.
    let second = take(5, SECOND);
    assert!(!second.admitted);
    assert_eq!((second.window, second.remaining()), (1, 4));
    assert_eq!(second.retry_after(), Duration::from_secs(4));
    let third = take(4, SECOND);
    assert!(third.admitted);
    assert_eq!((third.window, third.remaining()), (1, 0));
    assert_eq!(third.reset(), Duration::from_secs(59));
    // The second again, although the first would say the same with a shorter wait.
    let fourth = take(7, SECOND);
    assert_eq!((fourth.window, fourth.admitted), (1, false));
    assert_eq!(table.peek(key(1), &rates[..1], 6, SECOND).remaining(), 0);
}

#[test]
fn a_look_changes_nothing() {
    let table = Table::new(100, 1);
    let rates = [rate(10, 1, 10)];
    for _ in 0..3 {
        let verdict = table.peek(key(1), &rates, 4, 5);
        assert_eq!((verdict.admitted, verdict.remaining()), (true, 6));
        assert!(!table.peek(key(1), &rates, 11, 5).admitted);
        assert_eq!(table.take(key(1), &rates, 0, 5).remaining(), 10);
    }
}

#[test]
fn what_is_given_back_is_there_for_the_next() {
    let table = Table::new(100, 2);
    let rates = [rate(10, 1, 10), rate(100, 60, 20)];
    assert!(table.take(key(1), &rates, 10, 5).admitted);
    table.give_back(key(1), &rates, 4);
    assert!(!table.peek(key(1), &rates, 5, 5).admitted);
    assert!(table.take(key(1), &rates, 4, 5).admitted);
    // Never more than a bucket, and nothing for keys that took nothing.
    table.give_back(key(1), &rates, 1000);
    table.give_back(key(2), &rates, 1000);
    for number in 1..3 {
        assert_eq!(table.peek(key(number), &rates, 0, 5).remaining(), 10);
    }
}

#[test]
fn what_others_give_back_is_not_for_who_was_pushed_out() {
    let table = Table::new(1, 1);
    let rates = [rate(1, 1, 10)];
    for number in 0..WAYS as u64 {
        assert!(table.take(key(number), &rates, 10, 0).admitted);
    }
    // Takes the place of one of them.
    table.charge(key(100), &rates, 1, 0);
    for number in (0..WAYS as u64).chain([100]) {
        table.give_back(key(number), &rates, 10);
    }
    for number in (0..WAYS as u64).chain([100]) {
        assert!(!table.peek(key(number), &rates, 1, 0).admitted);
    }
}

#[test]
fn what_costs_more_in_the_end_is_owed() {
    let table = Table::new(100, 1);
    let rates = [rate(10, 1, 10)];
    assert!(table.take(key(1), &rates, 1, 5).admitted);
    table.charge(key(1), &rates, 14, 5);
    table.charge(key(1), &rates, 0, 5);
    let verdict = table.take(key(1), &rates, 1, 5);
    assert_eq!((verdict.admitted, verdict.remaining()), (false, 0));
    assert_eq!(verdict.retry_after(), Duration::from_millis(600));
    table.charge(key(1), &rates, u64::MAX, 5);
    let verdict = table.take(key(1), &rates, 1, 5);
    assert_eq!(verdict.reset(), Duration::from_secs(2));
}

#[test]
fn other_limits_forgive_what_they_would_never_have_lent() {
    let (slow, quick) = (rate(5, 60, 5), rate(1000, 1, 1000));
    for windows in [1, 2] {
        let table = Table::new(100, windows);
        let (before, after) = (vec![slow; windows], vec![quick; windows]);
        assert!(table.take(key(1), &before, 5, 0).admitted);
        table.bound(&vec![quick.latest(0); windows]);
        let refused = table.take(key(1), &after, 1, 0);
        assert_eq!(refused.retry_after(), Duration::from_millis(1001));
        assert!(table.take(key(1), &after, 1, 1_001_000_000).admitted);
        // The other way round it owes what it owed.
        assert!(table.take(key(2), &after, 1000, 0).admitted);
        table.bound(&vec![slow.latest(0); windows]);
        let owed = table.peek(key(2), &before, 0, 0).reset();
        assert_eq!(owed, Duration::from_secs(1));
    }
}

#[test]
fn without_windows_everything_is_admitted() {
    let table = Table::new(0, 0);
    assert_eq!(table.take(key(1), &[], 1, 5), Verdict::FREE);
    table.charge(key(1), &[], 1, 5);
    let rates = [rate(1, 1, 1); 3];
    assert!(table.take(key(1), &rates, 1, 5).admitted);
    assert!(!table.take(key(1), &rates, 1, 5).admitted);
}

#[test]
fn the_bound_is_twenty_four_bytes_a_key_and_window() {
    for (keys, windows) in [(1, 1), (1000, 1), (70_000, 1), (100_000, 1), (1_000_000, 4)] {
        let table = Table::new(keys, windows);
        let least = keys * 24 * windows;
        // Rounded up to whole sets in each part, and the locks.
        let most = least + least / 32 + PARTS * (windows * size_of::<Set>() + 64);
        let (now, full) = table.bytes();
        assert!((least..=most).contains(&full), "{keys}: {full}");
        assert!(keys < 100_000 || now < full / 25, "{keys}: {now}");
        assert!(table.fits(keys, windows));
        assert!(!table.fits(keys + 1, windows));
    }
    assert!(!Table::new(1, 1).fits(1, 2));
}

#[test]
fn changed_limits_find_what_was_taken() {
    let table = Table::new(100, 1);
    assert!(table.take(key(1), &[rate(1, 1, 10)], 10, 0).admitted);
    let verdict = table.peek(key(1), &[rate(1, 1, 20)], 1, 0);
    assert_eq!((verdict.admitted, verdict.remaining()), (true, 9));
    let verdict = table.peek(key(1), &[rate(1, 1, 5)], 1, 0);
    assert_eq!(verdict.retry_after(), Duration::from_secs(6));
}

#[test]
fn a_flood_refills_no_bucket() {
    const FLOOD: u64 = 1_000_000;
    let table = Table::new(10_000, 1);
    let rates = [rate(10, 3600, 10)];
    let emptied: Vec<u64> = (0..100).map(key).collect();
    for &key in &emptied {
        assert!(table.take(key, &rates, 10, 0).admitted);
    }
    let mut admitted = 0;
    for number in 0..FLOOD {
        let now = number * 1000;
        admitted += u64::from(table.take(key(1000 + number), &rates, 1, now).admitted);
    }
    assert!(admitted < FLOOD / 2, "the table was never full: {admitted}");
    let (now, full) = table.bytes();
    assert_eq!(now, full);
    for &key in &emptied {
        assert!(!table.take(key, &rates, 1, SECOND).admitted);
    }
}

#[test]
fn keys_that_are_few_enough_never_meet() {
    let table = Table::new(40_000, 1);
    let rates = [rate(1, 3600, 2)];
    for _ in 0..2 {
        for number in 0..10_000 {
            assert!(table.take(key(number), &rates, 1, 0).admitted);
        }
    }
    for number in 0..10_000 {
        assert!(!table.take(key(number), &rates, 1, 0).admitted);
    }
}

#[test]
fn a_table_grows_with_the_keys_that_are_live() {
    let table = Table::new(100_000, 2);
    let rates = [rate(10, 1, 10), rate(1, 1, 10)];
    let (at_first, full) = table.bytes();
    // None of them is live when the next one comes.
    for number in 0..100_000 {
        assert!(
            table
                .take(key(number), &rates, 10, number * 10 * SECOND)
                .admitted
        );
    }
    assert_eq!(table.bytes().0, at_first);
    let now = 1_000_000 * SECOND;
    for number in 0..5_000 {
        assert!(table.take(key(number), &rates, 4, now).admitted);
        table.charge(key(number), &rates, 5, now);
    }
    let (grown, _) = table.bytes();
    assert!(
        grown > at_first && grown < full / 4,
        "{at_first} {grown} {full}"
    );
    for number in 0..50_000 {
        assert!(table.take(key(number), &rates, 1, now).admitted);
    }
    assert_eq!(table.bytes().0, full);
    // Each has what it had, in both windows.
    for number in 0..50_000 {
        let left = if number < 5_000 { 0 } else { 9 };
        let has = |cost| table.peek(key(number), &rates, cost, now);
        assert_eq!((has(0).remaining(), has(1).admitted), (left, left > 0));
        assert_eq!(
            table.peek(key(number), &rates[..1], 0, now).remaining(),
            left
        );
    }
}

#[test]
fn what_is_charged_grows_a_table_too() {
    let table = Table::new(100_000, 1);
    let rates = [rate(1, 1, 10)];
    let at_first = table.bytes().0;
    for number in 0..10_000 {
        table.charge(key(number), &rates, 1, SECOND);
    }
    assert!(table.bytes().0 > 2 * at_first);
    for number in 0..10_000 {
        assert_eq!(table.peek(key(number), &rates, 0, SECOND).remaining(), 9);
    }
}

#[test]
fn each_half_of_a_set_keeps_its_own_and_nothing_below_the_smallest() {
    let mut sets = Sets {
        all: vec![([0; WAYS], [0; WAYS])],
        doubled: 0,
    };
    for way in 0..WAYS {
        // Every third has the highest bit.
        let branch = u32::from(way % 3 == 0);
        sets.all[0].0[way] = branch << 31 | way as u32;
        sets.all[0].1[way] = 100 + way as Nanos;
    }
    let before = sets.all[0];
    sets.double(1);
    let [others, thirds] = sets.all[..] else {
        panic!("{} sets", sets.all.len());
    };
    for way in 0..WAYS {
        let (own, other) = match way % 3 {
            0 => (thirds, others),
            _ => (others, thirds),
        };
        assert_eq!((own.0[way], own.1[way]), (before.0[way], before.1[way]));
        assert_eq!(other.1[way], 100, "the smallest");
    }
}

#[test]
fn keys_that_come_back_leave_room_for_newcomers() {
    let table = Table::new(100_000, 1);
    let rates = [rate(1, 1, 2)];
    // As many as the table has entries at first, one after the other, and then all together.
    let entries = table.bytes().0 as u64 / size_of::<Set>() as u64 * WAYS as u64;
    for number in 0..entries {
        assert!(
            table
                .take(key(number), &rates, 2, number * 2 * SECOND)
                .admitted
        );
    }
    let now = entries * 4 * SECOND;
    for number in 0..entries * 2 {
        assert!(table.take(key(number), &rates, 2, now).admitted, "{number}");
    }
}

#[test]
fn threads_on_one_key_are_admitted_exactly_what_there_is() {
    const THREADS: u64 = 8;
    const ATTEMPTS: u64 = 20_000;
    let table = Table::new(100, 2);
    let rates = [rate(1000, 1, 50), rate(1_000_000, 1, 1_000_000)];
    let (clock, admitted) = (AtomicU64::new(0), AtomicU64::new(0));
    let take = |now| {
        let yes = table.take(key(1), &rates, 1, now).admitted;
        admitted.fetch_add(u64::from(yes), Ordering::Relaxed);
        yes
    };
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..ATTEMPTS {
                    // A hundred attempts for each unit that comes back. Threads come late, and then
                    // with a time that is behind that of others.
                    take(clock.fetch_add(SECOND / 100_000, Ordering::Relaxed));
                }
            });
        }
    });
    let end = THREADS * ATTEMPTS * (SECOND / 100_000);
    while take(end) {}
    assert_eq!(admitted.into_inner(), 50 + 1000 * end / SECOND);
}

/// A bucket as people think of one: what is missing in it, in nanoseconds of filling.
#[derive(Clone, Copy)]
struct Bucket {
    missing: i128,
    at: i128,
}

/// The exact reference: a bucket for each key, nothing forgotten.
#[derive(Default)]
struct Exact(HashMap<u64, Vec<Bucket>>);

impl Exact {
    fn buckets(&mut self, key: u64, rates: &[Rate], now: Nanos) -> &mut Vec<Bucket> {
        let now = i128::from(now);
        // Full since the beginning.
        let full = Bucket {
            missing: -now,
            at: now,
        };
        let buckets = self.0.entry(key).or_insert(vec![full; rates.len()]);
        for bucket in &mut *buckets {
            // A clock that is behind finds the bucket as it was, and less in it by the time between.
            bucket.missing -= now - bucket.at;
            bucket.at = now;
        }
        buckets
    }

    /// What is missing before it, never less than nothing.
    fn missing(bucket: &Bucket) -> i128 {
        bucket.missing.max(0)
    }

    fn admits(&mut self, key: u64, rates: &[Rate], cost: u64, now: Nanos) -> bool {
        let buckets = self.buckets(key, rates, now);
        cost == 0
            || rates.iter().zip(buckets).all(|(rate, bucket)| {
                Self::missing(bucket) + i128::from(rate.interval) * i128::from(cost)
                    <= i128::from(rate.interval) * i128::from(rate.window.burst)
            })
    }

    fn take(&mut self, key: u64, rates: &[Rate], cost: u64, now: Nanos) {
        if cost == 0 {
            return;
        }
        for (rate, bucket) in rates.iter().zip(self.buckets(key, rates, now)) {
            let cost = i128::from(rate.interval) * i128::from(cost);
            bucket.missing = Self::missing(bucket) + cost;
        }
    }

    fn charge(&mut self, key: u64, rates: &[Rate], cost: u64, now: Nanos) {
        for (rate, bucket) in rates.iter().zip(self.buckets(key, rates, now)) {
            let depth = i128::from(rate.interval) * i128::from(rate.window.burst);
            let most = depth + depth.max(rate.window.period.as_nanos() as i128);
            let cost = i128::from(rate.interval) * i128::from(cost);
            bucket.missing = (Self::missing(bucket) + cost).min(most.max(bucket.missing));
        }
    }

    fn give_back(&mut self, key: u64, rates: &[Rate], cost: u64, now: Nanos) {
        for (rate, bucket) in rates.iter().zip(self.buckets(key, rates, now)) {
            bucket.missing -= i128::from(rate.interval) * i128::from(cost);
        }
    }

    fn verdict(&mut self, key: u64, rates: &[Rate], now: Nanos, window: usize) -> (u64, Duration) {
        let missing = Self::missing(&self.buckets(key, rates, now)[window]);
        let rate = &rates[window];
        let interval = i128::from(rate.interval);
        let left = i128::from(rate.window.burst) * interval - missing;
        (
            (left.max(0) / interval) as u64,
            Duration::from_nanos(missing as u64),
        )
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Take(u64),
    /// Takes, and will give back.
    Withdraw(u64),
    /// Gives back, for the longest of those that wait for it.
    GiveBack,
    Charge(u64),
}

fn acts(keys: u64) -> impl Strategy<Value = Vec<(u64, Act, i64)>> {
    let act = prop_oneof![
        6 => (0..8_u64).prop_map(Act::Take),
        2 => (1..8_u64).prop_map(Act::Withdraw),
        2 => Just(Act::GiveBack),
        1 => (0..40_u64).prop_map(Act::Charge),
    ];
    // Mostly forward, sometimes a little back.
    let step = prop_oneof![8 => 0..300_000_000_i64, 2 => -50_000_000..0_i64];
    prop::collection::vec((0..keys, act, step), 1..400)
}

fn rates() -> impl Strategy<Value = Vec<Rate>> {
    let rate = (1..20_u64, 1..10_u64, 1..10_u64);
    prop::collection::vec(
        rate.prop_map(|(limit, seconds, burst)| self::rate(limit, seconds, burst)),
        1..=4,
    )
}

/// One that begins with a single set and may double twice.
fn growing(windows: usize) -> Table {
    let part = Part(Mutex::new(Sets {
        all: vec![([0; WAYS], [0; WAYS]); windows],
        doubled: 0,
    }));
    Table {
        parts: Box::new([part]),
        windows,
        max_keys: 1,
        first_sets: 1,
        doublings: 2,
    }
}

proptest! {
    #[test]
    fn never_admits_what_the_exact_one_refuses(
        rates in rates(),
        acts in acts(60),
        grows in any::<bool>(),
    ) {
        let table = match grows {
            true => growing(rates.len()),
            false => Table::new(1, rates.len()),
        };
        let (mut exact, mut now) = (Exact::default(), 1000 * SECOND);
        let mut withdrawn = VecDeque::new();
        for (number, act, step) in acts {
            now = now.saturating_add_signed(step);
            let key = key(number);
            match act {
                Act::Take(cost) | Act::Withdraw(cost) => {
                    if table.take(key, &rates, cost, now).admitted {
                        prop_assert!(exact.admits(key, &rates, cost, now));
                        exact.take(key, &rates, cost, now);
                        if matches!(act, Act::Withdraw(_)) {
                            withdrawn.push_back((key, cost));
                        }
                    }
                }
                Act::GiveBack => {
                    if let Some((key, cost)) = withdrawn.pop_front() {
                        table.give_back(key, &rates, cost);
                        exact.give_back(key, &rates, cost, now);
                    }
                }
                Act::Charge(cost) if cost > 0 => {
                    table.charge(key, &rates, cost, now);
                    exact.charge(key, &rates, cost, now);
                }
                Act::Charge(_) => table.charge(key, &rates, 0, now),
            }
        }
    }

    // One place is always free, so that whatever is given back comes to its owner.
    #[test]
    fn agrees_with_the_exact_one_on_few_keys(rates in rates(), acts in acts(WAYS as u64 - 1)) {
        let table = Table::new(1, rates.len());
        let (mut exact, mut now) = (Exact::default(), 1000 * SECOND);
        let mut withdrawn = VecDeque::new();
        for (number, act, step) in acts {
            now = now.saturating_add_signed(step);
            let key = key(number);
            match act {
                Act::Take(cost) | Act::Withdraw(cost) => {
                    let admitted = exact.admits(key, &rates, cost, now);
                    let verdict = table.take(key, &rates, cost, now);
                    prop_assert_eq!(verdict.admitted, admitted);
                    if admitted {
                        exact.take(key, &rates, cost, now);
                    }
                    let said = (verdict.remaining(), verdict.reset());
                    prop_assert_eq!(said, exact.verdict(key, &rates, now, verdict.window));
                    let wait = verdict.retry_after().as_nanos() as u64;
                    prop_assert_eq!(wait > 0, !admitted);
                    if !admitted && rates.iter().all(|rate| cost <= rate.window.burst) {
                        prop_assert!(table.peek(key, &rates, cost, now + wait).admitted);
                        prop_assert!(!table.peek(key, &rates, cost, now + wait - 1).admitted);
                    }
                    if admitted && matches!(act, Act::Withdraw(_)) {
                        withdrawn.push_back((key, cost));
                    }
                }
                Act::GiveBack => {
                    if let Some((key, cost)) = withdrawn.pop_front() {
                        table.give_back(key, &rates, cost);
                        exact.give_back(key, &rates, cost, now);
                    }
                }
                Act::Charge(cost) if cost > 0 => {
                    table.charge(key, &rates, cost, now);
                    exact.charge(key, &rates, cost, now);
                }
                Act::Charge(_) => table.charge(key, &rates, 0, now),
            }
        }
    }
}
