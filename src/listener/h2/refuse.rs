//! Refusing an HTTP/2 request before there is one for the gateway: answered on its stream, while the
//! others go on.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use h2::server::SendResponse;
use http::Method;
use http::request::Parts;

use super::body::Body;
use super::response::Sender;
use super::running::Guard;
use crate::listener::ListenerState;
use crate::listener::connection::{Refusals, Refused, log_refusal};
use crate::listener::exchange::ClientFault;
use crate::reply::Rejection;

/// Answers with the refusal and forgets the body. It is small enough not to be waited for.
pub fn refuse(
    rejection: &Rejection,
    parts: &Parts,
    (body, respond): (Body, SendResponse<Bytes>),
    (listener, peer, received): (&ListenerState, SocketAddr, Instant),
    refusals: &dyn Refusals,
    guard: Guard,
) {
    let target = parts.uri.path_and_query();
    let line = format!(
        "{} {}",
        parts.method,
        target.map_or("", |target| target.as_str())
    );
    let request_id = refusals.refused(&Refused {
        rejection,
        peer,
        received,
        bytes: line.as_bytes(),
        protocol: "HTTP/2.0",
    });
    log_refusal(listener, peer, rejection, &request_id);
    let mut response = Sender::new(respond, &parts.method);
    match answer(&mut response, rejection, parts, &request_id) {
        Ok(()) => body.forget(guard),
        Err(error) => log::debug!("request_id={request_id} refusal not sent: {error}"),
    }
}

fn answer(
    response: &mut Sender,
    rejection: &Rejection,
    parts: &Parts,
    request_id: &str,
) -> Result<(), ClientFault> {
    let (head, content) = rejection.response(&parts.headers, parts.version, request_id);
    let end = content.is_empty() || parts.method == Method::HEAD;
    response.write_head(head, end)?;
    response.write_at_once(content)
}
