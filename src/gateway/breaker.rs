//! Has a request pass the circuit of its upstream, and tells the circuit what became of it.
//!
//! What counts is the end of a request, not each attempt: while another backend answers, nothing is
//! wrong with the upstream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header;

use super::failure::Failure;
use super::{Context, Gateway, deadline};
use crate::config::model::{Fallback, FallbackResponse};
use crate::context::Circuit;
use crate::grpc;
use crate::listener::exchange::Exchange;
use crate::message::Response;
use crate::metrics::FailureReason;
use crate::reply::Rejection;
use crate::upstream::{Pass, Refused};

impl Gateway {
    /// Has a backend answer, if the circuit lets the request through, or whoever stands in for it.
    pub(super) async fn proxy_or_fall_back(
        &self,
        exchange: &mut Exchange,
        context: &mut Context,
    ) -> Result<(), Failure> {
        let entered = enter(context);
        let proxied = match entered {
            Ok(()) => self.proxy(exchange, context).await,
            Err(failure) => Err(failure),
        };
        match proxied {
            Err(Failure::Refused(rejection)) if is_without_backend(&rejection, context) => {
                // On the heap, so that requests that succeed do not make room for it.
                Box::pin(self.fall_back(exchange, context, rejection)).await
            }
            proxied => proxied,
        }
    }

    /// Answers with what is configured for when the upstream cannot be used.
    async fn fall_back(
        &self,
        exchange: &mut Exchange,
        context: &mut Context,
        rejection: Rejection,
    ) -> Result<(), Failure> {
        let snapshot = Arc::clone(&context.snapshot);
        let (route, upstream) = (context.route.clone(), context.upstream.clone());
        let of_route = route.as_ref().and_then(|route| route.fallback.as_ref());
        let of_upstream = || upstream.as_ref()?.config.fallback.as_ref();
        context.error = Some(rejection.log_label());
        match of_route.or_else(of_upstream) {
            None => Err(Failure::Refused(rejection)),
            Some(Fallback::Respond(fallback)) => self.stand_in(exchange, context, fallback).await,
            Some(Fallback::Upstream(other)) => {
                // Nothing of the request is with the one that it stands in for.
                context.places.leave_upstream();
                context.upstream = snapshot.upstreams.get(*other).cloned();
                if let Some(upstream) = &context.upstream {
                    deadline::set(exchange, context, upstream);
                }
                enter(context)?;
                self.proxy(exchange, context).await
            }
        }
    }

    async fn stand_in(
        &self,
        exchange: &mut Exchange,
        context: &Context,
        fallback: &FallbackResponse,
    ) -> Result<(), Failure> {
        let fixed = &fallback.fixed;
        let mut response = Response::new(fixed.status);
        response.insert(header::CONTENT_TYPE, fixed.content_type.clone());
        for (name, value) in &fallback.headers {
            response.insert(name.clone(), value.clone());
        }
        let body = fixed.body.clone();
        self.answer(exchange, context, response, body).await
    }
}

/// Whether no backend was asked because none can be.
fn is_without_backend(rejection: &Rejection, context: &Context) -> bool {
    let is_out = matches!(
        rejection,
        Rejection::CircuitOpen(_) | Rejection::NoHealthyBackend
    );
    is_out && context.tried.is_empty()
}

/// Asks the circuit of the request's upstream to be let in.
fn enter(context: &mut Context) -> Result<(), Failure> {
    let Some(upstream) = &context.upstream else {
        return Ok(());
    };
    let pass = upstream.let_in(Instant::now()).map_err(refusal)?;
    context.circuit = Circuit::Inside(pass);
    Ok(())
}

/// Has a request ask again that waited for its place until the circuit had changed.
pub(super) fn look_again(context: &mut Context) -> Result<(), Failure> {
    let is_outdated = match (&context.circuit, &context.upstream) {
        (Circuit::Inside(pass), Some(upstream)) => upstream.is_outdated(pass),
        _ => false,
    };
    if is_outdated {
        return enter(context);
    }
    Ok(())
}

/// Whether the request probes a half-open circuit and has not asked every backend yet. It asks each of them
/// once, whatever the budget: a single one that is back is found by the first probe.
pub(super) fn goes_on_probing(context: &Context) -> bool {
    let upstream = context.upstream.as_ref();
    is_probe(&context.circuit)
        && upstream.is_some_and(|upstream| upstream.has_untried(&context.tried, Instant::now()))
}

/// Whether the request probes a half-open circuit.
pub(super) fn is_probe(circuit: &Circuit) -> bool {
    matches!(circuit, Circuit::Inside(Pass::Probe(_)))
}

fn refusal(refused: Refused) -> Failure {
    // Rounded up: whoever comes back as told is not refused for a fraction.
    let seconds = refused.retry_after.as_millis().div_ceil(1000) as u64;
    Failure::Refused(Rejection::CircuitOpen(seconds.max(1)))
}

/// Tells the circuit that the request is answered by this, so long after that could begin.
pub(super) fn answered(
    context: &mut Context,
    response: &Response,
    latency: Duration,
    now: Instant,
) {
    let Circuit::Inside(pass) = std::mem::take(&mut context.circuit) else {
        return;
    };
    if let Some(upstream) = &context.upstream {
        let status = status(context.grpc, response);
        let generation = upstream.judge(pass, status, latency, now);
        context.circuit = generation.map_or(Circuit::Over, Circuit::Answered);
    }
}

/// The status as the circuit regards it: a call that ended at once with the code for 503 is one.
fn status(is_call: bool, response: &Response) -> u16 {
    let code = || response.headers.get(grpc::STATUS);
    match is_call && code().is_some_and(|code| code.as_bytes() == b"14") {
        true => 503,
        false => response.status.as_u16(),
    }
}

/// Tells the circuit how the request ended, if that says something about the upstream.
pub(super) fn conclude(exchange: &Exchange, context: &mut Context, failure: &Failure) {
    let Failure::Backend(failed) = failure else {
        // The client's or the gateway's part: nothing was learned, and a probe gives its place back.
        context.circuit = Circuit::Over;
        return;
    };
    let Some(upstream) = &context.upstream else {
        return;
    };
    let now = Instant::now();
    match std::mem::take(&mut context.circuit) {
        Circuit::Over => {}
        Circuit::Inside(pass) => upstream.unanswered(pass, failed.reason, now),
        // A tunnel that fell silent says nothing about who is behind it.
        Circuit::Answered(_)
            if failed.reason == FailureReason::TimeoutInBody && is_tunnelled(exchange) => {}
        Circuit::Answered(generation) => upstream.broke_off(generation, failed.reason, now),
    }
}

fn is_tunnelled(exchange: &Exchange) -> bool {
    exchange.status() == Some(http::StatusCode::SWITCHING_PROTOCOLS)
}
