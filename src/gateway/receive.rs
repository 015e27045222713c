//! From Pingora's session to a request with a client, a name and a route.

use http::{Version, header};
use pingora_core::ErrorType::HTTPStatus;
use pingora_core::{Error, Result};
use pingora_proxy::Session;

use super::{Context, Gateway};
use crate::grpc;
use crate::listener::client_addr;
use crate::listener::connection::LINGER;
use crate::listener::h2;
use crate::reply::Rejection;
use crate::request_id::RequestId;
use crate::route::{Found, Lookup, host};

impl Gateway {
    /// Gives the session its deadlines and says whether the connection may go on.
    pub(super) fn set_bounds(&self, session: &mut Session, context: &Context) {
        let limits = &context.snapshot.limits;
        if expects_continue(context) {
            // Pingora would take the interim answer for one that leaves the body unread.
            session.set_close_on_response_before_downstream_finish(false);
        }
        if session.req_header().version == Version::HTTP_10 {
            // HTTP/1.0 knows no interim responses (RFC 9110 section 15.2).
            session.set_ignore_info_resp(true);
        }
        session.set_read_timeout(Some(limits.request_body_timeout));
        session.set_total_drain_timeout(Some(LINGER));
        // Pingora has already regarded what version and `Connection` header say.
        if session.get_keepalive().is_some() {
            let seconds = limits.keepalive_timeout.as_secs().max(1);
            let keepalive = (!self.lifecycle.is_draining()).then_some(seconds);
            session.set_keepalive(keepalive);
        }
    }
}

/// Takes what the connection knows, where it comes with the request: HTTP/2 has no other way.
pub(super) fn adopt_origin(session: &Session, context: &mut Context) {
    if context.origin.is_none() && session.is_custom() {
        let request = session.req_header();
        context.origin = h2::take_origin(&request.extensions);
        context.grpc = grpc::is_call(&request.headers);
    }
}

/// Who the client is and what the request is called.
pub(super) fn identify(session: &Session, context: &mut Context) {
    let Some(origin) = &context.origin else {
        return;
    };
    let headers = &session.req_header().headers;
    let peer = origin.shared.peer.ip();
    let trusted = &context.snapshot.trusted_proxies;
    context.scheme = origin.shared.scheme();
    context.tls.clone_from(&origin.shared.tls);
    context.trusted = client_addr::is_trusted(peer, trusted);
    context.client_ip = client_addr::client_ip(peer, headers, trusted);
    if context.trusted
        && let Some(id) = headers.get("x-request-id").and_then(RequestId::adopt)
    {
        context.request_id = id;
    }
}

/// Puts the normalised target in the place of the one received.
pub(super) fn adopt_target(session: &mut Session, context: &Context) -> Result<()> {
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

/// Refuses a request for a host whose clients have to show something else than this one was asked
/// for in its handshake.
pub(super) fn check_direction(
    session: &Session,
    context: &Context,
) -> std::result::Result<(), Rejection> {
    let Some(tls) = &context.tls else {
        return Ok(());
    };
    let host = host::normalize(request_of(session, context).host);
    match tls.is_misdirected(&host) {
        true => Err(Rejection::Misdirected),
        false => Ok(()),
    }
}

/// Finds the request's route, or says why there is none.
pub(super) fn find_route(
    session: &Session,
    context: &mut Context,
) -> std::result::Result<(), Rejection> {
    let request = request_of(session, context);
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
pub(super) fn request_of<'a>(session: &'a Session, context: &'a Context) -> Lookup<'a> {
    let request = session.req_header();
    let target = context.origin.as_ref().map(|origin| &origin.head.target);
    let host = request.headers.get(header::HOST);
    Lookup {
        host: host.and_then(|host| host.to_str().ok()).unwrap_or_default(),
        method: &request.method,
        headers: &request.headers,
        path: target.map_or("/", |target| target.path()),
        query: target.map_or("", |target| target.query()),
        client_cert: context
            .tls
            .as_ref()
            .and_then(|tls| tls.client_cert.as_ref()),
    }
}

/// Whether the client may be waiting for `100 Continue` before it sends the body.
pub(super) fn expects_continue(context: &Context) -> bool {
    let origin = context.origin.as_ref();
    origin.is_some_and(|origin| origin.head.expects_continue)
}
