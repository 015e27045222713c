//! When a provider's keys are fetched, how long they are believed, and whom a fetch is worth waiting
//! for. Knows the time only as it is told.

use std::time::{Duration, Instant};

use crate::config::model::JwksUrl;

/// The least and the first bound of the wait after a failure. The bound doubles with each failure, and
/// the wait is anywhere below it, so that instances that failed together do not come back together.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The largest bound, unless keys are refreshed more often than that.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// How long after new keys a token that was refused before is worth another look.
const JUST_NOW: Duration = Duration::from_secs(1);

/// What a request is told that knows no key for its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Nothing helps.
    Refused,
    /// There are other keys since a moment ago: look again.
    LookAgain,
    /// A fetch may help: this one, by its number.
    Wait(u64),
}

/// When keys are fetched. Fetches have numbers, from 1 on; there is one at a time.
#[derive(Clone, Debug)]
pub struct Schedule {
    rules: Rules,
    started: u64,
    finished: u64,
    /// The fetch that a request has asked for last, and when.
    asked: Option<(u64, Instant)>,
    due: Instant,
    failures: u32,
    /// When the keys are too old to be believed; `None`: there are none.
    believed_until: Option<Instant>,
    changed: Option<Instant>,
}

/// What the configuration says.
#[derive(Clone, Copy, Debug)]
struct Rules {
    refresh: Duration,
    shortest: Duration,
    longest: Duration,
    max_stale: Duration,
    cooldown: Duration,
}

impl Schedule {
    /// A provider without keys: they are due.
    pub fn new(config: &JwksUrl, now: Instant) -> Self {
        // At least two fetches, so that one that fails does not cost the keys.
        let half_life = config.max_stale / 2;
        Self {
            rules: Rules {
                refresh: config.refresh,
                shortest: config.min_refresh,
                longest: config.max_refresh.min(half_life).max(config.min_refresh),
                max_stale: config.max_stale,
                cooldown: config.unknown_key_cooldown,
            },
            started: 0,
            finished: 0,
            asked: None,
            due: now,
            failures: 0,
            believed_until: None,
            changed: None,
        }
    }

    /// Takes keys of this age that were not fetched but kept. They are asked for again at once.
    /// `false`: they are too old.
    pub fn restore(&mut self, age: Duration, now: Instant) -> bool {
        let Some(left) = self
            .rules
            .max_stale
            .checked_sub(age)
            .filter(|left| !left.is_zero())
        else {
            return false;
        };
        self.believed_until = Some(now + left);
        self.changed = Some(now);
        true
    }

    /// A fetch begins.
    pub fn begin(&mut self) {
        self.started = self.finished + 1;
    }

    /// It brought keys, or said that they are the same. `lifetime` is what the response says of them;
    /// `chance` is from 0 to 1.
    pub fn succeeded(&mut self, lifetime: Option<Duration>, new: bool, now: Instant, chance: f64) {
        let rules = &self.rules;
        let wanted = lifetime.unwrap_or(rules.refresh);
        let interval = wanted.clamp(rules.shortest, rules.longest);
        // A little early, so that instances that started together spread, and never late.
        let early = interval.mul_f64(0.1 * chance);
        self.failures = 0;
        self.believed_until = Some(now + rules.max_stale);
        if new {
            self.changed = Some(now);
        }
        self.end(now + (interval - early).max(rules.shortest), now);
    }

    /// It brought nothing.
    pub fn failed(&mut self, now: Instant, chance: f64) {
        let bound = RETRY_FIRST.saturating_mul(1 << self.failures.min(16));
        let bound = bound
            .min(RETRY_MAX)
            .min(self.rules.refresh.max(RETRY_FIRST));
        let wait = RETRY_MIN + (bound - RETRY_MIN).mul_f64(chance);
        self.failures = self.failures.saturating_add(1);
        self.end(now + wait, now);
    }

    fn end(&mut self, due: Instant, now: Instant) {
        self.finished = self.started;
        self.due = match self.asked {
            // Asked for while this one was under way, which may have begun too early to help.
            Some((asked, _)) if asked > self.finished => now,
            _ => due,
        };
    }

    /// A request has a token with a key that is not among those that are known.
    pub fn unknown_key(&mut self, now: Instant) -> Demand {
        if self.believed_until.is_none() {
            return self.without_keys();
        }
        if let Some((asked, _)) = self.asked.filter(|(asked, _)| *asked > self.finished) {
            return Demand::Wait(asked);
        }
        let cools = |(_, at): (u64, Instant)| now < at + self.rules.cooldown;
        if self.asked.is_some_and(cools) {
            let just_now = |at: Instant| now.saturating_duration_since(at) < JUST_NOW;
            return match self.changed.is_some_and(just_now) {
                true => Demand::LookAgain,
                false => Demand::Refused,
            };
        }
        let next = self.started + 1;
        self.asked = Some((next, now));
        if !self.in_flight() {
            self.due = now;
        }
        Demand::Wait(next)
    }

    /// A request has a token, and there are no keys. Only the first fetch is worth waiting for: after
    /// it, nobody knows when there will be any.
    pub fn without_keys(&self) -> Demand {
        match (self.believed_until, self.finished) {
            (Some(_), _) => Demand::LookAgain,
            (None, 0) => Demand::Wait(1),
            (None, _) => Demand::Refused,
        }
    }

    /// Drops keys that are too old; `true` when they have just become so.
    pub fn expire(&mut self, now: Instant) -> bool {
        let expired = self.believed_until.is_some_and(|until| until <= now);
        if expired {
            self.believed_until = None;
        }
        expired
    }

    /// Whether a fetch is to begin.
    pub fn is_due(&self, now: Instant) -> bool {
        !self.in_flight() && self.due <= now
    }

    /// When the next fetch is due.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// When keys become too old; `None` without any.
    pub fn believed_until(&self) -> Option<Instant> {
        self.believed_until
    }

    /// The number of the last fetch that is over.
    pub fn finished(&self) -> u64 {
        self.finished
    }

    /// How many fetches in a row have failed.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Takes over when keys become too old, from a provider of the same keys.
    pub fn succeed(&mut self, previous: &Self) {
        self.believed_until = previous.believed_until;
        self.asked = previous.asked.map(|(_, at)| (0, at));
    }

    fn in_flight(&self) -> bool {
        self.started > self.finished
    }
}

#[cfg(test)]
mod tests;
