//! Counting one by one: never more than the limit, whoever asks, and whatever stands in the key.

use std::time::{Duration, Instant};

use edge_gateway::filter::ratelimit::rate::{Rate, Verdict};
use futures_util::future::join_all;

use super::instance::{Instance, PATIENT, calls, rate, run};
use crate::support::{Redis, eventually};

const KEY: &str = "ratelimit:per-user:alice";

/// A window that gives nothing back while a test runs.
fn still(burst: u64) -> Rate {
    rate(1, 100_000, burst)
}

fn take(instance: &Instance, rates: &[Rate], cost: u64) -> Verdict {
    run(instance.take(KEY, rates, cost)).expect("an answer")
}

#[test]
fn three_instances_let_through_what_the_bucket_holds_and_not_one_more() {
    let redis = Redis::start();
    let instances = Instance::several(&redis, 3);
    let rates = [still(100)];
    let asked = (0..600).map(|turn| instances[turn % 3].take(KEY, &rates, 1));
    let verdicts = run(join_all(asked));
    let admitted = |verdict: &Verdict| verdict.admitted;
    let verdicts: Vec<_> = verdicts.into_iter().map(Result::unwrap).collect();
    assert_eq!(
        verdicts.iter().filter(|verdict| admitted(verdict)).count(),
        100
    );
    let refused = verdicts.iter().find(|verdict| !admitted(verdict)).unwrap();
    assert_eq!((refused.remaining(), refused.window), (0, 0));
    let second = Duration::from_secs(1);
    assert!(refused.retry_after() > 99_000 * second && refused.retry_after() <= 100_000 * second);
}

#[test]
fn what_flows_back_is_let_through_and_not_more() {
    let redis = Redis::start();
    let instances = Instance::several(&redis, 3);
    let rates = [rate(200, 1, 20)];
    let began = Instant::now();
    let mut admitted = 0;
    while began.elapsed() < Duration::from_millis(800) {
        let asked = (0..30).map(|turn| instances[turn % 3].take(KEY, &rates, 1));
        let verdicts = run(join_all(asked));
        let passed = verdicts.iter().filter(|verdict| verdict.unwrap().admitted);
        admitted += passed.count();
    }
    let allowed = 20.0 + 200.0 * began.elapsed().as_secs_f64();
    assert!(admitted as f64 <= allowed, "{admitted} of {allowed}");
    assert!(admitted > 20, "{admitted}");
}

#[test]
fn all_windows_of_a_key_hold_and_a_refusal_takes_from_none() {
    let redis = Redis::start();
    let instance = Instance::start(&redis, PATIENT);
    let rates = [still(10), still(3)];
    for left in [2, 1, 0] {
        let verdict = take(&instance, &rates, 1);
        assert!(verdict.admitted);
        assert_eq!((verdict.window, verdict.remaining()), (1, left));
    }
    let refused = take(&instance, &rates, 1);
    assert!(!refused.admitted);
    assert_eq!(refused.window, 1);
    // The other window still has its seven.
    let other = take(&instance, &rates[..1], 7);
    assert_eq!((other.admitted, other.remaining()), (true, 0));
}

#[test]
fn costs_of_nothing_and_of_too_much() {
    let redis = Redis::start();
    let instance = Instance::start(&redis, PATIENT);
    let rates = [still(10)];
    assert!(take(&instance, &rates, 0).admitted);
    assert_eq!(redis.ask(&["EXISTS", KEY]), "0", "nothing to remember");
    for cost in [11, u64::MAX] {
        let refused = take(&instance, &rates, cost);
        assert_eq!((refused.admitted, refused.remaining()), (false, 10));
    }
    let all = take(&instance, &rates, 10);
    assert_eq!((all.admitted, all.remaining()), (true, 0));
    assert!(take(&instance, &rates, 0).admitted);
    assert!(!take(&instance, &rates, 1).admitted);
}

#[test]
fn what_a_response_costs_is_charged_and_what_was_not_needed_comes_back() {
    let redis = Redis::start();
    let instance = Instance::start(&redis, PATIENT);
    let rates = [rate(1, 100, 10)];
    instance.shared.charge(KEY, &rates, 8);
    eventually("charged", || take(&instance, &rates, 0).remaining() < 4);
    instance.shared.give_back(KEY, &rates, 3);
    eventually("given back", || take(&instance, &rates, 0).remaining() >= 4);
    // A debt, but not one that shuts the key out for ever: one more bucket at most.
    instance.shared.charge(KEY, &rates, u64::MAX);
    eventually("charged", || {
        take(&instance, &rates, 0).reset() > Duration::from_secs(1900)
    });
    let refused = take(&instance, &rates, 1);
    assert!(!refused.admitted && refused.reset() <= Duration::from_secs(2000));
    instance.shared.give_back(KEY, &rates, u64::MAX);
    eventually("empty", || take(&instance, &rates, 0).remaining() == 10);
}

#[test]
fn a_key_shows_what_it_holds_and_goes_when_its_bucket_is_full() {
    let redis = Redis::start();
    let instance = Instance::start(&redis, PATIENT);
    let rates = [rate(100, 100, 100), rate(1, 1, 100)];
    assert!(take(&instance, &rates, 30).admitted);
    let value = redis.ask(&["GET", KEY]);
    let numbers: Vec<u64> = value.split(' ').map(|word| word.parse().unwrap()).collect();
    assert_eq!(numbers[1..], [30_000_000_000, 30_000_000_000]);
    let life: i64 = redis.ask(&["PTTL", KEY]).parse().unwrap();
    assert!((1..=30_001).contains(&life), "{life}");
    assert_eq!(redis.ask(&["DEL", KEY]), "1");
    let anew = take(&instance, &rates, 100);
    assert!(anew.admitted, "a key can be deleted at any time");
}

#[test]
fn what_is_not_ours_counts_as_empty_and_is_replaced() {
    let redis = Redis::start();
    let instance = Instance::start(&redis, PATIENT);
    let rates = [still(10)];
    let huge = "9".repeat(400);
    for foreign in ["", "hello", "-1 -1", "1 x", "\u{0}\u{1}", "1", &huge] {
        redis.ask(&["SET", KEY, foreign]);
        let verdict = take(&instance, &rates, 1);
        assert_eq!(
            (verdict.admitted, verdict.remaining()),
            (true, 9),
            "{foreign:?}"
        );
        assert_eq!(take(&instance, &rates, 1).remaining(), 8, "{foreign:?}");
    }
    for command in [["RPUSH", KEY, "x"], ["SADD", KEY, "x"]] {
        redis.ask(&["DEL", KEY]);
        redis.ask(&command);
        assert_eq!(take(&instance, &rates, 1).remaining(), 9, "{command:?}");
    }
    // A debt that no request can have made is cut to the greatest there is.
    let now = redis.ask(&["TIME"]);
    let (seconds, _) = now.split_once('\n').unwrap();
    redis.ask(&["SET", KEY, &format!("{seconds}000000 {huge}")]);
    let refused = take(&instance, &rates, 1);
    assert!(!refused.admitted && refused.reset() <= Duration::from_secs(2_000_000));
    redis.ask(&["DEL", "ratelimit:instances"]);
    redis.ask(&["SET", "ratelimit:instances", "x"]);
    eventually("instances are counted again", || {
        redis.ask(&["TYPE", "ratelimit:instances"]) == "zset"
    });
}

#[test]
fn a_clock_that_was_set_back_shuts_nobody_out() {
    let redis = Redis::start();
    let instance = Instance::start(&redis, PATIENT);
    let rates = [rate(10, 1, 10)];
    let now = redis.ask(&["TIME"]);
    let later = now.split_once('\n').unwrap().0.parse::<u64>().unwrap() + 86_400;
    redis.ask(&["SET", KEY, &format!("{later}000000 500000000")]);
    let verdict = take(&instance, &rates, 1);
    assert_eq!((verdict.admitted, verdict.remaining()), (true, 4));
    eventually("it flows back", || {
        take(&instance, &rates, 0).remaining() == 10
    });
    // Not even who had nothing left.
    redis.ask(&["SET", KEY, &format!("{later}000000 1000000000")]);
    assert!(!take(&instance, &rates, 1).admitted);
    eventually("there is something again", || {
        take(&instance, &rates, 1).admitted
    });
}

#[test]
fn an_instance_that_ends_does_not_count_for_long() {
    let redis = Redis::start();
    let mut instances = Instance::several(&redis, 2);
    assert_eq!(redis.ask(&["ZCARD", "ratelimit:instances"]), "2");
    instances.pop();
    eventually("one is left", || instances[0].shared.instances() == 1);
}

#[test]
fn a_thousand_questions_at_once_are_few_commands() {
    let redis = Redis::start();
    let instance = Instance::start(&redis, PATIENT);
    let rates = [still(10)];
    let keys: Vec<_> = (0..500).map(|n| format!("ratelimit:a:{n}")).collect();
    // From now on the server knows the script: pipelines that meet it for the first time would each tell it.
    take(&instance, &rates, 1);
    let (before, told) = (calls(&redis, "evalsha"), calls(&redis, "eval"));
    // There is enough for one of two.
    let cost = |n: usize| 6 + n as u64 % 5;
    let asked = (0..1000).map(|n| instance.take(&keys[n / 2], &rates, cost(n / 2)));
    let verdicts = run(join_all(asked));
    for (n, two) in verdicts.chunks(2).enumerate() {
        let mut two: Vec<_> = two.iter().map(|one| one.unwrap()).collect();
        two.sort_by_key(|one| one.admitted);
        let said = two.iter().map(|one| (one.admitted, one.remaining()));
        let left = 10 - cost(n);
        assert!(said.eq([(false, left), (true, left)]), "{two:?}");
    }
    assert!(calls(&redis, "evalsha") - before < 500);
    assert_eq!(calls(&redis, "eval"), told);
}

#[test]
fn a_server_that_forgot_the_scripts_is_told_them_again() {
    let redis = Redis::start();
    let instance = Instance::start(&redis, PATIENT);
    let rates = [still(10)];
    assert_eq!(take(&instance, &rates, 1).remaining(), 9);
    redis.ask(&["SCRIPT", "FLUSH"]);
    // Of two keys, in several commands.
    let keys = [KEY, "ratelimit:per-user:bob"];
    let rates = [still(1000)];
    let asked = (0..400).map(|turn| instance.take(keys[turn % 2], &rates, 1));
    let verdicts = run(join_all(asked));
    assert!(verdicts.iter().all(|verdict| verdict.unwrap().admitted));
    let left = keys.map(|key| run(instance.take(key, &rates, 0)).unwrap().remaining());
    assert_eq!(left, [799, 800], "each counts once");
}
