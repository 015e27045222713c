//! When a request as a whole has to be over, and how backends are told.

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue};

use super::failure::{self, Failure};
use super::{Context, breaker};
use crate::forward::Failed;
use crate::grpc;
use crate::listener::exchange::{ClientFault, Exchange};
use crate::metrics::FailureReason;
use crate::upstream::Upstream;

/// Sets when the request has to be over, whatever was set for another upstream: by what its route and
/// upstream allow, and by what a trusted peer says that is left.
pub(super) fn set(exchange: &mut Exchange, context: &Context, upstream: &Upstream) {
    let received = exchange.origin.received;
    let at = |left: Option<Duration>| left.and_then(|left| received.checked_add(left));
    let said = upstream.timeouts.deadline_header.as_ref();
    let said = said.filter(|_| context.trusted);
    let said = said.and_then(|name| exchange.request.headers.get(name));
    let own = at(allowed(context, upstream)).map(|at| (at, ClientFault::Overdue));
    let of_peer = at(said.and_then(read)).map(|at| (at, ClientFault::Deadline));
    let soonest = own.into_iter().chain(of_peer).min_by_key(|(at, _)| *at);
    exchange.end_by(soonest);
}

/// How long a request may take as a whole.
fn allowed(context: &Context, upstream: &Upstream) -> Option<Duration> {
    let of_route = context.route.as_ref()?.timeouts.request;
    of_route.or(upstream.timeouts.request)
}

/// How much is left, if there is an end.
pub(super) fn left(exchange: &Exchange) -> Option<Duration> {
    let (at, _) = exchange.deadline()?;
    Some(at.saturating_duration_since(Instant::now()))
}

/// Tells a backend how much is left.
pub(super) fn tell(exchange: &Exchange, context: &Context, headers: &mut HeaderMap) {
    let upstream = context.upstream.as_ref();
    let name = upstream.and_then(|upstream| upstream.timeouts.deadline_header.as_ref());
    if let Some(name) = name {
        headers.remove(name);
    }
    let Some(left) = left(exchange) else {
        return;
    };
    if context.grpc {
        headers.insert(grpc::TIMEOUT, grpc::timeout_value(left));
    }
    if let Some(name) = name {
        let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        headers.insert(name, HeaderValue::from(millis.max(1)));
    }
}

/// Milliseconds, of which there are as many as anybody means.
fn read(value: &HeaderValue) -> Option<Duration> {
    let digits = value.to_str().ok()?.trim();
    let is_number = digits.len() <= 10 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let millis = digits.parse().ok().filter(|_| is_number)?;
    Some(Duration::from_millis(millis))
}

/// The time is over. Whoever was asked and let most of it pass is to blame; a client that gives little
/// time blames nobody.
pub(super) fn passed(exchange: &Exchange, context: &mut Context, fault: ClientFault) {
    let now = Instant::now();
    let Some(upstream) = context.upstream.clone() else {
        return;
    };
    let (Some(allowed), Some(attempt)) = (allowed(context, &upstream), &mut context.attempt) else {
        return;
    };
    let (reason, since) = match &attempt.connection {
        Some(_) => (FailureReason::Timeout, attempt.sent),
        None => (FailureReason::ConnectTimeout, Some(attempt.started)),
    };
    let waited = since.map(|since| now - since).unwrap_or_default();
    if fault == ClientFault::Overdue && attempt.answered.is_none() && waited * 2 >= allowed {
        let failed = Failed::new(reason);
        failure::learn(&upstream, attempt, &failed, now);
        breaker::conclude(exchange, context, &Failure::Backend(failed));
    }
}

/// What a request ends with whose last attempt failed: if its time is over, with that.
pub(super) fn regard(exchange: &Exchange, context: &mut Context, failed: Failed) -> Failure {
    let failure = Failure::Backend(failed);
    let Some(over) = over(exchange) else {
        return failure;
    };
    breaker::conclude(exchange, context, &failure);
    over
}

/// What is left does not reach any further.
pub(super) fn over(exchange: &Exchange) -> Option<Failure> {
    let (at, fault) = exchange.deadline()?;
    (at <= Instant::now()).then_some(Failure::Client(fault))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_a_number_of_milliseconds() {
        let read = |text: &'static str| read(&HeaderValue::from_static(text));
        assert_eq!(read("1500"), Some(Duration::from_millis(1500)));
        assert_eq!(read("0"), Some(Duration::ZERO));
        for text in ["", "-1", "1.5", "1s", "+5", "99999999999"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
