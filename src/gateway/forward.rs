//! What a backend is asked, and what of its answer the client can have.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Method, header};

use super::receive::request_of;
use super::{Context, Gateway, authenticate, choice, deadline};
use crate::context::Attempt;
use crate::filter::forwarding::{self, Hop};
use crate::filter::{framing as length, hop_by_hop};
use crate::grpc;
use crate::listener::exchange::Exchange;
use crate::listener::framing::{Chunk, Framing};
use crate::message::{Request, Response};
use crate::route::rewrite;
use crate::upstream::{self, Purpose};

/// Fields that may be added beside those that say where a request comes from.
const FURTHER_FIELDS: usize = 4;

impl Gateway {
    /// Makes a backend's response one that this client understands.
    pub(super) fn fit_to_client(&self, exchange: &mut Exchange, response: &mut Response) {
        hop_by_hop::strip(&mut response.headers);
        length::settle(response);
        let unsent = expects_continue(exchange) && !exchange.is_body_done();
        if unsent || self.lifecycle.is_draining() {
            exchange.close_behind();
        }
    }
}

/// Chooses a backend for the next attempt, and says what its connection is wanted for. `None`: none is
/// in service.
pub(super) fn select(exchange: &Exchange, context: &mut Context) -> Option<Purpose> {
    let now = Instant::now();
    let upstream = context.upstream.as_ref()?;
    let wish = choice::wish(exchange, context, upstream, now);
    // The last attempt's backend is free before the next one is busy.
    let retries = context.attempt.take().is_some();
    context.sticky = wish.sticky;
    let admitted = upstream.select(wish, &mut context.tried)?;
    if retries {
        context.retries += 1;
    }
    context.attempt = Some(Attempt::new(admitted, now));
    Some(match is_tunnel(exchange) {
        true => Purpose::Tunnel,
        false => Purpose::Request,
    })
}

/// What an attempt may take: until its first byte, between two reads and between two writes.
pub(super) fn timeouts(context: &Context) -> (Duration, Duration, Duration) {
    let (Some(upstream), Some(route)) = (&context.upstream, &context.route) else {
        // Nothing goes to a backend without both.
        return (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    };
    let read = match route.timeouts.read {
        Some(read) => read,
        // A stream of messages may be silent for as long as a tunnel.
        None if is_free_call(context) => upstream.timeouts.upgraded_idle,
        None => upstream.timeouts.read,
    };
    let first_byte = upstream::first_byte(upstream, &route.timeouts);
    let write = route.timeouts.write.unwrap_or(upstream.timeouts.write);
    (first_byte, read, write)
}

/// Lets the messages of a gRPC call come when they come: a stream of them may be silent for as long as
/// a tunnel.
pub(super) fn bound_call(exchange: &mut Exchange, context: &Context) {
    if let (true, Some(upstream)) = (is_free_call(context), &context.upstream) {
        exchange.set_any_pace(upstream.timeouts.upgraded_idle);
    }
}

/// A backend that speaks HTTP/1 takes no calls: there the content type is only a claim, which must not
/// free a body from its limits.
fn is_free_call(context: &Context) -> bool {
    let attempt = context.attempt.as_ref();
    context.grpc && attempt.is_some_and(|attempt| attempt.admitted.backend().may_speak_http2())
}

/// Counts how a backend says that a call ended: in trailers, or in a header that is all there is.
pub(super) fn note_call_end(context: &Context, fields: &HeaderMap) {
    if let (true, Some(upstream)) = (context.grpc, &context.upstream)
        && let Some(status) = fields.get(grpc::STATUS)
    {
        upstream.metrics.call_ended(status.as_bytes());
    }
}

/// Whether the client asked for another protocol that is passed through.
pub(super) fn is_tunnel(exchange: &Exchange) -> bool {
    exchange.origin.head.framing == Framing::Tunnel
}

/// Whether the client may be waiting for `100 Continue` before it sends the body.
pub(super) fn expects_continue(exchange: &Exchange) -> bool {
    exchange.origin.head.expects_continue
}

/// The path and query that the route makes of the request's.
pub(super) fn target<'a>(exchange: &'a Exchange, context: &Context) -> Cow<'a, str> {
    let target = &exchange.origin.head.target;
    let rule = context
        .route
        .as_ref()
        .and_then(|route| route.rewrite.as_ref());
    let Some(rule) = rule else {
        return Cow::Borrowed(target.as_str());
    };
    let path = rewrite::apply(rule, target.path());
    let query = &target.as_str()[target.path().len()..];
    Cow::Owned(format!("{path}{query}"))
}

/// How the request's body is framed towards the backend.
pub(super) fn framing(exchange: &Exchange) -> Framing {
    match exchange.origin.head.framing {
        Framing::Tunnel => Framing::Done,
        Framing::Done if exchange.is_body_empty() => Framing::Done,
        // The stream of an HTTP/2 client has no length, and has not ended.
        Framing::Done => Framing::Chunked(Chunk::START),
        framing => framing,
    }
}

/// The request as the backend gets it, but for its target and what frames its body.
pub(super) fn dress(exchange: &Exchange, context: &Context, is_http2: bool) -> Request {
    let mut request = exchange.request.clone();
    let headers = &mut request.headers;
    headers.reserve(forwarding::FIELDS + FURTHER_FIELDS);
    hop_by_hop::strip_request(headers);
    state_length(exchange, headers);
    choice::conceal(context, headers);
    if is_tunnel(exchange) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    if is_http2 {
        fit_to_http2(exchange, context, headers);
    }
    let hop = Hop {
        peer: &exchange.origin.remote.forwarded,
        trusted: context.trusted,
        scheme: context.scheme,
        version: exchange.request.version,
        request_id: context.request_id.as_str(),
    };
    forwarding::apply(headers, &hop);
    deadline::tell(exchange, context, headers);
    if let Some(attempt) = &context.attempt
        && !headers.contains_key(header::HOST)
        && let Ok(host) = HeaderValue::from_str(&attempt.admitted.backend().name)
    {
        // HTTP/1.0 can do without, HTTP/1.1 cannot. The client did not ask for this name, so the
        // forwarding headers do not say that it did.
        headers.insert(header::HOST, host);
    }
    if let Some(route) = &context.route {
        authenticate::tell_backend(exchange, context, route, headers);
    }
    if let Some(route) = &context.route
        && !route.request_headers.is_empty()
    {
        let received = request_of(exchange, context);
        context.with_facts(&received, |facts| {
            route.request_headers.apply(facts, headers)
        });
    }
    request
}

/// States the body's length where it is known, and nowhere else: a reader that believed another one
/// would find the next request elsewhere.
fn state_length(exchange: &Exchange, headers: &mut HeaderMap) {
    let length = headers.get(header::CONTENT_LENGTH);
    match framing(exchange) {
        Framing::Length(_) => {}
        Framing::Done if length.is_none_or(|length| length == "0") => {
            // HTTP/2 clients need not say it; some servers of HTTP/1 insist (RFC 9110 section 8.6).
            let method = &exchange.request.method;
            let is_expected = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
            if exchange.is_http2() && is_expected {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
        }
        Framing::Done | Framing::Chunked(_) | Framing::Tunnel => {
            headers.remove(header::CONTENT_LENGTH);
        }
    }
}

/// What differs for a backend of HTTP/2.
fn fit_to_http2(exchange: &Exchange, context: &Context, headers: &mut HeaderMap) {
    if context.grpc || exchange.takes_trailers() {
        // gRPC servers ask for it: they detect proxies that drop trailers by it.
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    // The gateway says itself that it waits for the body.
    headers.remove(header::EXPECT);
}
