//! One way of proving who one is, compiled: its places, its keys, and what it says to a client.

use std::path::PathBuf;
use std::sync::Arc;

use super::api_key::ApiKeys;
use super::basic::Basic;
use super::client_cert::ClientCerts;
use super::jwks::RemoteKeys;
use super::jwt::{
    Algorithm, AlgorithmSet, ClaimPath, Key, KeySet, Provider, ProviderSettings, TokenTypes,
};
use crate::config::Fault;
use crate::config::model::{self, CredentialSource, Jwks, SchemeKind};
use crate::metrics::Metrics;

/// A scheme.
pub struct Scheme {
    /// What routes, logs and metrics call it.
    pub name: Arc<str>,
    /// Whether backends get the credential.
    pub forward: bool,
    /// Which way.
    pub kind: Kind,
}

/// See [`Scheme::kind`].
pub enum Kind {
    /// Tokens of a provider.
    Tokens(Arc<Tokens>),
    /// API keys.
    ApiKeys(Arc<ApiKeys>),
    /// Names and passwords.
    Basic(Arc<Basic>),
    /// Certificates.
    ClientCerts(Arc<ClientCerts>),
}

/// What is known of a provider's tokens before they are looked at.
pub struct Tokens {
    /// Who issues them.
    pub provider: Arc<Provider>,
    /// Its keys, if they are fetched.
    pub remote: Option<Arc<RemoteKeys>>,
    /// Where they are looked for.
    pub sources: Vec<CredentialSource>,
    /// The longest one, in bytes.
    pub max_bytes: usize,
}

impl Scheme {
    /// Builds a scheme, or tells what is wrong with its keys. Fetched keys are taken over from the
    /// scheme of that name before, if there was one. Without `metrics` nothing is measured.
    pub fn compile(
        config: &model::Scheme,
        previous: Option<&Self>,
        metrics: Option<&Metrics>,
    ) -> Result<Arc<Self>, Vec<Fault>> {
        let kind = match &config.kind {
            SchemeKind::Jwt(provider) => {
                let before = previous.and_then(Self::remote);
                let tokens = tokens(&config.name, provider, before, metrics)?;
                Kind::Tokens(Arc::new(tokens))
            }
            SchemeKind::ClientCert(certs) => {
                Kind::ClientCerts(Arc::new(ClientCerts::new(certs.clone())))
            }
            SchemeKind::ApiKeys(keys) => Kind::ApiKeys(Arc::new(ApiKeys::new(keys))),
            SchemeKind::Basic(users) => Kind::Basic(Arc::new(Basic::new(users))),
        };
        Ok(Arc::new(Self {
            name: Arc::clone(&config.name),
            forward: config.forward,
            kind,
        }))
    }

    /// Its keys, if they are fetched.
    pub fn remote(&self) -> Option<&Arc<RemoteKeys>> {
        match &self.kind {
            Kind::Tokens(tokens) => tokens.remote.as_ref(),
            Kind::ApiKeys(_) | Kind::Basic(_) | Kind::ClientCerts(_) => None,
        }
    }

    /// Where its credentials are in a header.
    pub fn sources(&self) -> &[CredentialSource] {
        match &self.kind {
            Kind::Tokens(tokens) => &tokens.sources,
            Kind::ApiKeys(keys) => &keys.sources,
            Kind::Basic(basic) => &basic.sources,
            Kind::ClientCerts(_) => &[],
        }
    }
}

fn tokens(
    name: &Arc<str>,
    config: &model::JwtProvider,
    before: Option<&Arc<RemoteKeys>>,
    metrics: Option<&Metrics>,
) -> Result<Tokens, Vec<Fault>> {
    let allowed: AlgorithmSet = config
        .algorithms
        .iter()
        .filter_map(|name| Algorithm::parse(name))
        .collect();
    let of = |kind: AlgorithmSet| if allowed.is_empty() { kind } else { allowed };
    let mut faults = Vec::new();
    let mut keys = Vec::new();
    for (key, secret) in &config.secrets {
        match Key::from_secret(&secret.0, of(AlgorithmSet::shared_secret()), None) {
            Ok(one) => keys.push(one),
            Err(error) => faults.push(fault(key, &error)),
        }
    }
    for (key, pem) in &config.pem {
        match Key::from_pem(pem, of(AlgorithmSet::public_key()), None) {
            Ok(several) => keys.extend(several),
            Err(error) => faults.push(fault(key, &error)),
        }
    }
    let set = key_set(config, keys, &mut faults);
    if !faults.is_empty() {
        return Err(faults);
    }
    let accepted: Vec<String> = config.types.clone();
    let settings = ProviderSettings {
        name: Arc::clone(name),
        issuers: config.issuers.clone(),
        audiences: config.audiences.clone(),
        algorithms: match (allowed.is_empty(), config.secrets.is_empty()) {
            (false, _) => allowed,
            // Those of its keys: each key knows which ones it may be used with.
            (true, true) => AlgorithmSet::public_key(),
            (true, false) => Algorithm::ALL.into_iter().collect(),
        },
        types: TokenTypes {
            absent: accepted.iter().any(|one| one.eq_ignore_ascii_case("jwt")),
            accepted,
        },
        required_claims: config.required_claims.clone(),
        require_expiry: config.require_expiry,
        clock_skew: config.clock_skew,
        roles_claim: ClaimPath::new(config.roles_claim.as_str()),
    };
    let (provider, remote) = match &config.jwks {
        Some(Jwks::Url(url)) => {
            let before = before.filter(|before| before.is_of(url));
            let provider = Provider::new(settings, before.and_then(|before| before.keys()));
            let metrics = metrics
                .map(|metrics| metrics.jwks(name))
                .unwrap_or_default();
            let before = before.map(|before| &**before);
            let remote = RemoteKeys::new(name, url, &provider, metrics, before);
            (provider, Some(remote))
        }
        _ => (Provider::new(settings, set.map(Arc::new)), None),
    };
    Ok(Tokens {
        provider,
        remote,
        sources: config.sources.clone(),
        max_bytes: config.max_token_bytes,
    })
}

/// All keys that are known now; `None` while they have to be fetched.
fn key_set(config: &model::JwtProvider, keys: Vec<Key>, faults: &mut Vec<Fault>) -> Option<KeySet> {
    if let Some(Jwks::File { key, path, bytes }) = &config.jwks {
        match KeySet::parse(bytes) {
            Ok(set) if keys.is_empty() => return Some(set),
            Ok(_) => {
                let what = "stands beside `public_key` or `secret`, expected one or the other";
                faults.push(Fault {
                    key: key.clone(),
                    path: Some(path.clone()),
                    what: what.to_owned(),
                });
            }
            Err(error) => faults.push(Fault {
                key: key.clone(),
                path: Some(path.clone()),
                what: error.to_string(),
            }),
        }
        return None;
    }
    (!keys.is_empty()).then(|| KeySet::of(keys).ok()).flatten()
}

/// What is wrong with a key, without anything of it.
fn fault(key: &str, error: &dyn std::error::Error) -> Fault {
    Fault {
        key: key.to_owned(),
        path: None::<PathBuf>,
        what: error.to_string(),
    }
}
