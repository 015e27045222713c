//! Answers what rate limits ask of Redis, on the thread of the store.
//!
//! All questions that wait are sent together, and several such lots are on their way at the same time: the
//! more is asked, the less a question costs.

mod beat;
mod lend;
mod readiness;

use std::num::ParseIntError;
use std::sync::{Arc, LazyLock, Weak};
use std::time::Instant;

use tokio::sync::{Semaphore, mpsc};

use crate::config::model::MAX_WINDOWS;
use crate::filter::ratelimit::rate::Nanos;
use crate::filter::ratelimit::shared::{Answer, Question, Shared, Step};
use crate::metrics::{RedisCommand, RedisError};
use crate::store::{Call, Failure, Line, Script, Store, Told};

pub use self::readiness::watch as watch_readiness;

/// How many questions go together, which occupy Redis for two milliseconds or so.
const AT_ONCE: usize = 256;

/// How many such lots are on their way.
const IN_FLIGHT: usize = 16;

static COUNT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("count.lua")));

/// Answers from now on.
pub fn start(shared: &Arc<Shared>, store: &Arc<Store>) {
    if let Some(questions) = shared.questions() {
        // The store ends its work when it is dropped, which the work must not hinder.
        let weak = Arc::downgrade(store);
        let asking = Arc::clone(shared);
        store.spawn(async move { answer(questions, &asking, &weak).await });
        store.spawn(beat::keep(Arc::clone(shared), Arc::downgrade(store)));
        store.spawn(lend::keep(Arc::clone(shared), Arc::downgrade(store)));
    }
}

async fn answer(
    mut questions: mpsc::Receiver<Question>,
    shared: &Arc<Shared>,
    store: &Weak<Store>,
) {
    let places = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut asked = Vec::with_capacity(AT_ONCE);
    // The semaphore is never closed.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        if questions.recv_many(&mut asked, AT_ONCE).await == 0 {
            return;
        }
        let Some(store) = store.upgrade() else { return };
        let shared = Arc::clone(shared);
        let mut asked = std::mem::replace(&mut asked, Vec::with_capacity(AT_ONCE));
        tokio::spawn(async move {
            asked.retain(|question| !question.is_abandoned());
            if !asked.is_empty() {
                count(&store, &shared, asked).await;
            }
            drop(place);
        });
    }
}

async fn count(store: &Store, shared: &Shared, asked: Vec<Question>) {
    let calls = asked.iter().map(|question| Call {
        key: &question.key,
        line: Counted(question),
    });
    let calls: Vec<_> = calls.collect();
    let answers = store
        .run(RedisCommand::RateLimit, &COUNT, &calls, read)
        .await;
    drop(calls);
    let (mut in_time, mut failed) = (0, None);
    for (question, answer) in asked.into_iter().zip(answers) {
        match told(question, answer) {
            Ok(came_in_time) => in_time += u32::from(came_in_time),
            Err(why) => failed = failed.or(why),
        }
    }
    // One server of a Cluster that is away is no outage of the others, and however many asked it, it
    // failed once.
    match failed {
        _ if in_time > 0 => shared.answered(in_time, Instant::now()),
        Some(why) => shared.failed(why, Instant::now()),
        None => {}
    }
}

/// Hands an answer over, and says whether it came in time. An error: there was none, and why, unless
/// nobody waits any longer, who has said so.
fn told(question: Question, answer: Result<Answer, Failure>) -> Result<bool, Option<RedisError>> {
    match answer {
        Ok(answer) => Ok(question.answer(Ok(answer))),
        Err(Failure { kind, .. }) => Err(question.answer(Err(kind)).then_some(kind)),
    }
}

fn read(line: &str) -> Option<Answer> {
    let mut numbers = line.split(' ').map(str::parse);
    Some(Answer {
        admitted: numbers.next()?.ok()? == 1,
        debts: debts(numbers)?,
    })
}

/// What the rest of an answer says of the windows.
fn debts(
    numbers: impl Iterator<Item = Result<Nanos, ParseIntError>>,
) -> Option<[Nanos; MAX_WINDOWS]> {
    let mut debts = [0; MAX_WINDOWS];
    for (place, debt) in debts.iter_mut().zip(numbers) {
        *place = debt.ok()?;
    }
    Some(debts)
}

/// A question as the script is told it.
struct Counted<'a>(&'a Question);

impl Told for Counted<'_> {
    fn tell(&self, line: &mut Line) {
        line.word(self.0.action.as_str());
        self.0.steps.iter().for_each(|step| step.tell(line));
    }
}

impl Told for Step {
    fn tell(&self, line: &mut Line) {
        for number in [self.step, self.depth, self.most] {
            line.number(number);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_decision_and_what_the_windows_owe() {
        let answer = read("1 500 18446744073709551615").unwrap();
        assert!(answer.admitted);
        assert_eq!(answer.debts[..3], [500, u64::MAX, 0]);
        assert!(!read("0 500").unwrap().admitted);
        for line in ["", "x", "1 x", "1 -1", "1 5e3", "1  5"] {
            assert_eq!(read(line), None, "{line}");
        }
    }
}
