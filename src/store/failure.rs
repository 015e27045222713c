//! Why a connection to the store or a command failed, as one of a few kinds.
//!
//! Of what the server says only the code is kept: a message of its own may quote a command.

use std::fmt;
use std::io;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::metrics::RedisError as Kind;

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// As metrics count it.
    pub kind: Kind,
    /// A few words for the log; never of what was sent.
    pub what: String,
}

impl Failure {
    /// Of this kind.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        let what = what.into();
        Self { kind, what }
    }

    /// A connection could not be made.
    pub fn connecting(error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::TimedOut => Kind::Timeout,
            _ => Kind::Connect,
        };
        Self::new(kind, error.to_string())
    }

    /// Whether the server answered with an error of this code, such as `NOSCRIPT`.
    pub fn has_code(&self, code: &str) -> bool {
        self.what == code
    }

    /// Whether it is an answer that somebody who asks has to be ready for: a server that does not know
    /// a script yet, or takes no keys of several slots, or a key that a hand has made something else.
    pub(super) fn is_expected(&self) -> bool {
        let codes = ["NOSCRIPT", "CROSSSLOT", "WRONGTYPE"];
        codes.iter().any(|code| self.has_code(code))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.as_str(), self.what)
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        if error.is_timeout() {
            return Self::new(Kind::Timeout, "no answer in time");
        }
        let kind = match error.kind() {
            ErrorKind::AuthenticationFailed => Kind::Auth,
            ErrorKind::Io => Kind::Io,
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Kind::Protocol,
            ErrorKind::Server(kind) => of_server(kind),
            _ => Kind::Other,
        };
        if kind == Kind::Io {
            return Self::new(kind, error.to_string());
        }
        let category = error.category().to_owned();
        let code = error.code().map(str::to_owned);
        // What made a transaction fail says more than that it did.
        let cause = error.into_server_errors();
        let cause = cause.as_ref().and_then(|errors| errors.first());
        let code = cause.map(|(_, cause)| cause.code().to_owned()).or(code);
        let kind = match code.as_deref() {
            Some(code) if kind == Kind::Other => of_code(code),
            _ => kind,
        };
        Self::new(kind, code.unwrap_or(category))
    }
}

fn of_server(kind: ServerErrorKind) -> Kind {
    match kind {
        ServerErrorKind::NoPerm => Kind::Auth,
        ServerErrorKind::ReadOnly => Kind::ReadOnly,
        ServerErrorKind::BusyLoading => Kind::Loading,
        ServerErrorKind::Moved
        | ServerErrorKind::Ask
        | ServerErrorKind::TryAgain
        | ServerErrorKind::ClusterDown
        | ServerErrorKind::MasterDown
        | ServerErrorKind::CrossSlot => Kind::Cluster,
        _ => Kind::Other,
    }
}

fn of_code(code: &str) -> Kind {
    match code {
        "OOM" => Kind::OutOfMemory,
        "NOAUTH" | "WRONGPASS" | "NOPERM" => Kind::Auth,
        "READONLY" => Kind::ReadOnly,
        "LOADING" => Kind::Loading,
        "MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" | "CROSSSLOT" => Kind::Cluster,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(error: impl Into<RedisError>) -> Kind {
        Failure::from(error.into()).kind
    }

    #[test]
    fn every_failure_has_a_kind() {
        let server = |kind| RedisError::from((ErrorKind::Server(kind), "x"));
        assert_eq!(
            kind(io::Error::from(io::ErrorKind::TimedOut)),
            Kind::Timeout
        );
        assert_eq!(kind(io::Error::from(io::ErrorKind::BrokenPipe)), Kind::Io);
        assert_eq!(kind(server(ServerErrorKind::ReadOnly)), Kind::ReadOnly);
        assert_eq!(kind(server(ServerErrorKind::BusyLoading)), Kind::Loading);
        assert_eq!(kind(server(ServerErrorKind::NoPerm)), Kind::Auth);
        assert_eq!(kind((ErrorKind::AuthenticationFailed, "x")), Kind::Auth);
        assert_eq!(kind((ErrorKind::UnexpectedReturnType, "x")), Kind::Protocol);
        let extension = |code: &str| redis::make_extension_error(code.to_owned(), None);
        assert_eq!(kind(extension("OOM")), Kind::OutOfMemory);
        assert_eq!(kind(extension("WRONGPASS")), Kind::Auth);
        assert_eq!(kind(extension("MISCONF")), Kind::Other);
    }

    #[test]
    fn the_code_of_an_answer_is_kept() {
        let missing = RedisError::from((ErrorKind::Server(ServerErrorKind::NoScript), "x"));
        assert!(Failure::from(missing).has_code("NOSCRIPT"));
        let wrong = redis::make_extension_error("WRONGTYPE".to_owned(), Some("x".to_owned()));
        assert!(Failure::from(wrong).has_code("WRONGTYPE"));
    }

    #[test]
    fn what_the_server_says_is_not_repeated() {
        let said = "unknown command 'hunter2'".to_owned();
        let error = redis::make_extension_error("ERR".to_owned(), Some(said));
        assert!(!Failure::from(error).to_string().contains("hunter2"));
    }
}
