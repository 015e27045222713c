//! Named groups of backends: which member a request is given to, and what is learned from it.

mod backend;
pub mod balance;
mod complaint;
mod known;
mod outlier;
mod peer;
mod retry;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

pub use backend::{Admitted, Backend, State};
use balance::Schedule;
use complaint::Complaints;
use known::Known;
pub use peer::Purpose;
use retry::RetryBudget;

use crate::config::model;
use crate::filter::concurrency::Limit;
use crate::metrics::{FailureReason, Metrics, ProbeResult, UpstreamMetrics};
use crate::tls::backend::BackendTls;

/// A named group of backends.
pub struct Upstream {
    /// Its name, the `backend_service` of metrics and logs.
    pub name: Arc<str>,
    /// What an attempt may take.
    pub timeouts: model::Timeouts,
    /// Attempts after the first.
    pub retry_attempts: usize,
    /// How its members are probed.
    pub health_check: Option<model::HealthCheck>,
    /// What is measured of it.
    pub metrics: Arc<UpstreamMetrics>,
    /// What it was built from.
    pub config: model::Upstream,
    /// How many requests may be in flight to it.
    pub concurrency: Option<Limit>,
    backends: Vec<Arc<Backend>>,
    complaints: Complaints,
    budget: Arc<RetryBudget>,
    /// Grows whenever a member comes or goes, in whatever generation that is noticed.
    changes: Arc<AtomicU64>,
    /// What `changes` was when the schedule was made.
    scheduled: AtomicU64,
    /// The members that are up, by weight. Made anew when one comes or goes.
    schedule: ArcSwap<Schedule>,
    epoch: Instant,
    /// When the next ejection ends, in milliseconds since `epoch`; `u64::MAX` for never.
    next_return: AtomicU64,
    /// Held while the schedule is made; never on the way of a request that finds one ready.
    rebuilding: Mutex<()>,
}

/// The members that an earlier attempt of the same request was given to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    members: [u16; 8],
    count: usize,
}

impl Tried {
    fn contains(&self, member: u16) -> bool {
        self.members[..self.count].contains(&member)
    }

    fn push(&mut self, member: u16) {
        if let Some(slot) = self.members.get_mut(self.count) {
            *slot = member;
            self.count += 1;
        }
    }
}

impl Upstream {
    /// Builds the group. What an earlier generation knows of a member that stays is kept; of others
    /// it is taken that they are up.
    pub fn compile(
        config: &model::Upstream,
        metrics: &Metrics,
        now: Instant,
        previous: Option<&Self>,
    ) -> Self {
        let tls = config.tls.as_ref().map(BackendTls::new);
        let backends = config
            .backends
            .iter()
            .map(|backend| {
                let known = previous.and_then(|previous| previous.known(backend));
                let known = known.unwrap_or_else(|| Known::nothing(now));
                if config.health_check.is_none() {
                    // No probe would ever bring it back.
                    known.set_probed(true);
                }
                Arc::new(Backend::new(
                    config,
                    backend,
                    tls.as_ref(),
                    metrics,
                    known,
                    now,
                ))
            })
            .collect();
        let budget = previous
            .filter(|previous| previous.config.retries == config.retries)
            .map(|previous| Arc::clone(&previous.budget));
        let places = previous.and_then(|previous| previous.concurrency.as_ref());
        let upstream = Self {
            concurrency: config
                .concurrency
                .map(|bounds| Limit::of_upstream(bounds, &config.name, metrics, places)),
            name: Arc::clone(&config.name),
            timeouts: config.timeouts.clone(),
            retry_attempts: config.retries.attempts,
            health_check: config.health_check.clone(),
            metrics: metrics.upstream(&config.name),
            config: config.clone(),
            backends,
            complaints: Complaints::default(),
            budget: budget.unwrap_or_else(|| Arc::new(RetryBudget::new(&config.retries, now))),
            changes: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.changes)),
            scheduled: AtomicU64::new(0),
            schedule: ArcSwap::from_pointee(Schedule::new(&[])),
            epoch: now,
            next_return: AtomicU64::new(u64::MAX),
            rebuilding: Mutex::new(()),
        };
        upstream.rebuild(now);
        upstream
    }

    /// What is known of the member that has this name and address.
    fn known(&self, backend: &model::Backend) -> Option<Arc<Known>> {
        let same =
            |own: &model::Backend| own.name == backend.name && own.address == backend.address;
        let place = self.config.backends.iter().position(same)?;
        Some(Arc::clone(&self.backends.get(place)?.known))
    }

    /// The members.
    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// Chooses a member, one that was not tried before if there is one. `None`: all are out.
    pub fn select(&self, tried: &mut Tried, now: Instant) -> Option<Admitted> {
        if self.is_stale(now) {
            self.rebuild(now);
        }
        let schedule = self.schedule.load();
        let member = if tried.count == 0 {
            schedule.next()?
        } else {
            schedule.other(|member| !tried.contains(member))?
        };
        tried.push(member);
        self.backends.get(usize::from(member)).map(Backend::admit)
    }

    /// Whether a member came or went since the schedule was made.
    fn is_stale(&self, now: Instant) -> bool {
        self.changes.load(Ordering::Relaxed) != self.scheduled.load(Ordering::Relaxed)
            || self.millis(now) >= self.next_return.load(Ordering::Relaxed)
    }

    /// Records a request, its retries not counted.
    pub fn requested(&self) {
        self.budget.request();
    }

    /// Whether one more retry is within the budget; takes it if so.
    pub fn may_retry(&self, now: Instant) -> bool {
        self.budget.take(now)
    }

    /// Records that the backend answered an attempt with this status, so long after it could begin to.
    /// Everything that is learned of answers is learned here.
    pub fn answered(&self, backend: &Backend, _status: u16, _latency: Duration, now: Instant) {
        backend.known.outlier.succeeded();
        backend.peers.answered(now);
    }

    /// Records an attempt that came back undone because the backend closes the connection, as it may
    /// at any time.
    pub fn gave_back(&self, reason: FailureReason) {
        self.metrics.failed(reason);
    }

    /// Records that an attempt was not answered in time.
    pub fn waited_in_vain(&self, backend: &Backend, started: Instant) {
        if backend.peers.waited_in_vain(started) {
            log::warn!(
                "upstream={} backend={} answers nothing: its HTTP/2 connections are given up",
                self.name,
                backend.name
            );
        }
    }

    /// Says now and then why no secure connection comes about.
    pub fn complain(&self, backend: &Backend, cause: &dyn std::fmt::Display, now: Instant) {
        if let Some(left_out) = self.complaints.admit(self.millis(now)) {
            log::warn!(
                "upstream={} backend={} TLS: {cause} ({left_out} more were not logged)",
                self.name,
                backend.name
            );
        }
    }

    /// Records an attempt that the backend did not answer; ejects it when it is time to.
    pub fn failed(&self, backend: &Backend, reason: FailureReason, now: Instant) {
        self.metrics.failed(reason);
        if !backend.known.outlier.failed(&self.config.outlier) || backend.state(now) != State::Up {
            return;
        }
        let _one_at_a_time = self
            .rebuilding
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let ejected = self.count(State::Ejected, now);
        let allowed = (self.config.outlier.max_ejected * self.backends.len() as f64) as usize;
        if ejected >= allowed || backend.state(now) != State::Up {
            return;
        }
        let time = backend.known.outlier.eject(&self.config.outlier, now);
        backend.metrics.ejected();
        log::warn!(
            "upstream={} backend={} ejected for {}s after consecutive failures, last error: {}",
            self.name,
            backend.name,
            time.as_secs_f32(),
            reason.as_str(),
        );
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.rebuild_locked(now);
    }

    /// Takes over what a backend's probes say.
    pub fn probed(&self, backend: &Backend, up: bool, now: Instant) {
        if !backend.known.set_probed(up) {
            return;
        }
        if up {
            log::info!("upstream={} backend={} is up", self.name, backend.name);
        } else {
            log::warn!(
                "upstream={} backend={} is down: its health checks fail",
                self.name,
                backend.name
            );
        }
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.rebuild(now);
    }

    /// Counts one probe.
    pub fn count_probe(backend: &Backend, good: bool) {
        backend.metrics.probed(if good {
            ProbeResult::Success
        } else {
            ProbeResult::Failure
        });
    }

    fn count(&self, state: State, now: Instant) -> usize {
        self.backends
            .iter()
            .filter(|backend| backend.state(now) == state)
            .count()
    }

    fn rebuild(&self, now: Instant) {
        let _one_at_a_time = self
            .rebuilding
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.rebuild_locked(now);
    }

    /// Makes the schedule of the members that are up now. Needs `rebuilding`.
    fn rebuild_locked(&self, now: Instant) {
        // Read before the members: what changes meanwhile makes the schedule anew.
        let changes = self.changes.load(Ordering::Relaxed);
        let mut choices = Vec::with_capacity(self.backends.len());
        let mut next_return = u64::MAX;
        for (member, backend) in (0u16..).zip(&self.backends) {
            let up = backend.state(now) == State::Up;
            if up {
                choices.push((member, backend.weight));
            } else if let Some(until) = backend.known.outlier.ejected_until(now) {
                next_return = next_return.min(self.millis(until) + 1);
            }
            backend.metrics.set_up(up);
        }
        self.schedule.store(Arc::new(Schedule::new(&choices)));
        self.next_return.store(next_return, Ordering::Relaxed);
        self.scheduled.store(changes, Ordering::Relaxed);
    }

    fn millis(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_millis() as u64
    }
}

/// How long an attempt may wait for the first byte of its response.
pub fn first_byte(upstream: &Upstream, route: &model::TimeoutOverrides) -> Duration {
    route.first_byte.unwrap_or(upstream.timeouts.first_byte)
}

#[cfg(test)]
mod tests;
