//! How revocations are written down in the store: keys, and what instances tell each other.
//!
//! A key is the truth; a message says that there is a new one. An operator may set a key by hand.

use serde::{Deserialize, Serialize};

use crate::filter::auth::revocation::{Revocation, Target, Terms};

/// `revoked:{jti}`: the token is revoked while the key is there.
const TOKEN: &str = "revoked:";
/// `revoked_subject:{subject}`: its tokens that were issued before the time in it are.
const SUBJECT: &str = "revoked_subject:";
/// A revocation that was taken back, so that those learn of it who missed the message.
const LIFTED_TOKEN: &str = "revoked_lifted:token:";
const LIFTED_SUBJECT: &str = "revoked_lifted:subject:";

/// Which keys there may be.
pub(super) const PATTERN: &str = "revoked*";
/// The channel that messages are published to.
pub(super) const CHANNEL: &str = "revocations";
/// The stream that has the last messages, for those who were not listening.
pub(super) const LOG: &str = "revocations:log";
/// The field of an entry in the stream.
pub(super) const FIELD: &str = "m";
/// Messages that the stream keeps, about. Whoever missed more looks at all keys.
pub(super) const LOG_LENGTH: usize = 10_000;

/// What one instance tells the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(super) enum Message {
    /// This is revoked.
    Revoke(Revocation),
    /// It no longer is, if it was revoked before that time, in milliseconds since 1970.
    Lift(Lift),
}

/// See [`Message::Lift`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lift {
    #[serde(flatten)]
    pub target: Target,
    pub at: u64,
}

impl Message {
    pub fn write(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What other versions write in another way is passed over: the keys are looked at, too.
    pub fn read(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }
}

/// What a key is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Revoked(Target),
    Lifted(Target),
}

impl Key {
    /// `None`: it is none of ours.
    pub fn read(key: &[u8]) -> Option<Self> {
        let key = std::str::from_utf8(key).ok()?;
        let behind = |prefix| key.strip_prefix(prefix).map(Box::from);
        if let Some(jti) = behind(TOKEN) {
            return Some(Self::Revoked(Target::Token(jti)));
        }
        if let Some(subject) = behind(SUBJECT) {
            return Some(Self::Revoked(Target::Subject(subject)));
        }
        if let Some(jti) = behind(LIFTED_TOKEN) {
            return Some(Self::Lifted(Target::Token(jti)));
        }
        behind(LIFTED_SUBJECT).map(|subject| Self::Lifted(Target::Subject(subject)))
    }
}

/// The key of what is revoked.
pub(super) fn revoked(target: &Target) -> String {
    match target {
        Target::Token(jti) => format!("{TOKEN}{jti}"),
        Target::Subject(subject) => format!("{SUBJECT}{subject}"),
    }
}

/// The key of what was taken back.
pub(super) fn lifted(target: &Target) -> String {
    match target {
        Target::Token(jti) => format!("{LIFTED_TOKEN}{jti}"),
        Target::Subject(subject) => format!("{LIFTED_SUBJECT}{subject}"),
    }
}

/// The value of a key: for a subject the time before which tokens were issued, in seconds, and for
/// both when it was revoked, in milliseconds.
pub(super) fn value(revocation: &Revocation) -> String {
    let terms = revocation.terms;
    match revocation.target {
        Target::Token(_) => terms.at.to_string(),
        Target::Subject(_) => format!("{} {}", terms.issued_before, terms.at),
    }
}

/// Reads a key's value and the rest of its life in milliseconds, negative without an end. `now` is
/// in milliseconds.
///
/// Whatever a hand has written there, a token's key revokes it. For a subject it is the time in
/// seconds; what is no number is taken for now.
pub(super) fn read(target: Target, value: Option<&str>, life: i64, now: u64) -> Revocation {
    let seconds = now.div_ceil(1000);
    let mut words = value.unwrap_or_default().split_ascii_whitespace();
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
    let issued_before = match target {
        Target::Token(_) => 0,
        Target::Subject(_) => number().unwrap_or(seconds),
    };
    // A hand writes any small number.
    let at = number()
        .filter(|at| *at > LEAST_MILLISECONDS)
        .unwrap_or(now);
    let life = u64::try_from(life).ok();
    let until = life.map(|life| now.saturating_add(life).div_ceil(1000));
    Revocation {
        target,
        terms: Terms {
            issued_before,
            until,
            at,
        },
    }
}

/// Of the year 2001; a smaller number is no time in milliseconds.
const LEAST_MILLISECONDS: u64 = 1_000_000_000_000;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_500;

    fn revocation(target: Target) -> Revocation {
        Revocation {
            target,
            terms: Terms {
                issued_before: 1_600_000_000,
                until: Some(1_700_000_060),
                at: NOW,
            },
        }
    }

    #[test]
    fn keys_are_read_as_they_are_written() {
        for target in [Target::Token("a:b".into()), Target::Subject("a|b c".into())] {
            let key = Key::read(revoked(&target).as_bytes());
            assert_eq!(key, Some(Key::Revoked(target.clone())));
            let key = Key::read(lifted(&target).as_bytes());
            assert_eq!(key, Some(Key::Lifted(target)));
        }
        assert_eq!(revoked(&Target::Token("x".into())), "revoked:x");
        assert_eq!(Key::read(b"revokedx"), None);
        assert_eq!(Key::read(b"revoked:\xff"), None);
    }

    #[test]
    fn values_are_read_as_they_are_written() {
        let subject = revocation(Target::Subject("s".into()));
        let text = value(&subject);
        assert_eq!(
            read(subject.target.clone(), Some(&text), 59_500, NOW),
            subject
        );
        let mut token = revocation(Target::Token("t".into()));
        token.terms.issued_before = 0;
        let text = value(&token);
        assert_eq!(read(token.target.clone(), Some(&text), 59_500, NOW), token);
    }

    #[test]
    fn what_a_hand_writes_revokes() {
        for written in [None, Some(""), Some("1"), Some("revoked by joe")] {
            let read = read(Target::Token("t".into()), written, -1, NOW);
            assert_eq!((read.terms.until, read.terms.at), (None, NOW));
        }
        let subject = |written| read(Target::Subject("s".into()), Some(written), 1, NOW);
        assert_eq!(subject("1600000000").terms.issued_before, 1_600_000_000);
        assert_eq!(subject("true").terms.issued_before, 1_700_000_001);
        assert_eq!(subject("1").terms.until, Some(1_700_000_001));
    }

    #[test]
    fn messages_are_read_as_they_are_written_and_others_passed_over() {
        let revoke = Message::Revoke(revocation(Target::Token("t".into())));
        let lift = Message::Lift(Lift {
            target: Target::Subject("s".into()),
            at: 7,
        });
        for message in [revoke, lift] {
            let text = message.write();
            assert_eq!(Message::read(text.as_bytes()), Some(message), "{text}");
        }
        for other in [
            "",
            "{}",
            "{\"op\":\"revoke\"}",
            "{\"op\":\"x\",\"token\":\"t\"}",
        ] {
            assert_eq!(Message::read(other.as_bytes()), None, "{other}");
        }
    }
}
