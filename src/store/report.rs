//! What operators are told of the store: a line of the log now and then, and the last failure.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::failure::Failure;
use crate::config::model::Node;

/// Between two lines about failures.
const PAUSE: Duration = Duration::from_secs(10);

/// What there is to tell.
#[derive(Debug, Default)]
pub(super) struct Report(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    address: String,
    last: Option<(SystemTime, Failure)>,
    spoke: Option<Instant>,
    /// When connections were told of.
    connections: HashMap<String, Instant>,
    left_out: u64,
}

impl Report {
    /// What follows is about this store.
    pub fn begin(&self, address: String) {
        *self.lock() = Told {
            address,
            ..Told::default()
        };
    }

    /// Remembers a failure, and perhaps writes a line.
    pub fn failed(&self, address: &str, failure: &Failure) {
        let line = self.lock().failed(address, failure, Instant::now());
        if let Some(line) = line {
            log::error!("{line}");
        }
    }

    /// There is a connection.
    pub fn connected(&self, address: &str) {
        if self.lock().connected(address, Instant::now()) {
            log::info!("redis: connected to {address}");
        }
    }

    /// Sentinels name this master, and named another before, or none.
    pub fn master(&self, name: &str, master: &Node) {
        log::info!("redis: the master of {name} is {master}");
    }

    /// These are the masters of the Cluster now.
    pub fn masters(&self, masters: &[Node]) {
        let masters: Vec<_> = masters.iter().map(Node::to_string).collect();
        log::info!(
            "redis: the masters of the Cluster are {}",
            masters.join(", ")
        );
    }

    /// What the store as a whole is called.
    pub fn address(&self) -> String {
        self.lock().address.clone()
    }

    /// The last failure since the start.
    pub fn last(&self) -> Option<(SystemTime, Failure)> {
        self.lock().last.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    /// Says whether it is worth a line: one that comes and goes is not each time.
    fn connected(&mut self, address: &str, now: Instant) -> bool {
        self.connections.retain(|_, told| now < *told + PAUSE);
        if self.connections.contains_key(address) {
            return false;
        }
        self.connections.insert(address.to_owned(), now);
        // What comes next is news.
        self.spoke = None;
        self.left_out = 0;
        true
    }

    fn failed(&mut self, address: &str, failure: &Failure, now: Instant) -> Option<String> {
        self.last = Some((SystemTime::now(), failure.clone()));
        let is_early = self.spoke.is_some_and(|spoke| now < spoke + PAUSE);
        if is_early {
            self.left_out += 1;
            return None;
        }
        self.spoke = Some(now);
        let before = match std::mem::take(&mut self.left_out) {
            0 => String::new(),
            count => format!(" ({count} further failures before)"),
        };
        Some(format!("redis error at {address}: {failure}{before}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::RedisError as Kind;

    #[test]
    fn failures_are_told_now_and_then() {
        let mut told = Told::default();
        let address = "cache:6379";
        let failure = Failure::new(Kind::Connect, "refused");
        let now = Instant::now();
        let first = told.failed(address, &failure, now);
        assert_eq!(
            first.as_deref(),
            Some("redis error at cache:6379: connect: refused")
        );
        assert_eq!(told.failed(address, &failure, now + PAUSE / 2), None);
        let later = told
            .failed(address, &failure, now + PAUSE)
            .unwrap_or_default();
        assert!(later.ends_with(" (1 further failures before)"), "{later}");
    }

    #[test]
    fn a_connection_that_comes_and_goes_is_told_now_and_then() {
        let mut told = Told::default();
        let now = Instant::now();
        assert!(told.connected("a:1", now));
        assert!(told.connected("b:1", now));
        assert!(!told.connected("a:1", now + PAUSE / 2));
        assert!(told.connected("a:1", now + PAUSE));
    }
}
