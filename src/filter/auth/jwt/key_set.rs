//! The keys of a provider: from a JWK set (RFC 7517 section 5) or put together from single keys.

use std::sync::Arc;

use serde_json::Value;

use super::{Algorithm, Key, KeyError, json, jwk};

/// Most keys of a set. Large issuers publish about ten.
const MAX_KEYS: usize = 100;

/// Largest JWK set that is read: a hundred RSA keys with their certificates take a third of it.
pub const MAX_KEY_SET_BYTES: usize = 1024 * 1024;

/// Most keys that are tried on one token: those with its key id, or those that fit when it names
/// none. Each costs a signature check, which anybody may cause.
pub const MAX_TRIED: usize = 8;

/// Why a set is refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// It is larger than is read.
    #[error("is too large, expected at most {MAX_KEY_SET_BYTES} bytes")]
    TooLarge,
    /// It is no JSON object with an array `keys`.
    #[error("is no JWK set, expected a JSON object with an array `keys`")]
    NotAKeySet,
    /// It has no key that is of use.
    #[error("holds no usable key among {0}")]
    NoUsableKey(usize),
}

/// Entries of a set that are not used, by their reason.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Skipped(Vec<(KeyError, usize)>);

impl Skipped {
    fn add(&mut self, reason: KeyError) {
        match self.0.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => self.0.push((reason, 1)),
        }
    }

    /// Each reason once, with how many entries it is about.
    pub fn reasons(&self) -> &[(KeyError, usize)] {
        &self.0
    }

    /// How many entries are not used.
    pub fn total(&self) -> usize {
        self.0.iter().map(|(_, count)| count).sum()
    }
}

/// The keys of a provider at one time.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<Arc<Key>>,
    skipped: Skipped,
}

/// Which keys a token's header leads to.
#[derive(Debug)]
pub(super) enum Candidates<'k> {
    /// These, one of which may have signed it.
    Keys(Vec<&'k Arc<Key>>),
    /// Its key id is not among those of the set.
    UnknownId,
    /// What it names cannot be used with its algorithm.
    NoneFits,
}

impl KeySet {
    /// A set of given keys.
    pub fn of(keys: Vec<Key>) -> Result<Self, KeySetError> {
        let mut set = Self::default();
        let count = keys.len();
        for key in keys {
            set.add(Ok(key));
        }
        set.usable(count)
    }

    /// Reads a JWK set. Entries that are not of use are skipped, as RFC 7517 section 5 asks: a set may
    /// hold keys for others.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeySetError> {
        if bytes.len() > MAX_KEY_SET_BYTES {
            return Err(KeySetError::TooLarge);
        }
        let members = json::object(bytes).ok_or(KeySetError::NotAKeySet)?;
        let Some(Value::Array(entries)) = members.get("keys") else {
            return Err(KeySetError::NotAKeySet);
        };
        let mut set = Self::default();
        for entry in entries {
            let members = entry.as_object().ok_or(KeyError::Damaged);
            set.add(if set.keys.len() < MAX_KEYS {
                members.and_then(jwk::key)
            } else {
                Err(KeyError::TooMany)
            });
        }
        set.usable(entries.len())
    }

    fn add(&mut self, key: Result<Key, KeyError>) {
        match key {
            // The same key twice would be tried twice.
            Ok(key) if self.keys.iter().any(|known| known.equals(&key)) => {}
            Ok(_) if self.keys.len() >= MAX_KEYS => self.skipped.add(KeyError::TooMany),
            Ok(key) => self.keys.push(Arc::new(key)),
            Err(reason) => self.skipped.add(reason),
        }
    }

    fn usable(self, count: usize) -> Result<Self, KeySetError> {
        if self.keys.is_empty() {
            return Err(KeySetError::NoUsableKey(count));
        }
        Ok(self)
    }

    /// The keys.
    pub fn keys(&self) -> &[Arc<Key>] {
        &self.keys
    }

    /// What was not used of the JWK set.
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    /// Where the earlier set has an equal key, takes that one, so that it stays the same key.
    pub(super) fn succeed(&mut self, previous: &Self) {
        for key in &mut self.keys {
            let same = |old: &&Arc<Key>| old.equals(key) && !old.is_removed();
            if let Some(old) = previous.keys.iter().find(same) {
                *key = Arc::clone(old);
            }
        }
    }

    pub(super) fn holds(&self, key: &Arc<Key>) -> bool {
        self.keys.iter().any(|own| Arc::ptr_eq(own, key))
    }

    pub(super) fn mark_removed(&self, left: impl Fn(&Arc<Key>) -> bool) {
        let gone = self.keys.iter().filter(|key| left(key));
        gone.for_each(|key| key.mark_removed());
    }

    /// The keys to try on a token. A key without an id may be that of any token, unless another key
    /// has the token's id.
    pub(super) fn find(&self, algorithm: Algorithm, id: Option<&str>) -> Candidates<'_> {
        let named = |key: &&Arc<Key>| id.is_some() && key.id() == id;
        let by_name = self.keys.iter().any(|key| named(&key));
        let asked = |key: &&Arc<Key>| match id {
            None => true,
            Some(_) if by_name => named(key),
            Some(_) => key.id().is_none(),
        };
        let mut asked = self.keys.iter().filter(asked).peekable();
        if asked.peek().is_none() {
            return Candidates::UnknownId;
        }
        let fitting = asked.filter(|key| key.fits(algorithm)).take(MAX_TRIED);
        let fitting: Vec<_> = fitting.collect();
        if fitting.is_empty() {
            Candidates::NoneFits
        } else {
            Candidates::Keys(fitting)
        }
    }
}
