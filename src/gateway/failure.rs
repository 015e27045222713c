//! Attempts that fail: what is learned from them, whether there is another one, and what the
//! client is told in the end.

use std::time::Instant;

use http::{Method, StatusCode, header};
use pingora_core::ErrorType::{
    ConnectTimedout, InvalidHTTPHeader, ReadTimedout, WriteError, WriteTimedout,
};
use pingora_core::{Error, ErrorSource};
use pingora_proxy::Session;

use super::{Context, Gateway, authenticate, backend_error};
use crate::filter::auth::watch::{TokenExpired, TokenRevoked};
use crate::listener::framing::MalformedChunk;
use crate::listener::h2::DeadlineExceeded;
use crate::listener::lease::FirstByteTimeout;
use crate::listener::pace::TooSlow;
use crate::metrics::{AuthError, ConnectionClose, FailureReason, RetryReason};
use crate::reply::Rejection;

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
    /// With what the error says: a request that was given back was as good as not sent, and one that
    /// was ended alone did not find its connection closed.
    fn regarding(self, error: &Error, reason: FailureReason) -> Self {
        if reason == FailureReason::Refused {
            Self::NothingSent
        } else if backend_error::is_of_one_stream(error) {
            Self::Sent {
                on_kept_connection: false,
            }
        } else {
            self
        }
    }
}

/// Whose fault a failure is.
enum Fault {
    /// The backend's.
    Backend(FailureReason),
    /// The client's, who can still be told.
    Client(Rejection),
    /// The client is gone.
    ClientGone,
    /// The client is there but takes nothing.
    ClientDoesNotRead,
    /// The gateway's own, or its own decision.
    Own,
}

impl Gateway {
    /// Learns from a failed attempt and decides whether there is another one.
    pub(super) fn attempt_failed(
        &self,
        session: &Session,
        context: &mut Context,
        mut error: Box<Error>,
        reach: Reach,
    ) -> Box<Error> {
        error.retry = false.into();
        let fault = fault(&error, session);
        let Fault::Backend(reason) = fault else {
            return error;
        };
        let reach = reach.regarding(&error, reason);
        if session.was_upgraded() && reason == FailureReason::TimeoutInBody {
            // A tunnel that fell silent says nothing about the backend.
            return error;
        }
        let now = Instant::now();
        let (Some(upstream), Some(attempt)) = (&context.upstream, &mut context.attempt) else {
            return error;
        };
        attempt.connection = None;
        let backend = attempt.admitted.backend();
        match reason {
            FailureReason::Refused if backend_error::is_farewell(&error) => {
                upstream.gave_back(reason);
            }
            _ => upstream.failed(backend, reason, now),
        }
        match reason {
            FailureReason::Tls => upstream.complain(backend, &error, now),
            FailureReason::Timeout => upstream.waited_in_vain(backend, attempt.started),
            _ => {}
        }
        if attempt.answered.is_none() {
            attempt.recorded = true;
            let status = rejection(reason).status().as_u16();
            upstream.metrics.observe(status, now - attempt.started);
        }
        if may_repeat(session, reason, reach)
            && has_attempts_left(context)
            && (costs_nothing(reason, reach) || upstream.may_retry(now))
        {
            upstream.metrics.retried(retry_reason(reason, reach));
            error.retry = true.into();
        }
        error
    }

    /// Tells the client that its request failed, if it can still be told. The status, or 0.
    pub(super) async fn answer_failure(
        &self,
        session: &mut Session,
        error: &Error,
        context: &mut Context,
    ) -> u16 {
        if let Some(origin) = &context.origin {
            origin.shared.first_byte_arrived();
        }
        let own = context.rejection.take();
        let rejection = match (own, fault(error, session)) {
            (Some(rejection), _) => rejection,
            (None, Fault::Backend(reason)) => {
                context.error = Some(reason.as_str());
                rejection(reason)
            }
            (None, Fault::Client(rejection)) => {
                if rejection == Rejection::RequestTimeout {
                    count_close(session, context, slow_body(error));
                }
                rejection
            }
            (None, Fault::ClientGone) => {
                context.error = Some("client_closed");
                return 0;
            }
            (None, Fault::ClientDoesNotRead) => {
                count_close(session, context, ConnectionClose::WriteTimeout);
                if let Some(origin) = &context.origin {
                    // The system would keep what is on its way for as long as it likes.
                    origin.shared.set_cut();
                }
                context.error = Some("client_not_reading");
                return 0;
            }
            (None, Fault::Own) => {
                log::error!("request_id={} failed: {error}", context.request_id.as_str());
                Rejection::Internal
            }
        };
        if has_begun(session) {
            // All that is left is to break the connection, so that the end is not taken for good. A
            // call can still be told.
            context.error.get_or_insert(rejection.log_label());
            if context.grpc {
                let trailers = rejection.to_trailers();
                let stream = &mut session.downstream_session;
                let _ = stream.write_response_trailers(trailers).await;
            }
            break_off(session, context);
            return 0;
        }
        let status = rejection.status().as_u16();
        if let Err(error) = self.refuse(session, context, rejection).await {
            log::debug!(
                "request_id={} refusal not sent: {error}",
                context.request_id.as_str()
            );
        }
        status
    }
}

/// Whether the client was sent a response that nothing can take the place of any more. Behind a 101
/// the connection belongs to another protocol.
fn has_begun(session: &Session) -> bool {
    session.response_written().is_some_and(|response| {
        let status = response.status;
        !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS
    })
}

/// Has the connection broken when its end alone would end the response: an orderly one would make
/// a part of the body look like all of it (RFC 9112 section 8).
fn break_off(session: &Session, context: &Context) {
    let delimited = session.response_written().is_some_and(|response| {
        let headers = &response.headers;
        headers.contains_key(header::CONTENT_LENGTH)
            || headers.contains_key(header::TRANSFER_ENCODING)
            || response.status == StatusCode::SWITCHING_PROTOCOLS
    });
    if let (false, Some(origin)) = (delimited, &context.origin) {
        origin.shared.set_cut();
    }
}

/// In which way a body was too slow.
fn slow_body(error: &Error) -> ConnectionClose {
    if has_cause::<TooSlow>(error) {
        ConnectionClose::BodyTooSlow
    } else {
        ConnectionClose::BodyTimeout
    }
}

/// Finds out whose fault a failure is.
fn fault(error: &Error, session: &Session) -> Fault {
    let begun = has_begun(session);
    if has_cause::<FirstByteTimeout>(error) {
        return Fault::Backend(FailureReason::Timeout);
    }
    if has_cause::<DeadlineExceeded>(error) {
        return Fault::Client(Rejection::DeadlineExceeded);
    }
    if has_cause::<TokenRevoked>(error) {
        return Fault::Client(authenticate::ended(AuthError::Revoked));
    }
    if has_cause::<TokenExpired>(error) {
        return Fault::Client(authenticate::ended(AuthError::Expired));
    }
    match error.esource {
        ErrorSource::Upstream => Fault::Backend(of_backend(error, begun)),
        ErrorSource::Downstream if has_cause::<MalformedChunk>(error) => {
            Fault::Client(Rejection::MalformedBody)
        }
        ErrorSource::Downstream if has_cause::<TooSlow>(error) => {
            Fault::Client(Rejection::RequestTimeout)
        }
        ErrorSource::Downstream => match error.etype {
            ReadTimedout => Fault::Client(Rejection::RequestTimeout),
            InvalidHTTPHeader => Fault::Client(Rejection::BadRequest("header")),
            WriteTimedout => Fault::ClientDoesNotRead,
            WriteError if is_timeout(error) => Fault::ClientDoesNotRead,
            _ => Fault::ClientGone,
        },
        ErrorSource::Internal | ErrorSource::Unset => Fault::Own,
    }
}

/// What a backend did wrong.
fn of_backend(error: &Error, begun: bool) -> FailureReason {
    if let (false, Some(reason)) = (begun, backend_error::reason(error)) {
        return reason;
    }
    match error.etype {
        ConnectTimedout => FailureReason::ConnectTimeout,
        pingora_core::ErrorType::ConnectRefused
        | pingora_core::ErrorType::ConnectNoRoute
        | pingora_core::ErrorType::ConnectError
        | pingora_core::ErrorType::SocketError
        | pingora_core::ErrorType::BindError => FailureReason::Connect,
        InvalidHTTPHeader => FailureReason::Protocol,
        ReadTimedout | WriteTimedout if begun => FailureReason::TimeoutInBody,
        ReadTimedout | WriteTimedout => FailureReason::Timeout,
        _ if begun => FailureReason::ResetInBody,
        _ => FailureReason::Reset,
    }
}

fn count_close(session: &Session, context: &Context, reason: ConnectionClose) {
    // Of HTTP/2 only the stream ends.
    if let (false, Some(origin)) = (session.is_custom(), &context.origin) {
        origin.listener.metrics.closed(reason);
    }
}

/// Whether the socket gave up waiting, as [`crate::listener::lease`] lets it.
fn is_timeout(error: &Error) -> bool {
    let cause = error.cause.as_deref();
    cause
        .and_then(|cause| cause.downcast_ref::<std::io::Error>())
        .is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut)
}

/// Whether an error of this type is among the causes.
pub(super) fn has_cause<E: std::error::Error + 'static>(error: &Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = match &error.cause {
        Some(cause) => Some(cause.as_ref()),
        None => None,
    };
    while let Some(error) = cause {
        if error.is::<E>() {
            return true;
        }
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        if inner.is_some_and(|inner| inner.is::<E>()) {
            return true;
        }
        cause = match error.downcast_ref::<Box<Error>>() {
            Some(error) => error.cause.as_deref().map(|cause| cause as _),
            None => error.source(),
        };
    }
    false
}

/// Whether the request can be sent again: nothing of the answer was passed on, all of the request
/// is still here, and a second arrival does no harm (RFC 9110 section 9.2.2).
fn may_repeat(session: &Session, reason: FailureReason, reach: Reach) -> bool {
    let harmless = reach == Reach::NothingSent || is_idempotent(&session.req_header().method);
    // Whoever has waited for a slow backend shall not wait for a second one.
    let quick = !matches!(
        reason,
        FailureReason::Timeout | FailureReason::TimeoutInBody
    );
    harmless
        && quick
        && session.response_written().is_none()
        && !session.as_ref().retry_buffer_truncated()
}

/// Whether another attempt cannot add up to a storm: nothing was sent, or a kept connection was
/// closed, which each one is only once.
fn costs_nothing(reason: FailureReason, reach: Reach) -> bool {
    let kept = Reach::Sent {
        on_kept_connection: true,
    };
    reach == Reach::NothingSent || (reach == kept && reason == FailureReason::Reset)
}

fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::PUT | Method::DELETE | Method::OPTIONS
    )
}

fn has_attempts_left(context: &Context) -> bool {
    let of_route = context
        .route
        .as_ref()
        .and_then(|route| route.retry_attempts);
    let of_upstream = context
        .upstream
        .as_ref()
        .map_or(0, |upstream| upstream.retry_attempts);
    (context.retries as usize) < of_route.unwrap_or(of_upstream)
}

fn retry_reason(reason: FailureReason, reach: Reach) -> RetryReason {
    match reason {
        FailureReason::Connect | FailureReason::Tls => RetryReason::Connect,
        FailureReason::Refused => RetryReason::Refused,
        FailureReason::ConnectTimeout => RetryReason::ConnectTimeout,
        FailureReason::Protocol => RetryReason::Protocol,
        // Timeouts are not repeated; a reset is what is left.
        FailureReason::Reset
        | FailureReason::ResetInBody
        | FailureReason::Timeout
        | FailureReason::TimeoutInBody => {
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
fn rejection(reason: FailureReason) -> Rejection {
    match reason {
        FailureReason::Timeout | FailureReason::TimeoutInBody => Rejection::GatewayTimeout,
        FailureReason::Connect
        | FailureReason::ConnectTimeout
        | FailureReason::Tls
        | FailureReason::Refused
        | FailureReason::Reset
        | FailureReason::ResetInBody
        | FailureReason::Protocol => Rejection::BadGateway,
    }
}
