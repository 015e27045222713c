//! Waiting for something to become true, with a deadline instead of a guess.

use std::time::{Duration, Instant};

/// How long anything may take before a test gives up. Generous, because the machine may be busy;
/// a test that passes never waits for it.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Polls until the condition holds; panics with `what` after the deadline.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let found = until(|| condition().then_some(()));
    assert!(found.is_some(), "still not true after {DEADLINE:?}: {what}");
}

/// Polls until there is a value; `None` after the deadline.
pub fn until<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = attempt() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Does this at the end of a scope, also when something in it fails.
pub struct Finally<F: Fn()>(pub F);

impl<F: Fn()> Drop for Finally<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
