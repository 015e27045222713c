//! A probe by HTTP.

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Method, Uri};
use memchr::memmem;
use pingora_core::protocols::http::client::HttpSession;
use pingora_http::RequestHeader;

use super::Unwell;
use crate::config::model::HttpQuestion;

/// How much of a body is looked at. The rest is left with its connection.
const LOOKED_AT: usize = 64 * 1024;
/// Interim responses before the one that counts.
const INTERIM: usize = 8;
/// Who asks.
const AGENT: &str = "gateway-health-check";

/// Sends a request and judges its response.
pub(super) async fn ask(
    session: &mut HttpSession,
    asked: &HttpQuestion,
    scheme: &str,
    host: &str,
) -> Result<(), Unwell> {
    let is_http2 = session.as_http2().is_some();
    let mut head = request(&asked.method, &asked.path, is_http2, scheme, host)?;
    for (name, value) in &asked.headers {
        head.insert_header(name, value)?;
    }
    if asked.method == Method::POST && !is_http2 {
        head.insert_header(http::header::CONTENT_LENGTH, 0)?;
    }
    session.write_request_header(Box::new(head)).await?;
    session.finish_request_body().await?;
    let status = final_status(session).await?;
    let mut ranges = asked.expected_statuses.iter();
    if !ranges.any(|(low, high)| (*low..=*high).contains(&status)) {
        return Err(Unwell::Status(status));
    }
    let expected = asked.expected_body.as_deref().unwrap_or_default();
    if has(session, expected.as_bytes()).await? {
        Ok(())
    } else {
        Err(Unwell::Body)
    }
}

/// The head of a probe. Pingora sends what is in the URI over HTTP/2, and what is in `Host` over
/// HTTP/1.
pub(super) fn request(
    method: &Method,
    path: &str,
    is_http2: bool,
    scheme: &str,
    host: &str,
) -> Result<RequestHeader, Unwell> {
    let mut head = RequestHeader::build(method.clone(), path.as_bytes(), None)?;
    head.insert_header(USER_AGENT, AGENT)?;
    if is_http2 {
        let path: PathAndQuery = path.parse().map_err(|_| Unwell::Garbled("path"))?;
        let uri = Uri::builder().scheme(scheme).authority(host);
        let uri = uri.path_and_query(path).build();
        head.set_uri(uri.map_err(|error| Unwell::Other(error.to_string()))?);
    } else {
        head.insert_header(HOST, host)?;
    }
    Ok(head)
}

/// Reads heads until there is one that is no interim one.
pub(super) async fn final_status(session: &mut HttpSession) -> Result<u16, Unwell> {
    for _ in 0..INTERIM {
        session.read_response_header().await?;
        let Some(head) = session.response_header() else {
            break;
        };
        if !head.status.is_informational() || session.as_http2().is_some() {
            return Ok(head.status.as_u16());
        }
    }
    Err(Unwell::Garbled("head"))
}

/// Whether the body has this text. It is read to its end, or as far as it is looked at, so that a
/// backend that is well is not cut off.
async fn has(session: &mut HttpSession, expected: &[u8]) -> Result<bool, Unwell> {
    let mut body = Vec::new();
    let mut read = 0;
    while read < LOOKED_AT {
        let Some(piece) = session.read_response_body().await? else {
            break;
        };
        read += piece.len();
        if !expected.is_empty() {
            body.extend_from_slice(within(&piece, LOOKED_AT - body.len()));
        }
    }
    Ok(expected.is_empty() || memmem::find(&body, expected).is_some())
}

fn within(piece: &Bytes, room: usize) -> &[u8] {
    &piece[..piece.len().min(room)]
}
