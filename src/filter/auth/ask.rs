//! Asking a client for one kind of credential, and what comes of it.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::Auth;
use super::api_key::ApiKeys;
use super::basic::{self, Basic};
use super::client_cert::ClientCerts;
use super::credential::{self, Shown};
use super::identity::{Identity, Known};
use super::jwks::{RemoteKeys, Waiter};
use super::jwt::{self, Provider, TokenError, Verified};
use super::revocation::{Bearer, seconds};
use super::scheme::{Kind, Scheme, Tokens};
use crate::config::model::CredentialSource;
use crate::metrics::{AuthError, AuthMethod};

/// What is asked for at once.
pub(super) enum Ask {
    /// A token of one of several providers: its issuer chooses.
    Token(AskToken),
    /// An API key, on behalf of this scheme.
    ApiKey(Arc<str>, Arc<ApiKeys>),
    /// A name and a password.
    Basic(AskBasic),
    /// A certificate, on behalf of this scheme.
    Certificate(Arc<str>, Arc<ClientCerts>),
}

/// What a client is told. `None`: it showed nothing.
pub(super) type Outcome = Option<Result<Identity, (AuthMethod, AuthError)>>;

/// A token of one of several providers.
#[derive(Default)]
pub(super) struct AskToken {
    providers: Vec<Arc<Provider>>,
    /// For each provider its keys, if they are fetched.
    remote: Vec<Option<Arc<RemoteKeys>>>,
    /// For each provider what its scheme is called.
    names: Vec<Arc<str>>,
    sources: Vec<CredentialSource>,
    max_bytes: usize,
}

/// A name and a password that one of several schemes knows.
#[derive(Default)]
pub(super) struct AskBasic {
    schemes: Vec<Arc<Basic>>,
    /// For each what it is called.
    names: Vec<Arc<str>>,
}

/// What to ask for. Where any scheme is enough, one token is looked for on behalf of all providers, and
/// one name and password on behalf of all who know users.
pub(super) fn compile(schemes: &[&Arc<Scheme>], all: bool) -> Vec<Ask> {
    let mut asks: Vec<Ask> = Vec::new();
    for scheme in schemes {
        let name = Arc::clone(&scheme.name);
        match &scheme.kind {
            Kind::Tokens(tokens) => {
                let earlier = asks.iter_mut().find_map(|ask| match ask {
                    Ask::Token(token) if !all => Some(token),
                    _ => None,
                });
                match earlier {
                    Some(earlier) => earlier.add(name, tokens),
                    None => {
                        let mut token = AskToken::default();
                        token.add(name, tokens);
                        asks.push(Ask::Token(token));
                    }
                }
            }
            Kind::ApiKeys(keys) => asks.push(Ask::ApiKey(name, Arc::clone(keys))),
            Kind::Basic(basic) => add_basic(&mut asks, name, basic, all),
            Kind::ClientCerts(certs) => asks.push(Ask::Certificate(name, Arc::clone(certs))),
        }
    }
    asks
}

fn add_basic(asks: &mut Vec<Ask>, name: Arc<str>, basic: &Arc<Basic>, all: bool) {
    let earlier = asks.iter_mut().find_map(|ask| match ask {
        Ask::Basic(one) if !all => Some(one),
        _ => None,
    });
    match earlier {
        Some(earlier) => earlier.add(name, basic),
        None => {
            let mut one = AskBasic::default();
            one.add(name, basic);
            asks.push(Ask::Basic(one));
        }
    }
}

impl Ask {
    /// The way of proving who one is.
    pub fn method(&self) -> AuthMethod {
        match self {
            Self::Token(_) => AuthMethod::Jwt,
            Self::ApiKey(..) => AuthMethod::ApiKey,
            Self::Basic(_) => AuthMethod::Basic,
            Self::Certificate(..) => AuthMethod::ClientCert,
        }
    }

    /// What comes of what a client shows.
    pub async fn ask(&self, auth: &Auth, shown: Shown<'_>, now: SystemTime) -> Outcome {
        let outcome = match self {
            Self::Token(token) => token.ask(auth, shown, now).await,
            Self::ApiKey(name, keys) => {
                let known = keys.judge(&auth.shared_keys, shown.headers, now).await;
                known.map(|known| known.map(|known| self.identity(name, known)))
            }
            Self::Basic(one) => basic::judge(&one.schemes, &auth.passwords, shown, now)
                .await
                .map(|found| {
                    let (place, known) = found?;
                    // There is a name for each scheme.
                    Some(self.identity(one.names.get(place)?, known))
                }),
            Self::Certificate(name, certs) => {
                let known = certs.judge(shown.client_cert);
                known.map(|known| known.map(|known| self.identity(name, known)))
            }
        };
        let told = outcome.map_err(|error| (self.method(), error));
        told.transpose()
    }

    fn identity(&self, scheme: &Arc<str>, known: Arc<Known>) -> Identity {
        Identity::known(scheme, self.method(), known)
    }
}

impl AskBasic {
    fn add(&mut self, name: Arc<str>, basic: &Arc<Basic>) {
        self.names.push(name);
        self.schemes.push(Arc::clone(basic));
    }
}

impl AskToken {
    fn add(&mut self, name: Arc<str>, tokens: &Tokens) {
        self.names.push(name);
        self.providers.push(Arc::clone(&tokens.provider));
        self.remote.push(tokens.remote.clone());
        for source in &tokens.sources {
            if !self.sources.contains(source) {
                self.sources.push(source.clone());
            }
        }
        self.max_bytes = self.max_bytes.max(tokens.max_bytes);
    }

    async fn ask(
        &self,
        auth: &Auth,
        shown: Shown<'_>,
        now: SystemTime,
    ) -> Result<Option<Identity>, AuthError> {
        let Some(token) = credential::find(shown.headers, &self.sources)? else {
            return Ok(None);
        };
        if token.len() > self.max_bytes {
            return Err(AuthError::TooLarge);
        }
        let verified = self.verify(auth, token, now).await?;
        let bearer = Bearer::of(&verified);
        if auth.revocations.is_revoked(bearer, seconds(now)) {
            return Err(AuthError::Revoked);
        }
        // There is a name for each provider.
        let name = self.names.get(verified.provider);
        let name = name.ok_or(AuthError::WrongIssuer)?;
        Ok(Some(Identity::token(name, verified)))
    }
}

impl AskToken {
    /// What is known of the token already, or what its signature and claims say.
    async fn verify(
        &self,
        auth: &Auth,
        token: &str,
        now: SystemTime,
    ) -> Result<Arc<Verified>, AuthError> {
        let known = auth.tokens.get(token, &self.providers, now);
        auth.metrics.looked_up(known.is_some());
        if let Some(known) = known {
            return Ok(known);
        }
        let mut verified = jwt::verify(token, &self.providers, now);
        if let Some(waiter) = verified.as_ref().err().and_then(|error| self.waiter(error)) {
            verified = self.verify_later(token, now, waiter, verified).await;
        }
        let verified = Arc::new(verified.map_err(|error| error.kind())?);
        auth.tokens.insert(token, &self.providers, &verified);
        Ok(verified)
    }

    /// A token whose key is not known is worth waiting for, if the key is being fetched.
    async fn verify_later(
        &self,
        token: &str,
        now: SystemTime,
        mut waiter: Waiter,
        mut verified: Result<Verified, TokenError>,
    ) -> Result<Verified, TokenError> {
        while let Err(TokenError::UnknownKey { .. } | TokenError::ProviderUnavailable { .. }) =
            &verified
            && let Some(waited) = waiter.next().await
        {
            verified = jwt::verify(token, &self.providers, now + waited);
        }
        verified
    }

    fn waiter(&self, error: &TokenError) -> Option<Waiter> {
        let remote = |provider: &usize| self.remote.get(*provider)?.as_ref();
        match error {
            TokenError::UnknownKey { provider } => remote(provider)?.unknown_key(Instant::now()),
            TokenError::ProviderUnavailable { provider } => {
                remote(provider)?.without_keys(Instant::now())
            }
            _ => None,
        }
    }
}
