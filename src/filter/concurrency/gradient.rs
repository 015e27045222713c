//! How many requests backends can answer at the same time, found by how long they take for it.
//!
//! As long as there is room in the backends, more requests at the same time mean more answers. Beyond that
//! they only mean that each takes longer: latency grows in proportion to the limit, and the rate of answers
//! stays what it is. The limit is to be a little above that point.
//!
//! The idea is that of Netflix's Gradient2: latency now is compared with a base, and the limit follows
//! their ratio, with some slack, and with the root of the limit as a step upwards. Its base is a long
//! average, which in a long overload drifts up to what the overload itself makes of latency, and the limit
//! with it. Here the base moves only for a reason:
//!
//! - down at once, when latency is lower;
//! - towards latency slowly, while less than half of the limit is used: then nobody waits in the backends;
//! - up in steps, when lowering the limit has cost answers: then it was not the limit that made them slow;
//! - to latency, when the limit is at its lowest;
//! - down a little with each window at the limit, when nothing has confirmed it for a while.
//!
//! The last is what finds a base that was never seen without load: the limit sinks with it, until latency
//! follows no longer and answers get fewer, which confirms the base. No traffic is held back to measure.

use std::time::Duration;

use crate::config::model::Adaptive;

/// What of the limit has to be in use for it to rise, as a share.
const USED: f64 = 0.5;
/// How much of a change that latency asks for is made at once.
const PACE: f64 = 0.3;
/// At most half is asked for at once.
const LEAST_GRADIENT: f64 = 0.5;
/// What of the requests may be lost before that means overload.
const LOST: f64 = 0.1;
/// How far the limit has to be lowered, and how far the rate of answers has to fall with it, for the
/// limit to be the cause. Further than chance makes it fall in a few hundred answers.
const LOWERED: f64 = 0.8;
const FEWER: f64 = 0.85;
/// For how long a base is trusted, in seconds, and what it loses with each window afterwards.
const TRUST: f64 = 30.0;
const DISTRUST: f64 = 0.97;
/// What a base loses that was never confirmed.
const IGNORANCE: f64 = 0.93;
/// How the rate of answers has to grow for a doubled limit to be worth it.
const PAYS: f64 = 1.2;
/// What of the best rate is forgotten with each window.
const FORGOTTEN: f64 = 0.995;

/// What was observed for a short time.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// How long that was.
    pub time: Duration,
    /// Requests that were answered.
    pub answers: u32,
    /// Their mean latency.
    pub latency: Duration,
    /// Requests that were not, or that the backend had no room for.
    pub lost: u32,
    /// The most that were in flight at the same time.
    pub peak: u32,
    /// Whether the limit held somebody back.
    pub binding: bool,
}

/// A limit, and what it follows.
#[derive(Clone, Debug)]
pub struct Gradient {
    limit: f64,
    /// Latency without load, in seconds; 0 when nothing is known.
    base: f64,
    /// For how much longer the base is trusted, in seconds.
    trusted: f64,
    /// Answers a second, smoothed.
    rate: f64,
    /// The best rate at the limit of late, and the limit then; 0 when the limit is not what holds
    /// requests back.
    best: f64,
    best_limit: f64,
    /// How often the base was raised in a row.
    raised: i32,
    /// Nothing was too slow yet: the limit doubles where it holds requests back.
    starting: bool,
    /// The rate of answers when it was last doubled.
    first_rate: f64,
    /// The limit, and the share of requests that were lost, when the limit was first blamed for it.
    blamed: Option<(f64, f64)>,
    /// For how much longer losses are not blamed on the limit, in seconds.
    deaf: f64,
    /// The base was seen without load, or found to be one.
    confirmed: bool,
}

impl Gradient {
    /// Begins with this limit.
    pub fn new(limit: u32) -> Self {
        Self {
            limit: f64::from(limit),
            base: 0.0,
            trusted: 0.0,
            rate: 0.0,
            best: 0.0,
            best_limit: 0.0,
            raised: 0,
            starting: true,
            first_rate: 0.0,
            blamed: None,
            deaf: 0.0,
            confirmed: false,
        }
    }

    /// The limit.
    pub fn limit(&self, settings: &Adaptive) -> u32 {
        (self.limit as u32).clamp(settings.min, settings.max)
    }

    /// Latency without load, as far as it is known.
    pub fn base(&self) -> Duration {
        Duration::from_secs_f64(self.base)
    }

    /// Learns from what was observed.
    pub fn update(&mut self, settings: &Adaptive, window: &Window) {
        let (latency, peak) = (window.latency.as_secs_f64(), f64::from(window.peak));
        let overloaded = self.loses_for_the_limit(window);
        if window.answers > 0 {
            self.smooth_rate(window);
            if self.base == 0.0 {
                self.base = latency;
                return;
            }
            self.move_base(settings, window, latency, peak);
        }
        let ratio = match window.answers {
            0 => 1.0,
            _ => (1.0 + settings.slack) * self.base / latency.max(f64::MIN_POSITIVE),
        };
        if ratio < 1.0 || overloaded {
            self.starting = false;
            if window.answers > 0 && self.has_cost_answers() {
                self.raise_base(latency);
                return;
            }
            let ratio = if overloaded { 0.0 } else { ratio };
            self.lower(ratio.max(LEAST_GRADIENT), window);
        } else {
            self.raised = 0;
            if window.answers > 0 && peak > USED * self.limit {
                self.raise(window);
            }
        }
        let (min, max) = (f64::from(settings.min), f64::from(settings.max));
        self.limit = self.limit.clamp(min, max.max(min));
    }

    /// Whether what is lost is lost because of the limit: too much, and less of it with a lower limit.
    fn loses_for_the_limit(&mut self, window: &Window) -> bool {
        let lost = f64::from(window.lost);
        let share = lost / (lost + f64::from(window.answers)).max(1.0);
        self.deaf = (self.deaf - window.time.as_secs_f64()).max(0.0);
        if share <= LOST || self.deaf > 0.0 {
            self.blamed = None;
            return false;
        }
        let (limit, before) = *self.blamed.get_or_insert((self.limit, share));
        if self.limit < LOWERED * limit && share > FEWER * before {
            // A backend that is broken loses what it is given, however little that is.
            (self.limit, self.deaf, self.blamed) = (limit, TRUST, None);
            return false;
        }
        true
    }

    fn smooth_rate(&mut self, window: &Window) {
        let rate = rate(window);
        // Few answers say little.
        let weight = (f64::from(window.answers) / 300.0).min(0.5);
        self.rate = match self.rate {
            0.0 => rate,
            before => before + weight * (rate - before),
        };
    }

    fn move_base(&mut self, settings: &Adaptive, window: &Window, latency: f64, peak: f64) {
        self.trusted = (self.trusted - window.time.as_secs_f64()).max(0.0);
        if latency < 0.7 * self.base {
            // The backends have changed.
            self.trusted = 0.0;
        }
        if latency < self.base {
            self.base += 0.5 * (latency - self.base);
        } else if peak <= USED * self.limit {
            self.base += 0.1 * (latency - self.base);
            self.trust();
        } else if self.limit <= f64::from(settings.min) {
            self.base = latency;
            self.trust();
        } else if window.binding && !self.starting && self.trusted == 0.0 {
            self.base *= match self.confirmed {
                true => DISTRUST,
                false => IGNORANCE,
            };
        }
        if !window.binding {
            self.best = 0.0;
        } else if self.rate > self.best {
            (self.best, self.best_limit) = (self.rate, self.limit);
        } else {
            self.best *= FORGOTTEN;
        }
    }

    fn trust(&mut self) {
        (self.trusted, self.confirmed) = (TRUST, true);
    }

    /// Whether there are fewer answers because of the limit.
    fn has_cost_answers(&self) -> bool {
        self.best > 0.0 && self.limit < LOWERED * self.best_limit && self.rate < FEWER * self.best
    }

    /// The limit is not what makes answers slow.
    fn raise_base(&mut self, latency: f64) {
        // A first step may be due to chance; one after the other is not.
        self.raised = (self.raised + 1).min(16);
        self.base = latency.min(self.base * 2f64.powi(self.raised));
        self.trust();
        (self.best, self.best_limit) = (self.rate, self.limit);
    }

    fn raise(&mut self, window: &Window) {
        if !(self.starting && window.binding) {
            self.limit += self.limit.sqrt();
            return;
        }
        let rate = rate(window);
        if rate < PAYS * self.first_rate {
            // More at the same time did not mean more answers: the overload was there from the beginning.
            self.starting = false;
            self.limit /= 2.0;
        } else {
            self.first_rate = rate;
            self.limit *= 2.0;
        }
    }

    fn lower(&mut self, ratio: f64, window: &Window) {
        let peak = f64::from(window.peak);
        let lowered = self.limit * (1.0 - PACE * (1.0 - ratio));
        self.limit = match window.binding {
            true => lowered,
            // It holds nobody back, and is not made to.
            false => lowered.max(1.1 * peak + peak.sqrt()).min(self.limit),
        };
    }
}

/// Answers a second.
fn rate(window: &Window) -> f64 {
    f64::from(window.answers) / window.time.as_secs_f64().max(1e-6)
}

#[cfg(test)]
#[path = "gradient_tests.rs"]
mod tests;
