//! Why an attempt at a backend failed: what an error of any layer says of it.

use std::error::Error as StdError;
use std::io;

use pingora_core::Error;
use pingora_core::ErrorType::{
    BindError, ConnectError, ConnectNoRoute, ConnectRefused, ConnectTimedout, H2Downgrade,
    HandshakeError, InternalError, InvalidCert, InvalidH2, InvalidHTTPHeader, SocketError,
    TLSHandshakeFailure, TLSHandshakeTimedout, TLSWantX509Lookup,
};

use super::answer::Malformed;
use crate::metrics::FailureReason;

/// An attempt that failed by the backend's fault.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub reason: FailureReason,
    /// The backend takes its leave of the connection, which says nothing bad of it.
    pub is_farewell: bool,
    /// It ended this request alone, and not the connection below.
    pub is_of_one_stream: bool,
    /// What is known beyond that.
    pub detail: Option<Box<dyn StdError + Send + Sync>>,
}

impl Failed {
    /// For this reason, and no more to say.
    pub fn new(reason: FailureReason) -> Self {
        Self {
            reason,
            is_farewell: false,
            is_of_one_stream: false,
            detail: None,
        }
    }

    /// It is not the HTTP that it should be.
    pub fn protocol(detail: &'static str) -> Self {
        Malformed(detail).into()
    }

    /// As it is to be understood when the response had begun.
    pub fn in_body(mut self) -> Self {
        self.reason = match self.reason {
            FailureReason::Timeout | FailureReason::TimeoutInBody => FailureReason::TimeoutInBody,
            _ => FailureReason::ResetInBody,
        };
        self
    }

    /// No connection came about, or no stream on one.
    pub fn connecting(error: Box<Error>) -> Self {
        let http2 = http2_cause(&error).map(Self::of_http2);
        let reason = match error.etype {
            TLSHandshakeFailure | TLSHandshakeTimedout | TLSWantX509Lookup | InvalidCert => {
                FailureReason::Tls
            }
            HandshakeError | InvalidH2 | H2Downgrade | InvalidHTTPHeader => FailureReason::Protocol,
            ConnectTimedout => FailureReason::ConnectTimeout,
            ConnectRefused | ConnectNoRoute | ConnectError | SocketError | BindError
            | InternalError => FailureReason::Connect,
            _ if has_rustls_cause(&error) => FailureReason::Tls,
            _ => match http2 {
                Some(failed) => return failed,
                None => FailureReason::Reset,
            },
        };
        Self {
            detail: Some(error),
            ..Self::new(reason)
        }
    }

    /// A stream of HTTP/2 failed.
    pub fn http2(error: h2::Error) -> Self {
        Self {
            detail: None,
            ..Self::of_http2(&error)
        }
    }

    fn of_http2(error: &h2::Error) -> Self {
        let reason = if is_unprocessed(error) {
            FailureReason::Refused
        } else if error.get_io().is_some_and(is_tls) {
            FailureReason::Tls
        } else if error.is_library() || error.reason() == Some(h2::Reason::HTTP_1_1_REQUIRED) {
            FailureReason::Protocol
        } else {
            FailureReason::Reset
        };
        Self {
            is_farewell: error.is_go_away() && error.is_remote(),
            is_of_one_stream: error.is_reset(),
            ..Self::new(reason)
        }
    }
}

impl From<Malformed> for Failed {
    fn from(error: Malformed) -> Self {
        Self {
            detail: Some(Box::new(error)),
            ..Self::new(FailureReason::Protocol)
        }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        let reason = match error.kind() {
            _ if is_tls(&error) => FailureReason::Tls,
            io::ErrorKind::InvalidData => FailureReason::Protocol,
            _ => FailureReason::Reset,
        };
        Self {
            detail: Some(Box::new(error)),
            ..Self::new(reason)
        }
    }
}

/// Whether the other side refused the connection that TLS had made, as it does with version 1.3 when
/// it wants another certificate.
fn is_tls(error: &io::Error) -> bool {
    let inner = error.get_ref();
    inner.is_some_and(|inner| inner.is::<rustls::Error>())
}

/// Whether the backend says that it did nothing with the request (RFC 9113 section 8.7).
///
/// A stream ends with the error of a GOAWAY only when it is beyond the last one that the backend
/// took up; those before it go on.
fn is_unprocessed(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}

fn http2_cause(error: &Error) -> Option<&h2::Error> {
    let mut error = error;
    loop {
        let cause = error.cause.as_deref()?;
        match cause.downcast_ref::<Box<Error>>() {
            Some(inner) => error = inner,
            None => return cause.downcast_ref(),
        }
    }
}

fn has_rustls_cause(error: &Error) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = match &error.cause {
        Some(cause) => Some(cause.as_ref()),
        None => None,
    };
    while let Some(error) = cause {
        let inner = error.downcast_ref::<io::Error>();
        if error.is::<rustls::Error>() || inner.is_some_and(is_tls) {
            return true;
        }
        cause = match error.downcast_ref::<Box<Error>>() {
            Some(error) => error.cause.as_deref().map(|cause| cause as _),
            None => error.source(),
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use pingora_core::ErrorType::{H2Error, ReadError};

    #[test]
    fn what_is_no_word_of_the_backend_is_not_taken_for_one() {
        // Made here, so not said by the other side.
        let own = Failed::http2(h2::Error::from(h2::Reason::REFUSED_STREAM));
        assert_ne!(own.reason, FailureReason::Refused);
        assert!(!own.is_farewell && !own.is_of_one_stream);
        let wrapped = h2::Error::from(h2::Reason::REFUSED_STREAM);
        let wrapped = Failed::connecting(Error::because(H2Error, "in a test", wrapped));
        assert_ne!(wrapped.reason, FailureReason::Refused);
    }

    #[test]
    fn failed_handshakes_have_a_reason_of_their_own() {
        for (etype, reason) in [
            (TLSHandshakeFailure, FailureReason::Tls),
            (InvalidCert, FailureReason::Tls),
            (HandshakeError, FailureReason::Protocol),
            (ConnectTimedout, FailureReason::ConnectTimeout),
            (ConnectRefused, FailureReason::Connect),
            (ReadError, FailureReason::Reset),
        ] {
            assert_eq!(Failed::connecting(Error::new(etype)).reason, reason);
        }
    }

    #[test]
    fn what_fails_behind_the_header_fails_in_the_body() {
        let in_body = |reason| Failed::new(reason).in_body().reason;
        assert_eq!(
            in_body(FailureReason::Timeout),
            FailureReason::TimeoutInBody
        );
        assert_eq!(in_body(FailureReason::Protocol), FailureReason::ResetInBody);
    }
}
