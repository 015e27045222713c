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

    /// Records an attempt that the backend answered.
    pub fn succeeded(&self, backend: &Backend) {
        backend.known.outlier.succeeded();
        backend.peers.answered();
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
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn config(members: u16) -> model::Upstream {
        let second = Duration::from_secs(1);
        model::Upstream {
            name: "users".into(),
            backends: (1..=members)
                .map(|port| model::Backend {
                    name: format!("127.0.0.1:{port}").into(),
                    address: SocketAddr::from(([127, 0, 0, 1], port)),
                    weight: 1,
                    server_name: "".into(),
                })
                .collect(),
            protocol: model::Protocol::Http1,
            tls: None,
            http2: model::Http2 {
                max_streams: 100,
                stream_window: 65_536,
                ping_interval: None,
            },
            balance: model::Balance::RoundRobin,
            timeouts: model::Timeouts {
                connect: second,
                first_byte: second,
                read: second,
                write: second,
                upgraded_idle: second,
            },
            concurrency: None,
            pool: model::Pool {
                idle_timeout: second,
            },
            retries: model::Retries {
                attempts: 1,
                budget: 0.2,
                min_per_second: 3,
            },
            health_check: None,
            outlier: model::Outlier {
                consecutive_failures: 2,
                base_ejection: Duration::from_secs(10),
                max_ejection: Duration::from_secs(300),
                max_ejected: 0.5,
            },
        }
    }

    fn upstream(members: u16, now: Instant) -> Upstream {
        Upstream::compile(&config(members), &Metrics::new("gateway"), now, None)
    }

    fn chosen(upstream: &Upstream, now: Instant, times: usize) -> Vec<String> {
        (0..times)
            .filter_map(|_| upstream.select(&mut Tried::default(), now))
            .map(|admitted| admitted.backend().name.to_string())
            .collect()
    }

    #[test]
    fn members_take_turns_and_a_retry_goes_elsewhere() {
        let now = Instant::now();
        let upstream = upstream(2, now);
        assert_eq!(
            chosen(&upstream, now, 3),
            ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:1"]
        );
        let mut tried = Tried::default();
        let first = upstream
            .select(&mut tried, now)
            .map(|a| Arc::clone(a.backend()));
        let second = upstream
            .select(&mut tried, now)
            .map(|a| Arc::clone(a.backend()));
        assert_ne!(
            first.map(|b| b.name.clone()),
            second.map(|b| b.name.clone())
        );
    }

    #[test]
    fn a_failing_member_is_left_out_and_comes_back() {
        let now = Instant::now();
        let upstream = upstream(2, now);
        let failing = Arc::clone(&upstream.backends()[0]);
        upstream.failed(&failing, FailureReason::Connect, now);
        assert_eq!(failing.state(now), State::Up);
        upstream.failed(&failing, FailureReason::Connect, now);
        assert_eq!(failing.state(now), State::Ejected);
        assert!(
            chosen(&upstream, now, 4)
                .iter()
                .all(|name| name == "127.0.0.1:2")
        );
        let later = now + Duration::from_secs(11);
        assert!(chosen(&upstream, later, 4).contains(&"127.0.0.1:1".to_owned()));
    }

    #[test]
    fn the_last_members_are_not_ejected() {
        let now = Instant::now();
        let upstream = upstream(2, now);
        for backend in upstream.backends() {
            for _ in 0..5 {
                upstream.failed(backend, FailureReason::Reset, now);
            }
        }
        assert_eq!(upstream.count(State::Ejected, now), 1);
        let alone = Upstream::compile(&config(1), &Metrics::new("gateway"), now, None);
        for _ in 0..9 {
            alone.failed(&alone.backends()[0], FailureReason::Reset, now);
        }
        assert_eq!(alone.count(State::Up, now), 1);
    }

    #[test]
    fn probes_take_members_out_even_the_last_one() {
        let now = Instant::now();
        let upstream = upstream(2, now);
        upstream.probed(&upstream.backends()[0], false, now);
        assert_eq!(chosen(&upstream, now, 2), ["127.0.0.1:2", "127.0.0.1:2"]);
        upstream.probed(&upstream.backends()[1], false, now);
        assert!(upstream.select(&mut Tried::default(), now).is_none());
        upstream.probed(&upstream.backends()[1], true, now);
        assert_eq!(chosen(&upstream, now, 1), ["127.0.0.1:2"]);
    }

    #[test]
    fn connections_are_given_up_only_if_nothing_is_answered() {
        let mut config = config(1);
        config.protocol = model::Protocol::Http2;
        let upstream = Upstream::compile(&config, &Metrics::new("gateway"), Instant::now(), None);
        let backend = &upstream.backends()[0];
        let key = || backend.peer(Purpose::Request).group_key;
        let first = key();
        let started = Instant::now();
        upstream.succeeded(backend);
        upstream.waited_in_vain(backend, started);
        assert_eq!(key(), first);
        upstream.waited_in_vain(backend, Instant::now() + Duration::from_secs(1));
        assert_ne!(key(), first);
    }

    #[test]
    fn requests_in_flight_are_given_back() {
        let now = Instant::now();
        let upstream = upstream(1, now);
        let admitted = upstream.select(&mut Tried::default(), now);
        assert_eq!(upstream.backends()[0].in_flight(), 1);
        drop(admitted);
        assert_eq!(upstream.backends()[0].in_flight(), 0);
    }

    #[test]
    fn what_is_known_of_a_member_that_stays_outlives_a_reload() {
        let now = Instant::now();
        let metrics = Metrics::new("gateway");
        let old = Upstream::compile(&config(2), &metrics, now, None);
        let failing = Arc::clone(&old.backends()[0]);
        for _ in 0..2 {
            old.failed(&failing, FailureReason::Connect, now);
        }
        let busy = old.select(&mut Tried::default(), now);
        let new = Upstream::compile(&config(3), &metrics, now, Some(&old));
        assert_eq!(new.backends()[0].state(now), State::Ejected);
        assert_eq!(new.backends()[1].in_flight(), 1);
        assert!(Arc::ptr_eq(&new.budget, &old.budget));
        let names = chosen(&new, now, 4);
        assert!(!names.contains(&"127.0.0.1:1".to_owned()), "{names:?}");
        assert!(names.contains(&"127.0.0.1:3".to_owned()), "{names:?}");
        drop(busy);
        assert_eq!(new.backends()[1].in_flight(), 0);
    }

    #[test]
    fn what_an_older_generation_learns_counts_in_the_newer_one() {
        let now = Instant::now();
        let metrics = Metrics::new("gateway");
        let old = Upstream::compile(&config(2), &metrics, now, None);
        let new = Upstream::compile(&config(4), &metrics, now, Some(&old));
        assert!(chosen(&new, now, 4).contains(&"127.0.0.1:1".to_owned()));
        for _ in 0..2 {
            old.failed(&old.backends()[0], FailureReason::Reset, now);
        }
        assert!(!chosen(&new, now, 8).contains(&"127.0.0.1:1".to_owned()));
    }

    #[test]
    fn a_member_at_another_address_is_another_member() {
        let now = Instant::now();
        let metrics = Metrics::new("gateway");
        let mut checked = config(1);
        checked.health_check = Some(model::HealthCheck {
            path: None,
            host: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            unhealthy_after: 1,
            healthy_after: 1,
            expected_statuses: Vec::new(),
        });
        let old = Upstream::compile(&checked, &metrics, now, None);
        old.probed(&old.backends()[0], false, now);
        let kept = Upstream::compile(&checked, &metrics, now, Some(&old));
        assert_eq!(kept.backends()[0].state(now), State::Down);
        let mut moved = checked.clone();
        moved.backends[0].address.set_port(9);
        let moved = Upstream::compile(&moved, &metrics, now, Some(&kept));
        assert_eq!(moved.backends()[0].state(now), State::Up);
        let unchecked = Upstream::compile(&config(1), &metrics, now, Some(&kept));
        assert_eq!(unchecked.backends()[0].state(now), State::Up);
    }
}
