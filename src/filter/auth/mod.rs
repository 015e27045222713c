//! Who calls, and whether they may: schemes, what routes ask for, and what backends are told.
//!
//! A [`Policy`] is what one route asks for. [`Policy::authenticate`] finds out who calls, and waits only
//! where somebody else has to be asked; [`Policy::authorise`] decides whether they may. Everything that
//! cannot be judged is refused.

mod api_key;
mod ask;
mod basic;
mod claim;
mod client_cert;
pub(crate) mod credential;
mod identity;
mod identity_headers;
pub mod jwks;
pub mod jwt;
mod policy;
pub mod revocation;
mod scheme;
mod shards;
pub mod shared_keys;
pub mod watch;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::config::Fault;
use crate::config::model;
use crate::metrics::{AuthMetrics, Metrics};

/// What a remembered token may take, at most, on average.
const BYTES_A_TOKEN: usize = 2 * 1024;

/// Keys that a successor is given, in bytes. What is beyond it has to fetch its own.
const MAX_EXPORT_BYTES: usize = 1024 * 1024;

pub use self::credential::Shown;
pub use self::identity::{Identity, Known, words};
pub use self::identity_headers::IdentityHeaders;
pub use self::policy::{Grant, Policy};

use self::basic::Passwords;
use self::jwks::{RemoteKeys, Saved};
use self::jwt::{CacheLimits, Provider, TokenCache};
use self::revocation::Revocations;
use self::scheme::{Kind, Scheme};
use self::shared_keys::SharedKeys;

/// Everything of one generation that authentication needs.
pub struct Auth {
    /// What it was made from, to be compared with what comes next.
    config: model::Auth,
    schemes: Vec<Arc<Scheme>>,
    /// What backends are told of who calls.
    pub identity_headers: IdentityHeaders,
    /// The endpoint that tells a client what its token says.
    pub validate: Option<Validate>,
    /// Tokens that were found good.
    tokens: Arc<TokenCache>,
    /// Checks passwords.
    passwords: Arc<Passwords>,
    /// Knows keys that are not in the configuration; one for all generations.
    shared_keys: Arc<SharedKeys>,
    /// Tokens that hold no longer all the same; one list for all generations.
    revocations: Arc<Revocations>,
    metrics: Arc<AuthMetrics>,
}

/// See [`Auth::validate`].
pub struct Validate {
    /// Its path.
    pub path: Box<str>,
    /// The tokens that it judges.
    pub policy: Policy,
}

impl Auth {
    /// Builds the schemes. Those that did not change are the same as before, with all that they have
    /// learned. What is wrong with keys is told by the place they were written at.
    pub fn compile(
        config: &model::Auth,
        metrics: &Metrics,
        previous: Option<&Self>,
    ) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut schemes = Vec::new();
        for scheme in &config.schemes {
            let unchanged = previous.and_then(|previous| previous.unchanged(scheme));
            let before = previous.and_then(|previous| previous.named(&scheme.name));
            let compile = || Scheme::compile(scheme, before, Some(metrics));
            match unchanged.map_or_else(compile, Ok) {
                Ok(scheme) => schemes.push(scheme),
                Err(found) => faults.extend(found),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let before = previous.filter(|one| one.config.cache_entries == config.cache_entries);
        let mut auth = Self {
            config: config.clone(),
            schemes,
            identity_headers: IdentityHeaders::compile(&config.identity_headers),
            validate: None,
            tokens: match before {
                Some(previous) => Arc::clone(&previous.tokens),
                None => Arc::new(token_cache(config.cache_entries)?),
            },
            passwords: match before {
                Some(previous) => Arc::clone(&previous.passwords),
                None => Arc::new(Passwords::new(config.cache_entries, metrics.auth())),
            },
            shared_keys: previous
                .map_or_else(Arc::default, |previous| Arc::clone(&previous.shared_keys)),
            revocations: previous
                .map_or_else(Arc::default, |previous| Arc::clone(&previous.revocations)),
            metrics: metrics.auth(),
        };
        auth.validate = config.validate.as_ref().map(|validate| Validate {
            path: validate.path.as_str().into(),
            policy: Policy::compile(&validate.policy, &auth),
        });
        Ok(auth)
    }

    /// Knows keys that are not in the configuration.
    pub fn shared_keys(&self) -> &Arc<SharedKeys> {
        &self.shared_keys
    }

    /// Which tokens hold no longer.
    pub fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// Whether this configuration would come to the same.
    pub fn is_made_from(&self, config: &model::Auth) -> bool {
        self.config == *config
    }

    /// The keys that are fetched.
    pub fn remote_keys(&self) -> impl Iterator<Item = &Arc<RemoteKeys>> {
        self.schemes.iter().filter_map(|scheme| scheme.remote())
    }

    /// The providers of tokens, each with its keys if they are fetched.
    pub fn providers(&self) -> impl Iterator<Item = (&Arc<Provider>, Option<&Arc<RemoteKeys>>)> {
        self.schemes.iter().filter_map(|scheme| match &scheme.kind {
            Kind::Tokens(tokens) => Some((&tokens.provider, tokens.remote.as_ref())),
            Kind::ApiKeys(_) | Kind::Basic(_) | Kind::ClientCerts(_) => None,
        })
    }

    /// Fetched keys, for the successor of this process.
    pub fn export(&self) -> Vec<Saved> {
        let mut room = MAX_EXPORT_BYTES;
        let fits = |saved: &Saved| {
            let left = room.checked_sub(saved.keys.len());
            room = left.unwrap_or(room);
            left.is_some()
        };
        let saved = self.remote_keys().filter_map(|keys| keys.saved());
        saved.filter(fits).collect()
    }

    /// Takes over the keys that the process before had fetched. What is of no use is fetched anew.
    pub fn import(&self, saved: Vec<Saved>) {
        for saved in saved {
            let found = self
                .remote_keys()
                .find(|keys| *keys.name == *saved.provider);
            let Some(keys) = found else { continue };
            if let Err(error) = keys.restore(saved, Instant::now(), SystemTime::now()) {
                let name = &keys.name;
                log::warn!("provider={name} the keys of the process before are not used: {error}");
            }
        }
    }

    fn named(&self, name: &str) -> Option<&Scheme> {
        let scheme = self.schemes.iter().find(|scheme| *scheme.name == *name);
        scheme.map(|scheme| &**scheme)
    }

    /// The scheme of the generation before, when nothing of it is different.
    fn unchanged(&self, scheme: &model::Scheme) -> Option<Arc<Scheme>> {
        let mut before = self.config.schemes.iter().zip(&self.schemes);
        let same = |old: &model::Scheme| old.name == scheme.name && old.kind == scheme.kind;
        before
            .find(|(old, _)| same(old) && old.forward == scheme.forward)
            .map(|(_, scheme)| Arc::clone(scheme))
    }
}

fn token_cache(entries: usize) -> Result<TokenCache, Vec<Fault>> {
    let limits = CacheLimits {
        entries,
        bytes: entries.saturating_mul(BYTES_A_TOKEN),
    };
    TokenCache::new(limits).map_err(|_| {
        vec![Fault {
            key: "auth.cache".to_owned(),
            path: None,
            what: "the system gives no random bytes".to_owned(),
        }]
    })
}

/// What is wrong with the keys of a configuration that is sound otherwise.
pub fn check(config: &model::Auth) -> Vec<Fault> {
    let compile = |scheme| Scheme::compile(scheme, None, None);
    let compiled = config.schemes.iter().map(compile);
    compiled.filter_map(Result::err).flatten().collect()
}
