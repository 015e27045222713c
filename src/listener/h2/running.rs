//! How many requests of one HTTP/2 connection are being handled, and waking its loop when one ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Waker;

use futures_util::task::AtomicWaker;

/// The requests of one connection. A stream that the client has reset counts until its request has
/// really come to an end.
#[derive(Debug, Default)]
pub struct Running {
    count: AtomicUsize,
    waker: AtomicWaker,
}

impl Running {
    /// Counts one until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> Guard {
        self.count.fetch_add(1, Relaxed);
        Guard(Arc::clone(self))
    }

    /// How many there are. The waker is woken when that changes.
    pub fn count(&self, waker: &Waker) -> usize {
        self.waker.register(waker);
        self.count.load(Relaxed)
    }
}

/// One request, while it is handled.
#[derive(Debug)]
pub struct Guard(Arc<Running>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Relaxed);
        self.0.waker.wake();
    }
}
