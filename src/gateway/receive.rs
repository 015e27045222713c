//! From what the gate let in to a request with a client, a name and a route.

use http::{HeaderValue, header};

use super::{Context, Gateway, cors};
use crate::grpc;
use crate::listener::exchange::Exchange;
use crate::listener::{client_addr, nominated};
use crate::reply::Rejection;
use crate::request_id::RequestId;
use crate::route::{Found, Lookup, host};

impl Gateway {
    /// Says whether the connection may go on.
    pub(super) fn set_bounds(&self, exchange: &mut Exchange) {
        if self.lifecycle.is_draining() {
            exchange.close_behind();
        }
    }
}

/// Gives the request the form that everybody behind sees: without the fields that are for this hop
/// alone, and with the host that its target names.
pub(super) fn adopt(exchange: &mut Exchange) {
    let (head, headers) = (&exchange.origin.head, &mut exchange.request.headers);
    if head.names_fields {
        nominated::strip(headers);
    }
    if let Some(authority) = &head.target.authority
        // The gate let no other bytes in than those of a host.
        && let Ok(host) = HeaderValue::from_str(authority)
    {
        headers.insert(header::HOST, host);
    }
}

/// Who the client is and what the request is called.
pub(super) fn identify(exchange: &Exchange, context: &mut Context) {
    let (remote, headers) = (&exchange.origin.remote, &exchange.request.headers);
    let peer = remote.peer.ip();
    let trusted = &context.snapshot.trusted_proxies;
    context.scheme = remote.scheme();
    context.tls.clone_from(&remote.tls);
    context.trusted = client_addr::is_trusted(peer, trusted);
    context.client_ip = client_addr::client_ip(peer, headers, trusted);
    context.grpc = exchange.is_http2() && grpc::is_call(headers);
    if context.trusted
        && let Some(id) = headers.get("x-request-id").and_then(RequestId::adopt)
    {
        context.request_id = id;
    }
}

/// Refuses a request for a host whose clients have to show something else than this one was asked
/// for in its handshake.
pub(super) fn check_direction(exchange: &Exchange, context: &Context) -> Result<(), Rejection> {
    let Some(tls) = &context.tls else {
        return Ok(());
    };
    let host = host::normalize(request_of(exchange, context).host);
    match tls.is_misdirected(&host) {
        true => Err(Rejection::Misdirected),
        false => Ok(()),
    }
}

/// Finds the request's route, or says why there is none.
pub(super) fn find_route(exchange: &Exchange, context: &mut Context) -> Result<(), Rejection> {
    if cors::find_route(exchange, context) {
        return Ok(());
    }
    let request = request_of(exchange, context);
    match context.snapshot.router.find(&request) {
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
pub(super) fn request_of<'a>(exchange: &'a Exchange, context: &'a Context) -> Lookup<'a> {
    let (request, target) = (&exchange.request, &exchange.origin.head.target);
    let host = request.headers.get(header::HOST);
    Lookup {
        host: host.and_then(|host| host.to_str().ok()).unwrap_or_default(),
        method: &request.method,
        headers: &request.headers,
        path: target.path(),
        query: target.query(),
        client_cert: context
            .tls
            .as_ref()
            .and_then(|tls| tls.client_cert.as_ref()),
    }
}
