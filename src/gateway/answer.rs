//! What the gateway answers by itself: fixed responses, redirects and refusals.

use std::time::Instant;

use super::failure::Failure;
use super::receive::request_of;
use super::{Context, Gateway, authenticate, cors, ip_access, limit};
use crate::config::model::Redirect;
use crate::filter::cors::Stage;
use crate::filter::maintenance;
use crate::listener::connection::DRAIN_BYTES;
use crate::listener::exchange::{ClientFault, Exchange};
use crate::listener::framing::Framing;
use crate::message::Response;
use crate::reply::{REQUEST_ID, Rejection, id_value};
use crate::route::{Action, Route, redirect};
use bytes::Bytes;
use http::{HeaderValue, header};

impl Gateway {
    /// Does what the route says, as far as that needs no backend. True: the request is answered.
    pub(super) async fn act(
        &self,
        exchange: &mut Exchange,
        context: &mut Context,
    ) -> Result<bool, Failure> {
        let Some(route) = context.route.clone() else {
            return Ok(false);
        };
        self.bear(context, &route)?;
        let proxied = matches!(route.action, Action::Proxy(_));
        let snapshot = &context.snapshot;
        let (all, notice) = (&snapshot.maintenance, &snapshot.notice);
        // What a browser asks is answered all the same: a page can read a refusal only of a request
        // that its browser sends.
        let is_request = context.cors == Stage::Request;
        if is_request
            && let Some(rejection) = maintenance::judge(all, &route.maintenance, proxied, notice)
        {
            return Err(Failure::Refused(rejection));
        }
        ip_access::judge_route(context, &route).map_err(Failure::Refused)?;
        // First, so that nobody can have credentials checked without end.
        let limits = &route.limits.of_clients;
        if !limits.is_empty() {
            // Since when it is here, which saves a look at the clock.
            let at = exchange.origin.received;
            let limited = limit::admit(exchange, context, limits, at).await;
            limited.map_err(Failure::Refused)?;
        }
        if self.answer_preflight(exchange, context).await? {
            return Ok(true);
        }
        let admitted = admit(exchange, context, &route).await;
        admitted.map_err(Failure::Refused)?;
        self.enter_route(exchange, context, &route).await?;
        match &route.action {
            Action::Proxy(_) if is_too_large(exchange, route.max_body_bytes) => {
                Err(Failure::Refused(Rejection::BodyTooLarge))
            }
            Action::Proxy(split) => {
                context.upstream = split.next().cloned();
                Ok(false)
            }
            Action::Redirect(target) => self.redirect(exchange, context, target).await,
            Action::Respond(fixed) => {
                let mut response = Response::new(fixed.status);
                response.insert(header::CONTENT_TYPE, fixed.content_type.clone());
                self.answer(exchange, context, response, fixed.body.clone())
                    .await?;
                Ok(true)
            }
        }
    }

    /// Sends what came in through a plain listener to `https`, where that is wanted.
    pub(super) async fn send_to_https(
        &self,
        exchange: &mut Exchange,
        context: &mut Context,
    ) -> Result<bool, Failure> {
        match exchange.origin.listener.https_redirect() {
            Some(target) => self.redirect(exchange, context, &target).await,
            None => Ok(false),
        }
    }

    async fn redirect(
        &self,
        exchange: &mut Exchange,
        context: &mut Context,
        target: &Redirect,
    ) -> Result<bool, Failure> {
        let request = request_of(exchange, context);
        let port = crate::route::host::split(request.host).1;
        let location =
            context.with_facts(&request, |facts| redirect::location(target, facts, port));
        let Some(location) = location else {
            return Err(Failure::Refused(Rejection::BadRequest("host")));
        };
        let mut response = Response::new(target.status);
        response.insert(header::LOCATION, location);
        self.answer(exchange, context, response, Bytes::new())
            .await?;
        Ok(true)
    }

    /// Answers with a complete response of the route's own.
    pub(super) async fn answer(
        &self,
        exchange: &mut Exchange,
        context: &Context,
        mut response: Response,
        body: Bytes,
    ) -> Result<(), Failure> {
        // RFC 9110 section 8.6: none of these has a body or says how long it would be.
        if !matches!(response.status.as_u16(), 204 | 304) {
            response.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        self.finish_head(exchange, context, &mut response);
        keep_open_if_small(exchange);
        exchange
            .answer(response, body)
            .await
            .map_err(Failure::Client)
    }

    /// Adds to a response what every one has: the request's id, what keeps browsers with `https`, and
    /// the route's own fields.
    pub(super) fn finish_head(
        &self,
        exchange: &Exchange,
        context: &Context,
        response: &mut Response,
    ) {
        response.insert(REQUEST_ID, id_value(context.request_id.as_str()));
        secure(context, response);
        limit::tell(context, &mut response.headers);
        if let Some(route) = &context.route
            && !route.response_headers.is_empty()
        {
            let request = request_of(exchange, context);
            context.with_facts(&request, |facts| {
                route.response_headers.apply(facts, &mut response.headers);
            });
        }
        cors::tell(exchange, context, response);
    }

    /// Refuses the request and remembers why.
    pub(super) async fn refuse(
        &self,
        exchange: &mut Exchange,
        context: &mut Context,
        rejection: Rejection,
    ) -> Result<(), ClientFault> {
        if let Some(counter) = self.refusals.get(rejection.index()) {
            counter.inc();
        }
        if matches!(
            rejection,
            Rejection::RequestTimeout | Rejection::MalformedBody
        ) {
            // Nobody knows where the next request would begin.
            exchange.close_behind();
        } else {
            keep_open_if_small(exchange);
        }
        let request = &exchange.request;
        let id = context.request_id.as_str();
        let (mut head, body) = rejection.response(&request.headers, request.version, id);
        secure(context, &mut head);
        limit::tell(context, &mut head.headers);
        cors::tell(exchange, context, &mut head);
        context.rejection = Some(rejection);
        exchange.answer(head, body).await
    }
}

/// Finds out who calls, and whether they may.
async fn admit(exchange: &Exchange, context: &mut Context, route: &Route) -> Result<(), Rejection> {
    authenticate::admit(exchange, context, route).await?;
    let limits = &route.limits.of_identities;
    match limits.is_empty() {
        true => Ok(()),
        false => limit::admit(exchange, context, limits, Instant::now()).await,
    }
}

/// Tells browsers to stay with `https`. In the place of what a backend says: there must be one
/// (RFC 6797 section 7.1).
pub(super) fn secure(context: &Context, response: &mut Response) {
    if let Some(value) = context.tls.as_ref().and_then(|tls| tls.hsts()) {
        response.insert(header::STRICT_TRANSPORT_SECURITY, value.clone());
    }
}

/// Whether the length that the client states is beyond the route's limit.
fn is_too_large(exchange: &Exchange, limit: Option<u64>) -> bool {
    match (exchange.origin.head.framing, limit) {
        (Framing::Length(length), Some(limit)) => length > limit,
        _ => false,
    }
}

/// Lets a refusal keep the connection when what is left of the request is little.
///
/// Behind an unanswered `Expect: 100-continue` nobody knows whether the body will come.
fn keep_open_if_small(exchange: &mut Exchange) {
    let head = &exchange.origin.head;
    let small = match head.framing {
        Framing::Length(length) => length <= DRAIN_BYTES as u64,
        Framing::Done | Framing::Chunked(_) | Framing::Tunnel => false,
    };
    let keep = small && !head.expects_continue;
    exchange.set_despite_body(keep);
}
