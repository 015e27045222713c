//! How long each side of an attempt may take, and which of them has taken too long.

use std::task::{Context as Task, Poll};
use std::time::Instant;

use super::{Down, Relay, Up};
use crate::forward::Failed;
use crate::gateway::failure::Failure;
use crate::listener::connection::LINGER;
use crate::metrics::FailureReason;

/// What a deadline means.
pub(super) enum Limit {
    /// Somebody has taken too long.
    Failure(Failure),
    /// Nobody waits for the rest of the request any longer.
    Enough,
}

impl Relay<'_> {
    /// Ready when whoever is waited for, the backend or the client, has taken too long.
    pub(super) fn poll_deadline(&mut self, task: &mut Task<'_>) -> Poll<Limit> {
        let Some((at, limit)) = self.soonest() else {
            return Poll::Pending;
        };
        self.exchange.poll_until(at, task).map(|()| limit)
    }

    fn soonest(&mut self) -> Option<(Instant, Limit)> {
        let client = self.exchange.due();
        let client = client.map(|(at, fault)| (at, Limit::Failure(Failure::Client(fault))));
        [client, self.request_due(), self.response_due()]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }

    /// Until when the request may stand still.
    fn request_due(&mut self) -> Option<(Instant, Limit)> {
        if let Down::Written(Some(since)) = self.down {
            return Some((since + LINGER, Limit::Enough));
        }
        if let Some(since) = self.link.stalled_since() {
            return Some((since + self.timeouts.write, self.too_slow()));
        }
        if !matches!(self.up, Up::Reading) {
            return None;
        }
        let now = Instant::now();
        if self.owing_since.is_some() {
            // The client waits for the backend, which has yet to ask for the body.
            self.exchange.pause_body(now);
            return None;
        }
        let (at, fault) = self.exchange.body_due(now);
        Some((at, Limit::Failure(Failure::Client(fault))))
    }

    /// Until when the backend may say nothing.
    fn response_due(&self) -> Option<(Instant, Limit)> {
        let at = match self.down {
            // Without the request, it owes nothing yet.
            Down::Head => self.owing_since? + self.timeouts.first_byte,
            Down::Body => self.reading_since? + self.timeouts.read,
            Down::Piece(_) | Down::Written(_) => return None,
        };
        Some((at, self.too_slow()))
    }

    fn too_slow(&self) -> Limit {
        let reason = match self.exchange.has_begun() {
            true => FailureReason::TimeoutInBody,
            false => FailureReason::Timeout,
        };
        Limit::Failure(Failure::Backend(Failed::new(reason)))
    }
}
