//! Why a client is not let in, and how it is told.
//!
//! 401 says that it has to prove who it is, 403 that it may not, 503 that nobody can say now.

use std::sync::Arc;

use http::{HeaderValue, StatusCode};

use crate::metrics::AuthError;

/// A client that is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthRefusal {
    /// Why.
    pub error: AuthError,
    /// The values of `WWW-Authenticate` for whoever showed nothing.
    pub challenges: Arc<[HeaderValue]>,
    /// The scopes that the route asks for, with spaces between them; for the challenge of 403.
    pub scope: Option<Arc<str>>,
}

/// The value of `WWW-Authenticate` begins so where tokens are taken.
const BEARER: &[u8] = b"Bearer ";

impl AuthRefusal {
    /// The status.
    pub fn status(&self) -> StatusCode {
        match self.error {
            AuthError::InsufficientScope
            | AuthError::InsufficientRole
            | AuthError::ClaimMismatch => StatusCode::FORBIDDEN,
            AuthError::ProviderUnavailable | AuthError::Overloaded => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// The `error` of the body and the `reason` of the metric.
    pub(super) fn kind(&self) -> Kind {
        match self.status() {
            StatusCode::FORBIDDEN => Kind::Forbidden,
            StatusCode::SERVICE_UNAVAILABLE => Kind::Unavailable,
            _ => Kind::Unauthorized,
        }
    }

    /// A sentence that says no more than whoever holds the credential knows.
    pub(super) fn sentence(&self) -> &'static str {
        match self.error {
            AuthError::Missing => "Authentication is required.",
            AuthError::Ambiguous => "The request has more than one credential.",
            AuthError::Malformed => "The credential is malformed.",
            AuthError::TooLarge => "The credential is too long.",
            AuthError::Expired => "The credential has expired.",
            AuthError::NotYetValid => "The credential is not valid yet.",
            AuthError::Revoked => "The credential was revoked.",
            AuthError::UnsupportedAlgorithm
            | AuthError::BadSignature
            | AuthError::WrongIssuer
            | AuthError::WrongAudience
            | AuthError::WrongType
            | AuthError::MissingClaim
            | AuthError::UnknownKey
            | AuthError::WrongPassword
            | AuthError::WrongCertificate => "The credential is not accepted.",
            AuthError::InsufficientScope => "The credential lacks a scope.",
            AuthError::InsufficientRole | AuthError::ClaimMismatch => "This is not allowed.",
            AuthError::ProviderUnavailable => "The credential cannot be checked now.",
            AuthError::Overloaded => "There is too much to check now.",
        }
    }

    /// The values of `WWW-Authenticate` (RFC 9110 section 11.6.1); where tokens are taken, with what is
    /// wrong with the one that was shown (RFC 6750 section 3).
    pub(super) fn challenges(&self) -> Vec<HeaderValue> {
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            return Vec::new();
        }
        let detailed = |challenge: &HeaderValue| {
            if !challenge.as_bytes().starts_with(BEARER) {
                return challenge.clone();
            }
            self.detail(challenge).unwrap_or_else(|| challenge.clone())
        };
        self.challenges.iter().map(detailed).collect()
    }

    fn detail(&self, challenge: &HeaderValue) -> Option<HeaderValue> {
        let code = match (self.error, self.status()) {
            // RFC 6750 section 3.1: who showed nothing is told nothing more.
            (AuthError::Missing, _) => return None,
            (AuthError::Ambiguous, _) => "invalid_request",
            (_, StatusCode::FORBIDDEN) => "insufficient_scope",
            _ => "invalid_token",
        };
        let (begin, sentence) = (challenge.to_str().ok()?, self.sentence());
        let mut value = format!("{begin}, error=\"{code}\", error_description=\"{sentence}\"");
        if let (AuthError::InsufficientScope, Some(scope)) = (self.error, &self.scope) {
            value.push_str(&format!(", scope=\"{scope}\""));
        }
        HeaderValue::try_from(value).ok()
    }
}

/// The three ways of not being let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// 401
    Unauthorized,
    /// 403
    Forbidden,
    /// 503
    Unavailable,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

    use super::*;

    fn refusal(error: AuthError) -> AuthRefusal {
        let challenges = ["Bearer realm=\"g\"", "Basic realm=\"g\""];
        AuthRefusal {
            error,
            challenges: challenges.map(HeaderValue::from_static).into(),
            scope: Some("a b".into()),
        }
    }

    fn challenge(error: AuthError) -> String {
        let values = refusal(error).challenges();
        let values: Vec<_> = values.iter().map(|value| value.to_str().unwrap()).collect();
        values.join(" | ")
    }

    #[test]
    fn whoever_showed_nothing_is_told_how_to_and_no_more() {
        let told = "Bearer realm=\"g\" | Basic realm=\"g\"";
        assert_eq!(challenge(AuthError::Missing), told);
        assert_eq!(refusal(AuthError::Missing).status(), 401);
    }

    #[test]
    fn a_bad_token_is_told_apart_from_one_that_may_not() {
        assert_eq!(
            challenge(AuthError::Expired),
            "Bearer realm=\"g\", error=\"invalid_token\", \
             error_description=\"The credential has expired.\" | Basic realm=\"g\""
        );
        let told = challenge(AuthError::InsufficientScope);
        assert!(told.contains("error=\"insufficient_scope\""), "{told}");
        assert!(told.contains("scope=\"a b\""), "{told}");
        assert!(challenge(AuthError::Ambiguous).contains("invalid_request"));
        assert_eq!(refusal(AuthError::InsufficientScope).status(), 403);
    }

    #[test]
    fn what_cannot_be_judged_is_no_fault_of_the_client() {
        let refusal = refusal(AuthError::ProviderUnavailable);
        assert_eq!(refusal.status(), 503);
        assert!(refusal.challenges().is_empty());
    }
}
