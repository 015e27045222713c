//! A second attempt beside the first, where that one takes longer than most: the first head of a response
//! wins, and the other connection or stream is given up.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::{Duration, Instant};

use super::attempt::{begin, note_connection};
use super::failure::{Failure, Reach, learn};
use super::{Context, Gateway, choice, forward, retry};
use crate::config::model::Hedge;
use crate::context::Attempt;
use crate::forward::{Failed, Link};
use crate::listener::exchange::Exchange;
use crate::message::Response;
use crate::metrics::{FailureReason, HedgeResult};
use crate::upstream::{Price, Purpose};

/// Who goes on with the request.
pub(super) struct Winner {
    pub link: Link,
    /// Whether its connection had been used before.
    pub reused: bool,
    /// The head, if that has come.
    pub head: Option<Response>,
}

/// What came of two attempts.
enum Event {
    First(Result<Response, Failed>),
    Second(Result<Response, Failed>),
}

/// A connection that is being made, and whether it had been used before.
type Opening<'a> = Pin<Box<dyn Future<Output = Result<(Link, bool), Failed>> + Send + 'a>>;

/// A connection, or one that is being made.
enum Second<'a> {
    Opening(Opening<'a>),
    Open(Link, bool),
}

/// How long a first attempt is waited for. `None`: until its end. Only requests are hedged that may be sent
/// twice, and at once.
pub(super) fn after(exchange: &Exchange, context: &Context) -> Option<Duration> {
    let rules = retry::rules(context)?;
    let hedge = rules.hedge()?;
    let simple = context.retries == 0
        // Whose session is with one backend is not moved because that is slow once.
        && context.sticky.is_none()
        && exchange.is_body_empty()
        && !forward::is_tunnel(exchange)
        && !forward::expects_continue(exchange)
        && retry::is_idempotent(exchange, &rules);
    let upstream = context.upstream.as_ref().filter(|_| simple)?;
    let after = match hedge {
        Hedge::After(after) => Some(after),
        Hedge::Percentile(share) => {
            upstream.measure_answers();
            upstream.percentile(share)
        }
    };
    // What comes behind the end of the first attempt would be a retry.
    let (first_byte, _, _) = forward::timeouts(context);
    after.filter(|after| *after < first_byte)
}

impl Gateway {
    /// Waits for the first attempt for a while, and for the first or a second one then.
    pub(super) async fn race(
        &self,
        exchange: &mut Exchange,
        context: &mut Context,
        mut link: Link,
        reused: bool,
        after: Duration,
    ) -> Result<Winner, (Failure, Reach)> {
        let reach = Reach::of(reused);
        let sent = send(exchange, context, &mut link).map_err(|failure| (failure, reach))?;
        if let Some(attempt) = &mut context.attempt {
            attempt.note_sent(sent);
        }
        let (first_byte, _, _) = forward::timeouts(context);
        let until = sent + after;
        let alone = std::future::poll_fn(|task| match poll_head(&mut link, task) {
            Poll::Ready(head) => Poll::Ready(head.map(Some).map_err(Failure::Backend)),
            Poll::Pending => {
                retry::poll_wait(exchange, until, task).map(|over| over.map(|()| None))
            }
        });
        let head = alone.await.map_err(|failure| (failure, reach))?;
        let second = match &head {
            Some(_) => None,
            None => choose(exchange, context),
        };
        let Some(second) = second else {
            return Ok(Winner { link, reused, head });
        };
        context.retries += 1;
        let first = Winner { link, reused, head };
        self.decide(exchange, context, first, second, sent + first_byte)
            .await
    }

    /// Has a second backend answer, or the first one, by this time.
    async fn decide(
        &self,
        exchange: &mut Exchange,
        context: &mut Context,
        mut first: Winner,
        mut second: Attempt,
        until: Instant,
    ) -> Result<Winner, (Failure, Reach)> {
        let backend = Arc::clone(second.admitted.backend());
        let route = context.route.as_ref();
        let patience = route.and_then(|route| route.timeouts.connect);
        let opening = Box::pin(self.pool.open(&backend, Purpose::Request, patience));
        let mut lane = Second::Opening(opening);
        let event = std::future::poll_fn(|task| {
            if let Poll::Ready(head) = poll_head(&mut first.link, task) {
                return Poll::Ready(Ok(Event::First(head)));
            }
            match poll_second(exchange, context, &mut lane, &mut second, task) {
                Poll::Ready(head) => return Poll::Ready(head.map(Event::Second)),
                Poll::Pending => {}
            }
            let late = || Event::First(Err(Failed::new(FailureReason::Timeout)));
            retry::poll_wait(exchange, until, task).map(|over| over.map(|()| late()))
        });
        let reach = Reach::of(first.reused);
        match event.await.map_err(|failure| (failure, reach))? {
            Event::First(Ok(head)) => {
                count(context, HedgeResult::Lost);
                first.head = Some(head);
                Ok(first)
            }
            Event::Second(Err(failed)) => {
                count(context, HedgeResult::Failed);
                record(context, &mut second, &failed);
                Ok(first)
            }
            Event::Second(Ok(head)) => {
                drop(first);
                let overtaken = context.attempt.replace(second);
                if let (Some(upstream), Some(attempt)) = (&context.upstream, overtaken) {
                    upstream.overtaken(&attempt.admitted, Instant::now());
                }
                take_over(exchange, context, lane, Some(head)).await
            }
            Event::First(Err(failed)) => {
                drop(first);
                if let Some(mut attempt) = context.attempt.replace(second) {
                    record(context, &mut attempt, &failed);
                }
                take_over(exchange, context, lane, None).await
            }
        }
    }
}

/// Goes on with the second attempt, which is the only one now.
async fn take_over(
    exchange: &mut Exchange,
    context: &mut Context,
    lane: Second<'_>,
    head: Option<Response>,
) -> Result<Winner, (Failure, Reach)> {
    count(context, HedgeResult::Won);
    let (link, reused) = match lane {
        Second::Open(link, reused) => (link, reused),
        Second::Opening(mut opening) => {
            let (first_byte, _, _) = forward::timeouts(context);
            let until = Instant::now() + first_byte;
            let opened = std::future::poll_fn(|task| {
                if let Poll::Ready(opened) = opening.as_mut().poll(task) {
                    return Poll::Ready(opened.map_err(Failure::Backend));
                }
                let late = || Failure::Backend(Failed::new(FailureReason::ConnectTimeout));
                let over = retry::poll_wait(exchange, until, task);
                over.map(|over| Err(over.err().unwrap_or_else(late)))
            });
            let failed = |failure| (failure, Reach::NothingSent);
            let (mut link, reused) = opened.await.map_err(failed)?;
            let sent = send(exchange, context, &mut link);
            sent.map_err(|failure| (failure, Reach::of(reused)))?;
            (link, reused)
        }
    };
    note_connection(context, &link, reused);
    Ok(Winner { link, reused, head })
}

fn count(context: &Context, result: HedgeResult) {
    if let Some(upstream) = &context.upstream {
        upstream.metrics.hedged(result);
    }
}

/// Learns from an attempt that failed while the other one went on.
fn record(context: &Context, attempt: &mut Attempt, failed: &Failed) {
    if let Some(upstream) = &context.upstream {
        learn(upstream, attempt, failed, Instant::now());
    }
}

/// Another backend for the same request, if there is one and the budget allows it.
fn choose(exchange: &Exchange, context: &mut Context) -> Option<Attempt> {
    let now = Instant::now();
    let upstream = context.upstream.as_ref()?;
    let first = context.attempt.as_ref()?.admitted.backend();
    let wish = choice::wish(exchange, context, upstream, now);
    let mut tried = context.tried;
    let admitted = upstream.select(wish, &mut tried)?;
    let is_other = !Arc::ptr_eq(admitted.backend(), first);
    if !is_other || !upstream.may_retry(Price::One, now) {
        return None;
    }
    context.tried = tried;
    Some(Attempt::new(admitted, now))
}

/// Sends the whole request, which has no body. Says when that was.
fn send(exchange: &mut Exchange, context: &Context, link: &mut Link) -> Result<Instant, Failure> {
    begin(exchange, context, link)?;
    link.end_body().map_err(Failure::Backend)?;
    Ok(Instant::now())
}

/// The final head of a response. Interim ones are of no use before it is known who answers.
fn poll_head(link: &mut Link, task: &mut Task<'_>) -> Poll<Result<Response, Failed>> {
    if let Poll::Ready(Err(failed)) = link.poll_flush(task) {
        return Poll::Ready(Err(failed));
    }
    loop {
        match link.poll_head(task) {
            Poll::Ready(Ok(head)) if head.is_interim() => {}
            head => return head,
        }
    }
}

/// Makes the second connection, sends the request over it, and waits for its answer.
fn poll_second(
    exchange: &mut Exchange,
    context: &Context,
    lane: &mut Second<'_>,
    attempt: &mut Attempt,
    task: &mut Task<'_>,
) -> Poll<Result<Result<Response, Failed>, Failure>> {
    if let Second::Opening(opening) = lane {
        let Poll::Ready(opened) = opening.as_mut().poll(task) else {
            return Poll::Pending;
        };
        let (mut link, reused) = match opened {
            Ok(opened) => opened,
            Err(failed) => return Poll::Ready(Ok(Err(failed))),
        };
        match send(exchange, context, &mut link) {
            Ok(sent) => {
                attempt.note_sent(sent);
            }
            Err(Failure::Backend(failed)) => return Poll::Ready(Ok(Err(failed))),
            Err(failure) => return Poll::Ready(Err(failure)),
        }
        *lane = Second::Open(link, reused);
    }
    match lane {
        Second::Open(link, _) => poll_head(link, task).map(Ok),
        Second::Opening(_) => Poll::Pending,
    }
}
