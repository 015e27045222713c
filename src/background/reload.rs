//! Reloading: a new generation of the configuration takes the place of the one in force.
//!
//! It is read, checked and compiled completely before anything is put into force, away from the
//! requests. When something is wrong, everything stays as it is, and every problem is told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use crate::config::diff::Diff;
use crate::config::model::Config;
use crate::config::{self, Branch, Loaded, ProcessEnv, Source, Stamp};
use crate::listener::{ListenerState, Settings};
use crate::metrics::Metrics;
use crate::snapshot::{Live, Snapshot};
use crate::{telemetry, tls};

/// What asked for a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// SIGHUP.
    Signal,
    /// A file that is another by now.
    File,
    /// A call on the admin listener.
    Admin,
}

impl Trigger {
    /// The trigger as logs and status name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Signal => "SIGHUP",
            Self::File => "a changed file",
            Self::Admin => "the admin listener",
        }
    }
}

/// What a reload came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Another generation is in force.
    Reloaded {
        /// Its number.
        generation: u64,
        /// The keys that take effect only with an upgrade.
        upgrade_needed: Vec<String>,
    },
    /// What was read is what runs already.
    Unchanged {
        /// The number of what runs.
        generation: u64,
        /// As above.
        upgrade_needed: Vec<String>,
    },
    /// The old generation stays in force.
    Invalid {
        /// Its number.
        generation: u64,
        /// What is wrong, one line each.
        problems: Vec<String>,
    },
}

/// A listener that is open, and the address that the configuration has for it.
pub struct Opened {
    /// As configured: port 0 stays 0.
    pub address: SocketAddr,
    /// What of it can change.
    pub listener: Arc<ListenerState>,
}

/// What operators are told of reloads.
#[derive(Clone, Debug)]
pub struct Report {
    /// When the generation in force was loaded.
    pub loaded: SystemTime,
    /// The keys that take effect only with an upgrade.
    pub upgrade_needed: Vec<String>,
    /// The last reload, if it failed.
    pub failure: Option<Failure>,
}

/// A reload that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When.
    pub at: SystemTime,
    /// What asked for it.
    pub trigger: Trigger,
    /// What is wrong, one line each.
    pub problems: Vec<String>,
}

/// Reloads the configuration, one at a time.
pub struct Reloader {
    path: Option<PathBuf>,
    live: Arc<Live>,
    metrics: Arc<Metrics>,
    listeners: Vec<Opened>,
    /// How the process was started: what can only be changed by another process.
    started: Branch,
    state: Mutex<State>,
    /// Apart from `state`, so that nobody waits for a reload to be told of the last one.
    report: Mutex<Report>,
}

struct State {
    sources: Vec<Source>,
    /// A change that was seen once, and has to be seen twice: a file may be half written.
    pending: Option<Vec<Option<Stamp>>>,
    watch: bool,
    level: log::LevelFilter,
    /// The hash of what was written, references resolved.
    written: u64,
    /// Generations that requests in flight still hold. The last holder frees them, and that should
    /// not be a request.
    retired: Vec<Arc<Snapshot>>,
}

impl Reloader {
    /// For a process that runs this configuration on these listeners.
    pub fn new(
        loaded: &Loaded,
        listeners: Vec<Opened>,
        live: Arc<Live>,
        metrics: Arc<Metrics>,
    ) -> Self {
        count_maintenance(&metrics, &live.load());
        Self {
            path: loaded.origins.path.clone(),
            live,
            metrics,
            listeners,
            started: loaded.written.without_traffic(),
            state: Mutex::new(State {
                sources: loaded.origins.sources.clone(),
                pending: None,
                watch: loaded.config.server.watch,
                level: loaded.config.log.level,
                written: loaded.written.hash(),
                retired: Vec::new(),
            }),
            report: Mutex::new(Report {
                loaded: SystemTime::now(),
                upgrade_needed: Vec::new(),
                failure: None,
            }),
        }
    }

    /// What there is to tell of the last reload.
    pub fn report(&self) -> Report {
        lock(&self.report).clone()
    }

    /// Reads the configuration and puts it into force. Takes its time: not for an async task.
    pub fn reload(&self, trigger: Trigger) -> Outcome {
        let mut state = lock(&self.state);
        let Some(path) = &self.path else {
            let problem = "the configuration is built in, there is no file to load".to_owned();
            return self.refuse(trigger, vec![problem]);
        };
        let reading = config::read(path, &ProcessEnv);
        state.sources = reading.sources;
        state.pending = None;
        let outcome = match reading.result {
            Ok(loaded) => self.adopt(loaded, &mut state, trigger),
            Err(problems) => {
                let lines = problems.to_string();
                self.refuse(trigger, lines.lines().map(str::to_owned).collect())
            }
        };
        free_unused(&mut state);
        outcome
    }

    /// Switches maintenance for everything or for one route. `false`: there is no such route.
    pub fn switch_maintenance(&self, on: bool, route: Option<&str>) -> bool {
        // A reload must not come between the switch and its count.
        let _alone = lock(&self.state);
        let snapshot = self.live.load();
        match route {
            None => snapshot.maintenance.set(on),
            Some(name) => match snapshot.route(name) {
                Some(route) => route.maintenance.set(on),
                None => return false,
            },
        }
        count_maintenance(&self.metrics, &snapshot);
        true
    }

    /// Looks whether a file is another by now, and has been so for two looks in a row. Frees what
    /// no request holds any longer.
    pub fn look(&self) -> bool {
        let mut state = lock(&self.state);
        free_unused(&mut state);
        let seen: Vec<_> = state
            .sources
            .iter()
            .map(|one| Stamp::at(&one.path))
            .collect();
        let read = state.sources.iter().map(|source| source.stamp);
        if !state.watch || read.eq(seen.iter().copied()) {
            state.pending = None;
            return false;
        }
        if state.pending.as_ref() == Some(&seen) {
            state.pending = None;
            return true;
        }
        state.pending = Some(seen);
        false
    }

    fn adopt(&self, loaded: Loaded, state: &mut State, trigger: Trigger) -> Outcome {
        for warning in &loaded.warnings {
            log::warn!("{warning}");
        }
        let current = self.live.load();
        let written = loaded.written.hash();
        let started = &self.started;
        let upgrade_needed =
            Diff::between(started, &loaded.written.without_traffic()).upgrade_needed();
        if written == state.written && is_the_same(&loaded.config, &current) {
            self.succeeded(None, &upgrade_needed);
            let generation = current.generation;
            log::info!("reload by {}: nothing has changed", trigger.as_str());
            return Outcome::Unchanged {
                generation,
                upgrade_needed,
            };
        }
        let settings = match self.settings(&loaded) {
            Ok(settings) => settings,
            Err(problems) => return self.refuse(trigger, problems),
        };
        let config = loaded.config;
        let generation = current.generation + 1;
        let now = Instant::now();
        let compiled = Snapshot::compile(&config, generation, &self.metrics, now, Some(&current));
        let snapshot = match compiled {
            Ok(snapshot) => snapshot,
            Err(error) => return self.refuse(trigger, vec![format!("routes: {error}")]),
        };
        drop(current);
        // From here on nothing can fail.
        state.retired.push(self.live.publish(snapshot));
        for (listener, settings) in settings {
            listener.adopt(settings);
        }
        if config.log.level != state.level {
            telemetry::set_level(config.log.level);
        }
        state.level = config.log.level;
        state.watch = config.server.watch;
        state.written = written;
        self.metrics.set_config(generation, config.source_hash);
        count_maintenance(&self.metrics, &self.live.load());
        self.succeeded(Some(SystemTime::now()), &upgrade_needed);
        log::info!("reload by {}: generation {generation}", trigger.as_str());
        Outcome::Reloaded {
            generation,
            upgrade_needed,
        }
    }

    /// What the listeners that are open and still configured are to be.
    ///
    /// The error is what is wrong with the files that they name, one line each.
    fn settings(
        &self,
        loaded: &Loaded,
    ) -> Result<Vec<(Arc<ListenerState>, Settings)>, Vec<String>> {
        let mut left: Vec<_> = loaded.config.listeners.iter().enumerate().collect();
        let mut settings = Vec::with_capacity(self.listeners.len());
        let mut faults = Vec::new();
        for opened in &self.listeners {
            let place = left
                .iter()
                .position(|(_, one)| one.address == opened.address);
            let Some(place) = place else { continue };
            let (index, configured) = left.remove(place);
            match Settings::compile(configured) {
                Ok(compiled) => settings.push((Arc::clone(&opened.listener), compiled)),
                Err(found) => faults.extend(tls::at_listener(index, found)),
            }
        }
        if faults.is_empty() {
            return Ok(settings);
        }
        let problems = loaded.problems(faults).to_string();
        Err(problems.lines().map(str::to_owned).collect())
    }

    fn succeeded(&self, loaded: Option<SystemTime>, upgrade_needed: &[String]) {
        self.metrics.reloads_succeeded().inc();
        if !upgrade_needed.is_empty() {
            log::warn!(
                "an upgrade or restart is needed before these keys take effect: {}",
                upgrade_needed.join(", ")
            );
        }
        let mut report = lock(&self.report);
        report.failure = None;
        report.upgrade_needed = upgrade_needed.to_vec();
        report.loaded = loaded.unwrap_or(report.loaded);
    }

    fn refuse(&self, trigger: Trigger, problems: Vec<String>) -> Outcome {
        let generation = self.live.load().generation;
        let trigger_name = trigger.as_str();
        log::error!("reload by {trigger_name} failed, generation {generation} stays in force");
        for problem in &problems {
            log::error!("{problem}");
        }
        self.metrics.reloads_failed().inc();
        lock(&self.report).failure = Some(Failure {
            at: SystemTime::now(),
            trigger,
            problems: problems.clone(),
        });
        Outcome::Invalid {
            generation,
            problems,
        }
    }
}

/// Whether the same text led to the same backends: a host name may have another address by now.
fn is_the_same(config: &Config, current: &Snapshot) -> bool {
    let running = current.upstreams.iter().map(|upstream| &upstream.config);
    config.source_hash == current.source_hash && running.eq(config.upstreams.iter())
}

fn count_maintenance(metrics: &Metrics, snapshot: &Snapshot) {
    metrics.set_maintenance(
        snapshot.maintenance.is_on(),
        snapshot.routes_in_maintenance(),
    );
}

fn free_unused(state: &mut State) {
    state
        .retired
        .retain(|snapshot| Arc::strong_count(snapshot) > 1);
}

/// A panic while the lock was held leaves a state that is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use std::path::Path;

    use tempfile::TempDir;

    use super::*;

    struct Setup {
        folder: TempDir,
        reloader: Reloader,
        live: Arc<Live>,
        metrics: Arc<Metrics>,
    }

    const ONE: &str = "routes: [{ name: one, respond: {} }]\n";
    const TWO: &str = "routes: [{ name: two, respond: { body: file:body } }]\n";

    fn write(path: &Path, text: &str) {
        // As editors do it: a new file in the place of the old one has another inode.
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, path).unwrap();
    }

    fn setup(text: &str) -> Setup {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.yaml");
        write(&path, text);
        write(&folder.path().join("body"), "hello");
        let loaded = config::load(&path, &ProcessEnv).unwrap();
        let metrics = Arc::new(Metrics::new("gateway"));
        let now = Instant::now();
        let snapshot = Snapshot::compile(&loaded.config, 1, &metrics, now, None).unwrap();
        let live = Arc::new(Live::new(snapshot));
        let (own, counted) = (Arc::clone(&live), Arc::clone(&metrics));
        Setup {
            reloader: Reloader::new(&loaded, Vec::new(), own, counted),
            folder,
            live,
            metrics,
        }
    }

    impl Setup {
        fn write(&self, text: &str) {
            write(&self.folder.path().join("gateway.yaml"), text);
        }

        fn routes(&self) -> Vec<String> {
            let snapshot = self.live.load();
            let names = snapshot.routes.iter().map(|route| route.name.to_string());
            names.collect()
        }
    }

    #[test]
    fn a_good_file_is_put_into_force_and_a_bad_one_is_not() {
        let setup = setup(ONE);
        let same = setup.reloader.reload(Trigger::Signal);
        assert!(matches!(same, Outcome::Unchanged { generation: 1, .. }));
        setup.write("routes: [{ nam: x }]");
        let Outcome::Invalid { problems, .. } = setup.reloader.reload(Trigger::Admin) else {
            panic!("a bad file was taken");
        };
        assert!(problems[0].contains("gateway.yaml:1: routes[0].nam: unknown key"));
        assert_eq!(setup.routes(), ["one"]);
        assert!(setup.reloader.report().failure.is_some());
        setup.write(TWO);
        let good = setup.reloader.reload(Trigger::Admin);
        assert!(matches!(good, Outcome::Reloaded { generation: 2, .. }));
        assert_eq!(setup.routes(), ["two"]);
        assert!(setup.reloader.report().failure.is_none());
        assert_eq!(setup.metrics.reloads_failed().get(), 1);
    }

    #[test]
    fn a_changed_file_has_to_be_seen_twice() {
        let setup = setup(TWO);
        assert!(!setup.reloader.look());
        setup.write(ONE);
        assert!(!setup.reloader.look());
        setup.write(TWO);
        assert!(!setup.reloader.look(), "it changed again meanwhile");
        assert!(setup.reloader.look());
        setup.reloader.reload(Trigger::File);
        assert!(!setup.reloader.look());
        write(&setup.folder.path().join("body"), "other");
        assert!(!setup.reloader.look());
        assert!(setup.reloader.look(), "what a reference leads to counts");
        let outcome = setup.reloader.reload(Trigger::File);
        assert!(matches!(outcome, Outcome::Reloaded { generation: 2, .. }));
    }

    #[test]
    fn a_file_that_is_gone_is_told_once() {
        let setup = setup(ONE);
        std::fs::remove_file(setup.folder.path().join("gateway.yaml")).unwrap();
        let asked = (0..10).filter(|_| {
            let asked = setup.reloader.look();
            if asked {
                setup.reloader.reload(Trigger::File);
            }
            asked
        });
        assert_eq!(asked.count(), 1);
        assert_eq!(setup.metrics.reloads_failed().get(), 1);
    }

    #[test]
    fn watching_is_switched_off_and_on_by_the_file() {
        let setup = setup(&format!("server: {{ watch: false }}\n{ONE}"));
        setup.write(TWO);
        assert!(!setup.reloader.look() && !setup.reloader.look());
        setup.reloader.reload(Trigger::Signal);
        setup.write(ONE);
        assert!(!setup.reloader.look() && setup.reloader.look());
    }

    #[test]
    fn what_needs_an_upgrade_is_told_until_it_is_taken_back() {
        let setup = setup(ONE);
        setup.write(&format!("server: {{ threads: 7 }}\n{TWO}"));
        let Outcome::Reloaded { upgrade_needed, .. } = setup.reloader.reload(Trigger::Admin) else {
            panic!("not reloaded");
        };
        assert_eq!(upgrade_needed, ["server.threads"]);
        assert_eq!(setup.routes(), ["two"], "the rest takes effect");
        assert_eq!(setup.reloader.report().upgrade_needed, upgrade_needed);
        setup.write(TWO);
        setup.reloader.reload(Trigger::Admin);
        assert!(setup.reloader.report().upgrade_needed.is_empty());
    }

    #[test]
    fn generations_are_freed_when_no_request_holds_them() {
        let setup = setup(ONE);
        let held = setup.live.load();
        let watched = Arc::downgrade(&held);
        for turn in 0..10 {
            setup.write(&format!("{ONE}# {turn}\n"));
            setup.reloader.reload(Trigger::Signal);
        }
        assert_eq!(lock(&setup.reloader.state).retired.len(), 1);
        drop(held);
        setup.reloader.look();
        assert!(watched.upgrade().is_none());
    }

    #[test]
    fn a_switch_outlives_reloads_and_can_be_handed_on() {
        let setup = setup(ONE);
        assert!(setup.reloader.switch_maintenance(true, Some("one")));
        assert!(!setup.reloader.switch_maintenance(true, Some("none")));
        setup.write(&format!("{ONE}# again\n"));
        setup.reloader.reload(Trigger::Signal);
        let snapshot = setup.live.load();
        assert!(snapshot.route("one").unwrap().maintenance.is_on());
        let switches = snapshot.export();
        let heir = self::setup(ONE);
        heir.live.load().import(&switches);
        assert_eq!(heir.live.load().export(), switches);
    }
}
