//! Session tickets: what a client gives back so that the handshake can be short.
//!
//! A ticket is `key name | nonce | AES-256-GCM(time of issue | session) | tag`. What the client had
//! to show for the session is authenticated with it, so a ticket made where no client certificate
//! was asked for is worth nothing where one is. rustls itself binds the session to its server name.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hmac, rand};
use rustls::server::ProducesTickets;

/// How long a ticket is accepted, and after which time random keys are changed. A ticket of a key's
/// last moment is accepted for as long again, since the key before the current one is kept.
const LIFETIME: Duration = Duration::from_secs(6 * 60 * 60);
const NAME_BYTES: usize = 16;
const KEY_BYTES: usize = 32;
const TIME_BYTES: usize = 8;
/// Keys that a file may hold.
const MAX_KEYS: usize = 16;

/// One key, with the name by which a ticket tells it.
struct TicketKey {
    name: [u8; NAME_BYTES],
    key: RandomizedNonceKey,
}

/// The keys at one time: the first encrypts, all decrypt.
struct Ring {
    keys: Vec<Arc<TicketKey>>,
    made: SystemTime,
}

/// The keys of a listener.
pub(super) struct TicketKeys {
    ring: ArcSwap<Ring>,
    random: bool,
}

impl TicketKeys {
    /// Keys of this process alone.
    pub(super) fn random(now: SystemTime) -> Result<Self, String> {
        let keys = vec![Arc::new(TicketKey::random()?)];
        Ok(Self::new(keys, true, now))
    }

    /// The keys that a file holds, a line each.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        const EXPECTED: &str = "expected a line of 64 hexadecimal digits for each key";
        let text = std::str::from_utf8(text).map_err(|_| format!("is not text, {EXPECTED}"))?;
        let mut keys = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = from_hex(line)
                .ok_or_else(|| format!("holds no key in line {}, {EXPECTED}", index + 1))?;
            keys.push(Arc::new(TicketKey::derive(&key)?));
        }
        if keys.is_empty() {
            return Err(format!("holds no key, {EXPECTED}"));
        }
        if keys.len() > MAX_KEYS {
            return Err(format!("holds too many keys, expected at most {MAX_KEYS}"));
        }
        Ok(Self::new(keys, false, UNIX_EPOCH))
    }

    fn new(keys: Vec<Arc<TicketKey>>, random: bool, made: SystemTime) -> Self {
        Self {
            ring: ArcSwap::from_pointee(Ring { keys, made }),
            random,
        }
    }

    /// Goes on with the keys of `previous`, if both are random: the configuration changed, and not
    /// the process.
    pub(super) fn inherit(&self, previous: &Self) {
        if self.random && previous.random {
            self.ring.store(previous.ring.load_full());
        }
    }

    /// Changes random keys that have served their time.
    pub(super) fn rotate(&self, now: SystemTime) {
        let ring = self.ring.load();
        let age = now.duration_since(ring.made).unwrap_or_default();
        if !self.random || age < LIFETIME {
            return;
        }
        // Without randomness the old key is better than none.
        if let Ok(fresh) = TicketKey::random() {
            let mut keys = vec![Arc::new(fresh)];
            keys.extend(ring.keys.first().cloned());
            self.ring.store(Arc::new(Ring { keys, made: now }));
        }
    }

    fn seal(&self, plain: &[u8], binding: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        let ring = self.ring.load();
        let key = ring.keys.first()?;
        let mut sealed = Vec::with_capacity(TIME_BYTES + plain.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(&seconds(now).to_be_bytes());
        sealed.extend_from_slice(plain);
        let nonce = key
            .key
            .seal_in_place_append_tag(Aad::from(binding), &mut sealed)
            .ok()?;
        let mut ticket = Vec::with_capacity(NAME_BYTES + NONCE_LEN + sealed.len());
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(nonce.as_ref());
        ticket.append(&mut sealed);
        Some(ticket)
    }

    fn open(&self, ticket: &[u8], binding: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME_BYTES)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let ring = self.ring.load();
        let key = ring.keys.iter().find(|key| key.name == name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let opened = key
            .key
            .open_in_place(nonce, Aad::from(binding), &mut sealed)
            .ok()?;
        let (issued, plain) = opened.split_at_checked(TIME_BYTES)?;
        let issued = u64::from_be_bytes(issued.try_into().ok()?);
        // Clocks of instances differ a little, so a ticket may come from the future.
        let age = seconds(now).saturating_sub(issued);
        (age < LIFETIME.as_secs()).then(|| plain.to_vec())
    }
}

impl TicketKey {
    fn random() -> Result<Self, String> {
        let mut secret = [0; KEY_BYTES];
        rand::fill(&mut secret).map_err(|_| "there is no randomness".to_owned())?;
        Self::derive(&secret)
    }

    /// Name and key from one secret, so that the name gives nothing of the key away.
    fn derive(secret: &[u8; KEY_BYTES]) -> Result<Self, String> {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let named = hmac::sign(&root, b"session ticket key name");
        let key = hmac::sign(&root, b"session ticket key");
        let mut name = [0; NAME_BYTES];
        name.copy_from_slice(&named.as_ref()[..NAME_BYTES]);
        let key = RandomizedNonceKey::new(&AES_256_GCM, key.as_ref())
            .map_err(|_| "cannot be used as keys".to_owned())?;
        Ok(Self { name, key })
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn from_hex(text: &str) -> Option<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    if text.len() != 2 * KEY_BYTES {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        // Two digits below 16 are a byte.
        *byte = (digit(0)? << 4 | digit(1)?) as u8;
    }
    Some(key)
}

/// The keys as one certificate's handshakes use them.
pub(super) struct Ticketer {
    /// The keys of the listener.
    pub(super) keys: Arc<TicketKeys>,
    /// What a client has to show here.
    pub(super) binding: [u8; 32],
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        // Six hours fit.
        LIFETIME.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys.seal(plain, &self.binding, SystemTime::now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.keys.open(ticket, &self.binding, SystemTime::now())
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticketer")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const A: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const B: &str = "ff112233445566778899AABBCCDDEEFF00112233445566778899aabbccddeeff";

    fn start() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    #[test]
    fn what_was_sealed_opens_where_the_same_is_asked_for() {
        let keys = TicketKeys::random(start()).unwrap();
        let ticket = keys.seal(b"session", b"none", start()).unwrap();
        assert_eq!(keys.open(&ticket, b"none", start()).unwrap(), b"session");
        assert_eq!(keys.open(&ticket, b"required", start()), None);
        let mut forged = ticket.clone();
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(keys.open(&forged, b"none", start()), None);
        for length in 0..ticket.len() {
            assert_eq!(keys.open(&ticket[..length], b"none", start()), None);
        }
        let other = TicketKeys::random(start()).unwrap();
        assert_eq!(other.open(&ticket, b"none", start()), None);
    }

    #[test]
    fn tickets_and_random_keys_grow_old() {
        let keys = TicketKeys::random(start()).unwrap();
        let at_end = start() + 6 * HOUR - Duration::from_secs(1);
        let ticket = keys.seal(b"s", b"", at_end).unwrap();
        keys.rotate(at_end);
        assert_eq!(keys.ring.load().keys.len(), 1);
        keys.rotate(start() + 6 * HOUR);
        assert_eq!(keys.ring.load().keys.len(), 2);
        assert!(keys.open(&ticket, b"", start() + 11 * HOUR).is_some());
        assert!(keys.open(&ticket, b"", start() + 12 * HOUR).is_none());
        keys.rotate(start() + 12 * HOUR);
        assert!(keys.open(&ticket, b"", start() + 11 * HOUR).is_none());
    }

    #[test]
    fn files_share_keys_between_instances() {
        let old = TicketKeys::parse(A.as_bytes()).unwrap();
        let new = TicketKeys::parse(format!("# new first\n{B}\n\n{A}\r\n").as_bytes()).unwrap();
        let ticket = old.seal(b"s", b"", start()).unwrap();
        assert!(new.open(&ticket, b"", start()).is_some());
        let ticket = new.seal(b"s", b"", start()).unwrap();
        assert!(old.open(&ticket, b"", start()).is_none());
        new.rotate(start() + 100 * HOUR);
        assert_eq!(new.ring.load().keys.len(), 2);
        let random = TicketKeys::random(start()).unwrap();
        random.inherit(&new);
        assert!(random.open(&ticket, b"", start()).is_none());
        let next = TicketKeys::random(start()).unwrap();
        next.inherit(&random);
        let ticket = random.seal(b"s", b"", start()).unwrap();
        assert!(next.open(&ticket, b"", start()).is_some());
    }

    #[test]
    fn a_bad_file_is_told_without_its_text() {
        for bad in [
            "",
            "# only\n",
            "abc",
            &A[1..],
            &format!("{A}0"),
            &A.replace('f', "g"),
        ] {
            let Err(what) = TicketKeys::parse(bad.as_bytes()) else {
                panic!("{bad} was accepted");
            };
            assert!(what.contains("expected a line of 64"), "{what}");
            assert!(!what.contains("2233"), "{what}");
        }
        assert!(TicketKeys::parse(&[0xff]).is_err());
        assert!(TicketKeys::parse(format!("{A}\n").repeat(17).as_bytes()).is_err());
    }
}
