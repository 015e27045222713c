//! The heads of requests and responses, as everybody between client and backend sees them.

use bytes::Bytes;
use http::header::IntoHeaderName;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};

/// Room for the fields of an answer of the gateway's own.
const FEW: usize = 8;

/// What a client asks for; the target is the gate's.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The version that the client speaks.
    pub version: Version,
    /// The fields.
    pub headers: HeaderMap,
}

/// The head of a response.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The words behind the status, where a backend has its own.
    pub reason: Option<Bytes>,
    /// The fields. How the body is framed is left to who writes it, but for its length.
    pub headers: HeaderMap,
}

impl Response {
    /// With no fields yet.
    pub fn new(status: StatusCode) -> Self {
        Self {
            status,
            reason: None,
            headers: HeaderMap::with_capacity(FEW),
        }
    }

    /// Puts one field in the place of all of this name.
    pub fn insert(&mut self, name: impl IntoHeaderName, value: HeaderValue) {
        self.headers.insert(name, value);
    }

    /// Whether there is a final response behind it.
    pub fn is_interim(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }

    /// Whether it has no body, whatever its fields say (RFC 9110 section 6.4.1).
    pub fn is_bodiless(&self, method: &Method) -> bool {
        *method == Method::HEAD
            || self.status.is_informational()
            || matches!(
                self.status,
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            )
    }
}
