//! Checks API keys, those of the configuration and those of a file beside it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::jwt::hex;
use super::texts;
use crate::config::check::Checker;
use crate::config::file;
use crate::config::model::{ApiKey, ApiKeys};
use crate::config::problem::{Invalid, quote};
use crate::config::scalar::{List, Secret};
use crate::config::tree::Path;

/// Largest file with keys: 100 000 of them, each with a name, a hash and some scopes.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

const HASH: &str = "`sha256:` and 64 hexadecimal digits, as `gateway keygen` prints it";
const NAME: &str = "at most 256 characters without control characters";
const EXPIRY: &str = "a date such as `2030-01-31`, or a date and time such as \
                      `2030-01-31T12:00:00Z`";

/// The keys that are sound, and where each hash was written.
#[derive(Default)]
struct Found {
    keys: Vec<ApiKey>,
    places: HashMap<[u8; 32], String>,
}

impl Checker<'_> {
    pub(super) fn api_keys(&mut self, written: &file::ApiKeys, at: &Path<'_>) -> Option<ApiKeys> {
        let sources = self.sources(&written.key, &at.key("key"));
        let root = Path::Root;
        if written.redis && !self.is_written(&root.key("redis")) {
            let what = "is true, but there is no Redis to look in; expected `redis` at the top";
            self.refuse(&at.key("redis"), what);
        }
        let mut found = Found::default();
        self.keys(&written.keys, &at.key("keys"), &mut found);
        if let Some(file) = &written.file {
            self.keys_of_file(file, &at.key("file"), &mut found);
        }
        let has_none = written.keys.is_empty() && written.file.is_none() && !written.redis;
        if has_none && self.is_whole(at) {
            self.refuse(at, "has no key, expected `keys`, `file` or `redis: true`");
            return None;
        }
        Some(ApiKeys {
            sources: sources?,
            keys: found.keys,
            redis: written.redis,
        })
    }

    fn keys_of_file(&mut self, file: &str, at: &Path<'_>, found: &mut Found) {
        let read = self.read_at_most(MAX_FILE_BYTES, file, "a YAML file with a list of keys");
        let Some(bytes) = self.accept(at, read) else {
            return;
        };
        self.listed(file, &bytes, at, |checker, keys: &List<file::ApiKey>| {
            checker.keys(keys, &Path::Root, found);
        });
    }

    fn keys(&mut self, written: &List<file::ApiKey>, list: &Path<'_>, found: &mut Found) {
        for (index, key) in written.iter() {
            self.key(key, &list.item(index), found);
        }
    }

    fn key(&mut self, written: &file::ApiKey, at: &Path<'_>, found: &mut Found) {
        let name = self.accept(&at.key("name"), name(&written.name));
        let hash = self.accept(&at.key("hash"), hash(&written.hash));
        let expiry_at = at.key("expires");
        let expires = match &written.expires {
            Some(text) => self.accept(&expiry_at, expiry(text)).map(Some),
            None => Some(None),
        };
        let (Some(name), Some(hash), Some(expires)) = (name, hash, expires) else {
            return;
        };
        let place = self.place(at);
        if let Some(first) = found.places.get(&hash) {
            let what = format!("is the hash of another key ({first}) too, expected it once");
            self.refuse(&at.key("hash"), what);
            return;
        }
        found.places.insert(hash, place.clone());
        if !written.enabled {
            return;
        }
        if expires.is_some_and(|end| end <= SystemTime::now()) {
            let shown = self.shown(&at.key("name"), &name);
            let place = self.place(&expiry_at);
            let what = format!("{place}: the key of {shown} has expired");
            self.warnings.push(what);
        }
        found.keys.push(ApiKey {
            name,
            hash,
            scopes: texts(&written.scopes),
            roles: texts(&written.roles),
            expires,
        });
    }
}

/// A name that can stand in a header and in a line of a log.
pub(super) fn name(text: &str) -> Result<Arc<str>, Invalid> {
    let is_long = text.chars().count() > 256;
    if text.is_empty() || is_long || text.chars().any(char::is_control) {
        return Err(Invalid::new(format!("{} is no name", quote(text)), NAME));
    }
    Ok(text.into())
}

/// The bytes of a hash. What is wrong with it never shows it: it may be the key itself.
fn hash(text: &Secret) -> Result<[u8; 32], Invalid> {
    let digits = text.reveal().strip_prefix("sha256:");
    let bytes = digits.and_then(hex).and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| Invalid::new("is no hash of a key", HASH))
}

/// The first moment at which a key is no longer good. A date is good to the end of its day in UTC.
pub fn expiry(text: &str) -> Result<SystemTime, Invalid> {
    let refused = || Invalid::new(format!("{} is no date", quote(text)), EXPIRY);
    let parse = |text: &str| humantime::parse_rfc3339(text).map_err(|_| refused());
    if text.len() == "2030-01-31".len() {
        let day = parse(&format!("{text}T00:00:00Z"))?;
        return Ok(day + Duration::from_secs(24 * 60 * 60));
    }
    parse(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

    use super::*;

    #[test]
    fn a_date_is_good_to_the_end_of_its_day() {
        let at = |text: &str| humantime::parse_rfc3339(text).unwrap();
        for (text, end) in [
            ("2030-01-31", "2030-02-01T00:00:00Z"),
            ("2028-02-29", "2028-03-01T00:00:00Z"),
            ("2030-01-31T12:00:00Z", "2030-01-31T12:00:00Z"),
            ("2030-01-31T12:00:00.5Z", "2030-01-31T12:00:00.5Z"),
        ] {
            assert_eq!(expiry(text).unwrap(), at(end), "{text}");
        }
        for text in [
            "",
            "soon",
            "2030-1-31",
            "2030-02-30",
            "2030-13-01",
            "31.01.2030",
            "2030-01-31T25:00:00Z",
            "2030-01-31T12:00:00",
            "2030-01-31T12:00:00+02:00",
            "99999",
        ] {
            assert!(expiry(text).is_err(), "{text}");
        }
    }
}
