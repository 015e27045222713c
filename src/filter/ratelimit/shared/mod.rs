//! Limits that instances count together: what asks the store on behalf of requests, without knowing it.
//!
//! A request hands its question over and waits for the answer within its deadline. When the store does
//! not answer, requests are told so at once, and whoever asked decides what that means.

mod health;
mod instances;
mod question;
mod report;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::timeout_at;

use self::health::{Change, Health};
use self::instances::Instances;
use self::question::Steps;
use self::report::{Line, Report};
use super::lease::Leases;
use super::rate::{Rate, Verdict};
use crate::metrics::RedisError;

pub use self::health::Server;
pub use self::question::{Action, Answer, Question, Step};

/// How many questions may wait to be sent, to one server: what one that does 100 000 a second does in 40 ms. Beyond
/// that there is no answer.
pub const MAX_QUESTIONS: usize = 4096;

/// How long a request waits, unless that is configured.
const PATIENCE: Duration = Duration::from_millis(5);

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// None came before the deadline.
    Late,
    /// The store is down, and was not asked.
    Down,
    /// Too many ask already.
    Busy,
    /// The store could not do what was asked.
    Failed,
}

/// Asks the store. One a process, for all generations.
pub struct Shared {
    /// By which other instances know this one.
    name: String,
    questions: mpsc::Sender<Question>,
    /// Until somebody answers.
    unanswered: Mutex<Option<mpsc::Receiver<Question>>>,
    /// Says which server has a key.
    owner: OnceLock<Box<Owner>>,
    health: Mutex<(Health, Report)>,
    /// What `health` allows, for those who only want to know that.
    allowed: AtomicU32,
    /// Those who wait.
    waiting: AtomicU32,
    /// An outage began.
    fell: Notify,
    instances: Instances,
    /// In microseconds.
    patience: AtomicU64,
    /// Whether anybody wants to count with others.
    used: watch::Sender<bool>,
    /// Those who lease tokens.
    leases: Mutex<Vec<Weak<Leases>>>,
    /// Somebody waits for tokens.
    hurry: Notify,
}

type Owner = dyn Fn(&str) -> Server + Send + Sync;

impl Default for Shared {
    fn default() -> Self {
        let (questions, unanswered) = mpsc::channel(MAX_QUESTIONS);
        let shared = Self {
            name: format!("{:032x}", fastrand::u128(..)),
            questions,
            unanswered: Mutex::new(Some(unanswered)),
            owner: OnceLock::new(),
            health: Mutex::default(),
            allowed: AtomicU32::new(u32::MAX),
            waiting: AtomicU32::new(0),
            fell: Notify::new(),
            instances: Instances::default(),
            patience: AtomicU64::new(0),
            used: watch::Sender::new(false),
            leases: Mutex::default(),
            hurry: Notify::new(),
        };
        shared.set_patience(PATIENCE);
        shared
    }
}

/// For whoever asks.
impl Shared {
    /// Takes a request's cost from the buckets of a key, if it is there in all of them. Waits until then
    /// for the answer.
    pub async fn take(
        &self,
        key: &str,
        rates: &[Rate],
        cost: u64,
        until: Instant,
    ) -> Result<Verdict, Unanswered> {
        let _place = self.enter()?;
        let (asker, answer) = oneshot::channel();
        self.ask(key, Action::Take, Steps::new(rates, cost), Some(asker))?;
        match timeout_at(until.into(), answer).await {
            Ok(Ok(Ok(answer))) => Ok(answer.verdict(rates, cost)),
            // It was counted where it was noticed.
            Ok(Ok(Err(_))) => Err(Unanswered::Failed),
            // Nobody is there to answer, or too much waits for the server already.
            Ok(Err(_)) => Err(Unanswered::Down),
            Err(_) => {
                self.failed(self.server(key), RedisError::Timeout, Instant::now());
                Err(Unanswered::Late)
            }
        }
    }

    /// Takes what a response turned out to cost, whether it is there or not. Nobody waits for that, and
    /// it is lost when the store does not answer.
    pub fn charge(&self, key: &str, rates: &[Rate], cost: u64) {
        self.tell(key, Action::Charge, rates, cost);
    }

    /// Gives a cost back that was taken a moment ago and is not needed; under the terms of
    /// [`Shared::charge`].
    pub fn give_back(&self, key: &str, rates: &[Rate], cost: u64) {
        self.tell(key, Action::Give, rates, cost);
    }

    /// How many instances count together, as far as is known; at least 1.
    pub fn instances(&self) -> u32 {
        self.instances.number().max(1)
    }

    /// The same, but 0 before they were counted.
    pub fn known_instances(&self) -> u32 {
        self.instances.number()
    }

    /// These want to lease tokens from now on.
    pub(super) fn lends(&self, leases: Weak<Leases>) {
        lock(&self.leases).push(leases);
        self.hurry();
    }

    /// There is an order that somebody waits for.
    pub(super) fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Whether the store answers, as far as is known.
    pub fn is_answering(&self) -> bool {
        self.allowed.load(Relaxed) > 0
    }

    /// Sets how long requests wait, which is how soon probes have to be answered.
    pub fn set_patience(&self, patience: Duration) {
        let micros = u64::try_from(patience.as_micros()).unwrap_or(u64::MAX);
        self.patience.store(micros, Relaxed);
    }

    /// Says whether any policy is counted together. Without one this instance does not count, and nobody
    /// looks whether the store answers.
    pub fn set_used(&self, used: bool) {
        self.used.send_replace(used);
    }

    /// Whether there are policies that ask.
    pub fn is_used(&self) -> bool {
        *self.used.borrow()
    }

    fn tell(&self, key: &str, action: Action, rates: &[Rate], cost: u64) {
        if cost > 0 && self.is_answering() {
            // Lost where there is no room: it is a correction, and the limit itself holds.
            let _lost = self.ask(key, action, Steps::new(rates, cost), None);
        }
    }

    fn ask(
        &self,
        key: &str,
        action: Action,
        steps: Steps,
        asker: Option<oneshot::Sender<Result<Answer, RedisError>>>,
    ) -> Result<(), Unanswered> {
        let key = key.to_owned();
        let question = Question {
            key,
            action,
            steps,
            asker,
        };
        let sent = self.questions.try_send(question);
        sent.map_err(|_| Unanswered::Busy)
    }

    fn enter(&self) -> Result<Place<'_>, Unanswered> {
        let allowed = self.allowed.load(Relaxed);
        if allowed == 0 {
            return Err(Unanswered::Down);
        }
        let place = Place(&self.waiting);
        if self.waiting.fetch_add(1, Relaxed) >= allowed {
            // During recovery: the others are as if it were still down.
            return Err(Unanswered::Down);
        }
        Ok(place)
    }
}

/// For the one who answers.
impl Shared {
    /// The questions.
    pub fn questions(&self) -> Option<mpsc::Receiver<Question>> {
        lock(&self.unanswered).take()
    }

    /// `owner` says which server has a key. Until then, and without it, there is one.
    pub fn set_owner(&self, owner: impl Fn(&str) -> Server + Send + Sync + 'static) {
        // One store a process.
        let _already_known = self.owner.set(Box::new(owner));
    }

    /// The server that has a key.
    pub fn server(&self, key: &str) -> Server {
        self.owner.get().map_or(Server::ONLY, |owner| owner(key))
    }

    /// By which other instances know this one: chosen by chance.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sees whether anybody wants to count with others.
    pub fn uses(&self) -> watch::Receiver<bool> {
        self.used.subscribe()
    }

    /// How soon a probe has to be answered.
    pub fn patience(&self) -> Duration {
        Duration::from_micros(self.patience.load(Relaxed))
    }

    /// A server has answered so many questions in time.
    pub fn answered(&self, server: Server, count: u32, now: Instant) {
        self.learn(now, |health| health.answered(server, count, now));
    }

    /// A server could not answer a question, or was late.
    pub fn failed(&self, server: Server, why: RedisError, now: Instant) {
        self.learn(now, |health| {
            health.failed(server, why, fastrand::f64(), now)
        });
    }

    /// A server has answered a probe in time, or it has not.
    pub fn probed(&self, server: Server, is_well: bool, now: Instant) {
        self.learn(now, |health| {
            health.probed(server, is_well, fastrand::f64(), now);
            None
        });
    }

    /// When the next probe is due; `None` while the store is not down.
    pub fn probe(&self) -> Option<Instant> {
        lock(&self.health).0.probe()
    }

    /// The store counted so many instances.
    pub fn counted(&self, instances: u32) {
        self.instances.counted(instances);
    }

    /// Those who lease tokens.
    pub fn leases(&self) -> Vec<Arc<Leases>> {
        let mut leases = lock(&self.leases);
        leases.retain(|leases| leases.strong_count() > 0);
        leases.iter().filter_map(Weak::upgrade).collect()
    }

    /// Waits until there is an order that somebody waits for.
    pub async fn hurried(&self) {
        self.hurry.notified().await;
    }

    /// Waits until an outage begins.
    pub async fn fell(&self) {
        self.fell.notified().await;
    }

    fn learn(&self, now: Instant, what: impl FnOnce(&mut Health) -> Option<Change>) {
        let line = {
            let mut known = lock(&self.health);
            let (health, report) = &mut *known;
            let change = what(health);
            if self.allowed.swap(health.allowed(), Relaxed) > 0 && health.allowed() == 0 {
                self.fell.notify_one();
            }
            change.and_then(|change| report.line(change, now))
        };
        match line {
            Some(Line::Error(line)) => log::error!("{line}"),
            Some(Line::Info(line)) => log::info!("{line}"),
            None => {}
        }
    }
}

/// One of those who wait; counted until it is dropped.
struct Place<'a>(&'a AtomicU32);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
