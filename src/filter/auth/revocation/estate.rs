//! What one process leaves of its list to the next.

use serde::{Deserialize, Serialize};

use super::{CutOff, Revocation, Revocations};

/// What is written at most: half of what a successor reads, since there is more than this.
const MAX_BYTES: usize = 32 << 20;

/// A list on its way to another process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Estate {
    revocations: Vec<Revocation>,
    cut_off: Option<CutOff>,
}

impl Estate {
    /// Of a list. What does not fit becomes a cut-off, unless it is to be had elsewhere.
    pub fn of(list: &Revocations, now: u64, is_shared: bool) -> Self {
        Self::within(MAX_BYTES, list, now, is_shared)
    }

    fn within(max: usize, list: &Revocations, now: u64, is_shared: bool) -> Self {
        let mut room = max;
        let mut estate = Self {
            revocations: Vec::new(),
            cut_off: list.cut_off(),
        };
        for revocation in list.all(now) {
            let size = serde_json::to_string(&revocation).map_or(max, |text| text.len() + 1);
            if let Some(left) = room.checked_sub(size) {
                room = left;
                estate.revocations.push(revocation);
            } else if !is_shared {
                let until = revocation.terms.until.unwrap_or(u64::MAX);
                let known = estate.cut_off.map_or(0, |cut_off| cut_off.until);
                estate.cut_off = Some(CutOff {
                    issued_before: now + 1,
                    until: until.max(known),
                });
            }
        }
        estate
    }

    /// Takes it over.
    pub fn enter(self, list: &Revocations, now: u64) {
        if let Some(cut_off) = self.cut_off {
            list.adopt_cut_off(cut_off);
        }
        list.learn(self.revocations, now);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Bearer, Target, Terms};
    use super::*;

    const NOW: u64 = 1000;

    fn list() -> Revocations {
        let list = Revocations::default();
        for jti in ["a", "b", "c"] {
            let terms = Terms {
                issued_before: 0,
                until: Some(NOW + 60),
                at: 1,
            };
            let target = Target::Token(jti.into());
            assert!(list.add(Revocation { target, terms }).is_ok());
        }
        list
    }

    fn is_revoked(list: &Revocations, jti: &str, issued_at: u64) -> bool {
        let bearer = Bearer {
            jti: Some(jti),
            subject: None,
            issued_at: Some(issued_at),
        };
        list.is_revoked(bearer, NOW)
    }

    #[test]
    fn the_next_process_knows_what_this_one_knew() {
        let written = serde_json::to_value(Estate::of(&list(), NOW, false)).unwrap_or_default();
        let heir = Revocations::default();
        let estate = serde_json::from_value::<Estate>(written).unwrap_or_default();
        estate.enter(&heir, NOW);
        assert_eq!(heir.counts().tokens, 3);
        assert!(is_revoked(&heir, "b", NOW) && !is_revoked(&heir, "d", 0));
    }

    #[test]
    fn what_does_not_fit_is_cut_off() {
        let heir = Revocations::default();
        Estate::within(100, &list(), NOW, false).enter(&heir, NOW);
        assert!(heir.counts().tokens < 3);
        for jti in ["a", "b", "c", "d"] {
            assert!(is_revoked(&heir, jti, NOW), "{jti}");
        }
        assert!(!is_revoked(&heir, "d", NOW + 1));
        let heir = Revocations::default();
        Estate::within(0, &list(), NOW, true).enter(&heir, NOW);
        assert_eq!((heir.counts().tokens, heir.cut_off()), (0, None));
    }
}
