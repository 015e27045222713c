//! JSON Web Tokens: parsing, keys, verification and the cache of verified tokens. Pure: no socket, no
//! file, no clock.
//!
//! How it is used:
//!
//! ```text
//! // When a snapshot is compiled:
//! Key::from_secret(secret, &algorithms, key_id)          -> Result<Key, KeyError>
//! Key::from_pem(text, algorithms, key_id)                -> Result<Vec<Key>, KeyError>
//! KeySet::of(keys)                                       -> Result<KeySet, KeySetError>
//! KeySet::parse(jwks_bytes)                              -> Result<KeySet, KeySetError>
//! Provider::new(ProviderSettings { .. }, Option<Arc<KeySet>>) -> Arc<Provider>
//!     // An unchanged provider is kept across a reload: its Arc is the identity of cached tokens.
//!
//! // When its keys were fetched again (a thread of its own):
//! provider.publish(key_set)   // keeps equal keys, marks those that left as removed
//! provider.withdraw()         // nothing can be verified any more: provider_unavailable
//!
//! // On a request:
//! cache.get(token, &providers, now)    -> Option<Arc<Verified>>
//! verify(token, &providers, now)       -> Result<Verified, TokenError>
//! cache.insert(token, &providers, &verified)
//! error.kind()                                                              // the `error_type`
//! ```
//!
//! `TokenError::UnknownKey` and `TokenError::ProviderUnavailable` say by index which provider of the
//! list needs to be fetched.

pub mod algorithm;
pub mod cache;
pub mod claim_path;
pub mod claims;
mod compact;
pub mod error;
mod json;
mod jwk;
pub mod key;
pub mod key_set;
mod pem;
pub mod provider;
pub mod verify;

pub use algorithm::{Algorithm, AlgorithmSet};
pub use cache::{CacheLimits, TokenCache};
pub use claim_path::ClaimPath;
pub use claims::{NumericDate, TokenTypes};
pub use error::TokenError;
pub use key::{Key, KeyError};
pub use key_set::{KeySet, KeySetError, Skipped};
pub use provider::{Provider, ProviderSettings};
pub use verify::{MAX_TOKEN_BYTES, Verified, verify};

#[cfg(test)]
mod tests;
