//! Discovery: who belongs to an upstream beside those that are written, found out beside the requests.
//!
//! The service has a thread of its own. A source that several upstreams name is asked once, by one task,
//! whatever becomes of generations; each answer goes to the upstreams that run (`Upstream::set_members`).
//! A generation is filled with what is known before it is published, so that an upstream that stays is
//! never without the backends that it had.

mod dns;
mod file;
mod knowledge;
mod lookup;
mod records;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};

use self::knowledge::{Answer, Verdict};
pub use self::lookup::Report;
use self::lookup::{Key, Lookup};
use crate::config::{Config, Stamp, model};
use crate::lifecycle::Lifecycle;
use crate::metrics::{DiscoveryMetrics, DiscoveryResult, Metrics};
use crate::snapshot::{Live, Snapshot};
use crate::upstream::Upstream;

/// How long a start or a reload waits for the first answers of new sources. After that it goes on without
/// them: a dead name blocks nothing.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// Between two looks whether they are there.
const LOOK: Duration = Duration::from_millis(5);

/// Finds out who belongs to upstreams.
pub struct Discovery {
    runtime: Handle,
    metrics: Arc<Metrics>,
    lifecycle: Arc<Lifecycle>,
    live: OnceLock<Arc<Live>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lookups: HashMap<Key, Arc<Lookup>>,
    /// By the name of the upstream.
    measured: HashMap<Arc<str>, (Key, Arc<DiscoveryMetrics>)>,
}

impl Discovery {
    /// Starts the thread.
    pub fn start(metrics: Arc<Metrics>, lifecycle: Arc<Lifecycle>) -> io::Result<Arc<Self>> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let work = move || runtime.block_on(std::future::pending::<()>());
        std::thread::Builder::new()
            .name("discovery".to_owned())
            .spawn(work)?;
        Ok(Arc::new(Self {
            runtime: handle,
            metrics,
            lifecycle,
            live: OnceLock::new(),
            state: Mutex::default(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the sources of a configuration that is to run, and waits a short time for those that are
    /// new. Takes its time: not for an async task. Whatever becomes of it, [`Self::settle`] comes next.
    pub fn prepare(self: &Arc<Self>, config: &Config) {
        let keys: Vec<Key> = config.upstreams.iter().filter_map(key).collect();
        if keys.is_empty() {
            return;
        }
        self.measure(&config.upstreams);
        let wanted = self.ensure(&keys);
        let deadline = Instant::now() + FIRST_ANSWER;
        while Instant::now() < deadline && !wanted.iter().all(|lookup| lookup.is_answered()) {
            std::thread::sleep(LOOK);
        }
    }

    /// First answers are counted, too.
    fn measure(&self, upstreams: &[model::Upstream]) {
        let mut state = self.lock();
        for upstream in upstreams {
            if let Some(key) = key(upstream) {
                let metrics = self.metrics.discovery(&upstream.name);
                let name = Arc::clone(&upstream.name);
                state.measured.insert(name, (key, metrics));
            }
        }
    }

    /// The lookups of these keys, started if there are none.
    fn ensure(self: &Arc<Self>, keys: &[Key]) -> Vec<Arc<Lookup>> {
        let mut state = self.lock();
        let mut lookups = Vec::with_capacity(keys.len());
        for key in keys {
            let lookup = state.lookups.entry(key.clone()).or_insert_with(|| {
                let lookup = Arc::new(Lookup::new(key.clone()));
                let task = follow(Arc::clone(self), Arc::clone(&lookup));
                lookup.begin(self.runtime.spawn(task).abort_handle());
                lookup
            });
            lookups.push(Arc::clone(lookup));
        }
        lookups
    }

    /// A configuration was put into force, or refused: what no upstream that runs names is asked and
    /// measured no longer.
    pub fn settle(&self) {
        let Some(live) = self.live.get() else {
            return;
        };
        let running = live.load();
        self.fill(&running);
        let upstreams = running.upstreams.iter();
        let keys: Vec<Key> = upstreams.filter_map(|one| key(&one.config)).collect();
        self.lock().lookups.retain(|key, lookup| {
            let stays = keys.contains(key);
            if !stays {
                lookup.end();
            }
            stays
        });
    }

    /// Gives the upstreams of a generation the backends that are known.
    pub fn fill(&self, snapshot: &Snapshot) {
        let mut state = self.lock();
        let mut measured = HashMap::new();
        for upstream in &snapshot.upstreams {
            let Some(key) = key(&upstream.config) else {
                continue;
            };
            let metrics = self.metrics.discovery(&upstream.name);
            if let Some(lookup) = state.lookups.get(&key) {
                self.apply(upstream, lookup);
                metrics.set_answered(lookup.answered());
            }
            metrics.set_backends(upstream.members().len());
            measured.insert(Arc::clone(&upstream.name), (key, metrics));
        }
        // Those of the generation before are held until here, so that what stays goes on counting.
        state.measured = measured;
        self.judge(snapshot);
    }

    /// Keeps the running configuration up to date from now on.
    pub fn run(self: &Arc<Self>, live: Arc<Live>) {
        if self.live.set(Arc::clone(&live)).is_err() {
            return;
        }
        let own = Arc::clone(self);
        self.runtime.spawn(async move {
            let mut generations = live.subscribe();
            loop {
                generations.mark_unchanged();
                // An answer may have come while the generation was made.
                own.fill(&live.load());
                live.members_changed();
                if generations.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// Takes in what a source answered; says how long to wait until it is asked again.
    fn take(&self, lookup: &Lookup, answer: &Answer) -> Duration {
        let (verdict, wait) = lookup.take(answer, Instant::now());
        let result = match answer {
            Answer::Found(..) => DiscoveryResult::Success,
            Answer::Missing => DiscoveryResult::Missing,
            Answer::Failed(_) => DiscoveryResult::Failure,
        };
        let state = self.lock();
        let measured = state.measured.values();
        for (_, metrics) in measured.filter(|(key, _)| *key == lookup.key) {
            metrics.updated(result);
            metrics.set_answered(lookup.answered());
        }
        let Some(live) = self.live.get() else {
            return wait;
        };
        if verdict == Verdict::Changed {
            let snapshot = live.load();
            let its = |one: &&Arc<Upstream>| key(&one.config).as_ref() == Some(&lookup.key);
            let own: Vec<_> = snapshot.upstreams.iter().filter(its).collect();
            for upstream in &own {
                self.apply(upstream, lookup);
            }
            self.judge(&snapshot);
            for upstream in own {
                if let Some((_, metrics)) = state.measured.get(&upstream.name) {
                    metrics.set_backends(upstream.members().len());
                }
            }
            live.members_changed();
        }
        wait
    }

    /// Gives an upstream what was found, unless it has that.
    fn apply(&self, upstream: &Upstream, lookup: &Lookup) {
        let Some(found) = lookup.found() else {
            return;
        };
        let wanted = records::beside(&upstream.config.backends, &found);
        let before = upstream.members();
        let before: Vec<&model::Backend> = before.iter().map(|one| &one.config).collect();
        if wanted.iter().eq(before.iter().copied()) {
            return;
        }
        let is_in = |list: &[&model::Backend], one: &model::Backend| {
            list.iter().any(|other| other.address == one.address)
        };
        let after: Vec<&model::Backend> = wanted.iter().collect();
        log::info!(
            "upstream={} has {} backends by {}: {} new, {} gone",
            upstream.name,
            wanted.len(),
            lookup.key.0,
            after.iter().filter(|one| !is_in(&before, one)).count(),
            before.iter().filter(|one| !is_in(&after, one)).count(),
        );
        upstream.set_members(&wanted, &self.metrics, Instant::now());
    }

    /// Whether an upstream is without backends that the process cannot do without.
    fn judge(&self, snapshot: &Snapshot) {
        let is_missing = |upstream: &Arc<Upstream>| {
            let discovery = upstream.config.discovery.as_ref();
            discovery.is_some_and(|one| one.required) && upstream.members().is_empty()
        };
        let missing = snapshot.upstreams.iter().any(is_missing);
        self.lifecycle.set_undiscovered(missing);
    }

    /// What operators are told of the source of an upstream; `None`: it has none.
    pub fn report(&self, upstream: &Upstream) -> Option<Report> {
        let key = key(&upstream.config)?;
        let lookup = self.lock().lookups.get(&key).cloned();
        Some(lookup.map_or_else(|| Report::of(&key), |lookup| lookup.report()))
    }
}

/// What is asked for an upstream.
fn key(upstream: &model::Upstream) -> Option<Key> {
    let discovery = upstream.discovery.as_ref()?;
    Some((discovery.source.clone(), discovery.identity.clone()))
}

/// Asks one source again and again, until the task is ended. Here is the place of further sources.
async fn follow(discovery: Arc<Discovery>, lookup: Arc<Lookup>) {
    let (source, identity) = &lookup.key;
    match source {
        model::Source::Dns(dns) => loop {
            let answer = dns::ask(dns, identity).await;
            let wait = discovery.take(&lookup, &answer);
            // Caches of name servers have dropped the answer by then, and instances differ.
            tokio::time::sleep(wait.mul_f64(1.0 + 0.1 * fastrand::f64())).await;
        },
        model::Source::File(path) => {
            let mut seen = file::Seen::default();
            loop {
                let (at, who) = (path.clone(), identity.clone());
                let looked = tokio::task::spawn_blocking(move || {
                    let due = seen.is_due(Stamp::at(&at), Instant::now());
                    let answer = due.then(|| file::read(&at, &who));
                    (seen, answer)
                });
                // A panic while reading ends the task; what is known stays.
                let Ok((next, answer)) = looked.await else {
                    log::error!("discovery by {source} has ended");
                    return;
                };
                seen = next;
                if let Some(answer) = answer {
                    let wait = discovery.take(&lookup, &answer);
                    if matches!(answer, Answer::Failed(_)) {
                        seen.retry_at(Instant::now() + wait);
                    }
                }
                tokio::time::sleep(file::LOOKS).await;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    fn config(upstreams: &str) -> Config {
        let text = format!("upstreams: {{ {upstreams} }}\nroutes: [{{ name: a, upstream: u }}]");
        let env = crate::config::FixedEnv::default();
        let loaded = crate::config::parse(&text, "test", std::path::Path::new("."), &env);
        loaded.unwrap_or_else(|error| panic!("{error}")).config
    }

    #[test]
    fn what_a_configuration_that_was_refused_asks_for_is_not_asked_for_long() {
        let metrics = Arc::new(Metrics::new("gateway"));
        let discovery = Discovery::start(Arc::clone(&metrics), Arc::default()).unwrap();
        let sources = |discovery: &Discovery| {
            let state = discovery.lock();
            let keys = state.lookups.keys().map(|(source, _)| source.to_string());
            let mut measured: Vec<_> = state.measured.keys().map(ToString::to_string).collect();
            measured.sort();
            (keys.collect::<Vec<_>>(), measured)
        };
        let running = config("u: { discovery: { file: { path: /nowhere/1 } } }");
        let snapshot = Snapshot::compile(&running, 1, &metrics, Instant::now(), None);
        let snapshot = snapshot.unwrap_or_else(|error| panic!("{error}"));
        discovery.prepare(&running);
        discovery.fill(&snapshot);
        discovery.run(Arc::new(Live::new(snapshot)));
        discovery.prepare(&config(
            "u: { discovery: { file: { path: /nowhere/2 } } }, \
             v: { discovery: { file: { path: /nowhere/3 } } }",
        ));
        assert_eq!(sources(&discovery).0.len(), 3);
        discovery.settle();
        let own = (vec!["file /nowhere/1".to_owned()], vec!["u".to_owned()]);
        assert_eq!(sources(&discovery), own);
        discovery.prepare(&running);
        discovery.settle();
        assert_eq!(sources(&discovery), own);
    }
}
