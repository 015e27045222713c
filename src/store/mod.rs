//! The store that instances share: the connections to it, and what is known of them.
//!
//! A thread of its own has the connections, so that neither requests nor operators wait for them.
//! Whoever asks something gets an answer or a failure within the deadline of a command, and a
//! failure at once when there is no connection.

mod access;
mod backoff;
mod cluster;
mod context;
mod dial;
mod failure;
mod keyed;
mod member;
mod pool;
mod report;
mod script;
mod sentinel;
mod servers;
mod slot;
mod state;

use std::future::Future;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use redis::aio::PubSub;
use redis::{Cmd, FromRedisValue, Value};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::context::Context;
use self::report::Report;
use self::servers::Connections;
use crate::config::model::Redis;
use crate::metrics::{RedisCommand, RedisError as Kind, RedisMetrics};

pub use self::backoff::Backoff;
pub use self::failure::Failure;
pub use self::keyed::{Answer, Keyed};
pub use self::script::{Call, Line, Script, Told};
pub use self::servers::{Shard, Shards};
pub use self::state::{Mode, SentinelState, ServerState, State};

/// The store, whether one is configured or not.
pub struct Store {
    /// Taken when it is dropped.
    runtime: Option<Runtime>,
    connected: ArcSwapOption<Connected>,
    /// Changes with the settings.
    changes: watch::Sender<u64>,
    /// Held while settings change.
    tasks: Mutex<JoinSet<()>>,
    metrics: Arc<RedisMetrics>,
    report: Arc<Report>,
}

/// What is kept for one configuration.
struct Connected {
    context: Arc<Context>,
    connections: Connections,
    /// Whether servers take together only what is in one slot: those of a Cluster do.
    has_slots: AtomicBool,
}

impl Store {
    /// Starts the thread. Nothing is connected to before [`Store::configure`].
    pub fn start(metrics: Arc<RedisMetrics>) -> io::Result<Arc<Self>> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("redis")
            .enable_all()
            .build()?;
        Ok(Arc::new(Self {
            runtime: Some(runtime),
            connected: ArcSwapOption::empty(),
            changes: watch::Sender::new(0),
            tasks: Mutex::default(),
            metrics,
            report: Arc::default(),
        }))
    }

    /// Runs something on the thread of the store.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.runtime {
            runtime.spawn(work);
        }
    }

    /// Connects to what is configured now; connections to what was are ended. Does nothing when
    /// both are the same.
    pub fn configure(&self, settings: Option<&Redis>) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.connected.load();
        if current.as_ref().map(|current| &*current.context.settings) == settings {
            return;
        }
        *tasks = JoinSet::new();
        let connected = settings.and_then(|settings| self.connect(settings, &mut tasks));
        self.connected.store(connected.map(Arc::new));
        self.changes.send_modify(|change| *change += 1);
    }

    fn connect(&self, settings: &Redis, tasks: &mut JoinSet<()>) -> Option<Connected> {
        self.metrics.set_configured();
        self.report.begin(state::address(&settings.servers));
        let context = Context::new(settings.clone(), &self.metrics, &self.report);
        let runtime = self.runtime.as_ref()?.handle();
        match Connections::start(&context, runtime, tasks) {
            Ok(connections) => Some(Connected {
                context,
                has_slots: AtomicBool::new(!connections.are_one()),
                connections,
            }),
            Err(failure) => {
                self.failed(&failure);
                None
            }
        }
    }

    /// Whether there is one to connect to.
    pub fn is_configured(&self) -> bool {
        self.connected.load().is_some()
    }

    /// Sees when the settings change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Sees whether any server can be asked; `None` when none is configured.
    pub fn availability(&self) -> Option<watch::Receiver<bool>> {
        let connected = self.connected.load();
        let connected = connected.as_ref()?;
        Some(connected.context.availability())
    }

    /// Which of the servers that can be told from each other has a key, as a number, and how many there are. The
    /// number of a key that nobody has is how many. Both change with the servers.
    pub fn owner(&self, key: &str) -> (usize, usize) {
        let connected = self.connected.load();
        let connected = connected.as_ref();
        connected.map_or((0, 1), |connected| connected.connections.owner(key))
    }

    /// Sees when a server is back that was away, or another has taken its place: it may have lost what
    /// it was told last. `None` when none is configured.
    pub fn renewals(&self) -> Option<watch::Receiver<u64>> {
        let connected = self.connected.load();
        let connected = connected.as_ref()?;
        Some(connected.context.renewals())
    }

    /// What is known of it; `None` when none is configured.
    pub fn state(&self) -> Option<State> {
        let connected = self.connected.load();
        let Connected {
            context,
            connections,
            ..
        } = &**connected.as_ref()?;
        Some(state::of(context, connections))
    }

    /// Sends commands, each to the server that has its key, and waits for their answers: at most
    /// `within`, for all of them together. They go out at once, and in their order where they go to the
    /// same server; each is answered or fails by itself.
    pub async fn each(
        &self,
        command: RedisCommand,
        commands: Vec<Keyed>,
        within: Duration,
    ) -> Vec<Answer> {
        match self.connected.load_full() {
            Some(connected) => self.each_of(&connected, command, commands, within).await,
            None => vec![Err(none_configured()); commands.len()],
        }
    }

    async fn each_of(
        &self,
        connected: &Connected,
        command: RedisCommand,
        commands: Vec<Keyed>,
        within: Duration,
    ) -> Vec<Answer> {
        let asked = Instant::now();
        let answers = connected.connections.each(commands, within).await;
        if answers.iter().any(Result::is_ok) {
            self.metrics.answered(command, asked.elapsed());
        }
        self.count_failures(&answers);
        answers
    }

    /// Sends commands in steps, and gives all answers in their order, or the first failure. Nobody sees
    /// what a step does without what the steps before it did.
    pub async fn in_turn(
        &self,
        command: RedisCommand,
        mut steps: Vec<Vec<Keyed>>,
    ) -> Result<Vec<Value>, Failure> {
        let connected = self.connected.load_full().ok_or_else(none_configured)?;
        let within = connected.context.settings.command_timeout;
        if connected.connections.are_one() {
            // One server does things in the order in which they arrive.
            steps = vec![steps.into_iter().flatten().collect()];
        }
        let mut all = Vec::new();
        for step in steps {
            for answer in self.each_of(&connected, command, step, within).await {
                all.push(answer?);
            }
        }
        Ok(all)
    }

    /// The servers that together have every key.
    pub async fn shards(&self) -> Result<Shards, Failure> {
        let Some(connected) = self.connected.load_full() else {
            return Err(none_configured());
        };
        let within = connected.context.settings.command_timeout;
        let shards = connected.connections.shards(within).await;
        if let Err(failure) = &shards {
            self.failed(failure);
        }
        shards
    }

    /// Whether these are still the servers that together have every key, each with the same ones.
    pub fn are_current(&self, shards: &Shards) -> bool {
        let connected = self.connected.load();
        let connected = connected.as_ref();
        connected.is_some_and(|connected| connected.connections.are_current(shards))
    }

    /// Asks one of them.
    pub async fn ask<T: FromRedisValue>(
        &self,
        command: RedisCommand,
        shard: &Shard,
        question: Cmd,
    ) -> Result<T, Failure> {
        let asked = Instant::now();
        let answer = shard.ask(question, self.command_timeout()).await;
        match &answer {
            Ok(_) => self.metrics.answered(command, asked.elapsed()),
            Err(failure) => self.failed(failure),
        }
        answer
    }

    /// What fails for the same reason fails once.
    fn count_failures(&self, answers: &[Answer]) {
        let mut last = None;
        for failure in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            if last != Some(failure) && !failure.is_expected() {
                self.failed(failure);
            }
            last = Some(failure);
        }
    }

    /// A connection that listens to what others tell; of the settings in force.
    pub async fn listen(&self) -> Result<PubSub, Failure> {
        let Some(connected) = self.connected.load_full() else {
            return Err(none_configured());
        };
        let within = connected.context.settings.connect_timeout;
        let connection = connected.connections.listen(within).await;
        if let Err(failure) = &connection {
            self.failed(failure);
        }
        connection
    }

    /// How long an answer may take.
    pub fn command_timeout(&self) -> Duration {
        let connected = self.connected.load();
        let settings = connected
            .as_ref()
            .map(|connected| &connected.context.settings);
        settings.map_or(Duration::from_secs(1), |settings| settings.command_timeout)
    }

    /// Counts a failure of a connection that listens, and perhaps writes a line.
    pub fn failed(&self, failure: &Failure) {
        self.metrics.failed(failure.kind);
        self.report.failed(&self.report.address(), failure);
    }
}

fn none_configured() -> Failure {
    Failure::new(Kind::Connect, "none is configured")
}

impl Drop for Store {
    fn drop(&mut self) {
        // Dropping a runtime waits for it, which must not be done within another.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
