//! Answers the questions of browsers at the edge, and adds to every response what they have to know.

use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode};

use super::failure::Failure;
use super::receive::request_of;
use super::{Context, Gateway};
use crate::filter::cors::{self, Cors, Stage};
use crate::listener::exchange::Exchange;
use crate::message::Response;
use crate::reply::Rejection;
use crate::route::{Found, Lookup, Params, Route};
use crate::snapshot::Snapshot;

/// Finds the route of a preflight, if that has a policy. Otherwise the question is the backend's to
/// answer, and routed like any other request.
pub(super) fn find_route(exchange: &Exchange, context: &mut Context) -> bool {
    if !context.snapshot.has_cors {
        return false;
    }
    let request = request_of(exchange, context);
    let Some(method) = cors::preflight(request.method, request.headers) else {
        return false;
    };
    let Some((route, params)) = belongs_to(&context.snapshot, &request, &method) else {
        return false;
    };
    context.route = Some(route);
    context.params = params;
    context.cors = Stage::Preflight;
    true
}

/// The route of the method that a preflight asks about. Where no route answers that, one of those that
/// answer others: its policy denies the preflight, and so the log says why.
fn belongs_to(
    snapshot: &Snapshot,
    preflight: &Lookup<'_>,
    method: &Method,
) -> Option<(Arc<Route>, Params)> {
    let find = |method: &Method| {
        let lookup = Lookup {
            method,
            ..*preflight
        };
        snapshot.router.find(&lookup)
    };
    let with_policy = |found: Found| match found {
        Found::Route { index, params } => {
            let route = snapshot.routes.get(index)?;
            let has_policy = route.cors.is_some();
            has_policy.then(|| (Arc::clone(route), params))
        }
        _ => None,
    };
    match find(method) {
        Found::MethodNotAllowed { allow } => {
            let others = methods(&allow);
            match others.contains(&Method::OPTIONS) {
                // Whoever answers OPTIONS may answer preflights.
                true => with_policy(find(&Method::OPTIONS)),
                false => others.iter().find_map(|other| with_policy(find(other))),
            }
        }
        found => with_policy(found),
    }
}

/// The methods that a value of `Allow` lists.
fn methods(allow: &HeaderValue) -> Vec<Method> {
    let names = allow.as_bytes().split(|byte| *byte == b',');
    let names = names.map(<[u8]>::trim_ascii);
    names
        .filter_map(|name| Method::from_bytes(name).ok())
        .collect()
}

/// Marks a preflight for an endpoint of the gateway's own.
pub(super) fn note(exchange: &Exchange, context: &mut Context) {
    let request = &exchange.request;
    let asks = || cors::preflight(&request.method, &request.headers).is_some();
    if context.snapshot.cors.is_some() && asks() {
        context.cors = Stage::Preflight;
    }
}

/// Adds what browsers have to know.
pub(super) fn tell(exchange: &Exchange, context: &Context, response: &mut Response) {
    // A browser does not ask whether a page may have a WebSocket.
    if let Some(policy) = policy(context)
        && response.status != StatusCode::SWITCHING_PROTOCOLS
    {
        let request = &exchange.request.headers;
        policy.apply(request, context.cors, &mut response.headers);
    }
}

/// The route's policy, or the default for what is no route's.
fn policy(context: &Context) -> Option<&Cors> {
    match &context.route {
        Some(route) => route.cors.as_ref(),
        None => context.snapshot.cors.as_ref(),
    }
}

impl Gateway {
    /// Answers a preflight. True: the request was one.
    pub(super) async fn answer_preflight(
        &self,
        exchange: &mut Exchange,
        context: &mut Context,
    ) -> Result<bool, Failure> {
        if context.cors == Stage::Request {
            return Ok(false);
        }
        let request = &exchange.request;
        let asked = cors::preflight(&request.method, &request.headers);
        let (Some(method), Some(policy)) = (asked, policy(context)) else {
            return Ok(false);
        };
        let judged = policy.judge(&request.headers, &method);
        judged.map_err(|why| Failure::Refused(Rejection::CorsDenied(why)))?;
        context.cors = Stage::Granted;
        let response = Response::new(StatusCode::NO_CONTENT);
        self.answer(exchange, context, response, bytes::Bytes::new())
            .await?;
        Ok(true)
    }
}
