//! What the gateway refuses by itself, and the response that says so.
//!
//! A [`Rejection`] decides status, label and message in one place. Labels are constants: they are
//! the `error` of the body, the `error_type` of the access log and the `reason` of the metric.

mod auth;
mod cors;
mod limit;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};

use self::auth::Kind;
use crate::grpc;
use crate::lifecycle::Lifecycle;
use crate::message::Response;

pub use self::auth::AuthRefusal;
pub use self::cors::CorsError;
pub use self::limit::LimitRefusal;

/// Tells the client what its request is called.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The request breaks the grammar of HTTP; the part that does.
    BadRequest(&'static str),
    /// The body breaks the grammar of its encoding.
    MalformedBody,
    /// The header is larger than allowed.
    HeaderTooLarge,
    /// The request target is longer than allowed.
    UriTooLong,
    /// A version that is not spoken.
    VersionNotSupported,
    /// An `Expect` other than `100-continue`.
    ExpectationFailed,
    /// Header or body did not arrive in time.
    RequestTimeout,
    /// The body is larger than the route allows.
    BodyTooLarge,
    /// The host does not belong to the certificate of the connection.
    Misdirected,
    /// No route matches.
    NotFound,
    /// Routes match but for their methods; the value of `Allow`.
    MethodNotAllowed(HeaderValue),
    /// Every backend is out of service.
    NoHealthyBackend,
    /// The circuit to the upstream is open; seconds after which trying again makes sense.
    CircuitOpen(u64),
    /// The backend could not be reached or did not speak HTTP.
    BadGateway,
    /// The backend did not answer in time.
    GatewayTimeout,
    /// The time that the client itself allowed is over.
    DeadlineExceeded,
    /// The time that the route allows a request as a whole is over.
    TotalTimeout,
    /// A fault of the gateway itself.
    Internal,
    /// The operators work on what is behind it; what they say about it.
    Maintenance(Arc<Notice>),
    /// The client's address is not let in.
    IpDenied,
    /// A web page of another origin may not call.
    CorsDenied(CorsError),
    /// Too many requests of all clients together are in flight.
    Overloaded,
    /// The client has too many requests in flight.
    TooManyConcurrent,
    /// The client has not proved who it is, or may not do this.
    Auth(AuthRefusal),
    /// There were too many requests like this.
    RateLimited(LimitRefusal),
    /// Nobody can say whether there were too many.
    RateLimitUnavailable,
}

const MAINTENANCE: &str = "The service is down for maintenance.";

/// What operators tell clients in their own words, and when to come back.
#[derive(Debug, PartialEq, Eq)]
pub struct Notice {
    /// Seconds, as a header says them.
    retry_after: HeaderValue,
    /// Ready to be put between the quotes of a JSON string.
    message: String,
}

impl Notice {
    /// With this message, or the usual one.
    pub fn new(seconds: u64, message: Option<&str>) -> Self {
        let message = message.unwrap_or(MAINTENANCE);
        let quoted = serde_json::Value::from(message).to_string();
        Self {
            retry_after: HeaderValue::from(seconds),
            message: quoted[1..quoted.len() - 1].to_owned(),
        }
    }
}

/// Every label, for metrics that resolve their handles beforehand.
pub const LABELS: [&str; 28] = [
    "bad_request",
    "malformed_body",
    "header_too_large",
    "uri_too_long",
    "version_not_supported",
    "expectation_failed",
    "request_timeout",
    "body_too_large",
    "not_found",
    "method_not_allowed",
    "no_healthy_backend",
    "bad_gateway",
    "gateway_timeout",
    "internal",
    "misdirected_request",
    "deadline_exceeded",
    "maintenance",
    "unauthorized",
    "forbidden",
    "auth_unavailable",
    "rate_limited",
    "rate_limit_unavailable",
    "ip_denied",
    "cors_denied",
    "overloaded",
    "too_many_concurrent",
    "circuit_open",
    "total_timeout",
];

impl Rejection {
    /// Its place in [`LABELS`].
    pub fn index(&self) -> usize {
        match self {
            Self::BadRequest(_) => 0,
            Self::MalformedBody => 1,
            Self::HeaderTooLarge => 2,
            Self::UriTooLong => 3,
            Self::VersionNotSupported => 4,
            Self::ExpectationFailed => 5,
            Self::RequestTimeout => 6,
            Self::BodyTooLarge => 7,
            Self::NotFound => 8,
            Self::MethodNotAllowed(_) => 9,
            Self::NoHealthyBackend => 10,
            Self::BadGateway => 11,
            Self::GatewayTimeout => 12,
            Self::Internal => 13,
            Self::Misdirected => 14,
            Self::DeadlineExceeded => 15,
            Self::Maintenance(_) => 16,
            Self::Auth(refusal) => match refusal.kind() {
                Kind::Unauthorized => 17,
                Kind::Forbidden => 18,
                Kind::Unavailable => 19,
            },
            Self::RateLimited(_) => 20,
            Self::RateLimitUnavailable => 21,
            Self::IpDenied => 22,
            Self::CorsDenied(_) => 23,
            Self::Overloaded => 24,
            Self::TooManyConcurrent => 25,
            Self::CircuitOpen(_) => 26,
            Self::TotalTimeout => 27,
        }
    }

    /// The constant that names it in bodies, logs and metrics.
    pub fn label(&self) -> &'static str {
        LABELS[self.index()]
    }

    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::MalformedBody => StatusCode::BAD_REQUEST,
            Self::HeaderTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::VersionNotSupported => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::ExpectationFailed => StatusCode::EXPECTATION_FAILED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoHealthyBackend
            | Self::CircuitOpen(_)
            | Self::Maintenance(_)
            | Self::RateLimitUnavailable
            | Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::RateLimited(_) | Self::TooManyConcurrent => StatusCode::TOO_MANY_REQUESTS,
            Self::BadGateway => StatusCode::BAD_GATEWAY,
            Self::GatewayTimeout | Self::DeadlineExceeded | Self::TotalTimeout => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::IpDenied | Self::CorsDenied(_) => StatusCode::FORBIDDEN,
            Self::Auth(refusal) => refusal.status(),
        }
    }

    /// A sentence for the person who sees the response, in the operators' words if they have any.
    fn message(&self) -> &str {
        match self {
            Self::Maintenance(notice) => &notice.message,
            _ => self.sentence(),
        }
    }

    /// The usual sentence.
    fn sentence(&self) -> &'static str {
        match self {
            Self::BadRequest(part) => match *part {
                "host" => "The Host header is missing, repeated or malformed.",
                "request target" => "The request target is malformed.",
                "content-length" => "The Content-Length is repeated or malformed.",
                "transfer-encoding" => "The Transfer-Encoding is not supported as sent.",
                _ => "The request is malformed.",
            },
            Self::MalformedBody => "The request body is malformed.",
            Self::HeaderTooLarge => "The request header is too large.",
            Self::UriTooLong => "The request target is too long.",
            Self::VersionNotSupported => "This HTTP version is not supported.",
            Self::ExpectationFailed => "The expectation is not supported.",
            Self::RequestTimeout => "The request did not arrive in time.",
            Self::BodyTooLarge => "The request body is too large.",
            Self::Misdirected => "This host needs a connection of its own.",
            Self::NotFound => "There is nothing at this address.",
            Self::MethodNotAllowed(_) => "This address does not support the method.",
            Self::NoHealthyBackend | Self::CircuitOpen(_) => "The service is unavailable.",
            Self::BadGateway => "The service could not be reached.",
            Self::GatewayTimeout => "The service did not answer in time.",
            Self::DeadlineExceeded => "The time allowed for the request is over.",
            Self::TotalTimeout => "The request took too long.",
            Self::Internal => "Something went wrong.",
            Self::Maintenance(_) => MAINTENANCE,
            Self::IpDenied => "Access from this address is denied.",
            Self::CorsDenied(why) => why.sentence(),
            Self::Overloaded => "There is too much to do at the moment.",
            Self::TooManyConcurrent => "Too many requests at the same time.",
            Self::Auth(refusal) => refusal.sentence(),
            Self::RateLimited(_) => "There are too many requests.",
            Self::RateLimitUnavailable => "The service cannot count requests now.",
        }
    }

    /// Seconds after which trying again makes sense.
    fn retry_after(&self) -> Option<HeaderValue> {
        match self {
            Self::NoHealthyBackend => Some(HeaderValue::from_static("5")),
            Self::CircuitOpen(seconds) => Some(HeaderValue::from(*seconds)),
            Self::Maintenance(notice) => Some(notice.retry_after.clone()),
            Self::Overloaded | Self::TooManyConcurrent => Some(HeaderValue::from_static("1")),
            Self::Auth(refusal) if refusal.kind() == Kind::Unavailable => {
                Some(HeaderValue::from_static("1"))
            }
            Self::RateLimited(refusal) => Some(refusal.retry_after()),
            Self::RateLimitUnavailable => Some(HeaderValue::from_static("1")),
            _ => None,
        }
    }

    /// Why in particular, in a word of a closed set.
    fn error_type(&self) -> Option<&'static str> {
        match self {
            Self::Auth(refusal) => Some(refusal.error.as_str()),
            Self::CorsDenied(why) => Some(why.as_str()),
            _ => None,
        }
    }

    /// The `error_type` of the access log.
    pub fn log_label(&self) -> &'static str {
        self.error_type().unwrap_or_else(|| self.label())
    }

    /// The body: RFC 9457 when `problem` is asked for, the plain form otherwise.
    ///
    /// Labels and messages are constants without anything that JSON would have to escape, and so
    /// are request ids; an operator's message is escaped already.
    fn body(&self, request_id: &str, problem: bool) -> String {
        let (label, message) = (self.label(), self.message());
        let detail = match (self, self.error_type()) {
            (Self::RateLimited(refusal), _) => format!(r#","policy":"{}""#, refusal.policy),
            (_, Some(error_type)) => format!(r#","error_type":"{error_type}""#),
            (_, None) => String::new(),
        };
        if problem {
            let status = self.status();
            let title = status.canonical_reason().unwrap_or("Error");
            format!(
                r#"{{"type":"about:blank","title":"{title}","status":{},"detail":"{message}","error":"{label}"{detail},"request_id":"{request_id}"}}"#,
                status.as_u16()
            )
        } else {
            format!(
                r#"{{"error":"{label}"{detail},"message":"{message}","request_id":"{request_id}"}}"#
            )
        }
    }

    /// The whole response as bytes, for a connection on which no request could be read.
    ///
    /// The connection is closed behind it.
    pub fn to_bytes(&self, request_id: &str) -> Bytes {
        let body = self.body(request_id, false);
        let status = self.status();
        let reason = status.canonical_reason().unwrap_or("Error");
        let mut response = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             x-request-id: {request_id}\r\nCache-Control: no-store\r\nConnection: close\r\n",
            status.as_u16(),
            body.len(),
        );
        if let Self::MethodNotAllowed(allow) = self {
            let allow = allow.to_str().unwrap_or_default();
            response.push_str(&format!("Allow: {allow}\r\n"));
        }
        response.push_str("\r\n");
        response.push_str(&body);
        Bytes::from(response)
    }

    fn head(&self, request_id: &str, problem: bool, length: usize) -> Response {
        let mut head = Response::new(self.status());
        let content_type = if problem {
            "application/problem+json"
        } else {
            "application/json"
        };
        head.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        head.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        head.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        head.insert(REQUEST_ID, id_value(request_id));
        if let Self::MethodNotAllowed(allow) = self {
            head.insert(header::ALLOW, allow.clone());
        }
        if let Self::Auth(refusal) = self {
            for challenge in refusal.challenges() {
                head.headers.append(header::WWW_AUTHENTICATE, challenge);
            }
        }
        head
    }
}

/// A request's identifier as a field has it.
pub fn id_value(request_id: &str) -> HeaderValue {
    // It holds nothing that a header may not.
    HeaderValue::from_str(request_id).unwrap_or(HeaderValue::from_static("-"))
}

impl Rejection {
    /// The head and body that answer a request with these fields in this version.
    pub fn response(
        &self,
        headers: &HeaderMap,
        version: Version,
        request_id: &str,
    ) -> (Response, Bytes) {
        let (mut head, body) = match version == Version::HTTP_2 && grpc::is_call(headers) {
            true => (self.to_call(request_id), String::new()),
            false => {
                let problem = wants_problem(headers);
                let body = self.body(request_id, problem);
                (self.head(request_id, problem, body.len()), body)
            }
        };
        if let Some(seconds) = self.retry_after() {
            head.insert(header::RETRY_AFTER, seconds);
        }
        (head, Bytes::from(body))
    }

    /// The code that a gRPC client is told.
    pub fn grpc_code(&self) -> u8 {
        match self {
            Self::DeadlineExceeded | Self::TotalTimeout => grpc::DEADLINE_EXCEEDED,
            Self::RateLimited(_) | Self::TooManyConcurrent => grpc::RESOURCE_EXHAUSTED,
            _ => grpc::code_of(self.status()),
        }
    }

    /// Status and message as trailers of a call.
    pub fn to_trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(2);
        trailers.insert(grpc::STATUS, HeaderValue::from(u16::from(self.grpc_code())));
        // A constant of visible ASCII and spaces, without a percent sign.
        trailers.insert(grpc::MESSAGE, HeaderValue::from_static(self.sentence()));
        trailers
    }

    /// A response that consists of trailers alone, as gRPC has it for calls that fail at once.
    fn to_call(&self, request_id: &str) -> Response {
        let mut head = Response::new(StatusCode::OK);
        head.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        head.headers.extend(self.to_trailers());
        head.insert(REQUEST_ID, id_value(request_id));
        head
    }
}

/// The answer to a liveness probe: the process lives, or nobody would answer.
pub fn health() -> (StatusCode, Bytes) {
    (StatusCode::OK, Bytes::from_static(b"{\"status\":\"ok\"}\n"))
}

/// The answer to a readiness probe, with what is not ready.
pub fn readiness(lifecycle: &Lifecycle) -> (StatusCode, Bytes) {
    let reasons = lifecycle.not_ready_reasons();
    let (status, word) = if reasons.is_empty() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not_ready")
    };
    let body = serde_json::json!({ "status": word, "not_ready": reasons });
    (status, Bytes::from(format!("{body}\n")))
}

/// Whether the client asks for RFC 9457.
fn wants_problem(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|value| memchr::memmem::find(value.as_bytes(), b"application/problem+json").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::AuthError;

    fn auth(error: AuthError) -> Rejection {
        Rejection::Auth(AuthRefusal {
            error,
            challenges: Arc::new([]),
            scope: None,
        })
    }

    #[test]
    fn labels_agree_with_their_index() {
        let every = [
            Rejection::BadRequest("x"),
            Rejection::MalformedBody,
            Rejection::HeaderTooLarge,
            Rejection::UriTooLong,
            Rejection::VersionNotSupported,
            Rejection::ExpectationFailed,
            Rejection::RequestTimeout,
            Rejection::BodyTooLarge,
            Rejection::NotFound,
            Rejection::MethodNotAllowed(HeaderValue::from_static("GET")),
            Rejection::NoHealthyBackend,
            Rejection::BadGateway,
            Rejection::GatewayTimeout,
            Rejection::Internal,
            Rejection::Misdirected,
            Rejection::DeadlineExceeded,
            Rejection::Maintenance(Arc::new(Notice::new(60, Some("Back at \"noon\"\n")))),
            auth(AuthError::Missing),
            auth(AuthError::InsufficientScope),
            auth(AuthError::ProviderUnavailable),
            Rejection::RateLimited(LimitRefusal {
                policy: "per-client".into(),
                retry_after: 0,
            }),
            Rejection::RateLimitUnavailable,
            Rejection::IpDenied,
            Rejection::CorsDenied(CorsError::Origin),
            Rejection::Overloaded,
            Rejection::TooManyConcurrent,
            Rejection::CircuitOpen(30),
        ];
        for (index, rejection) in every.iter().enumerate() {
            assert_eq!(rejection.index(), index);
            for problem in [false, true] {
                let body = rejection.body("id", problem);
                let json: serde_json::Value =
                    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{body}: {error}"));
                assert_eq!(json["error"], LABELS[index]);
                assert_eq!(json["request_id"], "id");
            }
        }
    }

    #[test]
    fn raw_refusals_are_whole_responses() {
        let bytes = Rejection::BadRequest("host").to_bytes("id");
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        assert!(head.contains("Connection: close"));
    }

    #[test]
    fn problem_details_are_for_those_who_ask() {
        let mut headers = HeaderMap::new();
        assert!(!wants_problem(&headers));
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/html"));
        headers.append(
            header::ACCEPT,
            HeaderValue::from_static("application/problem+json, */*;q=0.1"),
        );
        assert!(wants_problem(&headers));
    }
}
