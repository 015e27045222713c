//! What a request may be sent again for, as it is written: a word or a status.

use std::fmt;

use super::problem::{Invalid, quote};
use super::units;

/// One thing that a request is sent again for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No connection could be made.
    ConnectFailure,
    /// The backend gave the request back undone (HTTP/2).
    RefusedStream,
    /// The connection broke, or something else than HTTP came, before the response.
    Reset,
    /// The response did not begin in time.
    Timeout,
    /// A response with a status from the one to the other.
    Statuses(u16, u16),
    /// A call that ended with this code at once (gRPC).
    Call(u8),
}

/// Codes of gRPC that speak of a passing trouble
/// (<https://github.com/grpc/grpc/blob/master/doc/statuscodes.md>).
const CALLS: [(&str, u8); 6] = [
    ("grpc_cancelled", 1),
    ("grpc_deadline_exceeded", 4),
    ("grpc_resource_exhausted", 8),
    ("grpc_aborted", 10),
    ("grpc_internal", 13),
    ("grpc_unavailable", 14),
];

/// Statuses of which another backend, or another moment, may know better (RFC 9110 section 15).
fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 409 | 425 | 429 | 500..=599)
}

/// Reads a word or a status.
pub(super) fn parse(text: &str) -> Result<Cause, Invalid> {
    let text = text.trim();
    Ok(match text {
        "connect_failure" => Cause::ConnectFailure,
        "refused_stream" => Cause::RefusedStream,
        "reset" => Cause::Reset,
        "timeout" => Cause::Timeout,
        _ => {
            let call = CALLS.iter().find(|(word, _)| *word == text);
            match (call, statuses(text)) {
                (Some((_, code)), _) => Cause::Call(*code),
                (None, Some((first, last))) => Cause::Statuses(first, last),
                (None, None) => return Err(unknown(text)),
            }
        }
    })
}

/// A status or a range of them.
fn statuses(text: &str) -> Option<(u16, u16)> {
    let (first, last) = units::statuses(text).ok()?;
    (first..=last).all(is_passing).then_some((first, last))
}

fn unknown(text: &str) -> Invalid {
    let calls = CALLS.map(|(word, _)| word).join("`, `");
    Invalid::new(
        format!("{} is nothing to retry for", quote(text)),
        format!(
            "`connect_failure`, `refused_stream`, `reset`, `timeout`, a status or range of 408, 409, \
             425, 429 and 500 to 599 such as `502-504`, or `{calls}`"
        ),
    )
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConnectFailure => f.write_str("connect_failure"),
            Self::RefusedStream => f.write_str("refused_stream"),
            Self::Reset => f.write_str("reset"),
            Self::Timeout => f.write_str("timeout"),
            Self::Statuses(first, last) => f.write_str(&units::show_statuses(&(*first, *last))),
            Self::Call(code) => {
                let call = CALLS.iter().find(|(_, known)| known == code);
                f.write_str(call.map_or("", |(word, _)| word))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for text in [
            "connect_failure",
            "refused_stream",
            "reset",
            "timeout",
            "502-504",
            "503",
            "429",
            "grpc_unavailable",
        ] {
            assert_eq!(
                parse(text).map(|cause| cause.to_string()).ok().as_deref(),
                Some(text)
            );
        }
    }

    #[test]
    fn answers_that_stay_the_same_are_nothing_to_retry_for() {
        for text in [
            "200", "404", "408-429", "600", "504-502", "5xx", "", "grpc_ok", "always",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
