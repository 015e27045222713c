//! Ejections over time, which is passed in.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a failed step is a failed test"
)]

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn policy() -> model::Outlier {
    model::Outlier {
        consecutive_failures: 3,
        consecutive_5xx: 0,
        failure_rate: 0.0,
        slow_factor: 0,
        slow_at_least: SECOND,
        minimum_requests: 20,
        window: 10 * SECOND,
        base_ejection: 10 * SECOND,
        max_ejection: 30 * SECOND,
        max_ejected: 0.5,
    }
}

fn answer(outlier: &Outlier, now: Instant) -> Learned {
    let pass = outlier.admit(now);
    assert!(pass.is_some(), "there is room");
    let learned = outlier.answered(&policy(), pass.as_ref(), false);
    assert_eq!(learned, Learned::Nothing);
    outlier.completed(pass, now)
}

fn fail(outlier: &Outlier, now: Instant) -> Learned {
    let pass = outlier.admit(now);
    assert!(pass.is_some(), "there is room");
    outlier.failed(&policy(), Failed::Unanswered(pass))
}

/// The time of an ejection, which is within a tenth of this.
#[track_caller]
fn assert_lasts(time: Option<Duration>, about: Duration) -> Duration {
    let time = time.expect("it is ejected");
    assert!(
        time >= about * 9 / 10 && time <= about * 11 / 10,
        "{time:?}"
    );
    time
}

#[test]
fn failures_in_a_row_eject_and_an_answer_starts_over() {
    let now = Instant::now();
    let outlier = Outlier::new(now);
    assert_eq!(fail(&outlier, now), Learned::Nothing);
    assert_eq!(fail(&outlier, now), Learned::Nothing);
    assert_eq!(answer(&outlier, now), Learned::Nothing);
    assert_eq!(fail(&outlier, now), Learned::Nothing);
    assert_eq!(fail(&outlier, now), Learned::Nothing);
    assert_eq!(fail(&outlier, now), Learned::Bad(Ejection::Failures(3)));
}

#[test]
fn answers_that_are_broken_off_count_for_themselves() {
    let now = Instant::now();
    let outlier = Outlier::new(now);
    let break_off = || {
        let pass = outlier.admit(now);
        outlier.answered(&policy(), pass.as_ref(), false);
        outlier.failed(&policy(), Failed::BrokenOff(pass))
    };
    assert_eq!(break_off(), Learned::Nothing);
    answer(&outlier, now);
    assert_eq!(break_off(), Learned::Nothing);
    assert_eq!(break_off(), Learned::Nothing);
    assert_eq!(break_off(), Learned::Bad(Ejection::Failures(3)));
}

#[test]
fn server_errors_in_a_row_eject_if_wanted() {
    let now = Instant::now();
    let outlier = Outlier::new(now);
    let wanted = model::Outlier {
        consecutive_5xx: 2,
        ..policy()
    };
    let error =
        |policy: &model::Outlier| outlier.answered(policy, outlier.admit(now).as_ref(), true);
    assert_eq!(error(&wanted), Learned::Nothing);
    assert_eq!(answer(&outlier, now), Learned::Nothing);
    assert_eq!(error(&wanted), Learned::Nothing);
    assert_eq!(error(&wanted), Learned::Bad(Ejection::ServerErrors(2)));
    assert_eq!(error(&policy()), Learned::Nothing);
}

#[test]
fn who_returns_has_to_show_that_it_is_well() {
    let now = Instant::now();
    let outlier = Outlier::new(now);
    let time = assert_lasts(outlier.eject(&policy(), false, now), 10 * SECOND);
    assert!(!outlier.has_room(now) && outlier.admit(now).is_none());
    assert_eq!(
        outlier.eject(&policy(), false, now),
        None,
        "it is out already"
    );
    let back = now + time + SECOND / 100;
    assert!(outlier.ejected_until(back).is_none());
    assert_eq!(outlier.state(back), State::HalfOpen);
    let first = outlier.admit(back);
    assert!(!outlier.has_room(back), "one at a time");
    assert_eq!(outlier.completed(first, back), Learned::Nothing);
    assert_eq!(answer(&outlier, back), Learned::Well);
    assert_eq!(outlier.state(back), State::Closed);
}

#[test]
fn a_further_ejection_is_longer_and_time_that_is_well_makes_it_shorter_again() {
    let mut now = Instant::now();
    let outlier = Outlier::new(now);
    for about in [10, 20, 30, 30] {
        now += assert_lasts(outlier.eject(&policy(), false, now), about * SECOND) + SECOND / 100;
        assert_eq!(fail(&outlier, now), Learned::Bad(Ejection::Probe));
    }
    // One success does not make up for all of it.
    now += assert_lasts(outlier.eject(&policy(), false, now), 30 * SECOND) + SECOND / 100;
    answer(&outlier, now);
    answer(&outlier, now);
    now += assert_lasts(outlier.eject(&policy(), false, now), 30 * SECOND);
    now += 51 * SECOND;
    answer(&outlier, now);
    answer(&outlier, now);
    now += assert_lasts(outlier.eject(&policy(), false, now), 20 * SECOND);
    now += 3600 * SECOND;
    answer(&outlier, now);
    answer(&outlier, now);
    assert_lasts(outlier.eject(&policy(), false, now), 10 * SECOND);
}

#[test]
fn what_began_before_an_ejection_says_nothing_after_it() {
    let now = Instant::now();
    let outlier = Outlier::new(now);
    let early: Vec<_> = (0..3).map(|_| outlier.admit(now)).collect();
    let time = assert_lasts(outlier.eject(&policy(), false, now), 10 * SECOND);
    let back = now + time + SECOND / 100;
    answer(&outlier, back);
    for pass in early {
        let failed = Failed::Unanswered(pass);
        assert_eq!(outlier.failed(&policy(), failed), Learned::Nothing);
    }
    assert_eq!(answer(&outlier, back), Learned::Well);
}

#[test]
fn a_guest_that_is_answered_ends_the_ejection() {
    let now = Instant::now();
    let outlier = Outlier::new(now);
    assert_lasts(outlier.eject(&policy(), false, now), 10 * SECOND);
    let failed = Failed::Unanswered(None);
    assert_eq!(outlier.failed(&policy(), failed), Learned::Nothing);
    assert_eq!(outlier.state(now), State::Open);
    assert_eq!(outlier.completed(None, now), Learned::Returns);
    assert_eq!(outlier.state(now), State::HalfOpen);
    assert_eq!(outlier.completed(None, now), Learned::Nothing);
}

#[test]
fn answers_that_go_on_bring_it_back() {
    let now = Instant::now();
    let outlier = Outlier::new(now);
    let time = assert_lasts(outlier.eject(&policy(), false, now), 10 * SECOND);
    let mut at = now + time + SECOND / 100;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let probe = outlier.admit(at);
        assert_eq!(
            outlier.answered(&policy(), probe.as_ref(), false),
            Learned::Nothing
        );
        assert!(!outlier.has_room(at), "one at a time");
        streams.push(probe);
        at += 10 * SECOND;
    }
    assert!(!outlier.has_come_back());
    assert!(matches!(outlier.admit(at), Some(Pass::Ordinary(_))));
    assert_eq!(outlier.state(at), State::Closed);
    assert!(outlier.has_come_back() && !outlier.has_come_back());
    // What becomes of them then says nothing more than other answers do.
    for stream in streams {
        let broken = outlier.failed(&policy(), Failed::BrokenOff(stream));
        assert_eq!(broken, Learned::Nothing);
    }
}

#[test]
fn a_probe_without_an_answer_brings_nobody_back() {
    let now = Instant::now();
    let outlier = Outlier::new(now);
    let time = assert_lasts(outlier.eject(&policy(), false, now), 10 * SECOND);
    let mut at = now + time + SECOND / 100;
    let mut silent = Vec::new();
    for _ in 0..5 {
        silent.extend(outlier.admit(at));
        at += 10 * SECOND;
    }
    assert_eq!((silent.len(), outlier.state(at)), (5, State::HalfOpen));
    // What is late counts.
    for probe in silent.drain(3..) {
        let late = Some(probe);
        outlier.answered(&policy(), late.as_ref(), false);
        outlier.completed(late, at);
    }
    assert_eq!(outlier.state(at), State::Closed);
    // And one of before decides nothing any more.
    for probe in silent {
        let failed = Failed::Unanswered(Some(probe));
        assert_eq!(outlier.failed(&policy(), failed), Learned::Nothing);
    }
}

#[test]
fn an_answer_that_breaks_off_shows_nobody_to_be_well() {
    let now = Instant::now();
    let outlier = Outlier::new(now);
    let time = assert_lasts(outlier.eject(&policy(), false, now), 10 * SECOND);
    let back = now + time + SECOND / 100;
    let pass = outlier.admit(back);
    outlier.answered(&policy(), pass.as_ref(), false);
    let broken = outlier.failed(&policy(), Failed::BrokenOff(pass));
    assert_eq!(broken, Learned::Bad(Ejection::Probe));
}

#[test]
fn who_hangs_takes_no_guests_and_others_one_at_a_time() {
    let now = Instant::now();
    let outlier = Outlier::new(now);
    outlier.eject(&policy(), false, now);
    assert!(outlier.takes_guests());
    outlier.count_guest(true);
    assert!(!outlier.takes_guests());
    outlier.count_guest(false);
    let back = now + 12 * SECOND;
    outlier.eject(&policy(), true, back);
    assert!(!outlier.takes_guests());
}

#[test]
fn an_ejection_for_slowness_is_found_by_the_word_latency() {
    let (own, others) = (Duration::from_millis(812), Duration::from_millis(40));
    let slow = Ejection::Slow(own, others).to_string();
    let expected = "half of its answers have a latency of 812ms and more, 40ms at the others";
    assert_eq!(slow, expected);
    assert!(Ejection::Stalled.to_string().contains("latency"));
    assert!(!Ejection::Failures(5).to_string().contains("latency"));
}
