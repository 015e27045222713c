//! One source that is asked: its task, and what is known and told of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::task::AbortHandle;

use super::file;
use super::knowledge::{Answer, Bounds, Knowledge, Verdict};
use crate::config::model::{Backend, Identity, Source};

/// Who is asked, and whom backends must prove to be: what is found depends on nothing else.
pub(super) type Key = (Source, Identity);

/// One source.
pub(super) struct Lookup {
    pub key: Key,
    bounds: Bounds,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    knowledge: Knowledge,
    task: Option<AbortHandle>,
    /// When there was a good answer last.
    answered: Option<SystemTime>,
    error: Option<(SystemTime, String)>,
    /// Whether the last answer was no good one, which is told once.
    is_bad: bool,
    /// How many backends the last good answer had too many, which is told once.
    left_out: usize,
}

/// What operators are told of a source.
#[derive(Clone, Debug)]
pub struct Report {
    /// What is asked for.
    pub source: String,
    /// How many backends are known; `None`: there was no good answer yet.
    pub found: Option<usize>,
    /// When there was a good answer last.
    pub answered: Option<SystemTime>,
    /// What was wrong last, and when.
    pub error: Option<(SystemTime, String)>,
}

impl Report {
    /// Of a source that was not asked yet.
    pub(super) fn of(key: &Key) -> Self {
        Self {
            source: key.0.to_string(),
            found: None,
            answered: None,
            error: None,
        }
    }
}

impl Lookup {
    pub fn new(key: Key) -> Self {
        Self {
            bounds: Bounds::of(&key.0, file::LOOKS),
            key,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its task has begun.
    pub fn begin(&self, task: AbortHandle) {
        self.lock().task = Some(task);
    }

    /// Nobody needs it any more.
    pub fn end(&self) {
        if let Some(task) = self.lock().task.take() {
            task.abort();
        }
    }

    /// Whether it has answered, well or not.
    pub fn is_answered(&self) -> bool {
        self.lock().knowledge.is_answered()
    }

    /// The backends, as far as they are known.
    pub fn found(&self) -> Option<Arc<[Backend]>> {
        self.lock().knowledge.found().cloned()
    }

    /// When there was a good answer last.
    pub fn answered(&self) -> Option<SystemTime> {
        self.lock().answered
    }

    /// Takes an answer in, as [`Knowledge::take`] does, and tells what is new about it.
    pub fn take(&self, answer: &Answer, now: Instant) -> (Verdict, Duration) {
        let mut state = self.lock();
        let (verdict, wait) = state.knowledge.take(answer, &self.bounds, now);
        let source = &self.key.0;
        let problem = match answer {
            Answer::Found(_, _, left_out) => {
                state.answered = Some(SystemTime::now());
                if std::mem::replace(&mut state.left_out, *left_out) < *left_out {
                    log::warn!(
                        "discovery by {source}: it has too many backends, {left_out} are left out"
                    );
                }
                if std::mem::take(&mut state.is_bad) {
                    log::info!("discovery by {source} works again");
                }
                return (verdict, wait);
            }
            Answer::Missing => "there is no such record",
            Answer::Failed(problem) => problem,
        };
        let known = state.knowledge.found().map_or(0, |found| found.len());
        if verdict == Verdict::Changed {
            log::warn!("discovery by {source}: {problem}, its backends are given up");
        } else if !state.is_bad {
            log::warn!("discovery by {source}: {problem}, {known} backends are kept");
        }
        state.is_bad = true;
        state.error = Some((SystemTime::now(), problem.to_owned()));
        (verdict, wait)
    }

    pub fn report(&self) -> Report {
        let state = self.lock();
        Report {
            source: self.key.0.to_string(),
            found: state.knowledge.found().map(|found| found.len()),
            answered: state.answered,
            error: state.error.clone(),
        }
    }
}
