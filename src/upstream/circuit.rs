//! The circuit to an upstream: who is let in, and what is learned from requests that are over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Upstream;
use super::breaker::{Breaker, Change, Pass, Refused, Standing, State};
use crate::config::model;
use crate::metrics::{CircuitMetrics, CircuitState, FailureReason, Metrics};

/// A circuit with what is told of it.
#[derive(Clone)]
pub(super) struct Circuit {
    breaker: Arc<Breaker>,
    metrics: Arc<CircuitMetrics>,
}

/// What `/status` shows of a circuit.
pub struct Report {
    /// How it stands.
    pub standing: Standing,
    /// Failures in a row.
    pub consecutive: u32,
    /// Failures and requests within the window; none without a policy.
    pub window: Option<(u32, u32)>,
    /// Requests that were not let in.
    pub rejected: u64,
}

impl Circuit {
    /// The circuit of the generation before, or a closed one.
    pub fn compile(
        config: &model::Upstream,
        metrics: &Metrics,
        now: Instant,
        previous: Option<&Upstream>,
    ) -> Self {
        let before = previous.map(|previous| previous.circuit.clone());
        let circuit = before.unwrap_or_else(|| {
            let metrics = metrics.circuit(&config.name);
            let (name, told) = (Arc::clone(&config.name), Arc::clone(&metrics));
            let tell = move |change: &Change| tell(&name, &told, change);
            Self {
                breaker: Arc::new(Breaker::new(now, Box::new(tell))),
                metrics,
            }
        });
        let was_on = previous.is_some_and(|previous| previous.config.circuit_breaker.is_some());
        if was_on && config.circuit_breaker.is_none() {
            circuit.breaker.switch_off(now);
        }
        circuit
    }
}

fn tell(name: &str, metrics: &CircuitMetrics, change: &Change) {
    metrics.changed(match change.to {
        State::Closed => CircuitState::Closed,
        State::HalfOpen => CircuitState::HalfOpen,
        State::Open => CircuitState::Open,
    });
    match (change.to, change.lasts) {
        (State::Open, Some(lasts)) => log::warn!(
            "upstream={name} circuit open for {:.1}s: {}",
            lasts.as_secs_f32(),
            change.why
        ),
        (State::Open, None) => log::warn!("upstream={name} circuit open: {}", change.why),
        (State::HalfOpen, _) => log::info!("upstream={name} circuit half_open: {}", change.why),
        (State::Closed, _) => log::info!("upstream={name} circuit closed: {}", change.why),
    }
}

impl Upstream {
    /// Lets a request in, or says when to come back.
    pub fn let_in(&self, now: Instant) -> Result<Pass, Refused> {
        let policy = self.config.circuit_breaker.as_ref();
        self.circuit
            .breaker
            .admit(policy, now)
            .inspect_err(|_| self.circuit.metrics.rejected())
    }

    /// Whether a request that was let in has to ask again, because the circuit has changed since.
    pub fn is_outdated(&self, pass: &Pass) -> bool {
        match pass {
            Pass::Ordinary(generation) => !self.circuit.breaker.is_closed_in(*generation),
            Pass::Probe(_) => false,
        }
    }

    /// Records how a request was answered that was let in: with this status, so long after that could
    /// begin. Says in which generation that was good, so that a broken answer can be told later.
    pub fn judge(&self, pass: Pass, status: u16, latency: Duration, now: Instant) -> Option<u64> {
        let policy = self.config.circuit_breaker.as_ref()?;
        let good = !policy.failure_on.is_failure(status, latency);
        let generation = match &pass {
            Pass::Ordinary(generation) if good => Some(*generation),
            _ => None,
        };
        self.circuit.breaker.settle(policy, pass, good, now);
        generation
    }

    /// Records that a request that was let in was not answered in the end, for this reason.
    pub fn unanswered(&self, pass: Pass, reason: FailureReason, now: Instant) {
        if let Some(policy) = &self.config.circuit_breaker
            && counts(policy, reason)
        {
            self.circuit.breaker.settle(policy, pass, false, now);
        }
    }

    /// Records that an answer that had begun well in this generation was broken off.
    pub fn broke_off(&self, generation: u64, reason: FailureReason, now: Instant) {
        if let Some(policy) = &self.config.circuit_breaker
            && counts(policy, reason)
        {
            self.circuit.breaker.broke_off(policy, generation, now);
        }
    }

    /// Does what is due without a request.
    pub fn tick(&self, now: Instant) {
        match &self.config.circuit_breaker {
            Some(_) => self.circuit.breaker.tick(now),
            None => self.circuit.breaker.keep_off(now),
        }
        self.welcome(now);
        self.compare(now);
        self.fit_concurrency(now);
    }

    /// A health check finds a backend well: there may be no need to wait any longer. Says whether nobody
    /// waits; a check that began before the circuit opened is too early.
    pub(super) fn recovered(&self, now: Instant) -> bool {
        let check = self.health_check.as_ref();
        let took = check.map_or(Duration::ZERO, |check| check.pace.timeout);
        self.circuit.breaker.recovered(took, now)
    }

    /// Holds the circuit open or closed, or leaves it to itself again.
    pub fn force_circuit(&self, open: Option<bool>, now: Instant) {
        self.circuit.breaker.force(open, now);
    }

    /// Whether an operator holds the circuit open or closed.
    pub fn forced_circuit(&self) -> Option<bool> {
        let standing = self.circuit.breaker.standing(Instant::now());
        standing.forced.then_some(standing.state == State::Open)
    }

    /// How the circuit stands.
    pub fn circuit(&self, now: Instant) -> Report {
        let (breaker, policy) = (&self.circuit.breaker, &self.config.circuit_breaker);
        Report {
            standing: breaker.standing(now),
            consecutive: breaker.consecutive(),
            window: policy.as_ref().map(|policy| breaker.counts(policy, now)),
            rejected: self.circuit.metrics.rejections(),
        }
    }
}

/// Whether the policy counts such a failure.
fn counts(policy: &model::CircuitBreaker, reason: FailureReason) -> bool {
    match reason.is_timeout() {
        true => policy.failure_on.timeouts,
        false => policy.failure_on.errors,
    }
}
