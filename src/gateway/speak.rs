//! Between the version of HTTP that the client speaks and the one that the backend speaks.

use http::{HeaderName, HeaderValue, Method, StatusCode, Version, header};
use pingora_core::ErrorType::InvalidHTTPHeader;
use pingora_core::{Error, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::Context;
use super::receive::expects_continue;

/// Fields of one connection that Pingora passes on from HTTP/2 to HTTP/2.
const OF_ONE_CONNECTION: [HeaderName; 3] = [
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("http2-settings"),
];

/// Makes the request one for the version that was agreed on with the backend.
pub(super) async fn fit_to_backend(
    session: &mut Session,
    request: &mut RequestHeader,
    context: &mut Context,
) -> Result<()> {
    let is_http2 = request.version == Version::HTTP_2;
    let Some(attempt) = &mut context.attempt else {
        return Ok(());
    };
    attempt.http2 = is_http2;
    if !is_http2 {
        let insists = attempt.admitted.backend().insists_on_http2();
        if insists && !super::forward::is_tunnel(context) {
            // Pingora speaks HTTP/1.1 then, which this backend is not meant to get.
            let what = "the backend does not agree to speak HTTP/2";
            return Err(Error::explain(InvalidHTTPHeader, what).into_up());
        }
        return Ok(());
    }
    if let Some(origin) = &context.origin {
        origin.shared.read_in_small_pieces();
    }
    if session.is_body_done() {
        // Of a request without a body Pingora calls nobody when it is sent.
        super::forward::expect_first_byte(context);
    }
    for name in &OF_ONE_CONNECTION {
        request.remove_header(name);
    }
    if takes_trailers(session) {
        request.insert_header(header::TE, HeaderValue::from_static("trailers"))?;
    }
    if expects_continue(context) {
        // Interim responses do not come through from an HTTP/2 backend, so nobody else says it.
        request.remove_header(&header::EXPECT);
        if session.response_written().is_none() {
            session
                .as_downstream_mut()
                .write_continue_response()
                .await
                .map_err(Error::into_down)?;
        }
    }
    Ok(())
}

/// Whether the client takes trailers, of which Pingora does not tell the backend.
fn takes_trailers(session: &Session) -> bool {
    let received = &session.req_header().headers;
    let mut accepted = received
        .get_all(header::TE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    accepted.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// Whether the client could not tell where this response ends: HTTP/1.0 knows no chunks, and
/// Pingora takes them for an HTTP/2 response without a length.
pub(super) fn is_endless(session: &Session, context: &Context, response: &ResponseHeader) -> bool {
    let request = session.req_header();
    let is_http2 = context
        .attempt
        .as_ref()
        .is_some_and(|attempt| attempt.http2);
    let has_body = request.method != Method::HEAD
        && !matches!(
            response.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
    is_http2
        && request.version == Version::HTTP_10
        && has_body
        && !response.headers.contains_key(header::CONTENT_LENGTH)
}
