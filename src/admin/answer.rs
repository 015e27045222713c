//! What the operators' listener answers.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode};
use serde_json::json;

use crate::metrics::{self, Format};
use crate::reply;

use super::AdminApp;

const JSON: &str = "application/json";

const INDEX: &str = "\
/metrics  Prometheus text, or OpenMetrics on request
/status   what runs, as JSON
/health   200 while the process lives
/ready    200 when it takes requests, 503 and why when not

POST /reload       loads the configuration anew
GET  /maintenance  what is down for maintenance
POST /maintenance  {\"enabled\": true, \"route\": \"users\"}; without a route, everything
GET  /revocations  how many tokens are revoked; ?jti= or ?subject= asks for one
POST /revocations  {\"jti\": ...}, {\"subject\": ...} or {\"token\": ...}; expires_in, expires_at
DELETE /revocations/{jti}  takes one back; ?subject= that of a subject
GET  /upstreams/{upstream}/circuit_breaker  how the circuit to an upstream stands
POST /upstreams/{upstream}/circuit_breaker  {\"state\": \"open\"}, \"closed\" or \"auto\"
POST /upstreams/{upstream}/backends/{backend}/drain  lets it finish what it has; no new requests
DELETE /upstreams/{upstream}/backends/{backend}/drain  takes it back in
A POST or DELETE needs Authorization: Bearer with the token of admin.token.
";

/// The answer to a request. That of HEAD is that of GET; the body is left out when it is sent.
pub(super) fn to(
    app: &AdminApp,
    method: &Method,
    path: &str,
    accept: Option<&str>,
) -> Response<Vec<u8>> {
    let page: fn(&AdminApp, Option<&str>) -> Response<Vec<u8>> = match path {
        "/" => |_, _| respond(StatusCode::OK, "text/plain; charset=utf-8", INDEX.into()),
        "/metrics" => scrape,
        "/status" => |app, _| json(StatusCode::OK, &app.status.status()),
        "/health" | "/_health/live" => |_, _| probe(reply::health()),
        "/ready" | "/_health/ready" => |app, _| probe(reply::readiness(&app.lifecycle)),
        _ => return refuse(StatusCode::NOT_FOUND, "not_found", "There is no such page."),
    };
    match *method {
        Method::GET | Method::HEAD => page(app, accept),
        _ => wrong_method(),
    }
}

fn scrape(app: &AdminApp, accept: Option<&str>) -> Response<Vec<u8>> {
    let (content_type, body) = metrics::render(&app.metrics, Format::negotiate(accept));
    respond(StatusCode::OK, content_type, body)
}

fn probe((status, body): (StatusCode, Bytes)) -> Response<Vec<u8>> {
    respond(status, JSON, body.to_vec())
}

fn wrong_method() -> Response<Vec<u8>> {
    let mut response = refuse(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "This page can only be read.",
    );
    let allowed = HeaderValue::from_static("GET, HEAD");
    response.headers_mut().insert(ALLOW, allowed);
    response
}

pub(super) fn refuse(status: StatusCode, error: &str, message: &str) -> Response<Vec<u8>> {
    json(status, &json!({"error": error, "message": message}))
}

pub(super) fn json(status: StatusCode, body: &serde_json::Value) -> Response<Vec<u8>> {
    respond(status, JSON, format!("{body}\n").into_bytes())
}

fn respond(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Vec<u8>> {
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONTENT_LENGTH, length);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use std::sync::Arc;

    use super::super::StatusSource;
    use super::super::control::Call;
    use super::*;
    use crate::lifecycle::{Condition, Lifecycle};
    use crate::metrics::Metrics;

    struct Fixed;

    impl StatusSource for Fixed {
        fn status(&self) -> serde_json::Value {
            json!({"generation": 3})
        }
    }

    fn app() -> AdminApp {
        AdminApp {
            metrics: Arc::new(Metrics::new("gateway")),
            lifecycle: Arc::new(Lifecycle::default()),
            status: Arc::new(Fixed),
            control: None,
        }
    }

    fn get(app: &AdminApp, path: &str) -> (u16, String) {
        let response = to(app, &Method::GET, path, None);
        let status = response.status().as_u16();
        (status, String::from_utf8(response.into_body()).unwrap())
    }

    #[test]
    fn readiness_follows_the_lifecycle_and_health_does_not() {
        let app = app();
        let (status, body) = get(&app, "/ready");
        assert_eq!(status, 503);
        assert!(
            body.contains(
                "\"not_ready\":[\"config\",\"listeners\",\"key_sets\",\"health_checks\"]"
            )
        );
        app.lifecycle.met(Condition::Config);
        app.lifecycle.met(Condition::Listeners);
        app.lifecycle.met(Condition::KeySets);
        app.lifecycle.met(Condition::HealthChecks);
        assert_eq!(get(&app, "/ready").0, 200);
        app.lifecycle.begin_drain();
        assert!(get(&app, "/_health/ready").1.contains("draining"));
        assert_eq!(
            get(&app, "/health"),
            (200, "{\"status\":\"ok\"}\n".to_owned())
        );
    }

    #[test]
    fn metrics_come_in_the_format_asked_for() {
        let app = app();
        let asked = Some("application/openmetrics-text; version=1.0.0");
        let response = to(&app, &Method::GET, "/metrics", asked);
        let content_type = response.headers()[CONTENT_TYPE].to_str().unwrap();
        assert!(content_type.starts_with("application/openmetrics-text; version=1.0.0"));
        assert!(response.body().ends_with(b"# EOF\n"));
        assert!(
            get(&app, "/metrics")
                .1
                .contains("# TYPE gateway_panics_total counter\n")
        );
    }

    #[test]
    fn the_index_names_every_call() {
        let all = [
            (Call::Reload, &["POST"][..]),
            (Call::Maintenance, &["GET", "POST"]),
            (Call::Revocations, &["GET", "POST", "DELETE"]),
            (Call::Circuit, &["GET", "POST"]),
            (Call::Drain, &["POST", "DELETE"]),
        ];
        let mut named = Vec::new();
        for line in INDEX.lines() {
            let mut words = line.split_whitespace();
            if let (Some(method), Some(path)) = (words.next(), words.next())
                && path.starts_with('/')
            {
                named.push((Call::at(path), method));
            }
        }
        let wanted = all
            .iter()
            .flat_map(|(call, methods)| methods.iter().map(|method| (Some(*call), *method)));
        assert_eq!(named, wanted.collect::<Vec<_>>());
    }

    #[test]
    fn status_index_and_refusals() {
        let app = app();
        assert_eq!(
            get(&app, "/status"),
            (200, "{\"generation\":3}\n".to_owned())
        );
        assert!(get(&app, "/").1.contains("/metrics"));
        let (status, body) = get(&app, "/nowhere");
        assert_eq!(status, 404);
        assert!(body.contains("\"error\":\"not_found\""));
        let response = to(&app, &Method::POST, "/status", None);
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()[ALLOW], "GET, HEAD");
        assert_eq!(to(&app, &Method::POST, "/nowhere", None).status(), 404);
    }
}
