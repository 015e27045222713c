//! One request through Pingora's phases: each phase a short method, the policy elsewhere.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, StatusCode, Version, header};
use pingora_core::ErrorType::{
    ConnectTimedout, Custom, HTTPStatus, InvalidHTTPHeader, ReadTimedout, WriteTimedout,
};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use crate::access_log::AccessLog;
use crate::context::{Attempt, Request, RequestContext, SCHEME};
use crate::filter::forwarding::{self, Hop};
use crate::lifecycle::Lifecycle;
use crate::listener::client_addr;
use crate::listener::connection::Origin;
use crate::listener::framing::{Framing, MalformedChunk};
use crate::listener::stream::FirstByteTimeout;
use crate::metrics::{Counter, FailureReason, Metrics, RetryReason};
use crate::reply::{self, Rejection};
use crate::request_id::RequestId;
use crate::route::{Action, Found, Lookup, redirect, rewrite};
use crate::snapshot::Live;
use crate::upstream;

mod endpoints;
mod failure;
mod record;

/// An unread body up to this size is read and forgotten, so that a refusal keeps the connection.
const DRAIN_BYTES: u64 = 64 * 1024;
/// What reading the rest of a refused body may take.
const DRAIN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);
/// Why a request is ended by the gateway itself; the rejection is in the context.
const REFUSED: pingora_core::ErrorType = Custom("refused by the gateway");

/// The context of a request of ours.
pub type Context = RequestContext<Origin>;

/// What the phases need; one value for all workers.
#[derive(Clone)]
pub struct Gateway {
    /// The running configuration.
    pub live: Arc<Live>,
    /// Whether the process is ending.
    pub lifecycle: Arc<Lifecycle>,
    /// Every metric.
    pub metrics: Arc<Metrics>,
    /// Where requests are logged, if they are.
    pub access_log: Option<Arc<AccessLog>>,
    /// A counter for each rejection, by its index.
    pub refusals: Arc<[Counter]>,
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        RequestContext::new(self.live.load())
    }

    fn on_connection_reuse(
        &self,
        _session: &mut Session,
        context: &mut Context,
        origin: Box<dyn std::any::Any + Send + Sync>,
    ) {
        context.origin = origin.downcast::<Origin>().ok();
    }

    async fn early_request_filter(&self, session: &mut Session, context: &mut Context) -> Result<()> {
        self.set_bounds(session, context);
        identify(session, context);
        adopt_target(session, context)
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        if self.answer_endpoint(session, context).await? {
            return Ok(true);
        }
        if let Err(rejection) = find_route(session, context) {
            return self.refuse(session, context, rejection).await.map(|()| true);
        }
        self.act(session, context).await
    }

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        context: &mut Context,
    ) -> Result<Box<HttpPeer>> {
        match select(context) {
            Some(peer) => Ok(peer),
            None => {
                context.rejection = Some(Rejection::NoHealthyBackend);
                Err(Error::new_in(REFUSED))
            }
        }
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::fd::RawFd,
        _digest: Option<&pingora_core::protocols::Digest>,
        context: &mut Context,
    ) -> Result<()> {
        if let (Some(attempt), Some(upstream)) = (&mut context.attempt, &context.upstream) {
            attempt.connection = Some(upstream.metrics.connection(reused));
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        context: &mut Context,
    ) -> Result<()> {
        rewrite_target(request, context)?;
        if !is_tunnel(context) {
            // The gate took the bytes behind this request for the next one.
            request.remove_header(&header::UPGRADE);
        }
        if let Some(attempt) = &context.attempt
            && !request.headers.contains_key(header::HOST)
        {
            // HTTP/1.0 can do without, HTTP/1.1 cannot.
            request.insert_header(header::HOST, &*attempt.admitted.backend().name)?;
        }
        let peer = context.origin.as_ref().map(|origin| origin.shared.peer.ip());
        forwarding::apply(
            request,
            &Hop {
                peer: peer.unwrap_or(context.client_ip).to_canonical(),
                trusted: context.trusted,
                scheme: SCHEME,
                version: session.req_header().version,
                request_id: context.request_id.as_str(),
            },
        )?;
        if let Some(route) = &context.route
            && !route.request_headers.is_empty()
        {
            let facts = request_of(session, context);
            context.with_facts(&facts, |facts| route.request_headers.apply(facts, request));
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        context: &mut Context,
    ) -> Result<()> {
        if session.was_upgraded() {
            return Ok(());
        }
        let limit = context.route.as_ref().and_then(|route| route.max_body_bytes);
        if limit.is_some_and(|limit| session.body_bytes_read() as u64 > limit) {
            context.rejection = Some(Rejection::BodyTooLarge);
            return Err(Error::new_down(REFUSED));
        }
        if end_of_stream {
            // An empty last piece would be written as a second last chunk (cloudflare/pingora#935).
            if body.as_ref().is_some_and(Bytes::is_empty) {
                *body = None;
            }
            expect_first_byte(context);
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Context,
    ) -> Result<()> {
        let interim = response.status.is_informational()
            && response.status != StatusCode::SWITCHING_PROTOCOLS;
        if interim {
            return Ok(());
        }
        if let Some(origin) = &context.origin {
            origin.shared.first_byte_arrived();
        }
        if let (Some(attempt), Some(upstream)) = (&mut context.attempt, &context.upstream) {
            attempt.answered = Some(response.status.as_u16());
            upstream.succeeded(attempt.admitted.backend());
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Context,
    ) -> Result<()> {
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            let idle = context.upstream.as_ref().map(|upstream| upstream.timeouts.upgraded_idle);
            session.set_read_timeout(idle);
        } else if response.status.is_informational() {
            return Ok(());
        } else {
            crate::filter::hop_by_hop::strip(response);
            self.fit_to_client(session, context, response);
        }
        response.insert_header("X-Request-Id", context.request_id.as_str())?;
        if let Some(route) = &context.route
            && !route.response_headers.is_empty()
        {
            let facts = request_of(session, context);
            context.with_facts(&facts, |facts| route.response_headers.apply(facts, response));
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        context: &mut Context,
        error: Box<Error>,
    ) -> Box<Error> {
        self.attempt_failed(session, context, error, failure::Reach::NothingSent)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        context: &mut Context,
        client_reused: bool,
    ) -> Box<Error> {
        let reach = failure::Reach::Sent {
            on_kept_connection: client_reused,
        };
        self.attempt_failed(session, context, error, reach)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        context: &mut Context,
    ) -> FailToProxy {
        let status = self.answer_failure(session, error, context).await;
        FailToProxy {
            error_code: status,
            // The connection's loop decides.
            can_reuse_downstream: false,
        }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, context: &mut Context) {
        self.record(session, context);
    }

    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        // The access log says it, with the reason.
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &Context,
        _: &Error,
        _: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

impl Gateway {
    /// Gives the session its deadlines and says whether the connection may go on.
    fn set_bounds(&self, session: &mut Session, context: &Context) {
        let limits = &context.snapshot.limits;
        if expects_continue(context) {
            // Pingora would take the interim answer for one that leaves the body unread.
            session.set_close_on_response_before_downstream_finish(false);
        }
        session.set_read_timeout(Some(limits.request_body_timeout));
        session.set_write_timeout(Some(limits.response_write_timeout));
        session.set_total_drain_timeout(Some(DRAIN_TIMEOUT));
        // Pingora has already regarded what version and `Connection` header say.
        if session.get_keepalive().is_some() {
            let seconds = limits.keepalive_timeout.as_secs().max(1);
            let keepalive = (!self.lifecycle.is_draining()).then_some(seconds);
            session.set_keepalive(keepalive);
        }
    }

    /// Does what the route says, as far as that needs no backend. True: the request is answered.
    async fn act(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        let Some(route) = context.route.clone() else {
            return Ok(false);
        };
        match &route.action {
            Action::Proxy(split) => {
                if is_too_large(session, route.max_body_bytes) {
                    let rejection = Rejection::BodyTooLarge;
                    return self.refuse(session, context, rejection).await.map(|()| true);
                }
                context.upstream = split.next().cloned();
                if let Some(upstream) = &context.upstream {
                    upstream.requested();
                }
                Ok(false)
            }
            Action::Redirect(target) => {
                let request = request_of(session, context);
                let port = crate::route::host::split(request.host()).1;
                let location =
                    context.with_facts(&request, |facts| redirect::location(target, facts, port));
                let Some(location) = location else {
                    let rejection = Rejection::BadRequest("host");
                    return self.refuse(session, context, rejection).await.map(|()| true);
                };
                let mut response = ResponseHeader::build(target.status, Some(4))?;
                response.insert_header(header::LOCATION, location)?;
                self.answer(session, context, response, Bytes::new()).await?;
                Ok(true)
            }
            Action::Respond(fixed) => {
                let mut response = ResponseHeader::build(fixed.status, Some(4))?;
                response.insert_header(header::CONTENT_TYPE, fixed.content_type.clone())?;
                self.answer(session, context, response, fixed.body.clone()).await?;
                Ok(true)
            }
        }
    }

    /// Answers with a complete response of the route's own.
    async fn answer(
        &self,
        session: &mut Session,
        context: &mut Context,
        mut response: ResponseHeader,
        body: Bytes,
    ) -> Result<()> {
        // RFC 9110 section 8.6: none of these has a body or says how long it would be.
        if !matches!(response.status.as_u16(), 204 | 304) {
            response.insert_header(header::CONTENT_LENGTH, body.len())?;
        }
        response.insert_header("X-Request-Id", context.request_id.as_str())?;
        if let Some(route) = &context.route
            && !route.response_headers.is_empty()
        {
            let request = request_of(session, context);
            context.with_facts(&request, |facts| {
                route.response_headers.apply(facts, &mut response);
            });
        }
        keep_open_if_small(session, context);
        reply::respond(session, response, body).await?;
        mark_answered(session, context);
        Ok(())
    }

    /// Refuses the request and remembers why.
    async fn refuse(
        &self,
        session: &mut Session,
        context: &mut Context,
        rejection: Rejection,
    ) -> Result<()> {
        if let Some(counter) = self.refusals.get(rejection.index()) {
            counter.inc();
        }
        keep_open_if_small(session, context);
        let written = reply::refuse(session, &rejection, context.request_id.as_str()).await;
        context.rejection = Some(rejection);
        written?;
        mark_answered(session, context);
        Ok(())
    }

    /// Makes a backend's response one that this client understands.
    fn fit_to_client(
        &self,
        session: &mut Session,
        context: &Context,
        response: &mut ResponseHeader,
    ) {
        if session.req_header().version == Version::HTTP_10
            && response.headers.contains_key(header::TRANSFER_ENCODING)
        {
            // HTTP/1.0 knows no chunks: the end of the connection is the end of the body.
            response.remove_header(&header::TRANSFER_ENCODING);
            session.set_keepalive(None);
        }
        let unsent = expects_continue(context) && !session.is_body_done();
        if unsent || self.lifecycle.is_draining() {
            session.set_keepalive(None);
        }
    }
}

/// Who the client is and what the request is called.
fn identify(session: &Session, context: &mut Context) {
    let Some(origin) = &context.origin else {
        return;
    };
    let headers = &session.req_header().headers;
    let peer = origin.shared.peer.ip();
    let trusted = &context.snapshot.trusted_proxies;
    context.trusted = client_addr::is_trusted(peer, trusted);
    context.client_ip = client_addr::client_ip(peer, headers, trusted);
    if context.trusted
        && let Some(id) = headers.get("x-request-id").and_then(RequestId::adopt)
    {
        context.request_id = id;
    }
}

/// Puts the normalised target in the place of the one received.
fn adopt_target(session: &mut Session, context: &Context) -> Result<()> {
    let Some(origin) = &context.origin else {
        return Err(Error::new_in(HTTPStatus(500)));
    };
    let target = &origin.head.target;
    if target.changed {
        let request = session.req_header_mut();
        request.set_raw_path(target.as_str().as_bytes())?;
        if let Some(authority) = &target.authority {
            request.insert_header(header::HOST, authority.as_str())?;
        }
    }
    Ok(())
}

/// Finds the request's route, or says why there is none.
fn find_route(session: &Session, context: &mut Context) -> std::result::Result<(), Rejection> {
    let request = request_of(session, context);
    let found = context.snapshot.router.find(&Lookup {
        host: request.host(),
        path: request.path,
        method: request.method,
        headers: request.headers,
        query: request.query,
    });
    match found {
        Found::Route { index, params } => {
            context.route = context.snapshot.routes.get(index).cloned();
            context.params = params;
            Ok(())
        }
        Found::MethodNotAllowed { allow } => Err(Rejection::MethodNotAllowed(allow)),
        Found::NotFound => Err(Rejection::NotFound),
    }
}

/// The request as routes, filters and templates see it.
fn request_of<'a>(session: &'a Session, context: &'a Context) -> Request<'a> {
    let header = session.req_header();
    let target = context.origin.as_ref().map(|origin| &origin.head.target);
    Request {
        method: &header.method,
        headers: &header.headers,
        path: target.map_or("/", |target| target.path()),
        query: target.map_or("", |target| target.query()),
    }
}

/// Whether the length that the client states is beyond the route's limit.
fn is_too_large(session: &Session, limit: Option<u64>) -> bool {
    let length = session
        .get_header(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<u64>().ok());
    matches!((length, limit), (Some(length), Some(limit)) if length > limit)
}

/// Whether the client may be waiting for `100 Continue` before it sends the body.
fn expects_continue(context: &Context) -> bool {
    let origin = context.origin.as_ref();
    origin.is_some_and(|origin| origin.head.expects_continue)
}

fn is_tunnel(context: &Context) -> bool {
    let origin = context.origin.as_ref();
    origin.is_some_and(|origin| origin.head.framing == Framing::Tunnel)
}

/// Chooses a backend for the next attempt. `None`: none is in service.
fn select(context: &mut Context) -> Option<Box<HttpPeer>> {
    let now = Instant::now();
    let upstream = context.upstream.as_ref()?;
    // The last attempt's backend is free before the next one is busy.
    let retries = context.attempt.take().is_some();
    let admitted = upstream.select(&mut context.tried, now)?;
    if retries {
        context.retries += 1;
    }
    let tunnel = is_tunnel(context);
    let mut peer = admitted.backend().peer(tunnel);
    let read = context.route.as_ref().and_then(|route| route.timeouts.read);
    if let (Some(read), false) = (read, tunnel) {
        peer.options.read_timeout = Some(read);
    }
    context.attempt = Some(Attempt {
        admitted,
        started: now,
        connection: None,
        answered: None,
    });
    Some(peer)
}

/// Gives the backend the path that the route makes of the request's.
fn rewrite_target(request: &mut RequestHeader, context: &Context) -> Result<()> {
    let (Some(route), Some(origin)) = (&context.route, &context.origin) else {
        return Ok(());
    };
    let Some(rule) = &route.rewrite else {
        return Ok(());
    };
    let target = &origin.head.target;
    let path = rewrite::apply(rule, target.path());
    let query = &target.as_str()[target.path().len()..];
    request.set_raw_path(format!("{path}{query}").as_bytes())
}

/// From now on the backend owes an answer.
fn expect_first_byte(context: &Context) {
    let (Some(origin), Some(upstream), Some(route)) =
        (&context.origin, &context.upstream, &context.route)
    else {
        return;
    };
    let answered = context.attempt.as_ref().is_some_and(|attempt| attempt.answered.is_some());
    if !answered {
        let within = upstream::first_byte(upstream, &route.timeouts);
        origin.shared.expect_first_byte(within);
    }
}

/// Lets a refusal keep the connection when what is left of the request is little.
///
/// Behind an unanswered `Expect: 100-continue` nobody knows whether the body will come.
fn keep_open_if_small(session: &mut Session, context: &Context) {
    let Some(origin) = &context.origin else {
        return;
    };
    let small = match origin.head.framing {
        Framing::Length(length) => length <= DRAIN_BYTES,
        Framing::Done | Framing::Chunked(_) | Framing::Tunnel => false,
    };
    let keep = small && !origin.head.expects_continue;
    session.set_close_on_response_before_downstream_finish(!keep);
}

/// Tells the connection's loop that a complete response was written, if the connection goes on.
fn mark_answered(session: &Session, context: &Context) {
    let goes_on = session.as_http1().is_some_and(|http| http.will_keepalive());
    if let (true, Some(origin)) = (goes_on, &context.origin) {
        origin.shared.set_answered();
    }
}
