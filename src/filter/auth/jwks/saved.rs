//! A key set as it is kept for the next start and handed to a successor.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Shape of what is kept; another one is not read.
const VERSION: u32 = 1;

/// How far the clock may have been set back since a key set was kept.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// A key set with where and when it was fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    version: u32,
    /// The provider, for whoever looks at it.
    pub provider: String,
    /// Where it was fetched.
    url: String,
    /// When it was last fetched or found unchanged, in seconds since 1970.
    fetched_at: u64,
    /// Its `ETag`.
    #[serde(default)]
    pub etag: Option<String>,
    /// Its `Last-Modified`.
    #[serde(default)]
    pub last_modified: Option<String>,
    /// The key set as it came.
    pub keys: String,
}

/// Why a kept key set is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotUsed {
    /// Another version has kept it.
    #[error("is of another version")]
    Version,
    /// It is that of another place.
    #[error("holds the keys of another URL")]
    OtherUrl,
    /// It is from a time to come.
    #[error("was kept at a time that is yet to come")]
    Future,
    /// It is older than `max_stale`.
    #[error("is older than `max_stale`")]
    TooOld,
    /// Its keys cannot be read.
    #[error("{0}")]
    Keys(String),
}

impl Saved {
    /// Keys that came from a URL at a time.
    pub fn new(provider: &str, url: &http::Uri, fetched: SystemTime, keys: &str) -> Self {
        Self {
            version: VERSION,
            provider: provider.to_owned(),
            url: url.to_string(),
            fetched_at: seconds(fetched),
            etag: None,
            last_modified: None,
            keys: keys.to_owned(),
        }
    }

    /// When it was fetched.
    pub fn fetched(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.fetched_at)
    }

    /// When it was fetched, to be read; it may be any time.
    pub fn fetched_text(&self) -> String {
        let at = Duration::from_secs(self.fetched_at);
        let at = SystemTime::UNIX_EPOCH.checked_add(at);
        at.map_or_else(String::new, |at| {
            humantime::format_rfc3339_seconds(at).to_string()
        })
    }

    /// How old it is, if it is of use for this URL at all.
    pub fn age(&self, url: &http::Uri, now: SystemTime) -> Result<Duration, NotUsed> {
        if self.version != VERSION {
            return Err(NotUsed::Version);
        }
        if self.url != url.to_string() {
            return Err(NotUsed::OtherUrl);
        }
        let now = Duration::from_secs(seconds(now));
        let fetched = Duration::from_secs(self.fetched_at);
        if fetched > now + CLOCK_TOLERANCE {
            return Err(NotUsed::Future);
        }
        Ok(now.saturating_sub(fetched))
    }
}

/// Since 1970.
pub fn seconds(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn only_keys_of_the_same_place_and_of_the_past_are_used() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let url = http::Uri::from_static("https://id.test/keys");
        let saved = Saved::new("main", &url, at(1000), "{}");
        assert_eq!(saved.age(&url, at(1100)), Ok(Duration::from_secs(100)));
        assert_eq!(
            saved.age(&url, at(990)),
            Ok(Duration::ZERO),
            "the clock was corrected"
        );
        assert_eq!(saved.age(&url, at(900)), Err(NotUsed::Future));
        let other = http::Uri::from_static("http://id.test/keys");
        assert_eq!(saved.age(&other, at(1100)), Err(NotUsed::OtherUrl));
        let mut text = serde_json::to_value(&saved).unwrap();
        text["version"] = 2.into();
        let newer: Saved = serde_json::from_value(text).unwrap();
        assert_eq!(newer.age(&url, at(1100)), Err(NotUsed::Version));
    }

    #[test]
    fn a_time_out_of_range_does_not_panic() {
        let url = http::Uri::from_static("https://id.test/keys");
        let text = format!(
            r#"{{"version":1,"provider":"a","url":"{url}","fetched_at":{},"keys":""}}"#,
            u64::MAX
        );
        let saved: Saved = serde_json::from_str(&text).unwrap();
        assert_eq!(saved.age(&url, SystemTime::now()), Err(NotUsed::Future));
    }
}
