//! One request through Pingora's phases: each phase a short method, the policy elsewhere.

mod answer;
mod authenticate;
mod backend_error;
mod endpoints;
mod failure;
mod forward;
mod receive;
mod record;
mod speak;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, Version, header};
use pingora_core::ErrorType::{Custom, InvalidHTTPHeader};
use pingora_core::modules::http::HttpModules;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use self::failure::Reach;
use crate::access_log::AccessLog;
use crate::context::RequestContext;
use crate::filter::hop_by_hop;
use crate::lifecycle::Lifecycle;
use crate::listener::connection::{LINGER, Origin};
use crate::listener::nominated;
use crate::metrics::{Counter, Metrics};
use crate::reply::{REQUEST_ID, Rejection};
use crate::snapshot::Live;

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

    fn init_downstream_modules(&self, _modules: &mut HttpModules) {
        // Pingora's default is a compression module that is switched off, at a cost a request.
    }

    fn on_connection_reuse(
        &self,
        _session: &mut Session,
        context: &mut Context,
        origin: Box<dyn std::any::Any + Send + Sync>,
    ) {
        context.origin = origin.downcast::<Origin>().ok();
    }

    async fn early_request_filter(
        &self,
        session: &mut Session,
        context: &mut Context,
    ) -> Result<()> {
        receive::adopt_origin(session, context);
        self.set_bounds(session, context);
        nominated::strip(session.req_header_mut());
        receive::identify(session, context);
        receive::adopt_target(session, context)
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        if self.answer_endpoint(session, context).await? {
            return Ok(true);
        }
        if self.send_to_https(session, context).await? {
            return Ok(true);
        }
        if self.answer_validation(session, context).await? {
            return Ok(true);
        }
        if let Err(rejection) = receive::check_direction(session, context) {
            return self
                .refuse(session, context, rejection)
                .await
                .map(|()| true);
        }
        if let Err(rejection) = receive::find_route(session, context) {
            return self
                .refuse(session, context, rejection)
                .await
                .map(|()| true);
        }
        self.act(session, context).await
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        context: &mut Context,
    ) -> Result<Box<HttpPeer>> {
        match forward::select(session, context) {
            Some(peer) => {
                forward::bound_call(session, context);
                Ok(peer)
            }
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
        peer: &HttpPeer,
        _fd: std::os::fd::RawFd,
        digest: Option<&pingora_core::protocols::Digest>,
        context: &mut Context,
    ) -> Result<()> {
        if let (Some(attempt), Some(upstream)) = (&mut context.attempt, &context.upstream) {
            let socket = digest.and_then(|digest| digest.socket_digest.clone());
            attempt.connection = Some(match socket {
                Some(socket) if peer.options.alpn.get_max_http_version() == 2 => {
                    upstream.metrics.shared_connection(reused, socket)
                }
                _ => upstream.metrics.connection(reused),
            });
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        context: &mut Context,
    ) -> Result<()> {
        forward::rewrite_target(request, context)?;
        forward::dress(session, request, context);
        speak::fit_to_backend(session, request, context).await?;
        if receive::expects_continue(context) && request.headers.contains_key(header::EXPECT) {
            // The body may wait for the backend, so the backend is not given the body's time.
            forward::expect_first_byte(context);
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
        let limit = context
            .route
            .as_ref()
            .and_then(|route| route.max_body_bytes);
        if limit.is_some_and(|limit| session.body_bytes_read() as u64 > limit) {
            context.rejection = Some(Rejection::BodyTooLarge);
            return Err(Error::new_down(REFUSED));
        }
        if end_of_stream {
            // An empty last piece would be written as a second last chunk (cloudflare/pingora#935).
            if body.as_ref().is_some_and(Bytes::is_empty) {
                *body = None;
            }
            forward::expect_first_byte(context);
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
            if let Some(origin) = &context.origin {
                origin.shared.first_byte_arrived();
            }
            return Ok(());
        }
        if response.status == StatusCode::SWITCHING_PROTOCOLS
            && !(forward::is_tunnel(context) && response.version == Version::HTTP_11)
        {
            // Passed on, it would turn a connection into a tunnel that nobody asked for.
            return Err(Error::explain(InvalidHTTPHeader, "101 without an upgrade").into_up());
        }
        if let Some(origin) = &context.origin {
            origin.shared.first_byte_arrived();
        }
        if let (Some(attempt), Some(upstream)) = (&mut context.attempt, &context.upstream) {
            attempt.answered = Some(response.status.as_u16());
            upstream.succeeded(attempt.admitted.backend());
        }
        authenticate::watch(response, context);
        forward::note_call_end(context, &response.headers);
        Ok(())
    }

    fn upstream_response_trailer_filter(
        &self,
        _session: &mut Session,
        trailers: &mut HeaderMap,
        context: &mut Context,
    ) -> Result<()> {
        forward::note_call_end(context, trailers);
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Context,
    ) -> Result<()> {
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            let idle = context
                .upstream
                .as_ref()
                .map(|upstream| upstream.timeouts.upgraded_idle);
            session.set_read_timeout(idle);
        } else if response.status.is_informational() {
            return Ok(());
        } else {
            hop_by_hop::strip(response);
            if speak::is_endless(session, context, response) {
                context.rejection = Some(Rejection::VersionNotSupported);
                return Err(Error::new_down(REFUSED));
            }
            self.fit_to_client(session, context, response);
        }
        response.insert_header(REQUEST_ID, context.request_id.as_str())?;
        answer::secure(context, response)?;
        if let Some(route) = &context.route
            && !route.response_headers.is_empty()
        {
            let facts = receive::request_of(session, context);
            context.with_facts(&facts, |facts| {
                route.response_headers.apply(facts, response)
            });
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        _body: &mut Option<Bytes>,
        end_of_stream: bool,
        _context: &mut Context,
    ) -> Result<Option<Duration>> {
        if end_of_stream && !session.was_upgraded() && !session.is_body_done() {
            // Nobody waits for the rest of the request any longer.
            session.set_read_timeout(Some(LINGER));
        }
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        context: &mut Context,
        error: Box<Error>,
    ) -> Box<Error> {
        self.attempt_failed(session, context, error, Reach::NothingSent)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        context: &mut Context,
        client_reused: bool,
    ) -> Box<Error> {
        let reach = Reach::Sent {
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
