//! Gathers what a [`Gradient`] learns from, on the way of requests, which pay a few atomic additions for
//! it. Now and then one of them hands it over and sets the limit.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::gradient::{Gradient, Window};
use super::line::Line;
use crate::config::model::{self, Bounds};

/// What is observed lasts at least this long.
const SHORTEST: Duration = Duration::from_millis(100);
/// A change shows only after as long as answers take; but nobody waits longer than this for it.
const LONGEST_LATENCY: Duration = Duration::from_secs(2);
/// So many answers say something.
const ENOUGH: u32 = 20;
/// Where there are fewer, it is waited for this long.
const FEW: Duration = Duration::from_secs(1);

/// How many there were.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// The limit of an upstream as it is found.
pub(super) struct Adaptive {
    settings: model::Adaptive,
    /// Tells it from others that share its places; never 0.
    pub number: u64,
    epoch: Instant,
    answers: AtomicU32,
    /// Of the latency of answers, in microseconds.
    sum: AtomicU64,
    lost: AtomicU32,
    peak: AtomicU32,
    /// When the observation may end, in microseconds since `epoch`.
    due: AtomicU64,
    found: Mutex<Found>,
}

struct Found {
    gradient: Gradient,
    /// When the observation began.
    since: Instant,
}

impl Adaptive {
    /// With what the one before has found.
    pub fn compile(
        settings: model::Adaptive,
        bounds: &Bounds,
        previous: Option<&Arc<Self>>,
        now: Instant,
    ) -> Arc<Self> {
        let gradient = match previous {
            Some(previous) if previous.settings == settings => return Arc::clone(previous),
            Some(previous) => previous.lock().gradient.clone(),
            None => Gradient::new(bounds.limit),
        };
        Arc::new(Self {
            settings,
            number: NUMBERS.fetch_add(1, Relaxed) + 1,
            epoch: now,
            answers: AtomicU32::new(0),
            sum: AtomicU64::new(0),
            lost: AtomicU32::new(0),
            peak: AtomicU32::new(0),
            due: AtomicU64::new(0),
            found: Mutex::new(Found {
                gradient,
                since: now,
            }),
        })
    }

    /// The limit as it was found.
    pub fn limit(&self) -> u32 {
        self.lock().gradient.limit(&self.settings)
    }

    /// What answers take without load.
    pub fn base(&self) -> Duration {
        self.lock().gradient.base()
    }

    /// An answer came after so long.
    pub fn answered(&self, status: u16, latency: Duration, line: &Arc<Line>, now: Instant) {
        match status {
            // It is told to a client, for what that client did.
            429 => return,
            // The backend says that it has no room.
            503 => {
                self.lost.fetch_add(1, Relaxed);
            }
            // Errors are often quick, and say nothing of how long an answer takes.
            500.. => return,
            _ => {
                self.answers.fetch_add(1, Relaxed);
                self.sum.fetch_add(latency.as_micros() as u64, Relaxed);
            }
        }
        self.observed(line, now);
    }

    /// No answer came in time.
    pub fn unanswered(&self, line: &Arc<Line>, now: Instant) {
        self.lost.fetch_add(1, Relaxed);
        self.observed(line, now);
    }

    fn observed(&self, line: &Arc<Line>, now: Instant) {
        let taken = line.taken();
        if taken > self.peak.load(Relaxed) {
            self.peak.fetch_max(taken, Relaxed);
        }
        if self.micros(now) >= self.due.load(Relaxed) {
            self.conclude(line, now);
        }
    }

    /// Hands over what was observed, if that is enough and nobody else is at it.
    fn conclude(&self, line: &Arc<Line>, now: Instant) {
        let Ok(mut found) = self.found.try_lock() else {
            return;
        };
        let time = now.saturating_duration_since(found.since);
        let (answers, lost) = (self.answers.load(Relaxed), self.lost.load(Relaxed));
        let sum = Duration::from_micros(self.sum.load(Relaxed));
        let latency = sum.checked_div(answers).unwrap_or_default();
        let shortest = SHORTEST.max(latency.min(LONGEST_LATENCY));
        let enough = answers + lost >= ENOUGH;
        let needed = if enough {
            shortest
        } else {
            FEW.max(2 * shortest)
        };
        if time < needed {
            let due = self.micros(found.since + shortest);
            // Where answers are few, each of them looks again.
            self.due.store(due, Relaxed);
            return;
        }
        // What is counted meanwhile by others may be lost, which does no harm.
        self.answers.store(0, Relaxed);
        self.sum.store(0, Relaxed);
        self.lost.store(0, Relaxed);
        let peak = self.peak.swap(line.taken(), Relaxed);
        self.due.store(self.micros(now + SHORTEST), Relaxed);
        found.since = now;
        let window = Window {
            time,
            answers,
            latency,
            lost,
            peak,
            binding: line.has_held_back(),
        };
        found.gradient.update(&self.settings, &window);
        let limit = found.gradient.limit(&self.settings);
        drop(found);
        // Requests of a generation that is past go on telling what they see.
        if line.follows(self.number) {
            line.set_limit(limit, now);
        }
    }

    fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_micros() as u64
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Found> {
        // A panic while the lock was held leaves a limit that is still one.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
