//! The connections for commands: each is kept by a task that makes another one when it breaks, and
//! that never gives up.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::dial::{Backoff, Dialer};
use super::failure::Failure;
use super::report::Report;
use crate::config::model::Redis;
use crate::metrics::{RedisCommand, RedisError as Kind, RedisMetrics};

/// Between two questions whether a connection is alive.
const PING: Duration = Duration::from_secs(1);
/// A connection that lived as long was a good one: the next is dialled at once.
const SETTLED: Duration = Duration::from_secs(5);

/// One connection, when there is one.
#[derive(Default)]
struct Slot {
    connection: ArcSwapOption<MultiplexedConnection>,
    spoilt: Notify,
}

/// What the keepers and the users of the connections share.
pub(super) struct Pool {
    pub settings: Arc<Redis>,
    slots: Vec<Slot>,
    turn: AtomicUsize,
    /// Whether the first connection is there. The others wait for it, so that a server that is away
    /// is asked once by each instance, and not once for each connection.
    first: watch::Sender<bool>,
    metrics: Arc<RedisMetrics>,
    report: Arc<Report>,
}

/// One of the connections, until the next answer.
pub(super) struct Taken<'a> {
    pub connection: MultiplexedConnection,
    slot: &'a Slot,
}

impl Taken<'_> {
    /// The connection is of no more use: another takes its place.
    pub fn give_up(&self) {
        self.slot.connection.store(None);
        self.slot.spoilt.notify_one();
    }
}

impl Pool {
    /// Starts to keep connections. They end when the tasks do.
    pub fn start(
        settings: Arc<Redis>,
        dialer: &Arc<Dialer>,
        metrics: &Arc<RedisMetrics>,
        report: &Arc<Report>,
        tasks: &mut JoinSet<()>,
    ) -> Arc<Self> {
        let mut slots = Vec::new();
        slots.resize_with(settings.pool_size, Slot::default);
        let pool = Arc::new(Self {
            settings,
            slots,
            turn: AtomicUsize::new(0),
            first: watch::Sender::new(false),
            metrics: Arc::clone(metrics),
            report: Arc::clone(report),
        });
        for index in 0..pool.slots.len() {
            tasks.spawn(Arc::clone(&pool).keep(index, Arc::clone(dialer)));
        }
        pool
    }

    /// A connection that can be used, each in its turn.
    pub fn take(&self) -> Option<Taken<'_>> {
        let turn = self.turn.fetch_add(1, Relaxed);
        let count = self.slots.len();
        let slots = (0..count).filter_map(|step| self.slots.get(turn.wrapping_add(step) % count));
        for slot in slots {
            if let Some(connection) = &*slot.connection.load() {
                let connection = MultiplexedConnection::clone(connection);
                return Some(Taken { connection, slot });
            }
        }
        None
    }

    /// How many can be used.
    pub fn usable(&self) -> usize {
        let usable = |slot: &&Slot| slot.connection.load().is_some();
        self.slots.iter().filter(usable).count()
    }

    /// Sees whether there is a connection, now and later.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.first.subscribe()
    }

    async fn keep(self: Arc<Self>, index: usize, dialer: Arc<Dialer>) {
        let mut backoff = Backoff::default();
        let mut first = self.first.subscribe();
        loop {
            if index > 0 && first.wait_for(|is_there| *is_there).await.is_err() {
                return;
            }
            match dialer.connect().await {
                Ok((connection, driver)) => {
                    let since = Instant::now();
                    let failure = self.hold(index, connection, driver).await;
                    self.failed(&failure);
                    if since.elapsed() >= SETTLED {
                        backoff = Backoff::default();
                    }
                }
                Err(failure) => self.failed(&failure),
            }
            sleep(backoff.next(fastrand::f64())).await;
        }
    }

    fn failed(&self, failure: &Failure) {
        self.metrics.failed(failure.kind);
        self.report.failed(failure);
    }

    /// Offers a connection until it ends, and says why it did.
    async fn hold(
        &self,
        index: usize,
        connection: MultiplexedConnection,
        driver: impl Future<Output = ()>,
    ) -> Failure {
        let Some(slot) = self.slots.get(index) else {
            return Failure::new(Kind::Other, "no such connection");
        };
        let _counted = Counted::new(&self.metrics);
        let checks = self.check(connection.clone(), slot, index);
        let failure = tokio::select! {
            () = driver => Failure::new(Kind::Io, "the connection was closed"),
            failure = checks => failure,
        };
        slot.connection.store(None);
        if index == 0 {
            self.first.send_replace(false);
        }
        failure
    }

    /// Puts a connection into its slot once it answers, and asks now and then whether it still does.
    async fn check(
        &self,
        mut connection: MultiplexedConnection,
        slot: &Slot,
        index: usize,
    ) -> Failure {
        let offered = Arc::new(connection.clone());
        let mut is_new = true;
        let mut pings = interval(PING);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = pings.tick() => {}
                () = slot.spoilt.notified() => {
                    return Failure::new(Kind::Io, "given up for another");
                }
            }
            if let Err(failure) = self.ping(&mut connection).await {
                return failure;
            }
            if is_new {
                // A server that loads its data accepts connections and refuses commands.
                is_new = false;
                slot.connection.store(Some(Arc::clone(&offered)));
                if index == 0 {
                    self.report.connected();
                    self.first.send_replace(true);
                }
            }
        }
    }

    async fn ping(&self, connection: &mut MultiplexedConnection) -> Result<(), Failure> {
        let asked = Instant::now();
        let ping = redis::cmd("PING");
        let answer = ping.query_async::<String>(connection);
        match timeout(self.settings.command_timeout, answer).await {
            Ok(answer) => drop(answer?),
            Err(_) => return Err(Failure::new(Kind::Timeout, "no answer to PING")),
        }
        self.metrics.answered(RedisCommand::Ping, asked.elapsed());
        Ok(())
    }
}

/// A connection as metrics count it.
struct Counted<'a>(&'a RedisMetrics);

impl<'a> Counted<'a> {
    fn new(metrics: &'a RedisMetrics) -> Self {
        metrics.connected(true);
        Self(metrics)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.connected(false);
    }
}
