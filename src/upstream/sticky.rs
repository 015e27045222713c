//! Clients that come back to their backend, by a signed cookie.
//!
//! The cookie is the base64url of 28 bytes: when it was made (seconds since 1970, 4 bytes), which
//! backend it names (8 bytes), and 16 bytes of an HMAC-SHA256 over both and the name of the upstream.
//! A backend is named by an HMAC of its own, so nobody learns its address from it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{Context, HMAC_SHA256, Key};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue};

use super::members::Members;
use crate::config::model;
use crate::filter::auth::credential;

const TIME: usize = 4;
const BODY: usize = TIME + 8;
const LENGTH: usize = BODY + 16;
/// What is written of it: four characters for three bytes, two for the last one.
const ENCODED: usize = LENGTH / 3 * 4 + 2;

/// How an upstream makes and reads its cookies.
pub struct Sticky {
    cookie: Box<str>,
    ttl: Duration,
    keys: Box<[Key]>,
    /// What the signatures are over beside the cookie itself: one upstream's are no other's.
    upstream: Box<str>,
}

/// A cookie that was signed here, or by another instance, and holds still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which key signed it.
    key: usize,
    /// Which backend it names.
    backend: u64,
    /// Whether it need not be renewed yet.
    is_fresh: bool,
}

impl Held {
    /// Whether the client can keep it.
    pub fn is_fresh(self) -> bool {
        self.is_fresh && self.key == 0
    }
}

impl Sticky {
    pub(super) fn compile(config: &model::Sticky, upstream: &str) -> Self {
        let keys = config.keys.iter();
        let key = |secret: &model::Secret| Key::new(HMAC_SHA256, secret.reveal().as_bytes());
        Self {
            cookie: (*config.cookie).into(),
            ttl: config.ttl,
            keys: keys.map(key).collect(),
            upstream: upstream.into(),
        }
    }

    /// The name of the cookie.
    pub fn name(&self) -> &str {
        &self.cookie
    }

    /// What the request's cookie says. One that is forged, stale, damaged or there twice is none.
    pub fn read(&self, headers: &HeaderMap, now: SystemTime) -> Option<Held> {
        let text = credential::of_cookie(headers, &self.cookie).ok()??;
        if text.len() != ENCODED {
            return None;
        }
        // With room for what the decoder counts on.
        let mut bytes = [0; LENGTH + 4];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        let (body, tag) = bytes.get(..length)?.split_at_checked(BODY)?;
        let signed_by = |key: &Key| verify_slices_are_equal(&self.sign(key, body), tag).is_ok();
        let key = self.keys.iter().position(signed_by)?;
        let (made, backend) = body.split_at(TIME);
        let made = u64::from(u32::from_be_bytes(made.try_into().ok()?));
        // One from the future is from an instance whose clock is ahead.
        let age = Duration::from_secs(seconds(now).saturating_sub(made));
        (age < self.ttl).then_some(Held {
            key,
            backend: u64::from_be_bytes(backend.try_into().ok()?),
            is_fresh: age < self.ttl / 2,
        })
    }

    /// The field that gives a client the backend of this name.
    pub fn give(&self, backend: &str, is_secure: bool, now: SystemTime) -> Option<HeaderValue> {
        let key = self.keys.first()?;
        let mut bytes = [0; LENGTH];
        // Until the year 2106; then cookies are stale as soon as they are made.
        let made = u32::try_from(seconds(now)).unwrap_or(u32::MAX);
        bytes[..TIME].copy_from_slice(&made.to_be_bytes());
        bytes[TIME..BODY].copy_from_slice(&self.id(key, backend).to_be_bytes());
        let tag = self.sign(key, &bytes[..BODY]);
        bytes[BODY..].copy_from_slice(&tag);
        let secure = if is_secure { "; Secure" } else { "" };
        let field = format!(
            "{}={}; Path=/; Max-Age={}; HttpOnly; SameSite=Lax{secure}",
            self.cookie,
            URL_SAFE_NO_PAD.encode(bytes),
            self.ttl.as_secs(),
        );
        HeaderValue::try_from(field).ok()
    }

    fn id(&self, key: &Key, backend: &str) -> u64 {
        let tag = self.hmac(key, b"backend", backend.as_bytes());
        u64::from_be_bytes(tag[..8].try_into().unwrap_or_default())
    }

    fn sign(&self, key: &Key, body: &[u8]) -> [u8; 16] {
        self.hmac(key, b"cookie", body)
    }

    fn hmac(&self, key: &Key, purpose: &[u8], what: &[u8]) -> [u8; 16] {
        let mut hmac = Context::with_key(key);
        for part in [
            b"gateway sticky ",
            purpose,
            b"\0",
            self.upstream.as_bytes(),
            b"\0",
            what,
        ] {
            hmac.update(part);
        }
        let mut tag = [0; 16];
        tag.copy_from_slice(&hmac.sign().as_ref()[..16]);
        tag
    }
}

/// Which member is named by what, for each key: made when members come or go.
pub(super) struct Names(Vec<Vec<(u64, u16)>>);

impl Names {
    pub fn new(sticky: &Sticky, members: &Members) -> Self {
        let of = |key: &Key| {
            let members = (0u16..).zip(members.iter());
            let mut names: Vec<_> = members
                .map(|(member, backend)| (sticky.id(key, &backend.name), member))
                .collect();
            names.sort_unstable();
            names
        };
        Self(sticky.keys.iter().map(of).collect())
    }

    /// The member that a cookie names, if it is one still.
    pub fn find(&self, held: Held) -> Option<u16> {
        let names = self.0.get(held.key)?;
        let place = names.binary_search_by_key(&held.backend, |(name, _)| *name);
        names.get(place.ok()?).map(|(_, member)| *member)
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn sticky(keys: &[&str]) -> Sticky {
        let secret = |key: &&str| serde_json::from_value((*key).into()).unwrap();
        let config = model::Sticky {
            cookie: "c".into(),
            ttl: HOUR,
            keys: keys.iter().map(secret).collect(),
        };
        Sticky::compile(&config, "users")
    }

    fn cookie(field: &HeaderValue) -> String {
        field
            .to_str()
            .unwrap()
            .split(';')
            .next()
            .unwrap()
            .to_owned()
    }

    fn read(sticky: &Sticky, cookie: &str, now: SystemTime) -> Option<Held> {
        let field = HeaderValue::try_from(cookie).unwrap();
        let headers = [(http::header::COOKIE, field)].into_iter().collect();
        sticky.read(&headers, now)
    }

    #[test]
    fn what_was_given_is_believed_until_it_is_stale() {
        let (sticky, now) = (sticky(&["one key of many letters"]), SystemTime::now());
        let field = sticky.give("10.0.0.1:80", true, now).unwrap();
        let text = field.to_str().unwrap();
        assert!(
            text.ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax; Secure"),
            "{text}"
        );
        assert!(!text.contains("10.0") && !text.contains("MTAuMC"), "{text}");
        let cookie = format!("a=b; {}; d=e", cookie(&field));
        assert!(read(&sticky, &cookie, now).unwrap().is_fresh());
        let half = read(&sticky, &cookie, now + HOUR / 2).unwrap();
        assert!(!half.is_fresh());
        assert_eq!(read(&sticky, &cookie, now + HOUR), None);
        assert!(read(&sticky, &cookie, now - HOUR).is_some());
        let plain = sticky.give("10.0.0.1:80", false, now).unwrap();
        assert!(!plain.to_str().unwrap().contains("Secure"));
    }

    #[test]
    fn nothing_that_was_changed_is_believed() {
        let (sticky, now) = (sticky(&["one key of many letters"]), SystemTime::now());
        let good = cookie(&sticky.give("a:1", true, now).unwrap());
        for at in 2..good.len() {
            let mut bytes = good.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let text = String::from_utf8(bytes).unwrap();
            // The last character has bits that stand for nothing, and must be 0.
            assert_eq!(read(&sticky, &text, now), None, "{at}: {text}");
        }
        for wrong in [
            "c=",
            "c=!!!!",
            "c=AAAA",
            "x=y",
            &good[..30],
            &format!("{good}A"),
            &format!("{good}="),
        ] {
            assert_eq!(read(&sticky, wrong, now), None, "{wrong}");
        }
        assert_eq!(
            read(&sticky, &format!("{good}; {good}"), now),
            None,
            "which of them?"
        );
        assert_eq!(
            read(&self::sticky(&["another key of as many"]), &good, now),
            None
        );
        let mut other = self::sticky(&["one key of many letters"]);
        other.upstream = "orders".into();
        assert_eq!(read(&other, &good, now), None);
    }

    #[test]
    fn cookies_of_any_length_are_read_without_harm() {
        let (sticky, now) = (sticky(&["one key of many letters"]), SystemTime::now());
        for length in (0..100).chain([4000]) {
            let cookie = format!("c={}", "A".repeat(length));
            assert_eq!(read(&sticky, &cookie, now), None);
        }
    }

    #[test]
    fn keys_can_be_changed() {
        let now = SystemTime::now();
        let old = sticky(&["the key until today"]);
        let new = sticky(&["the key from today", "the key until today"]);
        let given = cookie(&old.give("a:1", true, now).unwrap());
        let held = read(&new, &given, now).unwrap();
        assert!(!held.is_fresh(), "it is signed anew");
        assert_eq!(held.backend, new.id(&new.keys[1], "a:1"));
        let renewed = cookie(&new.give("a:1", true, now).unwrap());
        assert!(read(&new, &renewed, now).unwrap().is_fresh());
        assert_eq!(read(&old, &renewed, now), None);
    }
}
