//! Answers what rate limits ask of Redis, on the thread of the store.

mod beat;
mod lanes;
mod lend;
mod readiness;

use std::num::ParseIntError;
use std::sync::{Arc, LazyLock, Weak};
use std::time::Instant;

use tokio::sync::mpsc;

use self::lanes::{AT_ONCE, Lanes};
use crate::config::model::MAX_WINDOWS;
use crate::filter::ratelimit::rate::Nanos;
use crate::filter::ratelimit::shared::{Answer, MAX_QUESTIONS, Question, Server, Shared, Step};
use crate::metrics::{RedisCommand, RedisError};
use crate::store::{Call, Failure, Line, Script, Store, Told};

pub use self::readiness::watch as watch_readiness;

static COUNT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("count.lua")));

/// Answers from now on.
pub fn start(shared: &Arc<Shared>, store: &Arc<Store>) {
    if let Some(questions) = shared.questions() {
        // The store ends its work when it is dropped, which the work must not hinder.
        let weak = Arc::downgrade(store);
        shared.set_owner(move |key| {
            let store = weak.upgrade();
            let (number, of) = store.map_or((0, 1), |store| store.owner(key));
            Server { number, of }
        });
        let weak = || Arc::downgrade(store);
        store.spawn(answer(questions, Arc::clone(shared), weak()));
        store.spawn(beat::keep(Arc::clone(shared), weak()));
        store.spawn(lend::keep(Arc::clone(shared), weak()));
    }
}

async fn answer(mut questions: mpsc::Receiver<Question>, shared: Arc<Shared>, store: Weak<Store>) {
    let asking = Arc::clone(&shared);
    let mut lanes = Lanes::new(MAX_QUESTIONS, move |asked| {
        count(store.clone(), Arc::clone(&asking), asked)
    });
    let mut asked = Vec::with_capacity(AT_ONCE);
    while questions.recv_many(&mut asked, AT_ONCE).await > 0 {
        for question in asked.drain(..) {
            let server = shared.server(&question.key);
            // Where there is no room it is dropped, which whoever asks sees at once.
            let _dropped = lanes.put(server.number, question);
        }
    }
}

async fn count(store: Weak<Store>, shared: Arc<Shared>, mut asked: Vec<Question>) {
    asked.retain(|question| !question.is_abandoned());
    let (Some(store), Some(first)) = (store.upgrade(), asked.first()) else {
        return;
    };
    let server = shared.server(&first.key);
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
    // However many asked the server, it failed once.
    match failed {
        _ if in_time > 0 => shared.answered(server, in_time, Instant::now()),
        Some(why) => shared.failed(server, why, Instant::now()),
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
