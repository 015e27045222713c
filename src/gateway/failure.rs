//! Attempts that fail: what is learned from them, whether there is another one, and what the
//! client is told in the end.

use std::time::{Duration, Instant};

use http::StatusCode;

use super::kept::Kept;
use super::{Context, Gateway, authenticate};
use crate::context::Attempt;
use crate::forward::Failed;
use crate::listener::exchange::{ClientFault, Exchange};
use crate::metrics::{ConnectionClose, FailureReason, RetryReason};
use crate::reply::Rejection;
use crate::upstream::Upstream;

/// Why a request is not answered by a backend.
#[derive(Debug)]
pub(super) enum Failure {
    /// The gateway does not want it.
    Refused(Rejection),
    /// The client's side failed.
    Client(ClientFault),
    /// The backend's side did.
    Backend(Failed),
    /// The gateway's own fault.
    Own(&'static str),
}

impl Failure {
    /// The client has left.
    pub fn gone() -> Self {
        Self::Client(ClientFault::Gone)
    }
}

/// How far an attempt came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// There was no connection.
    NothingSent,
    /// The request, or a part of it, was sent.
    Sent {
        /// Over a connection that had been used before.
        on_kept_connection: bool,
    },
}

impl Reach {
    /// On a connection that had been used before, or not.
    pub fn of(reused: bool) -> Self {
        Self::Sent {
            on_kept_connection: reused,
        }
    }

    /// With what the failure says: a request that was given back was as good as not sent, and one that
    /// was ended alone did not find its connection closed.
    fn regarding(self, failed: &Failed) -> Self {
        if failed.reason == FailureReason::Refused {
            Self::NothingSent
        } else if failed.is_of_one_stream {
            Self::Sent {
                on_kept_connection: false,
            }
        } else {
            self
        }
    }
}

impl Gateway {
    /// Learns from a failed attempt and decides whether there is another one, and after what time.
    pub(super) fn attempt_failed(
        &self,
        exchange: &Exchange,
        context: &mut Context,
        kept: &Kept,
        failed: &Failed,
        reach: Reach,
    ) -> Option<Duration> {
        let (reach, reason) = (reach.regarding(failed), failed.reason);
        let is_upgraded = exchange.status() == Some(StatusCode::SWITCHING_PROTOCOLS);
        if is_upgraded && reason == FailureReason::TimeoutInBody {
            // A tunnel that fell silent says nothing about the backend.
            return None;
        }
        let now = Instant::now();
        let (Some(upstream), Some(attempt)) = (&context.upstream, &mut context.attempt) else {
            return None;
        };
        learn(upstream, attempt, failed, now);
        let reason = retry_reason(reason, reach);
        self.again(exchange, context, kept, reason, None)
    }

    /// Tells the client that its request failed, if it can still be told.
    pub(super) async fn answer_failure(
        &self,
        exchange: &mut Exchange,
        context: &mut Context,
        failure: Failure,
    ) {
        let Some(rejection) = self.regard(exchange, context, failure) else {
            return;
        };
        if exchange.has_begun() {
            // All that is left is to break the connection, so that the end is not taken for good. A
            // call can still be told.
            context.error.get_or_insert(rejection.log_label());
            if context.grpc {
                // One that cannot be told any more is cut off like others.
                let _ = exchange.finish(Some(rejection.to_trailers()));
            }
            exchange.break_off();
            return;
        }
        if let Err(fault) = self.refuse(exchange, context, rejection).await {
            let id = context.request_id.as_str();
            log::debug!("request_id={id} refusal not sent: {fault}");
            if fault == ClientFault::NotReading {
                exchange.cut();
            }
        }
    }

    /// What the client is to be told; `None` when it does not listen any more.
    fn regard(
        &self,
        exchange: &mut Exchange,
        context: &mut Context,
        failure: Failure,
    ) -> Option<Rejection> {
        match failure {
            Failure::Refused(rejection) => Some(rejection),
            Failure::Backend(failed) => {
                context.error = Some(failed.reason.as_str());
                Some(rejection(failed.reason))
            }
            Failure::Own(what) => {
                let id = context.request_id.as_str();
                log::error!("request_id={id} failed: {what}");
                Some(Rejection::Internal)
            }
            Failure::Client(fault) => match fault {
                ClientFault::Malformed => Some(Rejection::MalformedBody),
                ClientFault::Paused => {
                    count_close(exchange, ConnectionClose::BodyTimeout);
                    Some(Rejection::RequestTimeout)
                }
                ClientFault::TooSlow => {
                    count_close(exchange, ConnectionClose::BodyTooSlow);
                    Some(Rejection::RequestTimeout)
                }
                ClientFault::Deadline => Some(Rejection::DeadlineExceeded),
                ClientFault::Overdue => Some(Rejection::TotalTimeout),
                ClientFault::Over(why) => Some(authenticate::ended(why)),
                ClientFault::Gone => {
                    context.error = Some("client_closed");
                    None
                }
                ClientFault::NotReading => {
                    count_close(exchange, ConnectionClose::WriteTimeout);
                    // The system would keep what is on its way for as long as it likes.
                    exchange.cut();
                    context.error = Some("client_not_reading");
                    None
                }
            },
        }
    }
}

/// Learns from an attempt that failed: of its backend, and for metrics.
pub(super) fn learn(upstream: &Upstream, attempt: &mut Attempt, failed: &Failed, now: Instant) {
    let reason = failed.reason;
    attempt.connection = None;
    if reason == FailureReason::Refused && failed.is_farewell {
        upstream.gave_back(reason);
    } else {
        upstream.failed(&mut attempt.admitted, reason, now);
    }
    let backend = attempt.admitted.backend();
    match (reason, &failed.detail) {
        (FailureReason::Tls, Some(detail)) => upstream.complain(backend, detail, now),
        (FailureReason::Timeout, _) => upstream.waited_in_vain(backend, attempt.started),
        _ => {}
    }
    if attempt.answered.is_none() {
        attempt.recorded = true;
        let status = rejection(reason).status().as_u16();
        upstream.metrics.observe(status, now - attempt.started);
    }
}

fn count_close(exchange: &Exchange, reason: ConnectionClose) {
    // Of HTTP/2 only the stream ends.
    if !exchange.is_http2() {
        exchange.origin.listener.metrics.closed(reason);
    }
}

fn retry_reason(reason: FailureReason, reach: Reach) -> RetryReason {
    match reason {
        FailureReason::Connect | FailureReason::Tls => RetryReason::Connect,
        FailureReason::Refused => RetryReason::Refused,
        FailureReason::ConnectTimeout => RetryReason::ConnectTimeout,
        FailureReason::Protocol => RetryReason::Protocol,
        FailureReason::Timeout | FailureReason::TimeoutInBody => RetryReason::Timeout,
        FailureReason::Reset | FailureReason::ResetInBody => {
            let kept = Reach::Sent {
                on_kept_connection: true,
            };
            if reach == kept {
                RetryReason::StaleConnection
            } else {
                RetryReason::Reset
            }
        }
    }
}

/// What the client is told of a backend's failure.
pub(super) fn rejection(reason: FailureReason) -> Rejection {
    match reason.is_timeout() {
        true => Rejection::GatewayTimeout,
        false => Rejection::BadGateway,
    }
}
