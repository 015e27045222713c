//! Answers what rate limits ask of Redis, on the thread of the store.
//!
//! All questions that wait are sent as one pipeline, and several pipelines are on their way at the same
//! time: the more is asked, the less a question costs.

mod beat;
mod lend;
mod readiness;

use std::sync::{Arc, LazyLock, Weak};
use std::time::Instant;

use redis::{RedisWrite, ToRedisArgs};
use tokio::sync::{Semaphore, mpsc};

use crate::filter::ratelimit::shared::{Answer, Question, Shared};
use crate::metrics::{RedisCommand, RedisError};
use crate::store::{Call, Failure, Script, Store};

pub use self::readiness::watch as watch_readiness;

/// How many questions make a pipeline, which occupies Redis for two milliseconds or so.
const AT_ONCE: usize = 256;

/// How many pipelines are on their way.
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
        arguments: Counted(question),
    });
    let calls: Vec<_> = calls.collect();
    let answers = store
        .run::<Vec<u64>, _>(RedisCommand::RateLimit, &COUNT, &calls)
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
fn told(question: Question, answer: Result<Vec<u64>, Failure>) -> Result<bool, Option<RedisError>> {
    let why = match answer.map(read) {
        Ok(Some(answer)) => return Ok(question.answer(Ok(answer))),
        Ok(None) => RedisError::Protocol,
        Err(failure) => failure.kind,
    };
    Err(question.answer(Err(why)).then_some(why))
}

fn read(numbers: Vec<u64>) -> Option<Answer> {
    let (admitted, debts) = numbers.split_first()?;
    let mut answer = Answer {
        admitted: *admitted == 1,
        ..Answer::default()
    };
    for (place, debt) in answer.debts.iter_mut().zip(debts) {
        *place = *debt;
    }
    Some(answer)
}

/// A question as the script is told it.
struct Counted<'a>(&'a Question);

impl ToRedisArgs for Counted<'_> {
    fn write_redis_args<W: RedisWrite + ?Sized>(&self, out: &mut W) {
        out.write_arg(self.0.action.as_str().as_bytes());
        let mut digits = itoa::Buffer::new();
        for step in self.0.steps.iter() {
            for number in [step.step, step.depth, step.most] {
                out.write_arg(digits.format(number).as_bytes());
            }
        }
    }
}
