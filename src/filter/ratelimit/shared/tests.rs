//! Asking, with somebody in the place of the store.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use super::*;
use crate::config::model::{MAX_WINDOWS, Window};

/// Long enough for any machine.
const PATIENT: Duration = Duration::from_secs(60);

fn run<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().unwrap().block_on(future)
}

fn rates() -> [Rate; 1] {
    [Rate::new(Window {
        limit: 10,
        period: Duration::from_secs(1),
        burst: 10,
    })]
}

fn until(patience: Duration) -> Instant {
    Instant::now() + patience
}

#[test]
fn an_answer_becomes_a_verdict() {
    let shared = Shared::default();
    let mut questions = shared.questions().unwrap();
    let rates = rates();
    run(async {
        let asked = shared.take("ratelimit:a:b", &rates, 2, until(PATIENT));
        let answered = async {
            let question = questions.recv().await.unwrap();
            assert_eq!(question.key, "ratelimit:a:b");
            assert_eq!(question.action, Action::Take);
            let steps: Vec<_> = question.steps.iter().map(|step| step.step).collect();
            assert_eq!(steps, [200_000_000]);
            let mut debts = [0; MAX_WINDOWS];
            debts[0] = 500_000_000;
            let admitted = true;
            assert!(question.answer(Ok(Answer { admitted, debts })));
        };
        let (verdict, ()) = tokio::join!(asked, answered);
        assert_eq!(verdict.unwrap().remaining(), 5);
    });
}

#[test]
fn a_late_answer_is_not_waited_for() {
    let shared = Shared::default();
    let mut questions = shared.questions().unwrap();
    let rates = rates();
    run(async {
        let late = shared.take("a", &rates, 1, Instant::now()).await;
        assert_eq!(late.unwrap_err(), Unanswered::Late);
        let question = questions.recv().await.unwrap();
        assert!(question.is_abandoned());
        assert!(!question.answer(Err(RedisError::Io)));
    });
}

#[test]
fn a_store_that_is_down_is_not_asked_and_a_few_ask_when_it_is_back() {
    let shared = Shared::default();
    let _questions = shared.questions();
    let rates = rates();
    let now = Instant::now();
    for _ in 0..3 {
        assert!(shared.is_answering());
        shared.failed(Server::ONLY, RedisError::ReadOnly, now);
    }
    assert!(!shared.is_answering());
    run(async {
        shared.fell().await;
        let refused = shared.take("a", &rates, 1, until(PATIENT)).await;
        assert_eq!(refused.unwrap_err(), Unanswered::Down);
        assert!(shared.probe().is_some());
        shared.probed(Server::ONLY, true, now);
        assert!(shared.is_answering());
        let mut places = Vec::new();
        while let Ok(place) = shared.enter() {
            places.push(place);
        }
        assert_eq!(places.len(), 16);
        drop(places);
        assert_eq!(shared.waiting.load(Relaxed), 0);
    });
}

#[test]
fn nobody_to_answer_and_no_room_are_told_at_once() {
    let rates = rates();
    let shared = Shared::default();
    drop(shared.questions());
    let refused = run(shared.take("a", &rates, 1, until(PATIENT)));
    assert_eq!(refused.unwrap_err(), Unanswered::Busy);
    let shared = Shared::default();
    let mut questions = shared.questions().unwrap();
    shared.charge("a", &rates, 0);
    for _ in 0..MAX_QUESTIONS + 1 {
        shared.charge("a", &rates, 1);
    }
    let refused = run(shared.take("a", &rates, 1, until(PATIENT)));
    assert_eq!(refused.unwrap_err(), Unanswered::Busy);
    assert_eq!(questions.len(), MAX_QUESTIONS);
    let charged = questions.try_recv().unwrap();
    assert_eq!(charged.action, Action::Charge);
    assert!(!charged.is_abandoned());
    shared.give_back("a", &rates, 1);
    assert_eq!(questions.len(), MAX_QUESTIONS);
}

#[test]
fn each_instance_has_a_name_of_its_own() {
    let (one, other) = (Shared::default(), Shared::default());
    assert_eq!(one.name().len(), 32);
    assert_ne!(one.name(), other.name());
    one.counted(3);
    assert_eq!(one.instances(), 3);
}
