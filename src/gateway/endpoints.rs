//! What the gateway answers for itself on a traffic port, before routing: health, readiness, and
//! metrics where the listener shows them.

use bytes::Bytes;
use http::{Method, StatusCode, header};
use pingora_core::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::answer::{mark_answered, secure};
use super::receive::request_of;
use super::{Context, Gateway};
use crate::listener::client_addr;
use crate::metrics::{self, Format};
use crate::reply;

/// The paths that may be the gateway's own.
const ENDPOINTS: [&str; 5] = [
    "/health",
    "/_health/live",
    "/ready",
    "/_health/ready",
    "/metrics",
];

impl Gateway {
    /// Answers if the request is for such an endpoint. These are neither logged nor measured.
    pub(super) async fn answer_endpoint(
        &self,
        session: &mut Session,
        context: &mut Context,
    ) -> Result<bool> {
        let Some((status, content_type, body)) = self.endpoint(session, context) else {
            return Ok(false);
        };
        let mut response = ResponseHeader::build(status, Some(4))?;
        response.insert_header(header::CONTENT_TYPE, content_type)?;
        response.insert_header(header::CONTENT_LENGTH, body.len())?;
        response.insert_header(header::CACHE_CONTROL, "no-store")?;
        secure(context, &mut response)?;
        reply::respond(session, response, body).await?;
        mark_answered(session, context);
        context.silent = true;
        Ok(true)
    }

    fn endpoint(
        &self,
        session: &Session,
        context: &Context,
    ) -> Option<(StatusCode, &'static str, Bytes)> {
        let request = request_of(session, context);
        if !matches!(*request.method, Method::GET | Method::HEAD) {
            return None;
        }
        if !ENDPOINTS.contains(&request.path) {
            return None;
        }
        let listener = context.origin.as_ref()?.listener.settings();
        match request.path {
            "/health" | "/_health/live" if listener.health => json(reply::health()),
            "/ready" | "/_health/ready" if listener.health => {
                json(reply::readiness(&self.lifecycle))
            }
            "/metrics" if client_addr::is_trusted(context.client_ip, &listener.metrics_allow) => {
                let accept = request.headers.get(header::ACCEPT);
                let accept = accept.and_then(|value| value.to_str().ok());
                let (content_type, body) =
                    metrics::render(&self.metrics, Format::negotiate(accept));
                Some((StatusCode::OK, content_type, Bytes::from(body)))
            }
            _ => None,
        }
    }
}

fn json((status, body): (StatusCode, Bytes)) -> Option<(StatusCode, &'static str, Bytes)> {
    Some((status, "application/json", body))
}
