//! From a request with a route to a backend, and to another one where the first fails.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::time::timeout_at;

use super::failure::{Failure, Reach};
use super::kept::Kept;
use super::relay::{Relay, Relayed};
use super::{
    Context, Gateway, authenticate, breaker, choice, deadline, forward, hedge, limit, mirror, retry,
};
use crate::filter::concurrency::Limit;
use crate::forward::tunnel::{self, Broken};
use crate::forward::{Failed, Link};
use crate::listener::exchange::{ClientFault, Exchange};
use crate::message::Response;
use crate::reply::Rejection;
use crate::upstream::{Backend, Purpose};

impl Gateway {
    /// Has a backend answer.
    pub(super) async fn proxy(
        &self,
        exchange: &mut Exchange,
        context: &mut Context,
    ) -> Result<(), Failure> {
        self.enter_upstream(exchange, context).await?;
        breaker::look_again(context)?;
        if let Some(upstream) = &context.upstream {
            // Who is refused before pays nothing for retries.
            upstream.requested();
        }
        let copy = mirror::begin(exchange, context);
        let of_copy = copy.as_ref().map_or(0, |copy| copy.body_bytes());
        let mut kept = Kept::up_to(retry::kept_bytes(context).max(of_copy));
        let carried = self.carry(exchange, context, &mut kept).await;
        if let Some(copy) = copy
            && !matches!(carried, Err(Failure::Refused(_)))
        {
            self.mirror(exchange, copy, kept);
        }
        carried
    }

    /// Has one backend after the other answer, until one does.
    async fn carry(
        &self,
        exchange: &mut Exchange,
        context: &mut Context,
        kept: &mut Kept,
    ) -> Result<(), Failure> {
        let mut last = None;
        loop {
            if let Some(over) = deadline::over(exchange) {
                return Err(over);
            }
            let Some(purpose) = forward::select(exchange, context) else {
                let failed = last.map(|failed| deadline::regard(exchange, context, failed));
                return Err(failed.unwrap_or_else(|| Failure::Refused(nobody(context))));
            };
            forward::bound_call(exchange, context);
            let attempt = self.attempt(exchange, context, purpose, kept);
            let wait = match attempt.await {
                Ok(None) => return Ok(()),
                Ok(Some(wait)) => wait,
                Err((Failure::Backend(failed), reach)) => {
                    match self.attempt_failed(exchange, context, kept, &failed, reach) {
                        Some(wait) => {
                            last = Some(failed);
                            wait
                        }
                        None => return Err(deadline::regard(exchange, context, failed)),
                    }
                }
                Err((failure, _)) => {
                    if let Failure::Client(fault) = failure {
                        deadline::passed(exchange, context, fault);
                    }
                    return Err(failure);
                }
            };
            if !wait.is_zero() {
                if let Some(attempt) = &mut context.attempt {
                    attempt.admitted.give_back();
                }
                Box::pin(retry::wait(exchange, wait)).await?;
            }
        }
    }

    /// Has the chosen backend answer. `Some`: its answer is not the one, and there is to be another
    /// attempt after this time.
    async fn attempt(
        &self,
        exchange: &mut Exchange,
        context: &mut Context,
        purpose: Purpose,
        kept: &mut Kept,
    ) -> Result<Option<Duration>, (Failure, Reach)> {
        let Some(attempt) = &context.attempt else {
            return Err((Failure::Own("no attempt"), Reach::NothingSent));
        };
        let mut backend = Arc::clone(attempt.admitted.backend());
        let opened = self.connect(exchange, context, &backend, purpose).await;
        let (mut link, mut reused) = opened.map_err(|failure| (failure, Reach::NothingSent))?;
        note_connection(context, &link, reused);
        let mut head = None;
        if let Some(after) = hedge::after(exchange, context) {
            // On the heap, so that requests without it do not make room for it.
            let winner = Box::pin(self.race(exchange, context, link, reused, after)).await?;
            (link, reused, head) = (winner.link, winner.reused, winner.head);
            if let Some(attempt) = &context.attempt {
                backend = Arc::clone(attempt.admitted.backend());
            }
        } else {
            let begun = begin(exchange, context, &mut link);
            begun.map_err(|failure| (failure, Reach::of(reused)))?;
        }
        let relayed = self.relay(exchange, context, &mut link, kept, head).await;
        let reach = Reach::of(reused);
        let again = match relayed.map_err(|failure| (failure, reach))? {
            Relayed::Complete => {
                if let (Some(upstream), Some(attempt)) = (&context.upstream, &mut context.attempt) {
                    upstream.completed(&mut attempt.admitted, Instant::now());
                }
                None
            }
            Relayed::Unwanted(wait) => Some(wait),
            Relayed::Upgraded(response) => {
                // On the heap, so that requests do not make room for it.
                let tunnelled = Box::pin(self.tunnel(exchange, context, link, response));
                let tunnelled = tunnelled.await.map_err(|failure| (failure, reach));
                return tunnelled.map(|()| None);
            }
        };
        self.pool.close(link, &backend, purpose);
        Ok(again)
    }

    /// A connection to the backend, unless the time for the whole request is over before.
    async fn connect(
        &self,
        exchange: &Exchange,
        context: &Context,
        backend: &Backend,
        purpose: Purpose,
    ) -> Result<(Link, bool), Failure> {
        let route = context.route.as_ref();
        let patience = route.and_then(|route| route.timeouts.connect);
        let opening = self.pool.open(backend, purpose, patience);
        let Some((at, fault)) = exchange.deadline() else {
            return opening.await.map_err(Failure::Backend);
        };
        match Box::pin(timeout_at(at.into(), opening)).await {
            Ok(opened) => opened.map_err(Failure::Backend),
            Err(_) => Err(Failure::Client(fault)),
        }
    }

    /// Carries the rest of a request to the backend and its response back, whose head may have come.
    async fn relay(
        &self,
        exchange: &mut Exchange,
        context: &mut Context,
        link: &mut Link,
        kept: &mut Kept,
        head: Option<Response>,
    ) -> Result<Relayed, Failure> {
        let mut relay = Relay::new(self, exchange, context, link, kept);
        relay.begin_with(head);
        std::future::poll_fn(|task| relay.poll(task)).await
    }

    /// Carries bytes for as long as both sides like.
    async fn tunnel(
        &self,
        exchange: &mut Exchange,
        context: &mut Context,
        mut link: Link,
        mut response: Response,
    ) -> Result<(), Failure> {
        self.finish_head(exchange, context, &mut response);
        exchange
            .write_head(response, false)
            .map_err(Failure::Client)?;
        let (Some(wire), Some(upstream)) = (link.wire(), &context.upstream) else {
            return Err(Failure::Own("a tunnel in HTTP/2"));
        };
        if upstream
            .concurrency
            .as_ref()
            .is_some_and(Limit::frees_tunnels)
        {
            context.places.leave_upstream();
        }
        let idle = upstream.timeouts.upgraded_idle;
        let patience = context.snapshot.limits.response_write_timeout;
        let tunnelled = tunnel::run(exchange, wire, &self.ending, idle, patience).await;
        tunnelled.map_err(|broken| match broken {
            Broken::Client(fault @ ClientFault::Over(_)) => {
                exchange.cut();
                Failure::Client(fault)
            }
            Broken::Client(fault) => Failure::Client(fault),
            Broken::Backend(failed) => Failure::Backend(failed),
        })
    }

    /// Learns from the head of a response, which the backend owed since then, and makes it the client's.
    /// `Some`: another one is asked for after this time. An error: it is not to be passed on.
    pub(super) fn receive_head(
        &self,
        exchange: &mut Exchange,
        context: &mut Context,
        response: &mut Response,
        kept: &Kept,
        owing_since: Option<Instant>,
    ) -> Result<Option<Duration>, Failure> {
        let is_upgrade = response.status == StatusCode::SWITCHING_PROTOCOLS;
        if is_upgrade && !forward::is_tunnel(exchange) {
            // Passed on, it would turn a connection into a tunnel that nobody asked for.
            let failed = Failed::protocol("101 without an upgrade");
            return Err(Failure::Backend(failed));
        }
        let mut heard = None;
        if let (Some(attempt), Some(upstream)) = (&mut context.attempt, &context.upstream) {
            let (now, status) = (Instant::now(), response.status.as_u16());
            // What a slow client needed for its request is not held against the backend.
            let latency = owing_since.map(|since| now - since);
            attempt.answered = Some(status);
            upstream.answered(&mut attempt.admitted, status, latency, now);
            heard = Some((latency, now));
        }
        if let Some(wait) = self.ask_again(exchange, context, kept, response) {
            return Ok(Some(wait));
        }
        if let Some((latency, now)) = heard {
            let latency = latency.unwrap_or_default();
            breaker::answered(context, response, latency, now);
        }
        choice::tell(context, response);
        authenticate::watch(response, exchange, context);
        limit::settle(response, context);
        forward::note_call_end(context, &response.headers);
        if is_upgrade {
            return Ok(None);
        }
        self.fit_to_client(exchange, response);
        self.finish_head(exchange, context, response);
        Ok(None)
    }
}

/// What a request is refused for that no backend takes.
fn nobody(context: &Context) -> Rejection {
    let upstream = context.upstream.as_ref();
    match upstream.is_some_and(|upstream| upstream.is_full(Instant::now())) {
        true => Rejection::Overloaded,
        false => Rejection::NoHealthyBackend,
    }
}

/// Sends the request's head.
pub(super) fn begin(
    exchange: &mut Exchange,
    context: &Context,
    link: &mut Link,
) -> Result<(), Failure> {
    let is_http2 = link.is_http2();
    let mut request = forward::dress(exchange, context, is_http2);
    if exchange.status() == Some(StatusCode::CONTINUE) {
        // The client was told by an earlier attempt, and sends its body.
        request.headers.remove(http::header::EXPECT);
    }
    if is_http2 && forward::expects_continue(exchange) && exchange.status().is_none() {
        // Interim responses do not come through from an HTTP/2 backend, so nobody else says it.
        exchange.say_continue().map_err(Failure::Client)?;
    }
    let target = forward::target(exchange, context);
    let framing = forward::framing(exchange);
    link.send_head(request, &target, framing)
        .map_err(Failure::Backend)?;
    if forward::is_tunnel(exchange) {
        // What follows is not the request's, and may be another protocol's.
        link.end_body().map_err(Failure::Backend)?;
    }
    Ok(())
}

/// Counts the connection as in use.
pub(super) fn note_connection(context: &mut Context, link: &Link, reused: bool) {
    let (Some(attempt), Some(upstream)) = (&mut context.attempt, &context.upstream) else {
        return;
    };
    attempt.connected(match link.shared() {
        Some(shared) => upstream.metrics.shared_connection(reused, shared),
        None => upstream.metrics.connection(reused),
    });
}
