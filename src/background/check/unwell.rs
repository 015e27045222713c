//! What is wrong with a backend, in few words.

use std::fmt;

use pingora_core::ErrorType as Kind;

/// Why a probe failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::background) enum Unwell {
    /// Nobody listens.
    Refused,
    /// It took too long.
    Late,
    /// The TLS handshake failed; how.
    Tls(String),
    /// The connection ended before the answer did.
    Closed,
    /// Another status than those expected.
    Status(u16),
    /// The body does not have the text that it must have.
    Body,
    /// It says itself that it is not serving; the number of its state.
    NotServing(u64),
    /// The call failed; its `grpc-status`.
    Call(u16),
    /// The answer cannot be understood; what of it.
    Garbled(&'static str),
    /// Anything else that keeps a connection from coming about or going on.
    Other(String),
}

impl From<Box<pingora_core::Error>> for Unwell {
    fn from(error: Box<pingora_core::Error>) -> Self {
        match error.etype {
            Kind::ConnectRefused => Self::Refused,
            Kind::ConnectTimedout
            | Kind::TLSHandshakeTimedout
            | Kind::ReadTimedout
            | Kind::WriteTimedout => Self::Late,
            Kind::TLSHandshakeFailure | Kind::InvalidCert => Self::Tls(error.to_string()),
            Kind::ConnectionClosed | Kind::ReadError | Kind::WriteError => Self::Closed,
            Kind::InvalidHTTPHeader => Self::Garbled("header"),
            _ => Self::Other(error.to_string()),
        }
    }
}

impl fmt::Display for Unwell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Late => f.write_str("no answer in time"),
            Self::Tls(what) => write!(f, "TLS: {what}"),
            Self::Closed => f.write_str("connection closed before the answer ended"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Body => f.write_str("the body has not the expected text"),
            Self::NotServing(state) => {
                // The states of grpc.health.v1.HealthCheckResponse.
                let name = match state {
                    0 => "UNKNOWN",
                    2 => "NOT_SERVING",
                    3 => "SERVICE_UNKNOWN",
                    _ => "of no known name",
                };
                write!(f, "gRPC state {state} ({name})")
            }
            Self::Call(status) => write!(f, "grpc-status {status}"),
            Self::Garbled(what) => write!(f, "{what} of the answer cannot be understood"),
            Self::Other(what) => f.write_str(what),
        }
    }
}
