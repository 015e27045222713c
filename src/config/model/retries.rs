//! What `retries` means: for what, how often and how soon a request is sent again.

use std::time::Duration;

pub use super::super::cause::Cause;

/// When a request is tried again. The default is never.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Retries {
    /// Attempts after the first; 0 turns retrying off.
    pub attempts: usize,
    /// What for.
    pub on: RetryOn,
    /// Whether what may have been acted on is sent again whatever its method.
    pub non_idempotent: bool,
    /// Whether an `Idempotency-Key` makes a request idempotent.
    pub idempotency_key: bool,
    /// How soon.
    pub backoff: Backoff,
    /// Bytes of a body that are kept.
    pub max_body: usize,
    /// When a second attempt begins though the first one has not ended.
    pub hedge: Option<Hedge>,
    /// The share of requests that may be retries, 0.0 to 1.0.
    pub budget: f64,
    /// Retries a second that the budget always allows.
    pub min_per_second: u32,
}

/// A route's own; `None` leaves the upstream's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteRetries {
    /// See [`Retries::attempts`].
    pub attempts: Option<usize>,
    /// See [`Retries::on`].
    pub on: Option<RetryOn>,
    /// See [`Retries::non_idempotent`].
    pub non_idempotent: Option<bool>,
    /// See [`Retries::idempotency_key`].
    pub idempotency_key: Option<bool>,
    /// See [`Retries::hedge`].
    pub hedge: Option<Hedge>,
}

/// How long a first attempt is waited for before there is a second one beside it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Hedge {
    /// So long.
    After(Duration),
    /// As long as this share of the answers takes, above 0.0 and below 1.0.
    Percentile(f64),
}

/// How long retries wait: a random time up to `base`, then up to twice as much each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait at most.
    pub base: Duration,
    /// Any wait at most.
    pub max: Duration,
}

/// A set of causes, asked on the way of each response with an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// No connection.
    pub connect_failure: bool,
    /// Given back undone.
    pub refused_stream: bool,
    /// Broken before the response.
    pub reset: bool,
    /// No response in time.
    pub timeout: bool,
    /// A bit for each status from 400 on.
    statuses: [u64; 4],
    /// A bit for each code of gRPC.
    calls: u32,
}

impl RetryOn {
    /// Adds a cause.
    pub fn add(&mut self, cause: Cause) {
        match cause {
            Cause::ConnectFailure => self.connect_failure = true,
            Cause::RefusedStream => self.refused_stream = true,
            Cause::Reset => self.reset = true,
            Cause::Timeout => self.timeout = true,
            Cause::Statuses(first, last) => (first..=last).for_each(|one| self.status(one)),
            Cause::Call(code) => self.calls |= 1 << (code & 31),
        }
    }

    fn status(&mut self, status: u16) {
        if let Some((word, bit)) = place(status) {
            self.statuses[word] |= bit;
        }
    }

    /// Whether a response with this status is in it.
    pub fn has_status(&self, status: u16) -> bool {
        place(status).is_some_and(|(word, bit)| self.statuses[word] & bit != 0)
    }

    /// Whether a call that ended with this code is.
    pub fn has_call(&self, code: u8) -> bool {
        code < 32 && self.calls & (1 << code) != 0
    }
}

/// Where a status from 400 to 599 is among the bits.
fn place(status: u16) -> Option<(usize, u64)> {
    let at = status.checked_sub(400).filter(|at| *at < 200)?;
    Some((usize::from(at / 64), 1 << (at % 64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_added_and_nothing_else() {
        let mut on = RetryOn::default();
        on.add(Cause::Statuses(502, 504));
        on.add(Cause::Statuses(599, 599));
        on.add(Cause::Statuses(408, 408));
        on.add(Cause::Call(14));
        let statuses: Vec<_> = (0..=u16::MAX).filter(|one| on.has_status(*one)).collect();
        assert_eq!(statuses, [408, 502, 503, 504, 599]);
        let calls: Vec<_> = (0..=u8::MAX).filter(|one| on.has_call(*one)).collect();
        assert_eq!(calls, [14]);
        assert!(!on.connect_failure && !on.refused_stream && !on.reset && !on.timeout);
    }
}
