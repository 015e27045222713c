//! Why a token is refused: a closed set, told to operators and never in detail to clients.

use std::borrow::Cow;

use crate::metrics::AuthError;

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is larger than is read at all.
    #[error("the token is too large")]
    TooLarge,
    /// It is no signed token as RFC 7515 and RFC 7519 describe it, or asks for what is not done.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// Its algorithm is unknown, not the provider's, or not one of its key.
    #[error("the token's algorithm is not accepted")]
    UnsupportedAlgorithm,
    /// No key has signed it.
    #[error("the token's signature is wrong")]
    BadSignature,
    /// It names a key that the provider does not have, or not yet.
    #[error("the token's key is unknown")]
    UnknownKey {
        /// Which provider of the list.
        provider: usize,
    },
    /// No keys of its provider are known.
    #[error("the keys of the token's provider are not available")]
    ProviderUnavailable {
        /// Which provider of the list.
        provider: usize,
    },
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// No provider of the list issues it.
    #[error("the token's issuer is not accepted")]
    WrongIssuer,
    /// It is meant for somebody else.
    #[error("the token is for another audience")]
    WrongAudience,
    /// It is a token for another purpose.
    #[error("the token is of another type")]
    WrongType,
    /// It lacks a claim.
    #[error("the token has no `{0}`")]
    MissingClaim(Cow<'static, str>),
}

impl TokenError {
    /// What bodies, logs and metrics call it.
    pub fn kind(&self) -> AuthError {
        match self {
            Self::TooLarge => AuthError::TooLarge,
            Self::Malformed(_) => AuthError::Malformed,
            Self::UnsupportedAlgorithm => AuthError::UnsupportedAlgorithm,
            Self::BadSignature => AuthError::BadSignature,
            Self::UnknownKey { .. } => AuthError::UnknownKey,
            Self::ProviderUnavailable { .. } => AuthError::ProviderUnavailable,
            Self::Expired => AuthError::Expired,
            Self::NotYetValid => AuthError::NotYetValid,
            Self::WrongIssuer => AuthError::WrongIssuer,
            Self::WrongAudience => AuthError::WrongAudience,
            Self::WrongType => AuthError::WrongType,
            Self::MissingClaim(_) => AuthError::MissingClaim,
        }
    }

    /// How near to being accepted the token came. Of several providers that could have issued it, the
    /// one that came nearest says why it is refused. One that cannot be judged stands above those
    /// that have no key for it: the token may be good.
    pub(super) const fn progress(&self) -> u8 {
        match self {
            Self::TooLarge | Self::Malformed(_) | Self::WrongIssuer => 0,
            Self::UnsupportedAlgorithm => 1,
            Self::BadSignature => 2,
            Self::UnknownKey { .. } => 3,
            Self::ProviderUnavailable { .. } => 4,
            Self::Expired
            | Self::NotYetValid
            | Self::WrongAudience
            | Self::WrongType
            | Self::MissingClaim(_) => 5,
        }
    }
}
