//! The connections for commands: each is kept by a task that makes another one when it breaks, and
//! that never gives up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::access::Opened;
use super::backoff::Backoff;
use super::context::Context;
use super::dial::Dialer;
use super::failure::Failure;
use crate::config::model::Node;
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
    pub dialer: Dialer,
    context: Arc<Context>,
    slots: Vec<Slot>,
    turn: AtomicUsize,
    /// How often all of them were given up.
    rounds: AtomicUsize,
    /// Whether the first connection is there. The others wait for it, so that a server that is away
    /// is asked once by each instance, and not once for each connection.
    first: watch::Sender<bool>,
}

/// One of the connections, until the next answer.
pub(super) struct Taken<'a> {
    pub connection: MultiplexedConnection,
    pool: &'a Pool,
    slot: &'a Slot,
    /// What the slot had.
    offered: Arc<MultiplexedConnection>,
    /// The round in which it was taken.
    round: usize,
}

impl Taken<'_> {
    /// The connection is of no more use: another takes its place.
    pub fn give_up(&self) {
        // Of many who notice, one says so, and nobody says it of the next connection.
        let current = self.slot.connection.compare_and_swap(&self.offered, None);
        if current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, &self.offered))
        {
            self.slot.spoilt.notify_one();
        }
    }

    /// All connections are of no more use, since they lead to the same server: others take their places.
    pub fn give_up_all(&self) {
        // Answers to what was sent in the same round say nothing of the connections that were made since.
        let next = self.round.wrapping_add(1);
        let rounds = &self.pool.rounds;
        let is_first = rounds.compare_exchange(self.round, next, Relaxed, Relaxed);
        if is_first.is_err() {
            return;
        }
        for slot in &self.pool.slots {
            if slot.connection.swap(None).is_some() {
                slot.spoilt.notify_one();
            }
        }
    }
}

impl Pool {
    /// Starts to keep connections. They end when the tasks do.
    pub fn start(dialer: Dialer, context: &Arc<Context>, tasks: &mut JoinSet<()>) -> Arc<Self> {
        let mut slots = Vec::new();
        slots.resize_with(context.settings.pool_size, Slot::default);
        let pool = Arc::new(Self {
            dialer,
            context: Arc::clone(context),
            slots,
            turn: AtomicUsize::new(0),
            rounds: AtomicUsize::new(0),
            first: watch::Sender::new(false),
        });
        for index in 0..pool.slots.len() {
            tasks.spawn(Arc::clone(&pool).keep(index));
        }
        pool
    }

    /// A connection that can be used, each in its turn.
    pub fn take(&self) -> Option<Taken<'_>> {
        let turn = self.turn.fetch_add(1, Relaxed);
        let round = self.rounds.load(Relaxed);
        let count = self.slots.len();
        let slots = (0..count).filter_map(|step| self.slots.get(turn.wrapping_add(step) % count));
        for slot in slots {
            if let Some(offered) = slot.connection.load_full() {
                return Some(Taken {
                    connection: MultiplexedConnection::clone(&offered),
                    pool: self,
                    slot,
                    offered,
                    round,
                });
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

    async fn keep(self: Arc<Self>, index: usize) {
        let mut backoff = Backoff::default();
        let mut first = self.first.subscribe();
        let within = self.context.settings.command_timeout;
        loop {
            if index > 0 && first.wait_for(|is_there| *is_there).await.is_err() {
                return;
            }
            match self.dialer.connect(within).await {
                Ok((opened, node)) => {
                    let since = Instant::now();
                    let failure = self.hold(index, opened, &node).await;
                    self.context.failed(&node.to_string(), &failure);
                    if since.elapsed() >= SETTLED {
                        backoff = Backoff::default();
                    }
                }
                Err(failure) => {
                    let node = self.dialer.node().map(|node| node.to_string());
                    let address = node.unwrap_or_else(|| self.context.report.address());
                    self.context.failed(&address, &failure);
                }
            }
            sleep(backoff.next(fastrand::f64())).await;
        }
    }

    /// Offers a connection until it ends, and says why it did.
    async fn hold(&self, index: usize, opened: Opened, node: &Node) -> Failure {
        let Some(slot) = self.slots.get(index) else {
            return Failure::new(Kind::Other, "no such connection");
        };
        let _counted = Counted::new(&self.context.metrics);
        let checks = self.check(opened.connection, slot, index, node);
        let failure = tokio::select! {
            () = opened.driver => Failure::new(Kind::Io, "the connection was closed"),
            failure = checks => failure,
            () = self.dialer.moved_from(node) => {
                Failure::new(Kind::ReadOnly, "another server is the master now")
            }
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
        node: &Node,
    ) -> Failure {
        let offered = Arc::new(connection.clone());
        let mut up = None;
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
            if std::mem::take(&mut is_new) {
                // A server that loads its data accepts connections and refuses commands.
                slot.connection.store(Some(Arc::clone(&offered)));
                if index == 0 {
                    self.context.report.connected(&node.to_string());
                    self.first.send_replace(true);
                    up.get_or_insert_with(|| self.context.up());
                }
            }
        }
    }

    async fn ping(&self, connection: &mut MultiplexedConnection) -> Result<(), Failure> {
        let asked = Instant::now();
        let ping = redis::cmd("PING");
        let answer = ping.query_async::<String>(connection);
        match timeout(self.context.settings.command_timeout, answer).await {
            Ok(answer) => drop(answer?),
            Err(_) => return Err(Failure::new(Kind::Timeout, "no answer to PING")),
        }
        self.context
            .metrics
            .answered(RedisCommand::Ping, asked.elapsed());
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
