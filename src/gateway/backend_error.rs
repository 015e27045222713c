//! What an error of an attempt says of TLS and of HTTP/2.

use pingora_core::Error;
use pingora_core::ErrorType::{
    H2Downgrade, HandshakeError, InvalidCert, InvalidH2, TLSHandshakeFailure, TLSHandshakeTimedout,
    TLSWantX509Lookup,
};

use super::failure::has_cause;
use crate::metrics::FailureReason;

/// The reason, if TLS or HTTP/2 tells one that other connections do not know.
pub(super) fn reason(error: &Error) -> Option<FailureReason> {
    match error.etype {
        TLSHandshakeFailure | TLSHandshakeTimedout | TLSWantX509Lookup | InvalidCert => {
            Some(FailureReason::Tls)
        }
        HandshakeError | InvalidH2 | H2Downgrade => Some(FailureReason::Protocol),
        _ if has_cause::<rustls::Error>(error) => Some(FailureReason::Tls),
        _ => {
            let error = http2(error)?;
            if is_unprocessed(error) {
                Some(FailureReason::Refused)
            } else if error.is_library() {
                Some(FailureReason::Protocol)
            } else {
                None
            }
        }
    }
}

/// Whether the backend takes its leave of the connection, which says nothing bad of it.
pub(super) fn is_farewell(error: &Error) -> bool {
    http2(error).is_some_and(|error| error.is_go_away() && error.is_remote())
}

/// Whether the backend ended this request alone, and not the connection below it.
pub(super) fn is_of_one_stream(error: &Error) -> bool {
    http2(error).is_some_and(h2::Error::is_reset)
}

/// Whether the backend says that it did nothing with the request (RFC 9113 section 8.7).
///
/// A stream ends with the error of a GOAWAY only when it is beyond the last one that the backend
/// took up; those before it go on.
fn is_unprocessed(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}

fn http2(error: &Error) -> Option<&h2::Error> {
    let mut error = error;
    loop {
        let cause = error.cause.as_deref()?;
        match cause.downcast_ref::<Box<Error>>() {
            Some(inner) => error = inner,
            None => return cause.downcast_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pingora_core::ErrorType::{ConnectTimedout, H2Error, ReadError};

    fn error(reason: h2::Reason) -> Box<Error> {
        Error::because(H2Error, "in a test", h2::Error::from(reason))
    }

    #[test]
    fn what_is_no_word_of_the_backend_is_not_taken_for_one() {
        // Made here, so not said by the other side.
        let own = error(h2::Reason::REFUSED_STREAM);
        assert_eq!(reason(&own), None);
        assert!(!is_farewell(&own) && !is_of_one_stream(&own));
        assert_eq!(reason(&Error::new(ReadError)), None);
        assert_eq!(reason(&Error::new(ConnectTimedout)), None);
    }

    #[test]
    fn failed_handshakes_have_a_reason_of_their_own() {
        assert_eq!(
            reason(&Error::new(TLSHandshakeFailure)),
            Some(FailureReason::Tls)
        );
        assert_eq!(reason(&Error::new(InvalidCert)), Some(FailureReason::Tls));
        assert_eq!(
            reason(&Error::new(HandshakeError)),
            Some(FailureReason::Protocol)
        );
    }
}
