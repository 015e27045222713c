//! Answers the questions of browsers at the edge, and adds to every response what they have to know.

use http::StatusCode;

use super::failure::Failure;
use super::receive::request_of;
use super::{Context, Gateway};
use crate::filter::cors::{self, Cors, Stage};
use crate::listener::exchange::Exchange;
use crate::message::Response;
use crate::reply::Rejection;
use crate::route::{Found, Lookup};

/// Finds the route of a preflight: that of the method which it asks about, if that has a policy.
/// Otherwise the question is the backend's to answer, and routed like any other request.
pub(super) fn find_route(exchange: &Exchange, context: &mut Context) -> bool {
    if !context.snapshot.has_cors {
        return false;
    }
    let request = &exchange.request;
    let Some(method) = cors::preflight(&request.method, &request.headers) else {
        return false;
    };
    let lookup = Lookup {
        method: &method,
        ..request_of(exchange, context)
    };
    let Found::Route { index, params } = context.snapshot.router.find(&lookup) else {
        return false;
    };
    let route = context.snapshot.routes.get(index);
    let Some(route) = route.filter(|route| route.cors.is_some()) else {
        return false;
    };
    context.route = Some(route.clone());
    context.params = params;
    context.cors = Stage::Preflight;
    true
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
