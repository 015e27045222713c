//! Whether a request goes to another backend: what is known of it for the rules to decide, and the wait
//! before it does.

use std::task::{Context as Task, Poll};
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, Method, StatusCode, header};

use super::failure::Failure;
use super::kept::Kept;
use super::{Context, Gateway, breaker, deadline, forward};
use crate::forward::Link;
use crate::grpc;
use crate::listener::exchange::{ClientFault, Exchange};
use crate::message::Response;
use crate::metrics::RetryReason;
use crate::upstream::repeat::{Case, Rules, Verdict, is_unsent, judge};

/// What is read of a response that nobody wants, to keep its connection.
const DISCARDED_BYTES: usize = 64 * 1024;

impl Gateway {
    /// Whether a response is not passed on but asked for again, and after what time.
    pub(super) fn ask_again(
        &self,
        exchange: &Exchange,
        context: &mut Context,
        kept: &Kept,
        response: &Response,
    ) -> Option<Duration> {
        let reason = unwanted(context, response)?;
        let retry_after = retry_after(&response.headers, SystemTime::now());
        let wait = self.again(exchange, context, kept, reason, retry_after)?;
        forward::note_call_end(context, &response.headers);
        if let (Some(attempt), Some(upstream)) = (&mut context.attempt, &context.upstream) {
            attempt.recorded = true;
            attempt.connection = None;
            let status = response.status.as_u16();
            upstream.metrics.observe(status, attempt.started.elapsed());
        }
        Some(wait)
    }

    /// Whether there is another attempt, and after what time. Counts it, or what stands against it.
    pub(super) fn again(
        &self,
        exchange: &Exchange,
        context: &mut Context,
        kept: &Kept,
        reason: RetryReason,
        retry_after: Option<Duration>,
    ) -> Option<Duration> {
        let (Some(upstream), Some(rules)) = (&context.upstream, rules(context)) else {
            return None;
        };
        if !is_untold(exchange) {
            return None;
        }
        let probes = is_unsent(reason) && breaker::goes_on_probing(context);
        let case = Case {
            reason,
            is_idempotent: is_idempotent(exchange, &rules),
            is_whole: kept.is_whole(upstream.config.retries.max_body),
            retries: if probes { 0 } else { context.retries as usize },
            retry_after,
            left: deadline::left(exchange),
            has_choice: upstream.members().len() > 1,
        };
        let pay = |price| probes || upstream.may_retry(price, Instant::now());
        match judge(&rules, &case, fastrand::f64(), pay) {
            Verdict::Again(wait) => {
                upstream.metrics.retried(reason);
                return Some(wait);
            }
            Verdict::Skipped(skip) => {
                upstream.metrics.retry_skipped(skip);
                context.retry_skipped = Some(skip);
            }
            Verdict::Never => {}
        }
        None
    }
}

/// How much of a body is kept for another attempt.
pub(super) fn kept_bytes(context: &Context) -> usize {
    match (rules(context), &context.upstream) {
        (Some(rules), Some(upstream)) if rules.attempts() > 0 => upstream.config.retries.max_body,
        _ => 0,
    }
}

/// What the request's upstream and route say.
pub(super) fn rules(context: &Context) -> Option<Rules<'_>> {
    let (upstream, route) = (context.upstream.as_ref()?, context.route.as_ref()?);
    Some(Rules::new(&upstream.config.retries, &route.retries))
}

/// Why a response is asked for again, if it is one of those.
fn unwanted(context: &Context, response: &Response) -> Option<RetryReason> {
    let status = response.status.as_u16();
    if status < 400 && !context.grpc {
        return None;
    }
    let on = rules(context)?.on();
    if on.has_status(status) {
        return Some(RetryReason::Status);
    }
    // A head has it only when it is all there is of the response.
    let code = response
        .headers
        .get(grpc::STATUS)
        .filter(|_| context.grpc)?;
    let code = code.to_str().ok()?.parse().ok()?;
    on.has_call(code).then_some(RetryReason::GrpcStatus)
}

/// Whether the client was told nothing that another response could contradict. That it may go on with its
/// body changes nothing.
fn is_untold(exchange: &Exchange) -> bool {
    match exchange.status() {
        None => true,
        Some(status) => status == StatusCode::CONTINUE && forward::expects_continue(exchange),
    }
}

/// Whether a second arrival does no harm (RFC 9110 section 9.2.2).
pub(super) fn is_idempotent(exchange: &Exchange, rules: &Rules<'_>) -> bool {
    let request = &exchange.request;
    let by_method = matches!(
        request.method,
        Method::GET | Method::HEAD | Method::PUT | Method::DELETE | Method::OPTIONS
    );
    by_method || (rules.idempotency_key() && request.headers.contains_key("idempotency-key"))
}

/// How long the backend wants to be left alone (RFC 9110 section 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// Waits before the next attempt, unless the client leaves or its time is over.
pub(super) async fn wait(exchange: &mut Exchange, wait: Duration) -> Result<(), Failure> {
    let until = Instant::now() + wait;
    std::future::poll_fn(|task| poll_wait(exchange, until, task)).await?;
    // It was not the client that was waited for.
    exchange.pause_body(Instant::now());
    Ok(())
}

/// Ready at this time, or with what ends the request before.
pub(super) fn poll_wait(
    exchange: &mut Exchange,
    until: Instant,
    task: &mut Task<'_>,
) -> Poll<Result<(), Failure>> {
    if exchange.poll_gone(task).is_ready() {
        return Poll::Ready(Err(Failure::gone()));
    }
    if let Poll::Ready(why) = exchange.ending.poll(task) {
        return Poll::Ready(Err(Failure::Client(ClientFault::Over(why))));
    }
    let due = exchange.due().filter(|(at, _)| *at < until);
    let at = due.map_or(until, |(at, _)| at);
    exchange.poll_until(at, task).map(|()| match due {
        Some((_, fault)) => Err(Failure::Client(fault)),
        None => Ok(()),
    })
}

/// Reads what is there of a response that nobody wants, without waiting. If that was all, and little, its
/// connection is of use again.
pub(super) fn read_rest(link: &mut Link, task: &mut Task<'_>) {
    let mut read = 0;
    while read <= DISCARDED_BYTES && matches!(link.is_over(), Ok(false)) {
        match link.poll_body(task) {
            Poll::Ready(Ok(Some(piece))) => read += piece.len(),
            Poll::Ready(Ok(None) | Err(_)) | Poll::Pending => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_backend_says_in_seconds_or_by_a_date_when_to_come_back() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let after = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_str(value).ok()?);
            retry_after(&headers, now)
        };
        assert_eq!(after("2"), Some(Duration::from_secs(2)));
        let date = httpdate::fmt_http_date(now + Duration::from_secs(5));
        assert_eq!(after(&date), Some(Duration::from_secs(5)));
        let past = httpdate::fmt_http_date(now - Duration::from_secs(5));
        assert_eq!(after(&past), Some(Duration::ZERO));
        for value in ["", "soon", "-1", "1.5"] {
            assert_eq!(after(value), None, "{value}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
