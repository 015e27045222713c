//! API keys: who a key belongs to, found by its SHA-256.
//!
//! A hash of random keys needs no salt and no work: a key of 256 bits cannot be guessed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use foldhash::fast::RandomState;
use http::HeaderMap;

use super::credential;
use super::identity::{Known, words};
use super::shared_keys::{KeyHash, SharedKeys};
use crate::config::model::{self, CredentialSource};
use crate::metrics::AuthError;

/// The longest key: ten times as long as one that `gateway keygen` makes.
const MAX_KEY_BYTES: usize = 512;

/// The keys of a scheme.
pub struct ApiKeys {
    /// Where a key is looked for.
    pub sources: Vec<CredentialSource>,
    /// By the beginning of the hash. What the time of a look-up tells is a part of a hash, of which
    /// nobody knows a key.
    keys: HashMap<u64, Vec<Entry>, RandomState>,
    /// Whether others are asked about keys that are not among them.
    asks: bool,
}

struct Entry {
    hash: KeyHash,
    owner: Arc<Known>,
}

impl ApiKeys {
    /// Of these keys.
    pub fn new(config: &model::ApiKeys) -> Self {
        let mut keys: HashMap<u64, Vec<Entry>, RandomState> = HashMap::default();
        for key in &config.keys {
            keys.entry(beginning(&key.hash)).or_default().push(Entry {
                hash: key.hash,
                owner: Arc::new(Known {
                    subject: (*key.name).into(),
                    scopes: words(&key.scopes),
                    roles: words(&key.roles),
                    expires: key.expires,
                }),
            });
        }
        Self {
            sources: config.sources.clone(),
            asks: config.redis,
            keys,
        }
    }

    /// Who the key in this header belongs to; `None` without one. Waits only for what others say of a
    /// key that is not among these.
    pub async fn judge(
        &self,
        shared: &SharedKeys,
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Result<Option<Arc<Known>>, AuthError> {
        let Some(key) = credential::find(headers, &self.sources)? else {
            return Ok(None);
        };
        let hash = hash(key)?;
        let owner = match self.owner(&hash) {
            Some(owner) => Arc::clone(owner),
            None if self.asks => shared.owner(&hash, now).await?,
            None => return Err(AuthError::UnknownKey),
        };
        if owner.expires.is_some_and(|end| end <= now) {
            return Err(AuthError::Expired);
        }
        Ok(Some(owner))
    }

    fn owner(&self, hash: &KeyHash) -> Option<&Arc<Known>> {
        let mut entries = self.keys.get(&beginning(hash))?.iter();
        let found = entries.find(|one| verify_slices_are_equal(&one.hash, hash).is_ok());
        found.map(|one| &one.owner)
    }
}

fn hash(key: &str) -> Result<KeyHash, AuthError> {
    if key.len() > MAX_KEY_BYTES {
        return Err(AuthError::TooLarge);
    }
    let hash = digest(&SHA256, key.as_bytes());
    // SHA-256 has 32 bytes.
    KeyHash::try_from(hash.as_ref()).map_err(|_| AuthError::Malformed)
}

fn beginning(hash: &KeyHash) -> u64 {
    let first = hash.iter().take(8);
    first.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

    use std::time::{Duration, UNIX_EPOCH};

    use futures_util::FutureExt;
    use http::HeaderName;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn key(name: &str, key: &str, expires: Option<SystemTime>) -> model::ApiKey {
        model::ApiKey {
            name: name.into(),
            hash: hash(key).unwrap(),
            scopes: vec![format!("{name}.read")],
            roles: Vec::new(),
            expires,
        }
    }

    fn keys() -> ApiKeys {
        let mut keys = vec![
            key("one", "gw_one", None),
            key("two", "gw_two", Some(at(100))),
        ];
        keys.extend((0..1000).map(|n| key(&format!("{n}"), &format!("gw_{n}"), None)));
        ApiKeys::new(&model::ApiKeys {
            sources: vec![CredentialSource::Header {
                name: HeaderName::from_static("x-api-key"),
                scheme: None,
            }],
            keys,
            redis: false,
        })
    }

    fn judge(shown: &[&str], now: u64) -> Result<Option<String>, AuthError> {
        let mut headers = HeaderMap::new();
        for key in shown {
            headers.append("x-api-key", key.parse().unwrap());
        }
        // Nobody is asked, so it never waits.
        let shared = SharedKeys::default();
        let keys = keys();
        let judged = keys.judge(&shared, &headers, at(now));
        let found = std::pin::pin!(judged).now_or_never().unwrap();
        found.map(|known| known.map(|known| known.subject.to_string()))
    }

    #[test]
    fn a_key_is_its_owners_among_many() {
        assert_eq!(judge(&["gw_one"], 0), Ok(Some("one".to_owned())));
        assert_eq!(judge(&["gw_999"], 0), Ok(Some("999".to_owned())));
        assert_eq!(judge(&[], 0), Ok(None));
    }

    #[test]
    fn what_is_no_key_is_nobodys() {
        let hash = digest(&SHA256, b"gw_one");
        let hex: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        for wrong in [
            "gw_on",
            "gw_onee",
            "GW_ONE",
            "x",
            &hex,
            &format!("sha256:{hex}"),
        ] {
            assert_eq!(judge(&[wrong], 0), Err(AuthError::UnknownKey), "{wrong}");
        }
        assert_eq!(judge(&[""], 0), Err(AuthError::Malformed));
        assert_eq!(judge(&["gw_one", "gw_one"], 0), Err(AuthError::Ambiguous));
        let long = "x".repeat(MAX_KEY_BYTES + 1);
        assert_eq!(judge(&[&long], 0), Err(AuthError::TooLarge));
    }

    #[test]
    fn a_key_is_good_until_it_ends() {
        assert_eq!(judge(&["gw_two"], 99), Ok(Some("two".to_owned())));
        assert_eq!(judge(&["gw_two"], 100), Err(AuthError::Expired));
    }

    #[test]
    fn keys_whose_hashes_begin_alike_are_told_apart() {
        let mut twin = key("twin", "gw_other", None);
        let one = key("one", "gw_one", None);
        twin.hash[..8].copy_from_slice(&one.hash[..8]);
        let keys = ApiKeys::new(&model::ApiKeys {
            sources: Vec::new(),
            keys: vec![twin, one],
            redis: false,
        });
        let owner = keys.owner(&hash("gw_one").unwrap());
        assert_eq!(&*owner.unwrap().subject, "one");
    }
}
