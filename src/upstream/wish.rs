//! What the choice of a member regards of the request that it is for.

use std::time::Instant;

use super::sticky::Held;

/// What a request asks of the choice. Small, made anew for each attempt.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// The time of the choice.
    pub now: Instant,
    /// It probes a half-open circuit: better a member that is ejected than none.
    pub is_probe: bool,
    /// What goes together with other requests that have the same, where the upstream hashes.
    pub key: Option<u64>,
    /// The backend that the client had before, where the upstream is sticky.
    pub sticky: Option<Held>,
}

impl Wish {
    /// Any member will do.
    pub fn at(now: Instant) -> Self {
        Self {
            now,
            is_probe: false,
            key: None,
            sticky: None,
        }
    }

    /// The same of a request that may be a probe.
    pub fn probing(self, is_probe: bool) -> Self {
        Self { is_probe, ..self }
    }
}

/// The backends that earlier attempts of the same request were given to, by what tells them from
/// others: members come and go between two attempts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    backends: [u32; 8],
    count: usize,
}

impl Tried {
    /// Whether there was no attempt yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether there is no room to remember another one.
    pub fn is_full(&self) -> bool {
        self.count == self.backends.len()
    }

    /// Whether one was given to this backend.
    pub fn contains(&self, backend: u32) -> bool {
        self.backends[..self.count].contains(&backend)
    }

    pub(super) fn push(&mut self, backend: u32) {
        if let Some(slot) = self.backends.get_mut(self.count) {
            *slot = backend;
            self.count += 1;
        }
    }
}
