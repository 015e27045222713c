//! One issuer of tokens: what is asked of its tokens, and its keys, which change while it stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::{AlgorithmSet, ClaimPath, KeySet, TokenTypes};

/// What is asked of a provider's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderSettings {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// The values of `iss` that are its; empty for those of no other provider of a list.
    pub issuers: Vec<String>,
    /// One of them has to be in `aud`; empty when that does not matter.
    pub audiences: Vec<String>,
    /// The algorithms that its tokens may be signed with.
    pub algorithms: AlgorithmSet,
    /// The values of `typ` that are accepted.
    pub types: TokenTypes,
    /// Claims that have to be there and not null, beside those that are checked.
    pub required_claims: Vec<String>,
    /// Whether a token without `exp` is refused.
    pub require_expiry: bool,
    /// How far its clock and ours may be apart.
    pub clock_skew: Duration,
    /// Where roles are.
    pub roles_claim: ClaimPath,
}

impl ProviderSettings {
    /// Settings of a provider with every default: any issuer and audience, public keys, `exp`
    /// required, 30 seconds of skew, roles in `roles`.
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            issuers: Vec::new(),
            audiences: Vec::new(),
            algorithms: AlgorithmSet::public_key(),
            types: TokenTypes::default(),
            required_claims: Vec::new(),
            require_expiry: true,
            clock_skew: Duration::from_secs(30),
            roles_claim: ClaimPath::new("roles"),
        }
    }
}

/// One issuer of tokens. Its `Arc` is its identity: a reload that changes nothing of it keeps it, and
/// with it what the cache knows of its tokens.
#[derive(Debug)]
pub struct Provider {
    id: u64,
    settings: ProviderSettings,
    keys: ArcSwapOption<KeySet>,
}

impl Provider {
    /// A provider. Without keys it is unavailable until some are published. It may take over the keys
    /// of the provider that it replaces.
    pub fn new(settings: ProviderSettings, keys: Option<Arc<KeySet>>) -> Arc<Self> {
        // Far from wrapping at one reload a nanosecond.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            settings,
            keys: ArcSwapOption::from(keys),
        })
    }

    /// A number that no other provider of this process has or had.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// What is asked of its tokens.
    pub fn settings(&self) -> &ProviderSettings {
        &self.settings
    }

    /// Its keys; `None` when there were never any, or none that are still good.
    pub fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    /// Takes newer keys. Those that are in the present set stay the same keys; those that left are
    /// marked as removed, which ends what the cache knows through them.
    ///
    /// One caller at a time: two at once could leave a key marked that is in use, which costs its
    /// tokens the cache and nothing else.
    pub fn publish(&self, mut keys: KeySet) {
        if let Some(previous) = self.keys.load_full() {
            keys.succeed(&previous);
            let keys = Arc::new(keys);
            self.keys.store(Some(Arc::clone(&keys)));
            previous.mark_removed(|key| !keys.holds(key));
        } else {
            self.keys.store(Some(Arc::new(keys)));
        }
    }

    /// Drops all keys: they are too old to be believed.
    pub fn withdraw(&self) {
        if let Some(previous) = self.keys.swap(None) {
            previous.mark_removed(|_| true);
        }
    }

    pub(super) fn with_keys<T>(&self, look: impl FnOnce(Option<&KeySet>) -> T) -> T {
        look(self.keys.load().as_deref())
    }

    pub(super) fn issues(&self, issuer: &str) -> bool {
        self.settings.issuers.iter().any(|own| own == issuer)
    }

    pub(super) fn takes_any_issuer(&self) -> bool {
        self.settings.issuers.is_empty()
    }
}
