//! What the probes of a backend found.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// What is known of one backend from its probes; outlives reloads.
#[derive(Debug)]
pub(super) struct Probed {
    up: AtomicBool,
    /// A probe has failed, and nothing has come yet of those that are good again.
    ill: AtomicBool,
    /// Written by probes and read by operators, never by a request: elsewhere.
    last: Box<Mutex<Findings>>,
}

/// What operators are told of the probes of a backend.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// When it was probed last, and whether it was well; `None`: never.
    pub last: Option<(SystemTime, bool)>,
    /// The last thing that was wrong with it, and when.
    pub error: Option<(SystemTime, String)>,
}

impl Probed {
    /// A backend that was never probed, and is taken to be up or not.
    pub fn new(up: bool) -> Self {
        Self {
            up: AtomicBool::new(up),
            ill: AtomicBool::new(false),
            last: Box::default(),
        }
    }

    /// Whether its probes say that it is well, or nothing.
    pub fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    /// Takes over what the row of results comes to; says whether that is a change.
    pub fn set(&self, up: bool) -> bool {
        if !up {
            self.ill.store(true, Relaxed);
        }
        self.up.swap(up, Relaxed) != up
    }

    /// Whether a probe has failed, and nothing has come yet of those that are good again.
    pub fn was_ill(&self) -> bool {
        self.ill.load(Relaxed)
    }

    /// What was to come of good probes has come.
    pub fn is_well_again(&self) {
        self.ill.store(false, Relaxed);
    }

    /// Notes one result: what was wrong, if anything.
    pub fn note(&self, error: Option<&str>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now();
        last.last = Some((now, error.is_none()));
        if let Some(error) = error {
            self.ill.store(true, Relaxed);
            last.error = Some((now, error.to_owned()));
        }
    }

    /// What there is to tell.
    pub fn findings(&self) -> Findings {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone()
    }
}
