//! Tokens that were found good: a second look costs no signature check.
//!
//! An entry answers for exactly what was judged: its key is a keyed hash over the token and the list
//! of providers that were asked, each by a number that it shares with no other provider before or
//! after it. So a token that is good on one route is not thereby good on another, and a reload that
//! changes a provider forgets its tokens. Time, and keys that left, are looked at on every hit.
//!
//! The hash is SipHash-2-4 with 128 bits under a random key of this process. Who does not know the key
//! cannot make two tokens collide but by chance, 2^-128 for each pair; nor does the cache hold tokens
//! that could be taken from it. HMAC-SHA256 would be as sound and was measured to take seven
//! times as long, 2.8 µs for a token of 676 bytes (`benches/jwt.rs`).
//!
//! The cache is an array of small sets, each with a lock that is held for a look at 16 entries. A full
//! set gives up the entry that was not used for the longest time. Both the number of entries and their
//! estimated size are bounded in each set, so no flood of good tokens takes more than was allowed.

use std::hash::Hasher;
use std::mem::size_of;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::error::Unspecified;
use serde_json::{Map, Value};
use siphasher::sip128::{Hasher128, SipHasher24};

use super::{NumericDate, Provider, Verified};

/// Entries of a set. The more, the nearer is the choice to the oldest of all.
const WAYS: usize = 16;

/// How much the cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// Tokens; rounded up to a power of two, and at least 16.
    pub entries: usize,
    /// What they take together in bytes, estimated.
    pub bytes: usize,
}

impl Default for CacheLimits {
    /// 16 384 tokens in 64 MiB: 4 KiB each, where common ones take two or three.
    fn default() -> Self {
        Self {
            entries: 16 * 1024,
            bytes: 64 * 1024 * 1024,
        }
    }
}

/// Tokens that were found good.
pub struct TokenCache {
    /// As many as a power of two.
    sets: Box<[Mutex<Set>]>,
    set_bytes: usize,
    key: [u8; 16],
}

/// Tokens whose hashes fall together.
#[derive(Default)]
struct Set {
    entries: Vec<Entry>,
    bytes: usize,
    /// Counts uses.
    clock: u64,
}

struct Entry {
    hash: u128,
    used: u64,
    bytes: usize,
    verified: Arc<Verified>,
}

impl TokenCache {
    /// An empty cache. Fails when the system gives no random bytes.
    pub fn new(limits: CacheLimits) -> Result<Self, Unspecified> {
        let mut key = [0; 16];
        aws_lc_rs::rand::fill(&mut key)?;
        let count = limits.entries.div_ceil(WAYS).next_power_of_two();
        Ok(Self {
            sets: (0..count).map(|_| Mutex::default()).collect(),
            set_bytes: limits.bytes / count,
            key,
        })
    }

    /// What is known of a token, if it is still good.
    pub fn get(
        &self,
        token: &str,
        providers: &[Arc<Provider>],
        now: SystemTime,
    ) -> Option<Arc<Verified>> {
        let hash = self.hash(token, providers);
        let mut set = self.set(hash);
        let index = set.entries.iter().position(|entry| entry.hash == hash)?;
        if !is_good(&set.entries[index].verified, now.into()) {
            set.remove(index);
            return None;
        }
        set.clock += 1;
        set.entries[index].used = set.clock;
        Some(Arc::clone(&set.entries[index].verified))
    }

    /// Keeps what [`verify`](super::verify()) has found.
    pub fn insert(&self, token: &str, providers: &[Arc<Provider>], verified: &Arc<Verified>) {
        let bytes = size_of::<Entry>() + weight(verified);
        if bytes > self.set_bytes {
            return;
        }
        let hash = self.hash(token, providers);
        let mut set = self.set(hash);
        if let Some(index) = set.entries.iter().position(|entry| entry.hash == hash) {
            set.remove(index);
        }
        while set.is_full_for(bytes, self.set_bytes) {
            set.remove_oldest();
        }
        set.clock += 1;
        set.bytes += bytes;
        let entry = Entry {
            hash,
            used: set.clock,
            bytes,
            verified: Arc::clone(verified),
        };
        set.entries.push(entry);
    }

    /// How many tokens it holds.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.sets.iter().map(|set| lock(set).entries.len()).sum()
    }

    /// Whether it holds none.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn hash(&self, token: &str, providers: &[Arc<Provider>]) -> u128 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        // With the number of providers before them no list and token read like another.
        hasher.write_u64(providers.len() as u64);
        for provider in providers {
            hasher.write_u64(provider.id());
        }
        hasher.write(token.as_bytes());
        hasher.finish128().as_u128()
    }

    fn set(&self, hash: u128) -> MutexGuard<'_, Set> {
        // The count is a power of two.
        lock(&self.sets[hash as usize & (self.sets.len() - 1)])
    }
}

impl Set {
    fn is_full_for(&self, bytes: usize, allowed: usize) -> bool {
        !self.entries.is_empty() && (self.entries.len() >= WAYS || self.bytes + bytes > allowed)
    }

    fn remove(&mut self, index: usize) {
        self.bytes -= self.entries.swap_remove(index).bytes;
    }

    fn remove_oldest(&mut self) {
        let used = |(_, entry): &(usize, &Entry)| entry.used;
        if let Some((oldest, _)) = self.entries.iter().enumerate().min_by_key(used) {
            self.remove(oldest);
        }
    }
}

impl std::fmt::Debug for TokenCache {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("TokenCache").finish_non_exhaustive()
    }
}

/// A panic while the lock was held leaves a set that can be used on: at worst, its size is off.
fn lock(set: &Mutex<Set>) -> MutexGuard<'_, Set> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_good(verified: &Verified, now: NumericDate) -> bool {
    verified.validity.check(now).is_ok() && !verified.key.is_removed()
}

/// What an entry takes, estimated: every member twice its plain size, since maps and lists keep room
/// to grow.
fn weight(verified: &Verified) -> usize {
    let words = verified.scopes.iter().chain(&verified.roles);
    let words: usize = words.map(|word| size_of::<Box<str>>() + word.len()).sum();
    let names = [&verified.issuer, &verified.subject, &verified.token_id];
    let names: usize = names.into_iter().flatten().map(|name| name.len()).sum();
    size_of::<Verified>() + words + names + members(&verified.claims)
}

fn members(claims: &Map<String, Value>) -> usize {
    let member = size_of::<(u64, String, Value)>();
    let sizes = claims
        .iter()
        .map(|(name, value)| 2 * member + name.len() + inner(value));
    sizes.sum()
}

/// What a value takes beside itself. The depth of claims is bounded where they are read.
fn inner(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list
            .iter()
            .map(|item| 2 * size_of::<Value>() + inner(item))
            .sum(),
        Value::Object(object) => members(object),
        _ => 0,
    }
}
