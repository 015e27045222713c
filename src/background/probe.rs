//! Active health checks: every backend of every upstream that asks for them, all in parallel.
//!
//! The probes follow the configuration. One whose target and policy stay goes on across a reload,
//! with what it has seen so far.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora_core::ErrorType::{InvalidCert, TLSHandshakeFailure};
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use tokio::task::AbortHandle;

use super::check::{self, Check};
use crate::config::model;
use crate::snapshot::{Live, Snapshot};
use crate::upstream::{Backend, Upstream};

/// Probes the backends of the running configuration.
pub struct Probes {
    live: Arc<Live>,
}

impl Probes {
    /// Over this configuration.
    pub fn new(live: Arc<Live>) -> Self {
        Self { live }
    }
}

#[async_trait]
impl BackgroundService for Probes {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let mut generations = self.live.subscribe();
        let mut probing = Probing::default();
        loop {
            generations.mark_unchanged();
            probing.follow(&self.live);
            let ended = async { drop(shutdown.wait_for(|ending| *ending).await) };
            tokio::select! {
                changed = generations.changed() => if changed.is_err() { return },
                // Dropping the set at the end of this function ends the probes.
                () = ended => return,
            }
        }
    }
}

/// Upstream and backend.
type Name = (Arc<str>, Arc<str>);

/// The probes that run.
#[derive(Default)]
struct Probing {
    tasks: tokio::task::JoinSet<()>,
    running: HashMap<Name, Running>,
}

struct Running {
    /// The upstream's configuration, without what does not concern a probe.
    target: model::Upstream,
    task: AbortHandle,
}

impl Probing {
    /// Starts what is new, ends what is gone, and leaves the rest alone.
    fn follow(&mut self, live: &Arc<Live>) {
        let wanted = wanted(&live.load());
        self.running.retain(|name, running| {
            let stays = wanted.get(name) == Some(&running.target);
            if !stays {
                running.task.abort();
            }
            stays
        });
        for (name, target) in wanted {
            if !self.running.contains_key(&name) {
                let probe = probe_for_ever(Arc::clone(live), name.clone());
                let task = self.tasks.spawn(probe);
                self.running.insert(name, Running { target, task });
            }
        }
        // Those that have ended are not kept.
        while self.tasks.try_join_next().is_some() {}
    }
}

fn wanted(snapshot: &Snapshot) -> HashMap<Name, model::Upstream> {
    let mut wanted = HashMap::new();
    for upstream in &snapshot.upstreams {
        if upstream.health_check.is_none() {
            continue;
        }
        for backend in upstream.members().iter() {
            let name = (Arc::clone(&upstream.name), Arc::clone(&backend.name));
            wanted.insert(name, target(&upstream.config, &backend.config));
        }
    }
    wanted
}

/// What decides how a backend is probed: everything, but for what only requests feel. A key that is
/// added later counts until it is named here, so that no probe is left with an old one.
fn target(upstream: &model::Upstream, backend: &model::Backend) -> model::Upstream {
    let ejection = model::Outlier {
        consecutive_failures: 0,
        base_ejection: Duration::ZERO,
        max_ejection: Duration::ZERO,
        max_ejected: 0.0,
    };
    let backend = model::Backend {
        weight: 1,
        ..backend.clone()
    };
    model::Upstream {
        backends: vec![backend],
        retries: model::Retries::default(),
        outlier: ejection,
        concurrency: None,
        ..upstream.clone()
    }
}

/// The upstream and the backend of that name, as they are now.
fn find(live: &Live, name: &Name) -> Option<(Arc<Upstream>, Arc<Backend>)> {
    let snapshot = live.load();
    let upstream = snapshot.upstream(&name.0)?;
    let members = upstream.members();
    let backend = members.iter().find(|backend| backend.name == name.1)?;
    Some((Arc::clone(upstream), Arc::clone(backend)))
}

/// Probes one backend at its interval, until the task is ended.
async fn probe_for_ever(live: Arc<Live>, name: Name) {
    // Only what the probe needs is kept: generations and upstreams come and go.
    let Some((check, policy)) = prepare(&live, &name) else {
        return;
    };
    let mut streak = Streak::default();
    loop {
        let result = tokio::time::timeout(policy.timeout, check.run()).await;
        let good = matches!(result, Ok(Ok(())));
        if let Some((upstream, backend)) = find(&live, &name) {
            if let Ok(Err(error)) = &result
                && matches!(error.etype, TLSHandshakeFailure | InvalidCert)
            {
                upstream.complain(&backend, error, Instant::now());
            }
            Upstream::count_probe(&backend, good);
            if let Some(up) = streak.judge(good, &policy) {
                upstream.probed(&backend, up, Instant::now());
            }
        }
        tokio::time::sleep(jittered(policy.interval)).await;
    }
}

fn prepare(live: &Live, name: &Name) -> Option<(Check, model::HealthCheck)> {
    let (upstream, backend) = find(live, name)?;
    let policy = upstream.health_check.clone()?;
    let check = match check::new(&backend, &policy) {
        Ok(check) => check,
        Err(error) => {
            let (upstream, backend) = name;
            log::error!("upstream={upstream} backend={backend} cannot be probed: {error}");
            return None;
        }
    };
    Some((check, policy))
}

/// The interval within a tenth, so that instances started together do not probe together.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + 0.2 * fastrand::f64())
}

/// Results in a row.
#[derive(Default)]
struct Streak {
    good: u32,
    bad: u32,
}

impl Streak {
    /// Takes a result in; says what the backend is to be taken for, once the row is long enough.
    fn judge(&mut self, good: bool, policy: &model::HealthCheck) -> Option<bool> {
        if good {
            self.bad = 0;
            self.good = self.good.saturating_add(1);
            (self.good >= policy.healthy_after).then_some(true)
        } else {
            self.good = 0;
            self.bad = self.bad.saturating_add(1);
            (self.bad >= policy.unhealthy_after).then_some(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> model::HealthCheck {
        model::HealthCheck {
            path: None,
            host: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            unhealthy_after: 3,
            healthy_after: 2,
            expected_statuses: vec![(200, 399)],
        }
    }

    #[test]
    fn one_bad_probe_takes_nobody_out_and_one_good_one_brings_nobody_back() {
        let mut streak = Streak::default();
        let results = [false, false, true, false, false, false, true, true];
        let judged: Vec<_> = results
            .into_iter()
            .map(|good| streak.judge(good, &policy()))
            .collect();
        assert_eq!(
            judged,
            [None, None, None, None, None, Some(false), None, Some(true)]
        );
    }

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
        probing.follow(&live);
        let id = |probing: &Probing, port: u16| {
            let backend = format!("127.0.0.1:{port}");
            let mut running = probing.running.iter();
            let found = running.find(|((_, name), _)| **name == *backend);
            found.map(|(_, running)| running.task.id())
        };
        let before: Vec<_> = [1, 2, 3].map(|port| id(&probing, port)).into();
        assert!(before[0].is_some() && before[1].is_some() && before[2].is_none());
        let second = loaded(&format!(
            "  u: {{ backends: [{{ address: '127.0.0.1:1', weight: 2 }}, '127.0.0.1:4'], {check}, retries: {{ attempts: 3 }} }}\n  v: {{ backends: ['127.0.0.1:3'], {check} }}"
        ));
        let snapshot = compile(&second, Some(&live.load()));
        live.publish(snapshot);
        probing.follow(&live);
        assert_eq!(id(&probing, 1), before[0], "goes on");
        assert_eq!(id(&probing, 2), None);
        assert!(id(&probing, 3).is_some() && id(&probing, 4).is_some());
        let third = loaded("  u: { backends: ['127.0.0.1:1'], health_check: { interval: 2h } }");
        let snapshot = compile(&third, Some(&live.load()));
        live.publish(snapshot);
        probing.follow(&live);
        assert_eq!(probing.running.len(), 1);
        assert_ne!(id(&probing, 1), before[0], "another policy");
    }

    #[test]
    fn intervals_differ_by_a_tenth_at_most() {
        let interval = Duration::from_secs(10);
        for _ in 0..100 {
            let jittered = jittered(interval);
            assert!(jittered >= Duration::from_secs(9) && jittered <= Duration::from_secs(11));
        }
    }
}
