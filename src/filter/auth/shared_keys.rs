//! API keys that others keep: who is asked about them, and what was answered a short while ago.
//!
//! A request hands its question over and waits for the answer within a bound. Requests with the same
//! key wait for one answer. Without an answer nobody is let in.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use foldhash::fast::RandomState;
use tokio::sync::{mpsc, watch};

use super::identity::Known;
use crate::metrics::AuthError;

/// How long a request waits, whatever the time that the store is given.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it is known whose a key is: a key that is taken back is good for no longer.
const OWNED_FOR: Duration = Duration::from_secs(10);

/// How long it is known that a key is nobody's: a new key is not refused for longer.
const NOBODYS_FOR: Duration = Duration::from_secs(2);

/// How many questions may wait.
const MAX_QUESTIONS: usize = 1024;

/// How many keys are remembered, those included that are asked about.
const MOST: usize = 16 * 1024;

/// Apart, so that workers seldom wait for each other.
const SHARDS: usize = 16;

/// The SHA-256 of a key.
pub type KeyHash = [u8; 32];

/// Whose a key is, if it is anybody's; or nobody could say.
pub type Answer = Result<Option<Arc<Known>>, Unanswered>;

/// Nobody could say whose a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered;

type Slots = HashMap<KeyHash, Slot, RandomState>;

/// What is known of a key.
enum Slot {
    /// It was asked about then.
    Asked(watch::Receiver<Option<Answer>>, SystemTime),
    /// It was answered then.
    Answered(Option<Arc<Known>>, SystemTime),
}

/// A question, to be answered elsewhere. Dropped, it counts as not answered.
pub struct Question {
    /// The key that is asked about.
    pub hash: KeyHash,
    answer: watch::Sender<Option<Answer>>,
}

impl Question {
    /// Answers it.
    pub fn answer(self, answer: Answer) {
        self.answer.send_replace(Some(answer));
    }
}

/// Asks, and remembers. One for all generations.
pub struct SharedKeys {
    shards: [Mutex<Slots>; SHARDS],
    questions: mpsc::Sender<Question>,
    /// Until somebody answers.
    unanswered: Mutex<Option<mpsc::Receiver<Question>>>,
}

impl Default for SharedKeys {
    fn default() -> Self {
        let (questions, unanswered) = mpsc::channel(MAX_QUESTIONS);
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            questions,
            unanswered: Mutex::new(Some(unanswered)),
        }
    }
}

impl SharedKeys {
    /// The questions, for the one who answers them.
    pub fn questions(&self) -> Option<mpsc::Receiver<Question>> {
        lock(&self.unanswered).take()
    }

    /// Whose the key is.
    pub async fn owner(&self, hash: &KeyHash, now: SystemTime) -> Result<Arc<Known>, AuthError> {
        let mut asked = match self.look(hash, now)? {
            Slot::Answered(owner, _) => return owner.ok_or(AuthError::UnknownKey),
            Slot::Asked(asked, _) => asked,
        };
        let answer = tokio::time::timeout(PATIENCE, asked.wait_for(Option::is_some)).await;
        let answer = match answer {
            Ok(Ok(answer)) => answer.clone(),
            // Nobody answers, or not in time.
            _ => None,
        };
        let mut slots = self.shard(hash);
        match answer {
            Some(Ok(owner)) => {
                slots.insert(*hash, Slot::Answered(owner.clone(), now));
                owner.ok_or(AuthError::UnknownKey)
            }
            _ => {
                // The next one asks anew.
                if matches!(slots.get(hash), Some(Slot::Asked(..))) {
                    slots.remove(hash);
                }
                Err(AuthError::ProviderUnavailable)
            }
        }
    }

    /// What is known of a key; somebody is asked if that is nothing, or old.
    fn look(&self, hash: &KeyHash, now: SystemTime) -> Result<Slot, AuthError> {
        let mut slots = self.shard(hash);
        match slots.get(hash) {
            Some(Slot::Answered(owner, since)) if is_fresh(owner, *since, now) => {
                return Ok(Slot::Answered(owner.clone(), *since));
            }
            Some(Slot::Asked(asked, since)) if is_awaited(asked, *since, now) => {
                return Ok(Slot::Asked(asked.clone(), *since));
            }
            _ => {}
        }
        let (answer, asked) = watch::channel(None);
        let hash = *hash;
        let question = Question { hash, answer };
        let sent = self.questions.try_send(question);
        sent.map_err(|_| AuthError::Overloaded)?;
        make_room(&mut slots, now);
        slots.insert(hash, Slot::Asked(asked.clone(), now));
        Ok(Slot::Asked(asked, now))
    }

    fn shard(&self, hash: &KeyHash) -> MutexGuard<'_, Slots> {
        lock(&self.shards[usize::from(hash[0]) % SHARDS])
    }
}

/// What is over makes way first, and then any other.
fn make_room(slots: &mut Slots, now: SystemTime) {
    if slots.len() < MOST / SHARDS {
        return;
    }
    slots.retain(|_, slot| match slot {
        Slot::Asked(asked, since) => is_awaited(asked, *since, now),
        Slot::Answered(owner, since) => is_fresh(owner, *since, now),
    });
    let other = slots.iter().find_map(|(hash, slot)| match slot {
        Slot::Answered(..) => Some(*hash),
        Slot::Asked(..) => None,
    });
    if let (true, Some(other)) = (slots.len() >= MOST / SHARDS, other) {
        slots.remove(&other);
    }
}

/// Whether an answer is there or may come. One that everybody who asked has left behind is good for no
/// longer than any other.
fn is_awaited(asked: &watch::Receiver<Option<Answer>>, since: SystemTime, now: SystemTime) -> bool {
    let is_recent = now.duration_since(since).is_ok_and(|age| age < NOBODYS_FOR);
    is_recent && (asked.has_changed().is_ok() || asked.borrow().is_some())
}

/// A clock that was set back makes nothing last longer.
fn is_fresh(owner: &Option<Arc<Known>>, since: SystemTime, now: SystemTime) -> bool {
    let lasts = match owner {
        Some(_) => OWNED_FOR,
        None => NOBODYS_FOR,
    };
    now.duration_since(since).is_ok_and(|age| age < lasts)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn run<T>(future: impl Future<Output = T>) -> T {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().build().unwrap().block_on(future)
    }

    fn owner(name: &str) -> Option<Arc<Known>> {
        let subject = name.into();
        Some(Arc::new(Known {
            subject,
            ..Known::default()
        }))
    }

    /// Asks once; `answer` is given if the question is put.
    fn ask(
        keys: &SharedKeys,
        questions: &mut mpsc::Receiver<Question>,
        now: SystemTime,
        answer: Answer,
    ) -> (Result<Box<str>, AuthError>, bool) {
        run(async {
            let asked = keys.owner(&[7; 32], now);
            let answered = async {
                match tokio::time::timeout(Duration::from_millis(50), questions.recv()).await {
                    Ok(Some(question)) => {
                        assert_eq!(question.hash, [7; 32]);
                        question.answer(answer);
                        true
                    }
                    _ => false,
                }
            };
            let (found, was_asked) = tokio::join!(asked, answered);
            (found.map(|known| known.subject.clone()), was_asked)
        })
    }

    #[test]
    fn an_answer_is_remembered_for_a_while() {
        let keys = SharedKeys::default();
        let mut questions = keys.questions().unwrap();
        let later = |seconds| NOW + Duration::from_secs(seconds);
        let one = || Ok(owner("one"));
        assert_eq!(
            ask(&keys, &mut questions, NOW, one()),
            (Ok("one".into()), true)
        );
        let again = ask(&keys, &mut questions, later(9), Ok(None));
        assert_eq!(again, (Ok("one".into()), false));
        let nobody = ask(&keys, &mut questions, later(10), Ok(None));
        assert_eq!(nobody, (Err(AuthError::UnknownKey), true));
        let nobody = ask(&keys, &mut questions, later(11), one());
        assert_eq!(nobody, (Err(AuthError::UnknownKey), false));
        let fresh = ask(&keys, &mut questions, later(12), one());
        assert_eq!(fresh, (Ok("one".into()), true));
    }

    #[test]
    fn without_an_answer_nobody_is_let_in_and_the_next_one_asks_anew() {
        let keys = SharedKeys::default();
        let mut questions = keys.questions().unwrap();
        for _ in 0..2 {
            let refused = ask(&keys, &mut questions, NOW, Err(Unanswered));
            assert_eq!(refused, (Err(AuthError::ProviderUnavailable), true));
        }
        let found = ask(&keys, &mut questions, NOW, Ok(owner("one")));
        assert_eq!(found, (Ok("one".into()), true));
        // Nobody is there to ask.
        drop(questions);
        let refused = run(keys.owner(&[8; 32], NOW));
        assert_eq!(refused.unwrap_err(), AuthError::Overloaded);
    }

    #[test]
    fn requests_with_one_key_put_one_question_and_questions_are_bounded() {
        let keys = SharedKeys::default();
        let mut questions = keys.questions().unwrap();
        run(async {
            let (a, b) = (keys.owner(&[1; 32], NOW), keys.owner(&[1; 32], NOW));
            let answer = async {
                let question = questions.recv().await.unwrap();
                tokio::task::yield_now().await;
                assert!(questions.try_recv().is_err());
                question.answer(Ok(owner("one")));
            };
            let (a, b, ()) = tokio::join!(a, b, answer);
            assert!(a.is_ok() && b.is_ok());
        });
        let hash = |n: usize| {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&(n as u64).to_be_bytes());
            hash
        };
        for n in 0..MAX_QUESTIONS {
            assert!(keys.look(&hash(n), NOW).is_ok());
        }
        let refused = keys.look(&hash(MAX_QUESTIONS), NOW);
        assert!(matches!(refused, Err(AuthError::Overloaded)));
    }
}
