//! The store that instances share: the connections to it, and what is known of them.
//!
//! A thread of its own has the connections, so that neither requests nor operators wait for them.
//! Whoever asks something gets an answer or a failure within the deadline of a command, and a
//! failure at once when there is no connection.

mod dial;
mod failure;
mod pool;
mod report;
mod script;

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use redis::aio::PubSub;
use redis::{FromRedisValue, Pipeline};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::dial::Dialer;
use self::pool::Pool;
use self::report::Report;
use crate::config::model::Redis;
use crate::metrics::{RedisCommand, RedisError as Kind, RedisMetrics};

pub use self::dial::Backoff;
pub use self::failure::Failure;
pub use self::script::{Call, Script};

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
    pool: Arc<Pool>,
    dialer: Arc<Dialer>,
}

/// What `/status` tells.
#[derive(Clone, Debug)]
pub struct State {
    /// Where it is.
    pub address: String,
    /// Connections that can be used.
    pub connections: usize,
    /// Those that there should be.
    pub pool_size: usize,
    /// The last failure since this configuration.
    pub last_failure: Option<(SystemTime, Failure)>,
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
        if current.as_ref().map(|current| &*current.pool.settings) == settings {
            return;
        }
        *tasks = JoinSet::new();
        let connected = settings.and_then(|settings| self.connect(settings, &mut tasks));
        self.connected.store(connected.map(Arc::new));
        self.changes.send_modify(|change| *change += 1);
    }

    fn connect(&self, settings: &Redis, tasks: &mut JoinSet<()>) -> Option<Connected> {
        self.metrics.set_configured();
        self.report.begin(address(settings));
        let settings = Arc::new(settings.clone());
        let dialer = match Dialer::new(Arc::clone(&settings)) {
            Ok(dialer) => Arc::new(dialer),
            Err(failure) => {
                self.failed(&failure);
                return None;
            }
        };
        let _within = self.runtime.as_ref().map(Runtime::enter);
        let pool = Pool::start(settings, &dialer, &self.metrics, &self.report, tasks);
        Some(Connected { pool, dialer })
    }

    /// Whether there is one to connect to.
    pub fn is_configured(&self) -> bool {
        self.connected.load().is_some()
    }

    /// Sees when the settings change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Sees whether there is a connection; `None` when none is configured.
    pub fn availability(&self) -> Option<watch::Receiver<bool>> {
        let connected = self.connected.load();
        connected.as_ref().map(|connected| connected.pool.watch())
    }

    /// What is known of it; `None` when none is configured.
    pub fn state(&self) -> Option<State> {
        let connected = self.connected.load();
        let pool = &connected.as_ref()?.pool;
        Some(State {
            address: address(&pool.settings),
            connections: pool.usable(),
            pool_size: pool.settings.pool_size,
            last_failure: self.report.last(),
        })
    }

    /// Sends commands, and waits for their answers.
    pub async fn query<T: FromRedisValue>(
        &self,
        command: RedisCommand,
        commands: &Pipeline,
    ) -> Result<T, Failure> {
        let Some(connected) = self.connected.load_full() else {
            return Err(Failure::new(Kind::Connect, "none is configured"));
        };
        let asked = Instant::now();
        let answer = ask(&connected.pool, commands).await;
        match &answer {
            Ok(_) => self.metrics.answered(command, asked.elapsed()),
            Err(failure) => self.failed(failure),
        }
        answer
    }

    /// A connection that listens to what others tell; of the settings in force.
    pub async fn listen(&self) -> Result<PubSub, Failure> {
        let Some(connected) = self.connected.load_full() else {
            return Err(Failure::new(Kind::Connect, "none is configured"));
        };
        let connection = connected.dialer.listen().await;
        if let Err(failure) = &connection {
            self.failed(failure);
        }
        connection
    }

    /// How long an answer may take.
    pub fn command_timeout(&self) -> Duration {
        let connected = self.connected.load();
        let settings = connected.as_ref().map(|connected| &connected.pool.settings);
        settings.map_or(Duration::from_secs(1), |settings| settings.command_timeout)
    }

    /// Counts a failure of a connection that listens, and perhaps writes a line.
    pub fn failed(&self, failure: &Failure) {
        self.metrics.failed(failure.kind);
        self.report.failed(failure);
    }
}

async fn ask<T: FromRedisValue>(pool: &Pool, commands: &Pipeline) -> Result<T, Failure> {
    let Some(mut taken) = pool.take() else {
        return Err(Failure::new(Kind::Connect, "no connection"));
    };
    let answer = commands.query_async(&mut taken.connection);
    let answer = match timeout(pool.settings.command_timeout, answer).await {
        Ok(answer) => answer.map_err(Failure::from),
        Err(_) => Err(Failure::new(Kind::Timeout, "no answer in time")),
    };
    if answer.as_ref().is_err_and(Failure::spoils_connection) {
        taken.give_up();
    }
    answer
}

/// Where it is: no secret, unlike the rest of the URL.
fn address(settings: &Redis) -> String {
    let (host, port) = (&settings.host, settings.port);
    if host.contains(':') {
        return format!("[{host}]:{port}");
    }
    format!("{host}:{port}")
}

impl Drop for Store {
    fn drop(&mut self) {
        // Dropping a runtime waits for it, which must not be done within another.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
