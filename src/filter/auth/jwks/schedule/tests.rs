//! Schedules, with time passed in.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn config() -> JwksUrl {
    JwksUrl {
        url: http::Uri::from_static("http://127.0.0.1/keys"),
        authorities: None,
        refresh: 300 * SECOND,
        min_refresh: 10 * SECOND,
        max_refresh: 3600 * SECOND,
        max_stale: 86_400 * SECOND,
        unknown_key_cooldown: 10 * SECOND,
        timeout: 5 * SECOND,
        max_bytes: 1 << 20,
        cache_dir: None,
    }
}

fn fetched(now: Instant) -> Schedule {
    let mut schedule = Schedule::new(&config(), now);
    schedule.begin();
    schedule.succeeded(None, true, now, 0.0);
    schedule
}

#[test]
fn a_response_decides_within_bounds_when_the_next_fetch_is_due() {
    let now = Instant::now();
    let due = |lifetime: Option<u64>, chance| {
        let mut schedule = Schedule::new(&config(), now);
        schedule.begin();
        schedule.succeeded(lifetime.map(Duration::from_secs), true, now, chance);
        (schedule.due() - now).as_secs()
    };
    assert_eq!(due(None, 0.0), 300);
    assert_eq!(due(Some(600), 0.0), 600);
    assert_eq!(due(Some(600), 1.0), 540, "early rather than late");
    assert_eq!(due(Some(0), 1.0), 10, "never below the shortest time");
    assert_eq!(due(Some(u64::MAX), 0.0), 3600);
}

#[test]
fn keys_are_asked_for_again_well_before_they_are_too_old() {
    let now = Instant::now();
    let mut config = config();
    config.max_stale = 100 * SECOND;
    let mut schedule = Schedule::new(&config, now);
    schedule.begin();
    schedule.succeeded(None, true, now, 0.0);
    assert_eq!(schedule.due() - now, 50 * SECOND);
}

#[test]
fn waits_after_failures_grow_to_a_bound_and_are_spread() {
    let now = Instant::now();
    let mut schedule = Schedule::new(&config(), now);
    let mut longest = Vec::new();
    for _ in 0..9 {
        let mut lucky = schedule.clone();
        lucky.failed(now, 0.0);
        assert_eq!(lucky.due() - now, RETRY_MIN);
        schedule.begin();
        schedule.failed(now, 1.0);
        longest.push((schedule.due() - now).as_secs());
    }
    assert_eq!(longest, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    schedule.begin();
    schedule.succeeded(None, false, now, 0.0);
    assert_eq!(schedule.failures(), 0);
}

#[test]
fn keys_outlive_failures_until_they_are_too_old() {
    let now = Instant::now();
    let mut schedule = fetched(now);
    for second in [1, 1000, 86_399] {
        schedule.begin();
        schedule.failed(now + second * SECOND, 0.5);
        assert!(!schedule.expire(now + second * SECOND));
    }
    assert!(schedule.expire(now + 86_400 * SECOND));
    assert!(!schedule.expire(now + 86_401 * SECOND), "told once");
    assert_eq!(schedule.unknown_key(now), Demand::Refused);
}

#[test]
fn kept_keys_count_from_when_they_were_fetched() {
    let now = Instant::now();
    let mut schedule = Schedule::new(&config(), now);
    assert!(!schedule.restore(86_400 * SECOND, now));
    assert!(schedule.restore(86_000 * SECOND, now));
    assert!(schedule.is_due(now), "they are asked for again at once");
    assert!(!schedule.expire(now + 399 * SECOND));
    assert!(schedule.expire(now + 400 * SECOND));
}

#[test]
fn an_unknown_key_asks_for_one_fetch_in_each_cooldown() {
    let now = Instant::now();
    let mut schedule = fetched(now);
    let later = now + 5 * SECOND;
    assert!(!schedule.is_due(later));
    for _ in 0..1000 {
        assert_eq!(schedule.unknown_key(later), Demand::Wait(2));
    }
    assert!(schedule.is_due(later));
    schedule.begin();
    assert!(!schedule.is_due(later), "one at a time");
    assert_eq!(
        schedule.unknown_key(later),
        Demand::Wait(2),
        "it began after the first was asked"
    );
    schedule.succeeded(None, false, later, 0.0);
    for second in 0..10 {
        let now = later + second * SECOND;
        assert_eq!(schedule.unknown_key(now), Demand::Refused);
        assert!(!schedule.is_due(now));
    }
    assert_eq!(schedule.unknown_key(later + 10 * SECOND), Demand::Wait(3));
}

#[test]
fn a_fetch_under_way_may_have_begun_too_early_so_another_follows() {
    let now = Instant::now();
    let mut schedule = fetched(now);
    let later = now + 300 * SECOND;
    schedule.begin();
    assert_eq!(schedule.unknown_key(later), Demand::Wait(3));
    assert_eq!(schedule.unknown_key(later), Demand::Wait(3));
    assert!(!schedule.is_due(later), "one at a time");
    schedule.succeeded(None, false, later, 0.0);
    assert_eq!(schedule.finished(), 2);
    assert!(schedule.is_due(later));
    schedule.begin();
    schedule.failed(later, 0.0);
    assert!(!schedule.is_due(later), "and no third one");
}

#[test]
fn who_comes_just_after_other_keys_looks_again() {
    let now = Instant::now();
    let mut schedule = fetched(now);
    assert_eq!(schedule.unknown_key(now), Demand::Wait(2));
    schedule.begin();
    schedule.succeeded(None, true, now, 0.0);
    assert_eq!(schedule.unknown_key(now), Demand::LookAgain);
    assert_eq!(schedule.unknown_key(now + SECOND), Demand::Refused);
}

#[test]
fn only_the_first_fetch_is_waited_for_without_keys() {
    let now = Instant::now();
    let mut schedule = Schedule::new(&config(), now);
    assert_eq!(schedule.without_keys(), Demand::Wait(1));
    assert_eq!(schedule.unknown_key(now), Demand::Wait(1));
    schedule.begin();
    assert_eq!(schedule.without_keys(), Demand::Wait(1));
    schedule.failed(now, 0.0);
    assert_eq!(schedule.without_keys(), Demand::Refused);
    schedule.begin();
    assert_eq!(schedule.without_keys(), Demand::Refused);
    schedule.succeeded(None, true, now, 0.0);
    assert_eq!(schedule.without_keys(), Demand::LookAgain);
}

#[test]
fn a_provider_that_takes_over_keeps_the_cooldown() {
    let now = Instant::now();
    let mut before = fetched(now);
    assert_eq!(before.unknown_key(now), Demand::Wait(2));
    let mut after = Schedule::new(&config(), now);
    after.succeed(&before);
    assert!(after.is_due(now));
    assert_eq!(after.unknown_key(now), Demand::Refused);
    assert!(after.expire(now + 86_400 * SECOND));
}
