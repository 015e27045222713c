//! Reloading: a new generation of the configuration takes the place of the one in force.
//!
//! It is read, checked and compiled completely before anything is put into force, away from the
//! requests. When something is wrong, everything stays as it is, and every problem is told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Instant, SystemTime};

use super::discovery::Discovery;
use crate::config::diff::Diff;
use crate::config::model::Config;
use crate::config::{self, Branch, Env, Loaded, ProcessEnv, Source, Stamp};
use crate::filter::auth;
use crate::filter::maintenance::Switches;
use crate::listener::{ListenerState, Settings};
use crate::metrics::Metrics;
use crate::snapshot::{Live, Snapshot};
use crate::store::Store;
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
    /// Another process is in charge, so nothing was loaded.
    HandedOver,
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
    store: Option<Arc<Store>>,
    discovery: Option<Arc<Discovery>>,
    /// How the process was started: what can only be changed by another process.
    started: Branch,
    /// Where references and host names are looked up.
    env: Box<dyn Env + Send + Sync>,
    /// Held while files and names are read, which takes its time: apart from `state`, so that a
    /// switch does not wait for a name server.
    reading: Mutex<()>,
    state: Mutex<State>,
    /// Another process is in charge, and knows what is switched. Written under `state`; read without, so
    /// that nobody waits for a generation that is made.
    handed_over: AtomicBool,
    /// Apart from `state`, so that nobody waits for a reload to be told of the last one.
    report: Mutex<Report>,
}

/// What listeners are to be, ready to be put into force.
type Ready = Vec<(Arc<ListenerState>, Settings)>;

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

/// What came of a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switched {
    /// It is done.
    Done,
    /// There is no such route.
    NoRoute,
    /// Another process is in charge; here it would be lost.
    HandedOver,
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
            store: None,
            discovery: None,
            started: loaded.written.without_traffic(),
            env: Box::new(ProcessEnv),
            reading: Mutex::default(),
            state: Mutex::new(State {
                sources: loaded.origins.sources.clone(),
                pending: None,
                watch: loaded.config.server.watch,
                level: loaded.config.log.level,
                written: loaded.written.hash(),
                retired: Vec::new(),
            }),
            handed_over: AtomicBool::new(false),
            report: Mutex::new(Report {
                loaded: SystemTime::now(),
                upgrade_needed: Vec::new(),
                failure: None,
            }),
        }
    }

    /// Connects this store to what is configured.
    pub fn with_store(mut self, store: Arc<Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// Fills new generations with what this finds.
    pub fn with_discovery(mut self, discovery: Arc<Discovery>) -> Self {
        self.discovery = Some(discovery);
        self
    }

    /// What there is to tell of the last reload.
    pub fn report(&self) -> Report {
        lock(&self.report).clone()
    }

    /// Reads the configuration and puts it into force. Takes its time: not for an async task.
    pub fn reload(&self, trigger: Trigger) -> Outcome {
        let _alone = lock(&self.reading);
        if self.is_handed_over() {
            return handed_over(trigger);
        }
        let Some(path) = &self.path else {
            let problem = "the configuration is built in, there is no file to load".to_owned();
            return self.refuse(trigger, vec![problem]);
        };
        let reading = config::read(path, &*self.env);
        let mut state = lock(&self.state);
        state.sources = reading.sources;
        state.pending = None;
        drop(state);
        let outcome = match reading.result {
            Ok(loaded) => self.take(loaded, trigger),
            Err(problems) => {
                let lines = problems.to_string();
                self.refuse(trigger, lines.lines().map(str::to_owned).collect())
            }
        };
        free_unused(&mut lock(&self.state));
        outcome
    }

    /// Changes nothing any more from here on; the answer is what is in force for good. A reload that
    /// is under way comes to nothing.
    pub fn hand_over(&self) -> Arc<Snapshot> {
        let _alone = lock(&self.state);
        self.handed_over.store(true, SeqCst);
        self.live.load()
    }

    /// Whether another process is in charge. Does not wait for anybody.
    pub fn is_handed_over(&self) -> bool {
        self.handed_over.load(SeqCst)
    }

    /// Takes over what another process had switched.
    pub fn take_over(&self, switches: &Switches) {
        let _alone = lock(&self.state);
        let snapshot = self.live.load();
        snapshot.import(switches);
        count_maintenance(&self.metrics, &snapshot);
    }

    /// Changes something of the generation in force; `None`: another process is in charge, and here
    /// it would be lost.
    pub fn in_charge<T>(&self, change: impl FnOnce(&Snapshot) -> T) -> Option<T> {
        let _alone = lock(&self.state);
        (!self.is_handed_over()).then(|| change(&self.live.load()))
    }

    /// Switches maintenance for everything or for one route.
    pub fn switch_maintenance(&self, on: bool, route: Option<&str>) -> Switched {
        // No other generation must come between the switch and its count.
        let _alone = lock(&self.state);
        if self.is_handed_over() {
            return Switched::HandedOver;
        }
        let snapshot = self.live.load();
        match route {
            None => snapshot.maintenance.set(on),
            Some(name) => match snapshot.route(name) {
                Some(route) => route.maintenance.set(on),
                None => return Switched::NoRoute,
            },
        }
        count_maintenance(&self.metrics, &snapshot);
        Switched::Done
    }

    /// Looks whether a file is another by now, and has been so for two looks in a row. Frees what
    /// no request holds any longer.
    pub fn look(&self) -> bool {
        let mut state = lock(&self.state);
        free_unused(&mut state);
        if matches!(self.reading.try_lock(), Err(TryLockError::WouldBlock)) {
            // They are being read.
            return false;
        }
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

    /// Takes over what is new in a sound configuration.
    fn take(&self, loaded: Loaded, trigger: Trigger) -> Outcome {
        for warning in &loaded.warnings {
            log::warn!("{warning}");
        }
        let started = &self.started;
        let upgrade_needed =
            Diff::between(started, &loaded.written.without_traffic()).upgrade_needed();
        let written = loaded.written.hash();
        let is_as_written = lock(&self.state).written == written;
        let is_unchanged = is_as_written && is_the_same(&loaded.config, &self.live.load());
        let settings = match self.settings(&loaded) {
            Ok(settings) => settings,
            Err(problems) => return self.refuse(trigger, problems),
        };
        if is_unchanged {
            // The files of the listeners and of the store may be others all the same.
            put_into_force(settings);
            self.connect(&loaded.config);
            self.succeeded(None, &upgrade_needed);
            log::info!("reload by {}: nothing has changed", trigger.as_str());
            return Outcome::Unchanged {
                generation: self.live.load().generation,
                upgrade_needed,
            };
        }
        if let Some(discovery) = &self.discovery {
            discovery.prepare(&loaded.config);
        }
        let adopted = self.adopt(&loaded.config, written, settings);
        if let Some(discovery) = &self.discovery {
            discovery.settle();
        }
        match adopted {
            Ok(None) => handed_over(trigger),
            Ok(Some(generation)) => {
                self.connect(&loaded.config);
                self.succeeded(Some(SystemTime::now()), &upgrade_needed);
                log::info!("reload by {}: generation {generation}", trigger.as_str());
                Outcome::Reloaded {
                    generation,
                    upgrade_needed,
                }
            }
            Err(problem) => self.refuse(trigger, vec![problem]),
        }
    }

    /// Puts another generation into force, unless another process is in charge by now. Whoever
    /// switches maintenance waits for this alone.
    fn adopt(&self, config: &Config, written: u64, settings: Ready) -> Result<Option<u64>, String> {
        let mut state = lock(&self.state);
        if self.is_handed_over() {
            return Ok(None);
        }
        let current = self.live.load();
        let generation = current.generation + 1;
        let now = Instant::now();
        let snapshot = Snapshot::compile(config, generation, &self.metrics, now, Some(&current))
            .map_err(|error| format!("routes: {error}"))?;
        drop(current);
        // From here on nothing can fail.
        if let Some(discovery) = &self.discovery {
            discovery.fill(&snapshot);
        }
        state.retired.push(self.live.publish(snapshot));
        put_into_force(settings);
        if config.log.level != state.level {
            telemetry::set_level(config.log.level);
        }
        state.level = config.log.level;
        state.watch = config.server.watch;
        state.written = written;
        self.metrics.set_config(generation, config.source_hash);
        count_maintenance(&self.metrics, &self.live.load());
        Ok(Some(generation))
    }

    /// What the listeners that are open and still configured are to be.
    ///
    /// The error is what is wrong with the files that they name, one line each.
    fn settings(&self, loaded: &Loaded) -> Result<Ready, Vec<String>> {
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
        faults.extend(auth::check(&loaded.config.auth));
        if faults.is_empty() {
            return Ok(settings);
        }
        let problems = loaded.problems(faults).to_string();
        Err(problems.lines().map(str::to_owned).collect())
    }

    fn connect(&self, config: &Config) {
        if let Some(store) = &self.store {
            store.configure(config.redis.as_ref());
        }
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

fn handed_over(trigger: Trigger) -> Outcome {
    let trigger = trigger.as_str();
    log::info!("reload by {trigger}: another process is in charge, nothing is loaded");
    Outcome::HandedOver
}

/// Whether the same text led to the same: a host name may have another address by now, and a file
/// other lines.
fn is_the_same(config: &Config, current: &Snapshot) -> bool {
    let running = current.upstreams.iter().map(|upstream| &upstream.config);
    config.source_hash == current.source_hash
        && running.eq(config.upstreams.iter())
        && current.auth.is_made_from(&config.auth)
        && current.has_networks_of(config)
}

fn count_maintenance(metrics: &Metrics, snapshot: &Snapshot) {
    metrics.set_maintenance(
        snapshot.maintenance.is_on(),
        snapshot.routes_in_maintenance(),
    );
}

fn put_into_force(settings: Ready) {
    for (listener, settings) in settings {
        listener.adopt(settings);
    }
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

    /// A name server that keeps everybody waiting until it is let go.
    struct Slow {
        asked: std::sync::mpsc::SyncSender<()>,
        answer: Mutex<std::sync::mpsc::Receiver<()>>,
    }

    impl Env for Slow {
        fn var(&self, name: &str) -> Option<String> {
            ProcessEnv.var(name)
        }

        fn vars(&self, _: &str) -> Vec<(String, String)> {
            Vec::new()
        }

        fn resolve(&self, _: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
            self.asked.send(()).unwrap();
            lock(&self.answer).recv().unwrap();
            Ok(vec![([127, 0, 0, 1], port).into()])
        }

        fn system_authorities(&self) -> std::io::Result<Vec<Vec<u8>>> {
            ProcessEnv.system_authorities()
        }
    }

    /// A configuration whose name server waits, and what tells that it is asked and lets it go.
    fn kept_waiting() -> (
        Setup,
        std::sync::mpsc::Receiver<()>,
        std::sync::mpsc::Sender<()>,
    ) {
        let mut setup = setup(ONE);
        let (asked, is_asked) = std::sync::mpsc::sync_channel(1);
        let (let_go, answer) = std::sync::mpsc::channel();
        let answer = Mutex::new(answer);
        setup.reloader.env = Box::new(Slow { asked, answer });
        setup.write("routes: [{ name: one, upstream: 'http://slow.test:80' }]\n");
        (setup, is_asked, let_go)
    }

    #[test]
    fn a_reload_under_way_at_the_hand_over_comes_to_nothing() {
        let (setup, is_asked, let_go) = kept_waiting();
        std::thread::scope(|scope| {
            let reload = scope.spawn(|| setup.reloader.reload(Trigger::Admin));
            is_asked.recv().unwrap();
            let generation = setup.reloader.hand_over().generation;
            let_go.send(()).unwrap();
            assert_eq!(reload.join().unwrap(), Outcome::HandedOver);
            assert_eq!(setup.live.load().generation, generation);
        });
        assert_eq!(setup.metrics.reloads_failed().get(), 0);
        assert!(setup.reloader.report().failure.is_none());
    }

    #[test]
    fn a_switch_does_not_wait_for_a_name_server() {
        let (setup, is_asked, let_go) = kept_waiting();
        let (switched, is_switched) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let reload = scope.spawn(|| setup.reloader.reload(Trigger::Admin));
            is_asked.recv().unwrap();
            let reloader = &setup.reloader;
            scope.spawn(move || {
                let done = reloader.switch_maintenance(true, None) == Switched::Done;
                let done = done && !reloader.look();
                switched.send(done)
            });
            let done = is_switched.recv_timeout(std::time::Duration::from_secs(20));
            let_go.send(()).unwrap();
            let outcome = reload.join().unwrap();
            assert_eq!(done, Ok(true));
            assert!(matches!(outcome, Outcome::Reloaded { generation: 2, .. }));
        });
        assert!(setup.live.load().maintenance.is_on());
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_told_once() {
        let setup = setup(ONE);
        let path = setup.folder.path().join("gateway.yaml");
        std::fs::remove_file(&path).unwrap();
        // It is there, and nobody can open it, whoever runs the test.
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let asked = (0..10).filter(|_| {
            let asked = setup.reloader.look();
            if asked {
                setup.reloader.reload(Trigger::File);
            }
            asked
        });
        assert_eq!(asked.count(), 1);
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
        let switch = |route| setup.reloader.switch_maintenance(true, Some(route));
        assert_eq!(switch("one"), Switched::Done);
        assert_eq!(switch("none"), Switched::NoRoute);
        setup.write(&format!("{ONE}# again\n"));
        setup.reloader.reload(Trigger::Signal);
        let snapshot = setup.live.load();
        assert!(snapshot.route("one").unwrap().maintenance.is_on());
        drop(snapshot);
        let switches = setup.reloader.hand_over().export();
        assert_eq!(switch("one"), Switched::HandedOver);
        let reload = setup.reloader.reload(Trigger::Admin);
        assert!(matches!(reload, Outcome::HandedOver));
        let heir = self::setup(ONE);
        heir.reloader.take_over(&switches);
        assert_eq!(heir.live.load().export(), switches);
        assert!(heir.live.load().route("one").unwrap().maintenance.is_on());
    }
}
