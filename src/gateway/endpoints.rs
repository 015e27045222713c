//! What the gateway answers for itself on a traffic port, before routing: health, readiness, and
//! metrics where the listener shows them.

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};

use super::answer::secure;
use super::failure::Failure;
use super::receive::request_of;
use super::{Context, Gateway};
use crate::listener::client_addr;
use crate::listener::exchange::Exchange;
use crate::message::Response;
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
        exchange: &mut Exchange,
        context: &mut Context,
    ) -> Result<bool, Failure> {
        let Some((status, content_type, body)) = self.endpoint(exchange, context) else {
            return Ok(false);
        };
        let mut response = Response::new(status);
        for (name, value) in [
            (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
            (header::CONTENT_LENGTH, HeaderValue::from(body.len())),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ] {
            response.insert(name, value);
        }
        secure(context, &mut response);
        let answered = exchange.answer(response, body).await;
        answered.map_err(Failure::Client)?;
        context.silent = true;
        Ok(true)
    }

    fn endpoint(
        &self,
        exchange: &Exchange,
        context: &Context,
    ) -> Option<(StatusCode, &'static str, Bytes)> {
        let request = request_of(exchange, context);
        if !matches!(*request.method, Method::GET | Method::HEAD) {
            return None;
        }
        if !ENDPOINTS.contains(&request.path) {
            return None;
        }
        let listener = exchange.origin.listener.settings();
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
