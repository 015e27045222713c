//! From a request with a route to a backend, and back.

use std::time::Instant;

use http::request::Parts as RequestParts;
use http::{HeaderMap, HeaderValue, Version, header};
use pingora_core::Result;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::authenticate;
use super::receive::{expects_continue, request_of};
use super::{Context, Gateway};
use crate::context::Attempt;
use crate::filter::forwarding::{self, Hop};
use crate::filter::framing;
use crate::grpc;
use crate::listener::framing::Framing;
use crate::route::rewrite;
use crate::upstream::{self, Purpose};

impl Gateway {
    /// Makes a backend's response one that this client understands.
    pub(super) fn fit_to_client(
        &self,
        session: &mut Session,
        context: &Context,
        response: &mut ResponseHeader,
    ) {
        framing::settle(response);
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

/// Chooses a backend for the next attempt. `None`: none is in service.
pub(super) fn select(session: &Session, context: &mut Context) -> Option<Box<HttpPeer>> {
    let purpose = purpose(session, context);
    let now = Instant::now();
    let upstream = context.upstream.as_ref()?;
    // The last attempt's backend is free before the next one is busy.
    let retries = context.attempt.take().is_some();
    let admitted = upstream.select(&mut context.tried, now)?;
    if retries {
        context.retries += 1;
    }
    let mut peer = admitted.backend().peer(purpose);
    let read = context.route.as_ref().and_then(|route| route.timeouts.read);
    if let (Some(read), true) = (read, purpose != Purpose::Tunnel) {
        peer.options.read_timeout = Some(read);
    }
    if read.is_none() && context.grpc && admitted.backend().may_speak_http2() {
        // A stream of messages may be silent for as long as a tunnel.
        peer.options.read_timeout = Some(upstream.timeouts.upgraded_idle);
    }
    context.attempt = Some(Attempt {
        admitted,
        started: now,
        connection: None,
        http2: false,
        answered: None,
        recorded: false,
    });
    Some(peer)
}

fn purpose(session: &Session, context: &Context) -> Purpose {
    if is_tunnel(context) {
        Purpose::Tunnel
    } else if session.req_header().version == Version::HTTP_10 {
        Purpose::OldRequest
    } else {
        Purpose::Request
    }
}

/// Lets the messages of a gRPC call come when they come: a stream of them may be silent for as long as
/// a tunnel. A backend that speaks HTTP/1 takes no calls: there the content type is only a claim, which
/// must not free a body from its limits.
pub(super) fn bound_call(session: &mut Session, context: &Context) {
    let (true, Some(upstream), Some(attempt), Some(origin)) = (
        context.grpc,
        &context.upstream,
        &context.attempt,
        &context.origin,
    ) else {
        return;
    };
    if attempt.admitted.backend().may_speak_http2() {
        session.set_read_timeout(Some(upstream.timeouts.upgraded_idle));
        origin.shared.set_any_pace();
    }
}

/// Counts how a backend says that a call ended: in trailers, or in a header that is all there is.
pub(super) fn note_call_end(context: &Context, fields: &HeaderMap) {
    if let (true, Some(upstream)) = (context.grpc, &context.upstream)
        && let Some(status) = fields.get(grpc::STATUS)
    {
        upstream.metrics.call_ended(status.as_bytes());
    }
}

pub(super) fn is_tunnel(context: &Context) -> bool {
    let origin = context.origin.as_ref();
    origin.is_some_and(|origin| origin.head.framing == Framing::Tunnel)
}

/// Gives the backend the path that the route makes of the request's.
pub(super) fn rewrite_target(request: &mut RequestHeader, context: &Context) -> Result<()> {
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

/// Gives the backend's request the header it is to have.
///
/// The names lose their case on the way: names have none (RFC 9110 section 5.1), and one map less is
/// kept up to date.
pub(super) fn dress(session: &Session, request: &mut RequestHeader, context: &Context) {
    let Some(origin) = &context.origin else {
        return;
    };
    let stand_in = RequestHeader::from(http::Request::new(()).into_parts().0);
    let mut parts: RequestParts = std::mem::replace(request, stand_in).into();
    let headers = &mut parts.headers;
    headers.reserve(forwarding::FIELDS);
    if !is_tunnel(context) {
        // The gate took the bytes behind this request for the next one. All that Pingora leaves of
        // `Connection` is the wish to upgrade.
        headers.remove(header::UPGRADE);
        headers.remove(header::CONNECTION);
    }
    if context.grpc && parts.version == Version::HTTP_2 {
        // Pingora takes it away; gRPC servers ask for it (they detect proxies that drop trailers by
        // it).
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let hop = Hop {
        peer: &origin.shared.forwarded,
        trusted: context.trusted,
        scheme: context.scheme,
        version: session.req_header().version,
        request_id: context.request_id.as_str(),
    };
    forwarding::apply(headers, &hop);
    if let Some(attempt) = &context.attempt
        && !headers.contains_key(header::HOST)
        && let Ok(host) = HeaderValue::from_str(&attempt.admitted.backend().name)
    {
        // HTTP/1.0 can do without, HTTP/1.1 cannot. The client did not ask for this name, so the
        // forwarding headers do not say that it did.
        headers.insert(header::HOST, host);
    }
    if let Some(route) = &context.route {
        authenticate::tell_backend(session, context, route, headers);
    }
    if let Some(route) = &context.route
        && !route.request_headers.is_empty()
    {
        let received = request_of(session, context);
        context.with_facts(&received, |facts| {
            route.request_headers.apply(facts, headers)
        });
    }
    *request = parts.into();
}

/// From now on the backend owes an answer.
pub(super) fn expect_first_byte(context: &Context) {
    let (Some(origin), Some(upstream), Some(route)) =
        (&context.origin, &context.upstream, &context.route)
    else {
        return;
    };
    let answered = context
        .attempt
        .as_ref()
        .is_some_and(|attempt| attempt.answered.is_some());
    if !answered {
        let within = upstream::first_byte(upstream, &route.timeouts);
        origin.shared.expect_first_byte(within);
    }
}
