//! What is known of one source: its last good answer, and for how long that counts. No socket, no clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::model::{Backend, Source};

/// Waits after failures: they double from the first to the second of these.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// How soon a name is asked for again that has no records, at the latest: it is expected back.
const MISSING_RETRY: Duration = Duration::from_secs(5);

/// What a source answered.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    /// These, never empty, in order; for how long that counts; and how many more are left out.
    Found(Arc<[Backend]>, Duration, usize),
    /// The source says that there are none.
    Missing,
    /// No answer, or none that can be understood: why.
    Failed(String),
}

/// What to do with an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    /// There are others than before.
    Changed,
    /// Nothing is to be done.
    Same,
    /// What is known is kept although the answer was no good one.
    Kept,
}

/// For how long answers count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub min: Duration,
    pub max: Duration,
    pub keep_missing: Duration,
    pub keep_stale: Option<Duration>,
}

impl Bounds {
    /// Of this source. A file is looked at, and counts until it is another one.
    pub fn of(source: &Source, looks: Duration) -> Self {
        match source {
            Source::Dns(dns) => Self {
                min: dns.min_ttl,
                max: dns.max_ttl,
                keep_missing: dns.keep_missing,
                keep_stale: dns.keep_stale,
            },
            Source::File(_) => Self {
                min: looks,
                max: looks,
                keep_missing: Duration::MAX,
                keep_stale: None,
            },
        }
    }
}

/// What is known of one source.
#[derive(Debug, Default)]
pub(super) struct Knowledge {
    found: Option<Arc<[Backend]>>,
    /// Since when answers were no good ones, and whether they say that there are none.
    missing_since: Option<Instant>,
    failing_since: Option<Instant>,
    failures: u32,
    answered: bool,
}

impl Knowledge {
    /// Whether there was an answer at all, good or not.
    pub fn is_answered(&self) -> bool {
        self.answered
    }

    /// The backends, as far as they are known; `None`: not at all yet.
    pub fn found(&self) -> Option<&Arc<[Backend]>> {
        self.found.as_ref()
    }

    /// Takes an answer in. What is said second is how long to wait for the next one.
    pub fn take(&mut self, answer: &Answer, bounds: &Bounds, now: Instant) -> (Verdict, Duration) {
        self.answered = true;
        match answer {
            Answer::Found(found, ttl, _) => {
                (self.missing_since, self.failing_since, self.failures) = (None, None, 0);
                let verdict = match self.found.as_ref() == Some(found) {
                    true => Verdict::Same,
                    false => Verdict::Changed,
                };
                self.found = Some(Arc::clone(found));
                (verdict, (*ttl).clamp(bounds.min, bounds.max))
            }
            Answer::Missing => {
                (self.failing_since, self.failures) = (None, 0);
                let since = *self.missing_since.get_or_insert(now);
                let wait = MISSING_RETRY.min(bounds.max);
                self.keep(since, Some(bounds.keep_missing), wait, now)
            }
            Answer::Failed(_) => {
                let since = *self.failing_since.get_or_insert(now);
                let wait = FIRST_RETRY.saturating_mul(1 << self.failures.min(5));
                self.failures = self.failures.saturating_add(1);
                self.keep(since, bounds.keep_stale, wait.min(LAST_RETRY), now)
            }
        }
    }

    /// Keeps what is known until its time is over, and looks again then at the latest.
    fn keep(
        &mut self,
        since: Instant,
        keep: Option<Duration>,
        wait: Duration,
        now: Instant,
    ) -> (Verdict, Duration) {
        let Some(found) = self.found.as_ref().filter(|found| !found.is_empty()) else {
            return (Verdict::Kept, wait);
        };
        let kept = now.saturating_duration_since(since);
        let left = keep.map(|keep| keep.saturating_sub(kept));
        if left == Some(Duration::ZERO) {
            log::debug!("{} backends are given up", found.len());
            self.found = Some(Arc::from([]));
            return (Verdict::Changed, wait);
        }
        (Verdict::Kept, left.map_or(wait, |left| left.min(wait)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::super::records;
    use super::*;
    use crate::config::model::Identity;

    const SECOND: Duration = Duration::from_secs(1);

    fn bounds() -> Bounds {
        Bounds {
            min: SECOND,
            max: 60 * SECOND,
            keep_missing: 30 * SECOND,
            keep_stale: Some(3600 * SECOND),
        }
    }

    fn found(ports: &[u16], ttl: u64) -> Answer {
        let at =
            |port: &u16| records::backend(([10, 0, 0, 1], *port).into(), "", &Identity::Nobody);
        let found: Vec<Backend> = ports.iter().map(at).collect();
        Answer::Found(found.into(), Duration::from_secs(ttl), 0)
    }

    fn count(knowledge: &Knowledge) -> Option<usize> {
        knowledge.found().map(|found| found.len())
    }

    #[test]
    fn an_answer_counts_for_its_time_within_bounds() {
        let (mut knowledge, now) = (Knowledge::default(), Instant::now());
        assert!(!knowledge.is_answered());
        let mut take = |answer| knowledge.take(&answer, &bounds(), now);
        assert_eq!(take(found(&[1, 2], 5)), (Verdict::Changed, 5 * SECOND));
        assert_eq!(take(found(&[1, 2], 0)), (Verdict::Same, SECOND));
        assert_eq!(take(found(&[1], 9999)), (Verdict::Changed, 60 * SECOND));
        assert_eq!(count(&knowledge), Some(1));
    }

    #[test]
    fn what_is_missing_is_kept_for_a_while_and_comes_back_at_once() {
        let (mut knowledge, start) = (Knowledge::default(), Instant::now());
        knowledge.take(&found(&[1], 5), &bounds(), start);
        let mut at = |seconds, answer: &Answer| {
            let (verdict, wait) = knowledge.take(answer, &bounds(), start + seconds * SECOND);
            (verdict, wait, count(&knowledge).unwrap())
        };
        assert_eq!(at(10, &Answer::Missing), (Verdict::Kept, 5 * SECOND, 1));
        assert_eq!(at(38, &Answer::Missing), (Verdict::Kept, 2 * SECOND, 1));
        assert_eq!(at(40, &Answer::Missing), (Verdict::Changed, 5 * SECOND, 0));
        assert_eq!(at(45, &Answer::Missing), (Verdict::Kept, 5 * SECOND, 0));
        assert_eq!(at(50, &found(&[1], 5)), (Verdict::Changed, 5 * SECOND, 1));
        let again = at(60, &Answer::Missing);
        assert_eq!(
            again,
            (Verdict::Kept, 5 * SECOND, 1),
            "the time begins anew"
        );
    }

    #[test]
    fn failures_are_repeated_ever_more_slowly_and_what_is_known_is_kept() {
        let (mut knowledge, now) = (Knowledge::default(), Instant::now());
        let failed = Answer::Failed("away".to_owned());
        let forever = Bounds {
            keep_stale: None,
            ..bounds()
        };
        knowledge.take(&found(&[1], 5), &forever, now);
        let waits: Vec<u64> = (0..8)
            .map(|hours| {
                let now = now + Duration::from_secs(hours * 3600);
                let (verdict, wait) = knowledge.take(&failed, &forever, now);
                assert_eq!(verdict, Verdict::Kept);
                wait.as_secs()
            })
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(count(&knowledge), Some(1));
        let late = now + Duration::from_secs(9 * 3600);
        let given_up = knowledge.take(&failed, &bounds(), late);
        assert_eq!(given_up.0, Verdict::Changed);
        assert_eq!(count(&knowledge), Some(0));
    }

    #[test]
    fn what_is_not_known_is_asked_for_soon_however_long_answers_count() {
        let (mut knowledge, now) = (Knowledge::default(), Instant::now());
        let hourly = Bounds {
            min: 3600 * SECOND,
            max: 3600 * SECOND,
            ..bounds()
        };
        let failed = Answer::Failed("away".to_owned());
        let mut wait = |answer: &Answer| knowledge.take(answer, &hourly, now).1;
        assert_eq!([&failed, &failed].map(&mut wait), [SECOND, 2 * SECOND]);
        assert_eq!(wait(&Answer::Missing), 5 * SECOND);
        assert_eq!(wait(&found(&[1], 5)), 3600 * SECOND);
    }

    #[test]
    fn a_source_that_never_had_any_has_none() {
        for answer in [Answer::Missing, Answer::Failed(String::new())] {
            let mut knowledge = Knowledge::default();
            let (verdict, _) = knowledge.take(&answer, &bounds(), Instant::now());
            assert_eq!((verdict, count(&knowledge)), (Verdict::Kept, None));
            assert!(knowledge.is_answered());
        }
    }
}
