//! Checks `sticky` of an upstream.

use super::Checker;
use crate::config::file;
use crate::config::model::{MAX_STICKY_KEYS, Sticky};
use crate::config::tree::Path;

/// Shorter ones can be guessed.
const LEAST_KEY: usize = 16;

impl Checker<'_> {
    /// `None`: it is not sound.
    pub(super) fn sticky(
        &mut self,
        written: &file::Sticky,
        upstream: &str,
        at: &Path<'_>,
    ) -> Option<Sticky> {
        let list = at.key("keys");
        let count = written.keys.0.len();
        if (count == 0 && self.is_whole(&list)) || count > MAX_STICKY_KEYS {
            let what = format!("has {count} keys, expected 1 to {MAX_STICKY_KEYS}");
            self.refuse(&list, what);
        }
        for (index, key) in written.keys.iter() {
            if key.reveal().len() < LEAST_KEY {
                // Not a word of it may be shown.
                let what = format!("is short, expected at least {LEAST_KEY} characters");
                self.refuse(&list.item(index), what);
            }
        }
        let cookie = match &written.cookie {
            None => format!("sticky_{}", upstream_word(upstream)),
            Some(name) => {
                if name.is_empty() || name.len() > 128 || !name.bytes().all(is_token) {
                    let key = at.key("cookie");
                    let shown = self.shown(&key, name);
                    let what = format!(
                        "{shown} is no name for a cookie, expected letters, digits, `_`, `-` and `.`"
                    );
                    self.refuse(&key, what);
                }
                name.clone()
            }
        };
        Some(Sticky {
            cookie: cookie.into(),
            ttl: written.ttl.0,
            keys: written.keys.iter().map(|(_, key)| key.clone()).collect(),
        })
    }
}

/// A name as a cookie can have it.
fn upstream_word(name: &str) -> String {
    let fit = |c: char| {
        if c.is_ascii_alphanumeric() || c == '-' {
            c
        } else {
            '_'
        }
    };
    name.chars().map(fit).collect()
}

/// RFC 9110 section 5.6.2, less what some servers do not take in names of cookies.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)
}
