//! Which tokens hold no longer, though nothing in them says so.
//!
//! By the id of a token until a time, or by subject: every token that was issued before a time. The
//! list is the node's own memory, so that asking it takes no round trip. How it is shared with other
//! instances is the business of `background::revocations`.
//!
//! It is bounded. Operators cannot add to a full list; what is learned from elsewhere and finds no
//! room becomes a cut-off: every token that was issued before that moment counts as revoked. A
//! revoked token was issued before it was revoked, so none gets through, and who logs in anew can
//! go on.

mod estate;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use super::jwt::Verified;
use super::shards::Shards;

pub use self::estate::Estate;

/// Tokens that can be revoked at a time; about 150 bytes each where an id has 36.
pub const MAX_TOKENS: usize = 500_000;
/// Subjects whose tokens can be revoked at a time.
pub const MAX_SUBJECTS: usize = 50_000;
/// The longest id or subject, in bytes.
pub const MAX_NAME: usize = 1024;
/// How much longer than a token lives its revocation is remembered, in seconds: a token is accepted a
/// little beyond its end, since clocks differ.
const GRACE: u64 = 600;

/// What is revoked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The token of this id (`jti`).
    Token(Box<str>),
    /// The tokens of this subject (`sub`).
    Subject(Box<str>),
}

impl Target {
    /// The id or subject.
    pub fn name(&self) -> &str {
        match self {
            Self::Token(name) | Self::Subject(name) => name,
        }
    }
}

/// Since when, until when. All times in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Of a subject's tokens those that were issued before; for one token of no meaning.
    #[serde(default)]
    pub issued_before: u64,
    /// When it can be forgotten; `None`: never.
    pub until: Option<u64>,
    /// When it was revoked, in milliseconds: a revocation that is taken back later holds no longer.
    pub at: u64,
}

impl Terms {
    fn holds(&self, now: u64) -> bool {
        self.until
            .is_none_or(|until| now < until.saturating_add(GRACE))
    }

    /// Whoever revokes twice means both.
    fn merge(self, other: Self) -> Self {
        Self {
            issued_before: self.issued_before.max(other.issued_before),
            until: self.until.zip(other.until).map(|(a, b)| a.max(b)),
            at: self.at.max(other.at),
        }
    }
}

/// One revocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// What is revoked.
    #[serde(flatten)]
    pub target: Target,
    /// Since when, until when.
    #[serde(flatten)]
    pub terms: Terms,
}

/// What a token says of itself, as far as it matters here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bearer<'a> {
    /// Its id.
    pub jti: Option<&'a str>,
    /// Whose it is.
    pub subject: Option<&'a str>,
    /// When it was issued.
    pub issued_at: Option<u64>,
}

impl<'a> Bearer<'a> {
    /// Of a token that is good otherwise.
    pub fn of(token: &'a Verified) -> Self {
        let issued_at = token.issued_at.map(|at| at.seconds());
        Self {
            jti: token.token_id.as_deref(),
            subject: token.subject.as_deref(),
            issued_at: issued_at.map(|at| u64::try_from(at).unwrap_or(0)),
        }
    }
}

/// Whole seconds since 1970, as the times of this list are.
pub fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Every token issued before counts as revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutOff {
    /// Before when.
    pub issued_before: u64,
    /// Until when.
    pub until: u64,
}

/// There is no room for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The list.
pub struct Revocations {
    /// How much there is to look at; zero most of the time.
    any: AtomicUsize,
    tokens: Shards<Terms>,
    subjects: Shards<Terms>,
    // Both zero when there is none.
    cut_before: AtomicU64,
    cut_until: AtomicU64,
    /// Held by whoever changes something: how many of each there are.
    writing: Mutex<Counts>,
    max: Counts,
    generation: watch::Sender<u64>,
    changed: Notify,
}

/// How many of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tokens.
    pub tokens: usize,
    /// Subjects.
    pub subjects: usize,
}

impl Default for Revocations {
    fn default() -> Self {
        Self::with_room_for(Counts {
            tokens: MAX_TOKENS,
            subjects: MAX_SUBJECTS,
        })
    }
}

impl Revocations {
    fn with_room_for(max: Counts) -> Self {
        Self {
            any: AtomicUsize::new(0),
            tokens: Shards::default(),
            subjects: Shards::default(),
            cut_before: AtomicU64::new(0),
            cut_until: AtomicU64::new(0),
            writing: Mutex::default(),
            max,
            generation: watch::Sender::new(0),
            changed: Notify::new(),
        }
    }

    /// Whether a token holds no longer. One that does not say when it was issued may have been
    /// issued before any time.
    pub fn is_revoked(&self, bearer: Bearer<'_>, now: u64) -> bool {
        if self.any.load(Ordering::Acquire) == 0 {
            return false;
        }
        let issued_before = |time: u64| bearer.issued_at.is_none_or(|issued_at| issued_at < time);
        let token = bearer.jti.and_then(|jti| self.tokens.get(jti));
        let subject = || {
            bearer
                .subject
                .and_then(|subject| self.subjects.get(subject))
        };
        token.is_some_and(|terms| terms.holds(now))
            || subject().is_some_and(|terms| terms.holds(now) && issued_before(terms.issued_before))
            || self.cut_off().is_some_and(|cut_off| {
                now < cut_off.until.saturating_add(GRACE) && issued_before(cut_off.issued_before)
            })
    }

    /// Adds one, if there is room.
    pub fn add(&self, revocation: Revocation) -> Result<(), Full> {
        let mut counts = self.lock();
        if self.get(&revocation.target).is_none() && self.room(&counts, &revocation.target) == 0 {
            return Err(Full);
        }
        self.insert(&mut counts, vec![revocation]);
        Ok(())
    }

    /// Adds what was learned from elsewhere, and says how many of them are news. What finds no room
    /// moves the cut-off.
    pub fn learn(&self, revocations: Vec<Revocation>, now: u64) -> usize {
        let mut counts = self.lock();
        let is_news = |revocation: &Revocation| {
            let known = self.get(&revocation.target);
            known.is_none_or(|known| known.merge(revocation.terms) != known)
        };
        let mut news = Vec::new();
        let mut room = [Target::Token("".into()), Target::Subject("".into())]
            .map(|kind| self.room(&counts, &kind));
        for revocation in revocations.into_iter().filter(is_news) {
            let is_known = self.get(&revocation.target).is_some();
            let left = match revocation.target {
                Target::Token(_) => &mut room[0],
                Target::Subject(_) => &mut room[1],
            };
            if is_known {
                news.push(revocation);
            } else if *left > 0 && revocation.target.name().len() <= MAX_NAME {
                *left -= 1;
                news.push(revocation);
            } else {
                self.cut(&revocation.terms, now);
            }
        }
        let count = news.len();
        self.insert(&mut counts, news);
        // There may be a cut-off and nothing else.
        self.weigh(&counts);
        count
    }

    /// Takes one back that was revoked no later than `at`. Says whether it was there.
    pub fn lift(&self, target: &Target, at: u64) -> bool {
        let mut counts = self.lock();
        if self.get(target).is_none_or(|terms| terms.at > at) {
            return false;
        }
        let shards = match target {
            Target::Token(_) => &self.tokens,
            Target::Subject(_) => &self.subjects,
        };
        let was_there = shards.remove(target.name());
        match target {
            Target::Token(_) => counts.tokens -= usize::from(was_there),
            Target::Subject(_) => counts.subjects -= usize::from(was_there),
        }
        self.weigh(&counts);
        self.changed.notify_one();
        was_there
    }

    /// What holds of an id or a subject.
    pub fn get(&self, target: &Target) -> Option<Terms> {
        match target {
            Target::Token(jti) => self.tokens.get(jti),
            Target::Subject(subject) => self.subjects.get(subject),
        }
    }

    /// Forgets what is over.
    pub fn sweep(&self, now: u64) {
        let mut counts = self.lock();
        counts.tokens -= self.tokens.retain(|terms| terms.holds(now));
        counts.subjects -= self.subjects.retain(|terms| terms.holds(now));
        let is_over = |cut: CutOff| now >= cut.until.saturating_add(GRACE);
        if self.cut_off().is_some_and(is_over) {
            self.set_cut_off(0, 0);
        }
        self.weigh(&counts);
    }

    /// Those that are not over, for others.
    pub fn all(&self, now: u64) -> Vec<Revocation> {
        let mut all = Vec::new();
        let mut push = |target: Target, terms: &Terms| {
            if terms.until.is_none_or(|until| now < until) {
                let terms = *terms;
                all.push(Revocation { target, terms });
            }
        };
        self.tokens
            .for_each(|jti, terms| push(Target::Token((&**jti).into()), terms));
        self.subjects
            .for_each(|subject, terms| push(Target::Subject((&**subject).into()), terms));
        all
    }

    /// How many there are.
    pub fn counts(&self) -> Counts {
        *self.lock()
    }

    /// The cut-off, when something found no room.
    pub fn cut_off(&self) -> Option<CutOff> {
        let issued_before = self.cut_before.load(Ordering::Acquire);
        let until = self.cut_until.load(Ordering::Acquire);
        (issued_before > 0).then_some(CutOff {
            issued_before,
            until,
        })
    }

    /// Takes over the cut-off of another list.
    pub fn adopt_cut_off(&self, cut_off: CutOff) {
        let counts = self.lock();
        self.set_cut_off(cut_off.issued_before, cut_off.until);
        self.weigh(&counts);
    }

    /// Sees when something was revoked: then whoever goes on with a token has to ask again.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Waits until something has changed that subscribers have not been told of.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Tells the subscribers. Apart from the change, so that many at a time wake them once.
    pub fn announce(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    fn room(&self, counts: &Counts, kind: &Target) -> usize {
        match kind {
            Target::Token(_) => self.max.tokens.saturating_sub(counts.tokens),
            Target::Subject(_) => self.max.subjects.saturating_sub(counts.subjects),
        }
    }

    fn insert(&self, counts: &mut Counts, revocations: Vec<Revocation>) {
        if revocations.is_empty() {
            return;
        }
        let (mut tokens, mut subjects) = (Vec::new(), Vec::new());
        for Revocation { target, terms } in revocations {
            match target {
                Target::Token(jti) => tokens.push((Arc::from(jti), terms)),
                Target::Subject(subject) => subjects.push((Arc::from(subject), terms)),
            }
        }
        counts.tokens += self.tokens.insert(tokens, Terms::merge);
        counts.subjects += self.subjects.insert(subjects, Terms::merge);
        self.weigh(counts);
        self.changed.notify_one();
    }

    fn cut(&self, terms: &Terms, now: u64) {
        let until = self.cut_until.load(Ordering::Acquire);
        // What is issued within this second may have been issued before.
        self.set_cut_off(now + 1, until.max(terms.until.unwrap_or(u64::MAX)));
        self.changed.notify_one();
    }

    fn set_cut_off(&self, issued_before: u64, until: u64) {
        self.cut_until.store(until, Ordering::Release);
        self.cut_before.store(issued_before, Ordering::Release);
    }

    fn weigh(&self, counts: &Counts) {
        let cut = usize::from(self.cut_before.load(Ordering::Acquire) > 0);
        let any = counts.tokens + counts.subjects + cut;
        self.any.store(any, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "revocation/tests.rs"]
mod tests;
