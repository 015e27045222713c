//! The circuit breaker of an upstream: what opens its circuit, and what closes it again.
//!
//! It counts what became of requests in the end, after retries. While the circuit is closed, a request
//! that succeeds costs three loads and one addition.

mod change;
mod gate;
mod window;

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

pub use change::{Change, State, Why};
pub use gate::{Gate, Pass, Refused, Standing};
use window::Window;

use crate::config::model;

/// A breaker. It outlives reloads; what opens it is passed in.
pub struct Breaker {
    gate: Gate,
    consecutive: AtomicU32,
    /// Times in a row that it opened again because a probe failed.
    failed_probes: AtomicU32,
    window: Window,
    epoch: Instant,
}

impl Breaker {
    /// A closed one. `tell` hears of each change.
    pub fn new(now: Instant, tell: Box<dyn Fn(&Change) + Send + Sync>) -> Self {
        Self {
            gate: Gate::new(now, tell),
            consecutive: AtomicU32::new(0),
            failed_probes: AtomicU32::new(0),
            window: Window::default(),
            epoch: now,
        }
    }

    /// Asks to be let in. Without a policy it is open only when an operator wants it so.
    pub fn admit(
        &self,
        policy: Option<&model::CircuitBreaker>,
        now: Instant,
    ) -> Result<Pass, Refused> {
        let probes = policy.map_or(1, |policy| policy.half_open_requests);
        self.gate.admit(probes, now)
    }

    /// Whether it is closed, as it was in this generation.
    pub fn is_closed_in(&self, generation: u64) -> bool {
        self.gate.is_closed_in(generation)
    }

    /// Records what became of a request. A probe is over with it.
    pub fn settle(&self, policy: &model::CircuitBreaker, pass: Pass, good: bool, now: Instant) {
        match (pass, good) {
            (Pass::Ordinary(generation), true) => self.succeeded(policy, generation, now),
            (Pass::Ordinary(generation), false) => self.failed(policy, generation, now),
            (Pass::Probe(probe), true) => {
                if self.gate.succeeded(&probe, policy.success_threshold, now) {
                    // What came in late since it opened counts for nothing.
                    self.forget();
                }
            }
            (Pass::Probe(probe), false) => {
                self.open(policy, probe.generation, Why::ProbeFailed, now);
            }
        }
    }

    /// Records that an answer that had begun well was broken off.
    pub fn broke_off(&self, policy: &model::CircuitBreaker, generation: u64, now: Instant) {
        if self.gate.is_closed_in(generation) && policy.error_rate > 0.0 {
            self.window.count_failure(self.millis(now), policy.window);
            self.judge_rate(policy, generation, now);
        }
    }

    fn succeeded(&self, policy: &model::CircuitBreaker, generation: u64, now: Instant) {
        if !self.gate.is_closed_in(generation) {
            return;
        }
        // A load first: on the good path no cache line changes hands.
        if self.consecutive.load(Relaxed) != 0 {
            self.consecutive.store(0, Relaxed);
        }
        if policy.error_rate > 0.0 {
            self.window.count(self.millis(now), policy.window);
        }
    }

    fn failed(&self, policy: &model::CircuitBreaker, generation: u64, now: Instant) {
        if !self.gate.is_closed_in(generation) {
            return;
        }
        let failures = self.consecutive.fetch_add(1, Relaxed) + 1;
        if policy.failure_threshold > 0 && failures >= policy.failure_threshold {
            self.open(policy, generation, Why::Failures(failures), now);
            return;
        }
        if policy.error_rate > 0.0 {
            let millis = self.millis(now);
            self.window.count(millis, policy.window);
            self.window.count_failure(millis, policy.window);
            self.judge_rate(policy, generation, now);
        }
    }

    fn judge_rate(&self, policy: &model::CircuitBreaker, generation: u64, now: Instant) {
        let (failed, total) = self.window.read(self.millis(now), policy.window);
        let is_enough = total >= policy.minimum_requests;
        if is_enough && f64::from(failed) >= policy.error_rate * f64::from(total) {
            self.open(policy, generation, Why::ErrorRate(failed, total), now);
        }
    }

    fn open(&self, policy: &model::CircuitBreaker, generation: u64, why: Why, now: Instant) {
        // Read and written by whoever opens it, which one does after the other.
        let failed = match why {
            Why::ProbeFailed => self.failed_probes.load(Relaxed).saturating_add(1),
            _ => 0,
        };
        let time = policy.first_timeout.saturating_mul(1 << failed.min(16));
        let time = jittered(time.min(policy.timeout));
        if self.gate.open(generation, time, why, now) {
            self.failed_probes.store(failed, Relaxed);
            self.forget();
        }
    }

    /// Lets probes in when it is time to, though no request asks.
    pub fn tick(&self, now: Instant) {
        self.gate.tick(now);
    }

    /// A backend was found well by a check that took at most this long: if that began after the circuit
    /// opened, there is no need to wait any longer. Says whether it is open no longer.
    pub fn recovered(&self, took: Duration, now: Instant) -> bool {
        self.gate.half_open_early(took, Why::HealthCheck, now);
        self.gate.state() != State::Open
    }

    /// Holds it open or closed, or leaves it to itself again.
    pub fn force(&self, open: Option<bool>, now: Instant) {
        self.gate.force(open, now);
        self.forget();
    }

    /// Closes it, and has whoever was let in say nothing any more: nothing would close it again.
    pub fn switch_off(&self, now: Instant) {
        self.gate.renew(Why::SwitchedOff, now);
        self.forget();
    }

    /// Keeps one closed that is switched off: requests of the generation before may have opened it.
    pub fn keep_off(&self, now: Instant) {
        self.gate.close(Why::SwitchedOff, now);
    }

    /// How it stands.
    pub fn standing(&self, now: Instant) -> Standing {
        self.gate.standing(now)
    }

    /// Failures in a row.
    pub fn consecutive(&self) -> u32 {
        self.consecutive.load(Relaxed)
    }

    /// Failures and requests within the window.
    pub fn counts(&self, policy: &model::CircuitBreaker, now: Instant) -> (u32, u32) {
        self.window.read(self.millis(now), policy.window)
    }

    fn forget(&self) {
        self.consecutive.store(0, Relaxed);
        self.window.clear();
    }

    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.epoch);
        since.as_secs() * 1000 + u64::from(since.subsec_millis())
    }
}

/// The time within a tenth, so that instances that found out together do not probe together.
pub(super) fn jittered(time: Duration) -> Duration {
    time.mul_f64(0.9 + 0.2 * fastrand::f64())
}

#[cfg(test)]
mod tests;
