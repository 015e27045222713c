//! What the connections of one configuration have in common.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::{Notify, watch};

use super::failure::Failure;
use super::report::Report;
use crate::config::model::Redis;
use crate::metrics::RedisMetrics;

/// Settings, who is told of failures, and what has happened.
pub(super) struct Context {
    pub settings: Arc<Redis>,
    pub metrics: Arc<RedisMetrics>,
    pub report: Arc<Report>,
    /// Servers that can be asked. Changes while `available` is locked alone.
    up: AtomicUsize,
    available: watch::Sender<bool>,
    renewals: watch::Sender<u64>,
    /// Somebody has reason to think that the servers are others now.
    pub doubt: Notify,
}

impl Context {
    /// Of a new configuration.
    pub fn new(settings: Redis, metrics: &Arc<RedisMetrics>, report: &Arc<Report>) -> Arc<Self> {
        Arc::new(Self {
            settings: Arc::new(settings),
            metrics: Arc::clone(metrics),
            report: Arc::clone(report),
            up: AtomicUsize::new(0),
            available: watch::Sender::new(false),
            renewals: watch::Sender::new(0),
            doubt: Notify::new(),
        })
    }

    /// Counts a failure at a server, and perhaps writes a line.
    pub fn failed(&self, address: &str, failure: &Failure) {
        self.metrics.failed(failure.kind);
        self.report.failed(address, failure);
    }

    /// A server can be asked from now on, until what is given back is dropped.
    pub fn up(self: &Arc<Self>) -> Up {
        self.count(|up| up + 1);
        self.renewed();
        Up(Arc::clone(self))
    }

    /// What was known of the servers may no longer be so: one is back, or another took a place.
    pub fn renewed(&self) {
        self.renewals.send_modify(|count| *count += 1);
    }

    /// Sees whether any server can be asked.
    pub fn availability(&self) -> watch::Receiver<bool> {
        self.available.subscribe()
    }

    /// Sees when servers are back or others.
    pub fn renewals(&self) -> watch::Receiver<u64> {
        self.renewals.subscribe()
    }

    fn count(&self, change: impl Fn(usize) -> usize) {
        self.available.send_if_modified(|available| {
            let up = change(self.up.load(Relaxed));
            self.up.store(up, Relaxed);
            std::mem::replace(available, up > 0) != *available
        });
    }
}

/// A server that can be asked, as long as this lives.
pub(super) struct Up(Arc<Context>);

impl Drop for Up {
    fn drop(&mut self) {
        self.0.count(|up| up.saturating_sub(1));
        self.0.doubt.notify_one();
    }
}
