//! Active health checks: every backend of every upstream that asks for them, all in parallel.
//!
//! The probes follow the configuration and the members of upstreams. What several upstreams probe in
//! the same way is probed once, and each is told. Probes of what stays go on across a reload, with what
//! they have seen so far.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use tokio::task::AbortHandle;

use super::check::{Check, Target, Unwell};
use super::streak::Streak;
use crate::lifecycle::{Condition, Lifecycle};
use crate::snapshot::{Live, Snapshot};
use crate::upstream::{Backend, Upstream};

/// How far first probes that begin together are spread for each of them, and for all at most: a
/// handful begins at once, and a thousand do not all connect in the same moment.
const SPREAD: Duration = Duration::from_millis(2);
const SPREAD_AT_MOST: Duration = Duration::from_secs(1);
/// Between two looks whether the results that a start needs are there.
const LOOK: Duration = Duration::from_millis(10);

/// Probes the backends of the running configuration.
pub struct Probes {
    live: Arc<Live>,
    lifecycle: Arc<Lifecycle>,
}

impl Probes {
    /// Over this configuration.
    pub fn new(live: Arc<Live>, lifecycle: Arc<Lifecycle>) -> Self {
        Self { live, lifecycle }
    }

    /// Requests are welcome once every backend that waits for its first probe has had one, and at the
    /// latest when those would have taken too long: another instance is no better off then.
    async fn welcome(&self) {
        let first = judged_first(&self.live.load());
        let timeouts = first.iter().map(|(_, timeout)| *timeout);
        let deadline = Instant::now() + SPREAD_AT_MOST + timeouts.max().unwrap_or_default();
        let is_probed = |(backend, _): &(Arc<Backend>, Duration)| backend.findings().last.is_some();
        while Instant::now() < deadline && !first.iter().all(is_probed) {
            tokio::time::sleep(LOOK).await;
        }
        self.lifecycle.met(Condition::HealthChecks);
    }
}

#[async_trait]
impl BackgroundService for Probes {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let mut changes = self.live.subscribe_members();
        let mut probing = Probing::default();
        let follow = async {
            loop {
                changes.mark_unchanged();
                probing.follow(&self.live.load());
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let work = async { tokio::join!(follow, self.welcome()) };
        // Dropping the tasks at the end of this function ends the probes.
        tokio::select! {
            _ = work => {}
            _ = shutdown.wait_for(|ending| *ending) => {}
        }
    }
}

/// Whether a start has to wait for the first probes of some backend.
pub fn is_waited_for(snapshot: &Snapshot) -> bool {
    !judged_first(snapshot).is_empty()
}

/// Backends that get nothing before their first good probe, and how long one may take.
fn judged_first(snapshot: &Snapshot) -> Vec<(Arc<Backend>, Duration)> {
    let mut first = Vec::new();
    for upstream in &snapshot.upstreams {
        let Some(check) = &upstream.health_check else {
            continue;
        };
        if !check.starts_healthy {
            let members = upstream.members();
            let waiting = members.iter();
            first.extend(waiting.map(|one| (Arc::clone(one), check.pace.timeout)));
        }
    }
    first
}

/// The probes that run.
#[derive(Default)]
struct Probing {
    tasks: tokio::task::JoinSet<()>,
    running: HashMap<Target, Running>,
}

struct Running {
    task: AbortHandle,
    told: Arc<Told>,
}

/// A member of an upstream.
type Member = (Arc<Upstream>, Arc<Backend>);

impl Probing {
    /// Starts what is new, ends what is gone, and leaves the rest alone.
    fn follow(&mut self, snapshot: &Snapshot) {
        let wanted = wanted(snapshot);
        self.running.retain(|target, running| {
            let stays = wanted.contains_key(target);
            if !stays {
                running.task.abort();
            }
            stays
        });
        let new = wanted.len() - self.running.len();
        let spread = SPREAD.saturating_mul(u32::try_from(new).unwrap_or(u32::MAX));
        for (target, members) in wanted {
            if let Some(running) = self.running.get(&target) {
                running.told.set_members(&members);
                continue;
            }
            let Some((_, backend)) = members.first() else {
                continue;
            };
            let check = Check::new(&target, backend);
            let told = Arc::<Told>::default();
            told.set_members(&members);
            let delay = spread.min(SPREAD_AT_MOST).min(target.pace.interval);
            let delay = delay.mul_f64(fastrand::f64());
            let probe = probe_for_ever(check, target.clone(), Arc::clone(&told), delay);
            let task = self.tasks.spawn(probe);
            self.running.insert(target, Running { task, told });
        }
        // A result that was on its way when a check was taken off would be the last one for good.
        let unchecked = snapshot.upstreams.iter();
        for upstream in unchecked.filter(|upstream| upstream.health_check.is_none()) {
            upstream.presume_well(Instant::now());
        }
        // Those that have ended are not kept.
        while self.tasks.try_join_next().is_some() {}
    }
}

fn wanted(snapshot: &Snapshot) -> HashMap<Target, Vec<Member>> {
    let mut wanted: HashMap<Target, Vec<Member>> = HashMap::new();
    for upstream in &snapshot.upstreams {
        let Some(check) = &upstream.health_check else {
            continue;
        };
        for backend in upstream.members().iter() {
            if let Some(target) = Target::new(backend, check) {
                let member = (Arc::clone(upstream), Arc::clone(backend));
                wanted.entry(target).or_default().push(member);
            }
        }
    }
    wanted
}

/// Who is told of the results of one target, and what they were told last.
#[derive(Default)]
struct Told(Mutex<Latest>);

#[derive(Default)]
struct Latest {
    /// Generations and upstreams come and go, and a probe keeps none of them alive.
    members: Vec<(Weak<Upstream>, Weak<Backend>)>,
    /// What the row of results came to, and why, when that is nothing good.
    verdict: Option<(bool, Option<String>)>,
}

impl Told {
    fn lock(&self) -> MutexGuard<'_, Latest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whom to tell from now on. Those that are new are told what is known already.
    fn set_members(&self, members: &[Member]) {
        let mut latest = self.lock();
        let weak =
            |(upstream, backend): &Member| (Arc::downgrade(upstream), Arc::downgrade(backend));
        latest.members = members.iter().map(weak).collect();
        if let Some((up, reason)) = &latest.verdict {
            for (upstream, backend) in members {
                upstream.judged(backend, *up, reason.as_deref(), Instant::now());
            }
        }
    }

    /// One result, and what the row comes to if it is long enough.
    fn tell(&self, result: &Result<(), Unwell>, judged: Option<bool>) {
        let reason = result.as_ref().err().map(ToString::to_string);
        let mut latest = self.lock();
        if let Some(up) = judged {
            latest.verdict = Some((up, reason.clone()));
        }
        let now = Instant::now();
        for (upstream, backend) in &latest.members {
            let (Some(upstream), Some(backend)) = (upstream.upgrade(), backend.upgrade()) else {
                continue;
            };
            if let Err(Unwell::Tls(what)) = result {
                upstream.complain(&backend, what, now);
            }
            backend.note_probe(reason.as_deref());
            if let Some(up) = judged {
                upstream.probed(&backend, up, reason.as_deref(), now);
            }
        }
    }
}

/// Probes one target at its pace, until the task is ended.
async fn probe_for_ever(check: Check, target: Target, told: Arc<Told>, delay: Duration) {
    let pace = &target.pace;
    let mut streak = Streak::default();
    tokio::time::sleep(delay).await;
    loop {
        let result = tokio::time::timeout(pace.timeout, check.run()).await;
        let result = result.unwrap_or(Err(Unwell::Late));
        told.tell(&result, streak.judge(result.is_ok(), pace));
        tokio::time::sleep(streak.wait(pace)).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn probes_follow_the_configuration_and_unchanged_ones_go_on() {
        let metrics = crate::metrics::Metrics::new("gateway");
        let loaded = |text: &str| {
            let env = crate::config::FixedEnv::default();
            let folder = std::path::Path::new(".");
            let text = format!("upstreams:\n{text}\nroutes: [{{ name: a, upstream: u }}]");
            let loaded = crate::config::parse(&text, "test", folder, &env);
            loaded.unwrap_or_else(|error| panic!("{error}")).config
        };
        let (now, check) = (Instant::now(), "health_check: { interval: 1h }");
        let first = loaded(&format!(
            "  u: {{ backends: ['127.0.0.1:1', '127.0.0.1:2'], {check} }}\n  v: {{ backends: ['127.0.0.1:3'] }}"
        ));
        let compile = |config, previous: Option<&Snapshot>| {
            Snapshot::compile(config, 1, &metrics, now, previous)
                .unwrap_or_else(|error| panic!("{error}"))
        };
        let live = Arc::new(Live::new(compile(&first, None)));
        let mut probing = Probing::default();
        probing.follow(&live.load());
        let id = |probing: &Probing, port: u16| {
            let mut running = probing.running.iter();
            let found = running.find(|(target, _)| target.port() == port);
            found.map(|(_, running)| running.task.id())
        };
        let before: Vec<_> = [1, 2, 3].map(|port| id(&probing, port)).into();
        assert!(before[0].is_some() && before[1].is_some() && before[2].is_none());
        let second = loaded(&format!(
            "  u: {{ backends: [{{ address: '127.0.0.1:1', weight: 2 }}, '127.0.0.1:4'], {check}, retries: {{ attempts: 3 }} }}\n  v: {{ backends: ['127.0.0.1:3'], {check} }}"
        ));
        let snapshot = compile(&second, Some(&live.load()));
        live.publish(snapshot);
        probing.follow(&live.load());
        assert_eq!(id(&probing, 1), before[0], "goes on");
        assert_eq!(id(&probing, 2), None);
        assert!(id(&probing, 3).is_some() && id(&probing, 4).is_some());
        let third = loaded("  u: { backends: ['127.0.0.1:1'], health_check: { interval: 2h } }");
        let snapshot = compile(&third, Some(&live.load()));
        live.publish(snapshot);
        probing.follow(&live.load());
        assert_eq!(probing.running.len(), 1);
        assert_ne!(id(&probing, 1), before[0], "another policy");
    }

    #[tokio::test]
    async fn a_result_that_comes_after_the_check_was_taken_off_does_not_last() {
        let metrics = crate::metrics::Metrics::new("gateway");
        let now = Instant::now();
        let compile = |settings: &str, previous: Option<&Snapshot>| {
            let text = format!(
                "upstreams: {{ u: {{ backends: ['127.0.0.1:1'], {settings} }} }}\n\
                 routes: [{{ name: a, upstream: u }}]"
            );
            let env = crate::config::FixedEnv::default();
            let loaded = crate::config::parse(&text, "test", std::path::Path::new("."), &env);
            let config = loaded.unwrap_or_else(|error| panic!("{error}")).config;
            Snapshot::compile(&config, 1, &metrics, now, previous)
                .unwrap_or_else(|error| panic!("{error}"))
        };
        let old = compile("health_check: { interval: 1h }", None);
        let mut probing = Probing::default();
        probing.follow(&old);
        let new = compile("retries: { attempts: 3 }", Some(&old));
        for running in probing.running.values() {
            running.told.tell(&Err(Unwell::Refused), Some(false));
        }
        let state = || new.upstreams[0].members()[0].state(now);
        assert_eq!(state(), crate::upstream::State::Down);
        probing.follow(&new);
        assert_eq!(state(), crate::upstream::State::Up);
    }

    #[tokio::test]
    async fn an_old_result_says_nothing_of_a_circuit_that_has_opened_since() {
        let metrics = crate::metrics::Metrics::new("gateway");
        let text = "upstreams:
  u: { backends: ['127.0.0.1:1'], health_check: { interval: 1h, timeout: 1s }, circuit_breaker: { timeout: 1h } }
routes: [{ name: a, upstream: u }]";
        let env = crate::config::FixedEnv::default();
        let loaded = crate::config::parse(text, "test", std::path::Path::new("."), &env);
        let config = loaded.unwrap_or_else(|error| panic!("{error}")).config;
        let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        let snapshot = Snapshot::compile(&config, 1, &metrics, long_ago, None);
        let snapshot = snapshot.unwrap_or_else(|error| panic!("{error}"));
        let mut probing = Probing::default();
        probing.follow(&snapshot);
        let running = probing.running.values().next().unwrap();
        running.told.tell(&Ok(()), Some(true));
        let upstream = &snapshot.upstreams[0];
        for _ in 0..5 {
            let pass = upstream.let_in(long_ago).unwrap();
            upstream.judge(pass, 503, Duration::ZERO, long_ago);
        }
        let state = || upstream.circuit(Instant::now()).standing.state;
        assert_eq!(state(), crate::upstream::CircuitState::Open);
        running.told.tell(&Err(Unwell::Refused), None);
        probing.follow(&snapshot);
        assert_eq!(state(), crate::upstream::CircuitState::Open);
        let running = probing.running.values().next().unwrap();
        running.told.tell(&Ok(()), Some(true));
        assert_eq!(state(), crate::upstream::CircuitState::HalfOpen);
    }

    #[tokio::test]
    async fn upstreams_that_probe_a_backend_in_the_same_way_share_its_probes() {
        let metrics = crate::metrics::Metrics::new("gateway");
        let text = "upstreams:
  a: { backends: ['127.0.0.1:1'], health_check: { path: /h, interval: 1h } }
  b: { backends: ['127.0.0.1:1', '127.0.0.1:2'], health_check: { path: /h, interval: 1h, initial: unhealthy } }
  c: { backends: ['127.0.0.1:1'], health_check: { path: /other, interval: 1h } }
routes: [{ name: a, upstream: a }]";
        let env = crate::config::FixedEnv::default();
        let loaded = crate::config::parse(text, "test", std::path::Path::new("."), &env);
        let config = loaded.unwrap_or_else(|error| panic!("{error}")).config;
        let snapshot = Snapshot::compile(&config, 1, &metrics, Instant::now(), None);
        let snapshot = snapshot.unwrap_or_else(|error| panic!("{error}"));
        let mut probing = Probing::default();
        probing.follow(&snapshot);
        assert_eq!(probing.running.len(), 3);
        let (_, shared) = probing
            .running
            .iter()
            .max_by_key(|(_, running)| running.told.lock().members.len())
            .unwrap();
        shared.told.tell(&Err(Unwell::Status(500)), Some(false));
        let up: Vec<bool> = snapshot
            .upstreams
            .iter()
            .map(|upstream| {
                let now = Instant::now();
                let backend = &upstream.members()[0];
                backend.state(now) == crate::upstream::State::Up
            })
            .collect();
        assert_eq!(up, [false, false, true]);
    }
}
