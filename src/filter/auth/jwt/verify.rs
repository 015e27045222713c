//! Whether a token is good: taken apart, its provider chosen, its signature checked, then its claims.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value};

use super::claims::{self, Validity};
use super::compact::{self, Compact};
use super::key_set::Candidates;
use super::{Algorithm, Key, NumericDate, Provider, TokenError};

/// Largest token that is read: half of the largest header.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// A token that is good: every claim is as its provider signed it.
pub struct Verified {
    /// Which provider of the list has signed it.
    pub provider: usize,
    /// What that provider is called.
    pub provider_name: Arc<str>,
    /// The key it was signed with.
    pub key: Arc<Key>,
    /// How it was signed.
    pub algorithm: Algorithm,
    /// `iss`.
    pub issuer: Option<Box<str>>,
    /// `sub`.
    pub subject: Option<Box<str>>,
    /// `jti`.
    pub token_id: Option<Box<str>>,
    /// `exp`, without skew.
    pub expires_at: Option<NumericDate>,
    /// `iat`.
    pub issued_at: Option<NumericDate>,
    /// The words of `scope` and `scp`.
    pub scopes: Box<[Box<str>]>,
    /// The roles at the provider's place for them.
    pub roles: Box<[Box<str>]>,
    /// Every claim.
    pub claims: Map<String, Value>,
    pub(super) validity: Validity,
}

impl Verified {
    /// When it ends for us: `exp` and the skew that is granted.
    pub fn accepted_until(&self) -> NumericDate {
        self.validity.until
    }
}

impl fmt::Debug for Verified {
    /// Without what it says about somebody.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Verified")
            .field("provider", &self.provider_name)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// Whether one of the providers has signed a token and accepts it now.
///
/// The token's issuer decides which of them are asked: those that name it, and without any those that
/// name none. Who signed it decides the rest, so what was read before is not believed.
pub fn verify(
    token: &str,
    providers: &[Arc<Provider>],
    now: SystemTime,
) -> Result<Verified, TokenError> {
    let token = compact::parse(token)?;
    let issuer = claims::text(&token.claims, "iss")?;
    let named = |provider: &Arc<Provider>| issuer.is_some_and(|issuer| provider.issues(issuer));
    let claimed = providers.iter().any(named);
    let mut nearest = match issuer {
        Some(_) => TokenError::WrongIssuer,
        None => TokenError::MissingClaim(Cow::Borrowed("iss")),
    };
    let mut asked = false;
    for (index, provider) in providers.iter().enumerate() {
        let responsible = if claimed {
            named(provider)
        } else {
            provider.takes_any_issuer()
        };
        if !responsible {
            continue;
        }
        match judge(&token, provider, index, now.into()) {
            Ok((key, validity)) => return describe(token, provider, index, key, validity),
            Err(error) if asked && error.progress() <= nearest.progress() => {}
            Err(error) => nearest = error,
        }
        asked = true;
    }
    Err(nearest)
}

/// What one provider says to a token.
fn judge(
    token: &Compact<'_>,
    provider: &Provider,
    index: usize,
    now: NumericDate,
) -> Result<(Arc<Key>, Validity), TokenError> {
    let settings = provider.settings();
    if !settings.algorithms.contains(token.algorithm) {
        return Err(TokenError::UnsupportedAlgorithm);
    }
    let key = provider.with_keys(|keys| {
        let keys = keys.ok_or(TokenError::ProviderUnavailable { provider: index })?;
        match keys.find(token.algorithm, token.key_id.as_deref()) {
            Candidates::UnknownId => Err(TokenError::UnknownKey { provider: index }),
            Candidates::NoneFits => Err(TokenError::UnsupportedAlgorithm),
            Candidates::Keys(keys) => {
                let signed =
                    |key: &&Arc<Key>| key.verify(token.algorithm, token.signed, &token.signature);
                let key = keys.into_iter().find(signed);
                key.cloned().ok_or(TokenError::BadSignature)
            }
        }
    })?;
    let validity = claims::check(&token.claims, token.typ.as_deref(), settings, now)?;
    Ok((key, validity))
}

fn describe(
    token: Compact<'_>,
    provider: &Provider,
    index: usize,
    key: Arc<Key>,
    validity: Validity,
) -> Result<Verified, TokenError> {
    let claims = token.claims;
    let owned = |name| Ok(claims::text(&claims, name)?.map(Into::into));
    let settings = provider.settings();
    Ok(Verified {
        provider: index,
        provider_name: Arc::clone(&settings.name),
        key,
        algorithm: token.algorithm,
        issuer: owned("iss")?,
        subject: owned("sub")?,
        token_id: owned("jti")?,
        expires_at: claims::date(&claims, "exp")?,
        issued_at: claims::date(&claims, "iat")?,
        scopes: claims::scopes(&claims),
        roles: claims::roles(&claims, settings),
        claims,
        validity,
    })
}
