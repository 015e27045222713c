//! The breaker over time, which is passed in.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a failed step is a failed test"
)]

use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn policy() -> model::CircuitBreaker {
    model::CircuitBreaker {
        failure_threshold: 3,
        error_rate: 0.5,
        minimum_requests: 10,
        window: 10 * SECOND,
        first_timeout: 30 * SECOND,
        timeout: 30 * SECOND,
        success_threshold: 2,
        half_open_requests: 1,
        failure_on: model::FailureOn {
            statuses: vec![(502, 504)],
            errors: true,
            timeouts: true,
            slower_than: None,
        },
    }
}

fn breaker(now: Instant) -> (Breaker, Arc<Mutex<Vec<Change>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&heard);
    let tell = move |change: &Change| into.lock().expect("a lock").push(*change);
    (Breaker::new(now, Box::new(tell)), heard)
}

/// A request that is let in and ends at once.
fn request(breaker: &Breaker, good: bool, now: Instant) -> bool {
    match breaker.admit(Some(&policy()), now) {
        Ok(pass) => {
            breaker.settle(&policy(), pass, good, now);
            true
        }
        Err(_) => false,
    }
}

fn state(breaker: &Breaker, now: Instant) -> State {
    breaker.standing(now).state
}

/// Opened by three failures.
fn opened(now: Instant) -> (Breaker, Arc<Mutex<Vec<Change>>>) {
    let (breaker, heard) = breaker(now);
    assert!((0..3).all(|_| request(&breaker, false, now)));
    assert_eq!(state(&breaker, now), State::Open);
    (breaker, heard)
}

#[test]
fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
    let now = Instant::now();
    let (breaker, heard) = breaker(now);
    for good in [false, false, true, false, false] {
        assert!(request(&breaker, good, now));
    }
    assert_eq!(state(&breaker, now), State::Closed);
    assert!(request(&breaker, false, now));
    let change = heard.lock().unwrap()[0];
    assert_eq!((change.to, change.why), (State::Open, Why::Failures(3)));
    let refused = breaker.admit(Some(&policy()), now).expect_err("it is open");
    assert!(refused.retry_after >= 27 * SECOND && refused.retry_after <= 33 * SECOND);
    assert!(!request(&breaker, true, now + 26 * SECOND));
}

#[test]
fn half_of_the_requests_open_it_once_there_are_enough() {
    let now = Instant::now();
    let (breaker, heard) = breaker(now);
    for _ in 0..4 {
        assert!(request(&breaker, true, now) && request(&breaker, false, now));
    }
    assert_eq!(state(&breaker, now), State::Closed, "eight are too few");
    assert!(request(&breaker, true, now) && request(&breaker, false, now));
    assert_eq!(heard.lock().unwrap()[0].why, Why::ErrorRate(5, 10));
}

#[test]
fn what_is_older_than_the_window_opens_nothing() {
    let now = Instant::now();
    let (breaker, _) = breaker(now);
    for second in 0..60 {
        let now = now + second * SECOND / 2;
        // Every other one fails, but there are not ten in ten seconds that count.
        if second % 3 == 0 {
            assert!(request(&breaker, second % 2 == 0, now));
        }
    }
    assert_eq!(breaker.standing(now).opened, 0);
}

#[test]
fn one_probe_at_a_time_goes_through_and_two_good_ones_close_it() {
    let now = Instant::now();
    let (breaker, heard) = opened(now);
    let later = now + 34 * SECOND;
    let probe = breaker.admit(Some(&policy()), later).unwrap();
    assert!(matches!(probe, Pass::Probe(_)));
    assert!(!request(&breaker, true, later), "there is a probe already");
    breaker.settle(&policy(), probe, true, later);
    assert_eq!(state(&breaker, later), State::HalfOpen);
    assert!(request(&breaker, true, later));
    assert_eq!(state(&breaker, later), State::Closed);
    let heard: Vec<_> = heard.lock().unwrap().iter().map(|c| c.to).collect();
    assert_eq!(heard, [State::Open, State::HalfOpen, State::Closed]);
    // It begins anew: what opened it is forgotten.
    assert!(request(&breaker, false, later) && request(&breaker, false, later));
    assert_eq!(state(&breaker, later), State::Closed);
}

#[test]
fn a_probe_that_fails_opens_it_again_and_one_that_is_lost_gives_its_place_back() {
    let now = Instant::now();
    let (breaker, heard) = opened(now);
    let later = now + 34 * SECOND;
    drop(breaker.admit(Some(&policy()), later).unwrap());
    assert_eq!(breaker.standing(later).probing, 0);
    assert!(request(&breaker, true, later), "its place is free again");
    assert!(request(&breaker, false, later));
    assert_eq!(state(&breaker, later), State::Open);
    assert_eq!(heard.lock().unwrap().last().unwrap().why, Why::ProbeFailed);
    assert!(!request(&breaker, true, later + 26 * SECOND));
    assert!(request(&breaker, true, later + 34 * SECOND));
}

#[test]
fn who_began_before_a_change_decides_nothing_after_it() {
    let now = Instant::now();
    let (breaker, _) = breaker(now);
    let early = |good: bool| (breaker.admit(Some(&policy()), now).unwrap(), good);
    let late = [early(true), early(true), early(false), early(false)];
    assert!((0..3).all(|_| request(&breaker, false, now)));
    let later = now + 34 * SECOND;
    breaker.tick(later);
    for (pass, good) in late {
        breaker.settle(&policy(), pass, good, later);
    }
    assert_eq!(state(&breaker, later), State::HalfOpen);
    // Nor does a probe of an earlier time.
    let stale = breaker.admit(Some(&policy()), later).unwrap();
    breaker.force(Some(true), later);
    breaker.force(None, later);
    breaker.settle(&policy(), stale, false, later);
    assert_eq!(state(&breaker, later), State::Closed);
    assert_eq!(breaker.standing(later).probing, 0);
}

#[test]
fn an_answer_that_is_broken_off_counts_by_its_share() {
    let now = Instant::now();
    let (breaker, _) = breaker(now);
    for _ in 0..10 {
        let Ok(Pass::Ordinary(generation)) = breaker.admit(Some(&policy()), now) else {
            panic!("it is closed");
        };
        let pass = Pass::Ordinary(generation);
        breaker.settle(&policy(), pass, true, now);
        breaker.broke_off(&policy(), generation, now);
    }
    assert_eq!(state(&breaker, now), State::Open);
}

#[test]
fn an_operator_holds_it_and_lets_it_go() {
    let now = Instant::now();
    let (breaker, _) = breaker(now);
    breaker.force(Some(true), now);
    let standing = breaker.standing(now + 3600 * SECOND);
    assert_eq!((standing.state, standing.forced), (State::Open, true));
    breaker.tick(now + 3600 * SECOND);
    breaker.recovered(SECOND, now + 3600 * SECOND);
    assert!(!request(&breaker, true, now + 3600 * SECOND));
    breaker.force(Some(false), now);
    assert!(
        (0..100).all(|_| request(&breaker, false, now)),
        "held closed"
    );
    breaker.force(None, now);
    assert!((0..3).all(|_| request(&breaker, false, now)));
    assert!(!request(&breaker, true, now), "left to itself");
    breaker.force(None, now);
    assert_eq!(state(&breaker, now), State::Open, "it was not held");
}

#[test]
fn it_is_half_open_when_its_time_is_over_or_a_backend_is_well() {
    let now = Instant::now();
    let (breaker, heard) = opened(now);
    breaker.tick(now + 26 * SECOND);
    assert_eq!(state(&breaker, now), State::Open);
    breaker.recovered(2 * SECOND, now + SECOND);
    assert_eq!(state(&breaker, now), State::Open, "that check began before");
    breaker.recovered(SECOND, now + SECOND);
    assert_eq!(state(&breaker, now), State::HalfOpen);
    assert!(request(&breaker, false, now + SECOND));
    breaker.tick(now + 40 * SECOND);
    let heard: Vec<_> = heard.lock().unwrap().iter().map(|c| c.why).collect();
    let wanted = [Why::HealthCheck, Why::ProbeFailed, Why::TimeOver];
    assert_eq!(heard[1..], wanted);
}

#[test]
fn a_probe_that_says_nothing_keeps_others_away_for_a_time_only() {
    let now = Instant::now();
    let (breaker, _) = opened(now);
    let later = now + 34 * SECOND;
    let endless = breaker.admit(Some(&policy()), later).unwrap();
    assert!(!request(&breaker, true, later + 9 * SECOND));
    let patient = later + 10 * SECOND;
    assert!(request(&breaker, true, patient) && request(&breaker, true, patient));
    assert_eq!(state(&breaker, patient), State::Closed);
    breaker.settle(&policy(), endless, false, patient);
    assert_eq!(state(&breaker, patient), State::Closed, "it is too late");
}

#[test]
fn a_probe_that_takes_long_counts_all_the_same() {
    let now = Instant::now();
    let (breaker, _) = opened(now);
    let mut at = now + 34 * SECOND;
    let mut slow = Vec::new();
    for _ in 0..2 {
        slow.extend(breaker.admit(Some(&policy()), at));
        at += 12 * SECOND;
    }
    assert_eq!(slow.len(), 2, "another one after ten seconds");
    for probe in slow {
        breaker.settle(&policy(), probe, true, at);
    }
    assert_eq!(state(&breaker, at), State::Closed);
}

#[test]
fn one_that_is_switched_off_is_never_open() {
    let now = Instant::now();
    let (breaker, _) = breaker(now);
    let admit = || breaker.admit(Some(&policy()), now);
    let early: Vec<_> = (0..5).filter_map(|_| admit().ok()).collect();
    breaker.switch_off(now);
    for pass in early {
        breaker.settle(&policy(), pass, false, now);
    }
    assert_eq!(state(&breaker, now), State::Closed);
    // A request that began with the old policy after that.
    let late: Vec<_> = (0..5).filter_map(|_| admit().ok()).collect();
    for pass in late {
        breaker.settle(&policy(), pass, false, now);
    }
    assert_eq!(state(&breaker, now), State::Open);
    breaker.keep_off(now);
    assert_eq!(state(&breaker, now), State::Closed);
    breaker.force(Some(true), now);
    breaker.keep_off(now);
    assert_eq!(state(&breaker, now), State::Open, "an operator wants it so");
}

#[test]
fn it_stays_open_longer_after_each_probe_that_fails() {
    let mut now = Instant::now();
    let (breaker, heard) = breaker(now);
    let mut policy = policy();
    policy.first_timeout = 2 * SECOND;
    for about in [2, 4, 8, 16, 30, 30] {
        while let Ok(pass) = breaker.admit(Some(&policy), now) {
            breaker.settle(&policy, pass, false, now);
        }
        let lasts = heard.lock().unwrap().last().unwrap().lasts.unwrap();
        let about = about * SECOND;
        assert!(
            lasts >= about * 9 / 10 && lasts <= about * 11 / 10,
            "{lasts:?}"
        );
        now += lasts + SECOND / 100;
    }
    for _ in 0..2 {
        let pass = breaker.admit(Some(&policy), now).unwrap();
        breaker.settle(&policy, pass, true, now);
    }
    while let Ok(pass) = breaker.admit(Some(&policy), now) {
        breaker.settle(&policy, pass, false, now);
    }
    let lasts = heard.lock().unwrap().last().unwrap().lasts.unwrap();
    assert!(lasts <= 3 * SECOND, "{lasts:?}");
}

#[test]
fn without_a_policy_only_an_operator_opens_it() {
    let now = Instant::now();
    let (breaker, _) = opened(now);
    breaker.switch_off(now);
    assert!(breaker.admit(None, now).is_ok());
    breaker.force(Some(true), now);
    breaker.switch_off(now);
    assert!(breaker.admit(None, now).is_err());
}

/// Something that happens to a breaker.
#[derive(Clone, Copy, Debug)]
enum Event {
    Begin,
    End(usize, bool),
    Lose(usize),
    Pass(u16),
    Tick,
    Recover,
    Force(Option<bool>),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => Just(Event::Begin),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(which, good)| Event::End(which, good)),
        2 => any::<usize>().prop_map(Event::Lose),
        2 => (0..40_000u16).prop_map(Event::Pass),
        1 => Just(Event::Tick),
        1 => Just(Event::Recover),
        1 => prop::option::of(any::<bool>()).prop_map(Event::Force),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_place_is_lost_whatever_the_order(events in prop::collection::vec(event(), 1..200)) {
        let mut policy = policy();
        policy.half_open_requests = 3;
        let mut now = Instant::now();
        let (breaker, _) = breaker(now);
        let mut under_way: Vec<Pass> = Vec::new();
        for event in events {
            match event {
                Event::Begin => under_way.extend(breaker.admit(Some(&policy), now)),
                Event::End(which, good) if !under_way.is_empty() => {
                    let pass = under_way.swap_remove(which % under_way.len());
                    breaker.settle(&policy, pass, good, now);
                }
                Event::Lose(which) if !under_way.is_empty() => {
                    drop(under_way.swap_remove(which % under_way.len()));
                }
                Event::Pass(millis) => now += Duration::from_millis(millis.into()),
                Event::Tick => breaker.tick(now),
                Event::Recover => {
                    breaker.recovered(Duration::ZERO, now);
                }
                Event::Force(open) => breaker.force(open, now),
                Event::End(..) | Event::Lose(_) => {}
            }
            let probes = |pass: &&Pass| matches!(pass, Pass::Probe(_));
            let held = under_way.iter().filter(probes).count() as u32;
            let standing = breaker.standing(now);
            prop_assert!(standing.probing <= policy.half_open_requests);
            prop_assert!(standing.probing <= held);
            prop_assert!(standing.state == State::HalfOpen || standing.probing == 0);
        }
        under_way.clear();
        prop_assert_eq!(breaker.standing(now).probing, 0);
        // And it closes again by itself once everything is well.
        breaker.force(Some(false), now);
        breaker.force(None, now);
        breaker.settle(&policy, breaker.admit(Some(&policy), now).unwrap(), true, now);
        prop_assert_eq!(breaker.standing(now).state, State::Closed);
    }
}
