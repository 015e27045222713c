//! Named groups of backends: which member a request is given to, and what is learned from it.

mod age;
mod backend;
pub mod balance;
mod breaker;
mod circuit;
mod complaint;
mod drained;
mod ejection;
mod known;
mod latency;
mod members;
mod outlier;
mod peer;
mod plan;
mod planning;
mod probed;
pub mod repeat;
mod retry;
pub mod sticky;
mod weigh;
mod wish;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

pub use backend::{Admitted, Backend, IdlePlace, Membership, State};
use balance::peak_ewma;
pub use breaker::{Pass, Refused, State as CircuitState};
use circuit::Circuit;
pub use circuit::Report as CircuitReport;
use complaint::Complaints;
use drained::Drained;
use latency::Latencies;
use members::Maker;
pub use members::Members;
pub use peer::Purpose;
use plan::{Making, Plan};
pub use probed::Findings;
pub use retry::Price;
use retry::RetryBudget;
use sticky::Sticky;
pub use wish::{Tried, Wish};

use crate::config::model;
use crate::filter::concurrency::Limit;
use crate::metrics::{FailureReason, Metrics, UpstreamMetrics};
use crate::tls::backend::BackendTls;

/// How often [`Upstream::tick`] is called.
pub const LOOK: Duration = Duration::from_millis(500);

/// Choices that may be lost to other threads in a row, which takes more than bad luck.
const RACES: usize = 4;

/// A named group of backends.
pub struct Upstream {
    /// Its name, the `backend_service` of metrics and logs.
    pub name: Arc<str>,
    /// What an attempt may take.
    pub timeouts: model::Timeouts,
    /// How its members are probed.
    pub health_check: Option<model::HealthCheck>,
    /// What is measured of it.
    pub metrics: Arc<UpstreamMetrics>,
    /// What it was built from.
    pub config: model::Upstream,
    /// How many requests may be in flight to it.
    pub concurrency: Option<Limit>,
    circuit: Circuit,
    /// How clients come back to their backend, if they do.
    pub sticky: Option<Sticky>,
    tls: Option<BackendTls>,
    complaints: Complaints,
    /// Whom operators drain, in every generation.
    drained: Arc<Drained>,
    budget: Arc<RetryBudget>,
    latencies: Arc<Latencies>,
    /// Whether somebody asks for them.
    measured: AtomicBool,
    /// Grows whenever a member changes its state, in whatever generation that is noticed.
    changes: Arc<AtomicU64>,
    /// The priority group in use, in every generation.
    active: Arc<AtomicU8>,
    /// Its requests in flight, where the choice regards that.
    busy: Option<Arc<AtomicUsize>>,
    /// The members, and what is drawn from. Made anew when one comes, goes or changes its state.
    plan: ArcSwap<Plan>,
    epoch: Instant,
    /// Held while a plan is made. No choice waits for it; whoever ejects a backend does.
    planning: Mutex<()>,
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
        let drained = previous.map_or_else(Arc::default, |one| Arc::clone(&one.drained));
        let is_hash = matches!(config.balance, model::Balance::Hash(_));
        let busy = is_hash.then(|| {
            previous
                .and_then(|one| one.busy.clone())
                .unwrap_or_default()
        });
        let maker = Maker {
            config,
            tls: tls.as_ref(),
            drained: &drained,
            busy: busy.as_ref(),
            metrics,
            now,
        };
        let before = previous.map(Self::members).unwrap_or_default();
        let members = maker.compile(&members::first(config, previous), &before);
        let changes: Arc<AtomicU64> =
            previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.changes));
        let active: Arc<AtomicU8> =
            previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.active));
        let of_config = config.sticky.as_ref();
        let sticky = of_config.map(|sticky| Sticky::compile(sticky, &config.name));
        let making = Making {
            config,
            sticky: sticky.as_ref(),
            changes: changes.load(Ordering::Relaxed),
            active: active.load(Ordering::Relaxed),
            now,
        };
        let before = previous.map(|previous| previous.plan.load_full());
        let plan = Plan::new(Arc::new(members), &making, before.as_deref());
        let retries = &config.retries;
        let budget = previous
            .map(|previous| Arc::clone(&previous.budget))
            .filter(|budget| budget.is_of(retries.budget, retries.min_per_second));
        let places = previous.and_then(|previous| previous.concurrency.as_ref());
        let upstream = Self {
            concurrency: config
                .concurrency
                .as_ref()
                .map(|limit| Limit::of_upstream(limit, &config.name, metrics, now, places)),
            sticky,
            name: Arc::clone(&config.name),
            timeouts: config.timeouts.clone(),
            health_check: config.health_check.clone(),
            metrics: {
                let own = metrics.upstream(&config.name);
                own.set_selection(plan.priority, plan.panics);
                own
            },
            config: config.clone(),
            circuit: Circuit::compile(config, metrics, now, previous),
            tls,
            complaints: Complaints::default(),
            drained,
            measured: AtomicBool::new(false),
            latencies: previous.map_or_else(Arc::default, |one| Arc::clone(&one.latencies)),
            budget: budget.unwrap_or_else(|| {
                let (share, least) = (retries.budget, retries.min_per_second);
                Arc::new(RetryBudget::new(share, least, now))
            }),
            changes,
            active,
            busy,
            plan: ArcSwap::from_pointee(plan),
            epoch: now,
            planning: Mutex::new(()),
        };
        if previous.is_none() {
            upstream.fit_concurrency(now);
        }
        upstream
    }

    /// The members as they are now.
    pub fn members(&self) -> Arc<Members> {
        Arc::clone(&self.plan.load().members)
    }

    /// Replaces the members, at any time and as often as a discovery likes. Those that stay (by name
    /// and address) keep what is known of them, their connections and their metrics. Those that go are
    /// given no further request and finish those that they have. Without members every request is
    /// refused, until there are some.
    pub fn set_members(&self, wanted: &[model::Backend], metrics: &Metrics, now: Instant) {
        let _one_at_a_time = self.plan_alone();
        let maker = Maker {
            config: &self.config,
            tls: self.tls.as_ref(),
            drained: &self.drained,
            busy: self.busy.as_ref(),
            metrics,
            now,
        };
        let members = maker.replace(wanted, &self.members());
        self.plan_locked(Arc::new(members), now);
    }

    /// Chooses a member, one that was not tried before if there is one. `None`: all are out.
    pub fn select(&self, wish: Wish, tried: &mut Tried) -> Option<Admitted> {
        let mut plan = self.plan.load();
        if self.is_stale(&plan, wish.now) && self.try_plan(wish.now) {
            plan = self.plan.load();
        }
        let count = |busy: &Arc<AtomicUsize>| busy.load(Ordering::Relaxed);
        let busy = self.busy.as_ref().map_or(0, count);
        // Another thread may have taken the one place that a candidate had.
        for _ in 0..RACES {
            let chosen = plan.choose(wish, tried, busy);
            let is_new = chosen.is_some_and(|(backend, _)| !tried.contains(backend.id()));
            let ejected = match is_new {
                true => None,
                false => last_resort(&plan.members, wish, tried),
            };
            let (backend, is_kept) = ejected.map(|one| (one, false)).or(chosen)?;
            let admitted = match plan.panics || ejected.is_some() {
                true => backend.admit_guest(wish.now),
                false => backend.admit(wish.now),
            };
            if let Some(admitted) = admitted {
                tried.push(backend.id());
                return Some(admitted.kept(is_kept));
            }
        }
        None
    }

    /// Whether there is a member that is well and has as many requests as it may have.
    pub fn is_full(&self, now: Instant) -> bool {
        let is_busy = |one: &Arc<Backend>| one.is_full() && one.state(now) == State::Up;
        self.members().iter().any(is_busy)
    }

    /// Has the limit on requests follow the number of members in use.
    pub fn fit_concurrency(&self, now: Instant) {
        if let Some(limit) = &self.concurrency {
            limit.fit(self.plan.load().in_use(), now);
        }
    }

    /// Whether there is a member that may be given a probe of the upstream and was not.
    pub fn has_untried(&self, tried: &Tried, now: Instant) -> bool {
        let is_left = |one: &Backend| {
            let may = one.accepts(now) || one.state(now) == State::Ejected;
            may && !tried.contains(one.id())
        };
        !tried.is_full() && self.members().iter().any(|one| is_left(one))
    }

    /// Records a request, its retries not counted.
    pub fn requested(&self) {
        self.budget.request();
    }

    /// How long this share of the answers takes at most; `None` while too few are known.
    pub fn percentile(&self, share: f64) -> Option<Duration> {
        self.latencies.percentile(share)
    }

    /// Has answers be measured, if a share of them is ever asked for.
    pub fn measure_answers(&self) {
        self.measured.store(true, Ordering::Relaxed);
    }

    /// Whether one more retry is within the budget; pays for it if so.
    pub fn may_retry(&self, price: Price, now: Instant) -> bool {
        self.budget.pay(price, now)
    }

    /// Records that the backend answered an attempt with this status, so long after it could begin to;
    /// `None` when that was before it had the whole request. Everything that is learned of answers is
    /// learned here.
    pub fn answered(
        &self,
        admitted: &mut Admitted,
        status: u16,
        latency: impl Into<Option<Duration>>,
        now: Instant,
    ) {
        let latency = latency.into();
        self.learn_of_answer(admitted, status, latency.unwrap_or_default(), now);
        admitted.backend().peers.answered(now);
        let is_good = status < 500;
        self.took(admitted.backend(), latency, is_good, now);
        if admitted.is_copy {
            return;
        }
        if let Some(latency) = latency {
            if let Some(limit) = &self.concurrency {
                limit.answered(status, latency, now);
            }
            if self.measured.load(Ordering::Relaxed) {
                self.latencies.observe(latency);
            }
        }
        if is_good {
            self.budget.answered();
        }
    }

    /// Records that another backend has answered the same request first: this one takes longer than it
    /// has taken so far.
    pub fn overtaken(&self, admitted: &Admitted, now: Instant) {
        let waited = admitted.waits_since.map(|since| now - since);
        if let (Some(waited), true) = (waited, self.config.outlier.compares()) {
            let outlier = &admitted.backend().known.outlier;
            outlier.tally.answered(waited, false);
        }
        self.took(admitted.backend(), waited, true, now);
    }

    /// Takes in how long an attempt took, where the choice regards that.
    fn took(&self, backend: &Backend, latency: Option<Duration>, is_good: bool, now: Instant) {
        if let (Some(decay), Some(latency)) = (self.config.balance.decay(), latency) {
            let latency = match is_good {
                true => latency,
                false => latency.max(peak_ewma::FAILED),
            };
            backend.known.latency.observe(latency, decay, now);
        }
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

    /// Takes over what the row of a backend's probes comes to, and why. The last of them has just ended.
    pub fn probed(&self, backend: &Backend, up: bool, reason: Option<&str>, now: Instant) {
        let is_change = backend.known.probed.set(up);
        // That checks are good is no news of requests that fail all the same.
        if up && backend.known.probed.was_ill() && self.recovered(now) {
            backend.known.probed.is_well_again();
        }
        if is_change {
            self.tell_judged(backend, up, reason, now);
        }
    }

    /// The same of probes that may be long over.
    pub fn judged(&self, backend: &Backend, up: bool, reason: Option<&str>, now: Instant) {
        if backend.known.probed.set(up) {
            self.tell_judged(backend, up, reason, now);
        }
    }

    fn tell_judged(&self, backend: &Backend, up: bool, reason: Option<&str>, now: Instant) {
        let (upstream, name) = (&self.name, &backend.name);
        match up {
            true => log::info!("upstream={upstream} backend={name} is up"),
            false => log::warn!(
                "upstream={upstream} backend={name} is down: its health checks fail, the last one: {}",
                reason.unwrap_or("no reason given"),
            ),
        }
        self.changed(now);
    }

    /// Takes every member to be well until its probes say otherwise: a process that takes over the
    /// requests of another one must not begin with nobody to give them to.
    pub fn presume_well(&self, now: Instant) {
        let members = self.members();
        let was_out = members.iter().filter(|one| one.known.probed.set(true));
        if was_out.count() > 0 {
            self.changed(now);
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_millis() as u64
    }
}

/// An ejected member that was not tried. It comes before one that has just failed the same request, and
/// it is who a probe goes to when everybody is out.
fn last_resort<'a>(members: &'a Members, wish: Wish, tried: &Tried) -> Option<&'a Arc<Backend>> {
    if tried.is_empty() && !wish.is_probe {
        return None;
    }
    let start = fastrand::usize(..members.len().max(1));
    let (before, from) = members.split_at(start.min(members.len()));
    from.iter().chain(before).find(|one| {
        let may = wish.is_probe || one.known.outlier.takes_guests();
        may && !one.is_full() && one.state(wish.now) == State::Ejected && !tried.contains(one.id())
    })
}

/// How long an attempt may wait for the first byte of its response.
pub fn first_byte(upstream: &Upstream, route: &model::TimeoutOverrides) -> Duration {
    route.first_byte.unwrap_or(upstream.timeouts.first_byte)
}

#[cfg(test)]
mod tests;
