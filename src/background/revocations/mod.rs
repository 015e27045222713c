//! Revocations, shared among instances.
//!
//! Each instance has the whole list. What is revoked at one of them is written to the store and
//! published; the others listen. Three things see to it that nobody misses anything for long:
//!
//! - whoever has a new connection looks at all keys, and so does everybody every ten seconds: that
//!   finds keys that were set by hand, and writes those that the store has lost;
//! - every second the stream is read that has the last messages: that finds messages that got lost;
//! - a connection that does not answer is given up within two seconds.
//!
//! A key that is missing never makes a revocation end: the store may have lost it. What is taken back
//! is written down as such.

mod clock;
mod exchange;
mod message;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use redis::Msg;
use redis::aio::PubSubSink;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

pub use self::clock::Time;
use self::exchange::Exchange;
use self::message::{CHANNEL, Lift};
use crate::filter::auth::revocation::{Full, Revocation, Revocations, Target};
use crate::metrics::{Metrics, RedisError, RevocationMetrics};
use crate::store::{Backoff, Failure, Store};

/// Between two looks at all keys.
const RESYNC: Duration = Duration::from_secs(10);
/// A look at all keys takes at most this part of the time, whatever else is in the store.
const RESYNC_SHARE: u32 = 20;
/// Between two looks at the stream.
const FOLLOW: Duration = Duration::from_secs(1);
/// Between two sweeps of what is over.
const SWEEP: Duration = Duration::from_secs(10);
/// Between two announcements to open connections, however many revocations there are.
const ANNOUNCE: Duration = Duration::from_millis(100);
/// After a look at all keys that failed although there is a connection.
const RETRY: Duration = Duration::from_millis(500);

/// Whether the other instances know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// No store is configured: this instance alone knows.
    Alone,
    /// The store has it.
    Stored,
    /// The store cannot be reached; it gets it as soon as it can.
    Pending,
}

impl Shared {
    /// The word of answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alone => "not_configured",
            Self::Stored => "stored",
            Self::Pending => "pending",
        }
    }
}

/// Revokes, and keeps the list like those of other instances.
pub struct Revoker {
    exchange: Exchange,
    /// There is something that the store has not got.
    pending: Notify,
    in_sync: AtomicBool,
}

impl Revoker {
    /// Starts the work on the store's thread.
    pub fn start(list: Arc<Revocations>, store: &Arc<Store>, metrics: &Metrics) -> Arc<Self> {
        let revoker = Arc::new(Self {
            exchange: Exchange {
                list,
                store: Arc::clone(store),
                metrics: Arc::clone(metrics.revocations()),
            },
            pending: Notify::new(),
            in_sync: AtomicBool::new(false),
        });
        let keeper = Arc::clone(&revoker.exchange.list);
        store.spawn(keep(keeper, Arc::clone(&revoker.exchange.metrics)));
        store.spawn(Arc::clone(&revoker).run());
        revoker
    }

    /// The list.
    pub fn list(&self) -> &Arc<Revocations> {
        &self.exchange.list
    }

    /// Whether there is a store.
    pub fn is_shared(&self) -> bool {
        self.exchange.store.is_configured()
    }

    /// Whether the list was that of the store a second ago.
    pub fn is_in_sync(&self) -> bool {
        self.in_sync.load(Relaxed)
    }

    /// Revokes here and now, and tells the others.
    pub async fn revoke(&self, revocation: Revocation) -> Result<Shared, Full> {
        let exchange = &self.exchange;
        exchange.list.add(revocation.clone())?;
        if !exchange.store.is_configured() {
            return Ok(Shared::Alone);
        }
        match exchange.push(&revocation, Time::now()).await {
            Ok(()) => Ok(Shared::Stored),
            Err(_) => {
                self.pending.notify_one();
                Ok(Shared::Pending)
            }
        }
    }

    /// Takes a revocation back, everywhere or not at all. Says whether there was one.
    pub async fn lift(&self, target: Target, at: Time) -> Result<(bool, Shared), Failure> {
        let exchange = &self.exchange;
        let terms = exchange.list.get(&target);
        // The clock of who revoked it may be ahead of this one.
        let at = terms.map_or(at, |terms| at.max(Time(terms.at)));
        let mut found = terms.is_some();
        let mut shared = Shared::Alone;
        if exchange.store.is_configured() {
            let until = terms.and_then(|terms| terms.until);
            let life = until.map_or(LONGEST_LIFE, |until| until.saturating_sub(at.seconds()));
            let target = target.clone();
            found |= exchange.lift(&Lift { target, at: at.0 }, life).await?;
            shared = Shared::Stored;
        }
        exchange.list.lift(&target, at.0);
        Ok((found, shared))
    }

    async fn run(self: Arc<Self>) {
        let mut changes = self.exchange.store.changes();
        loop {
            changes.mark_unchanged();
            let is_shared = self.exchange.store.is_configured();
            self.exchange.metrics.set_shared(is_shared);
            let share = async {
                if is_shared {
                    self.share().await;
                }
                std::future::pending::<()>().await;
            };
            let changed = tokio::select! {
                changed = changes.changed() => changed,
                () = share => Ok(()),
            };
            self.in_sync.store(false, Relaxed);
            if changed.is_err() {
                return;
            }
        }
    }

    /// Goes on for ever, with one connection after another.
    async fn share(&self) {
        let mut backoff = Backoff::default();
        loop {
            match self.linked().await {
                Link::Refused => {}
                Link::Renewed | Link::Broken => backoff = Backoff::default(),
            }
            self.in_sync.store(false, Relaxed);
            sleep(backoff.next(fastrand::f64())).await;
        }
    }

    /// Listens as long as the connection lasts.
    async fn linked(&self) -> Link {
        let store = &self.exchange.store;
        // From before the connection: it may lead to a server that is replaced the next moment.
        let Some(mut renewals) = store.renewals() else {
            return Link::Refused;
        };
        let Ok(mut channel) = store.listen().await else {
            return Link::Refused;
        };
        let subscribed = timeout(store.command_timeout(), channel.subscribe(CHANNEL)).await;
        let refused = match subscribed {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(Failure::from(error)),
            Err(_) => Some(Failure::new(RedisError::Timeout, "no answer to SUBSCRIBE")),
        };
        if let Some(failure) = refused {
            store.failed(&failure);
            return Link::Refused;
        }
        let (sink, messages) = channel.split();
        let end = tokio::select! {
            () = self.hear(messages) => Link::Broken,
            () = self.keep_up(sink) => Link::Broken,
            // A server that took another's place may have neither its last keys nor the end of its
            // stream.
            _ = renewals.changed() => Link::Renewed,
        };
        if end == Link::Broken {
            let what = "the connection for revocations was lost";
            store.failed(&Failure::new(RedisError::Io, what));
        }
        end
    }

    /// Applies what is published, until the connection ends.
    async fn hear(&self, mut messages: impl Stream<Item = Msg> + Unpin) {
        while let Some(message) = messages.next().await {
            self.exchange
                .apply(message.get_payload_bytes(), Time::now());
        }
    }

    /// Goes on from the end of the stream, which has to be known before all keys are looked at: what
    /// comes in between is in the stream then.
    async fn keep_up(&self, sink: PubSubSink) {
        let exchange = &self.exchange;
        let end = loop {
            let Some(mut availability) = exchange.store.availability() else {
                return;
            };
            if availability.wait_for(|is_there| *is_there).await.is_err() {
                return;
            }
            match exchange.log_end().await {
                Ok(end) => break end,
                Err(_) => sleep(RETRY).await,
            }
        };
        tokio::select! {
            () = self.follow(sink, end) => {}
            () = self.look() => {}
        }
    }

    /// Reads the stream now and then, and asks whether the connection is alive; ends when it is not.
    async fn follow(&self, mut sink: PubSubSink, mut last: String) {
        let exchange = &self.exchange;
        let mut ticks = interval(FOLLOW);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let answer = timeout(
                exchange.store.command_timeout(),
                sink.ping::<redis::Value>(),
            );
            if !matches!(answer.await, Ok(Ok(_))) {
                return;
            }
            let Ok(end) = exchange.catch_up(last.clone()).await else {
                continue;
            };
            last = end;
            if self.in_sync.load(Relaxed) {
                exchange.metrics.synced(Instant::now());
            }
        }
    }

    /// Looks at all keys now and then, and when the store misses something.
    async fn look(&self) {
        let exchange = &self.exchange;
        loop {
            let Some(mut availability) = exchange.store.availability() else {
                return;
            };
            if availability.wait_for(|is_there| *is_there).await.is_err() {
                return;
            }
            let began = Instant::now();
            match exchange.resync().await {
                Ok(()) => {
                    self.in_sync.store(true, Relaxed);
                    exchange.metrics.synced(began);
                }
                Err(_) => {
                    self.in_sync.store(false, Relaxed);
                    sleep(RETRY).await;
                    continue;
                }
            }
            let pause = RESYNC.max(began.elapsed() * RESYNC_SHARE);
            tokio::select! {
                () = sleep(pause) => {}
                () = self.pending.notified() => {}
            }
        }
    }
}

/// How long it is remembered that something was taken back that would never have ended.
const LONGEST_LIFE: u64 = 90 * 24 * 3600;

/// What became of a connection that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// There was none.
    Refused,
    /// There was one.
    Broken,
    /// There is one, but what was learned from servers is to be learned again.
    Renewed,
}

/// Forgets what is over, counts what is not, and tells those who go on with a token.
async fn keep(list: Arc<Revocations>, metrics: Arc<RevocationMetrics>) {
    let count = || {
        let counts = list.counts();
        metrics.set_count(counts.tokens, counts.subjects);
    };
    let mut sweeps = interval(SWEEP);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = list.changed() => {
                list.announce();
                count();
                sleep(ANNOUNCE).await;
            }
            _ = sweeps.tick() => {
                list.sweep(Time::now().seconds());
                count();
            }
        }
    }
}
