//! What a row of results of probes comes to.

use std::time::Duration;

use crate::config::model::Pace;

/// Results in a row.
#[derive(Debug, Default)]
pub(super) struct Streak {
    good: u32,
    bad: u32,
    /// What the backend is taken for since a row was long enough.
    judged: Option<bool>,
}

impl Streak {
    /// Takes a result in; says what the backend is to be taken for, once the row is long enough. Of a
    /// backend that was never judged a single good result is believed: nothing speaks against it.
    pub(super) fn judge(&mut self, good: bool, pace: &Pace) -> Option<bool> {
        let (row, other, enough) = match good {
            true => (&mut self.good, &mut self.bad, pace.healthy_after),
            false => (&mut self.bad, &mut self.good, pace.unhealthy_after),
        };
        *other = 0;
        *row = row.saturating_add(1);
        let is_first = good && self.judged.is_none();
        if *row < enough && !is_first {
            return None;
        }
        self.judged = Some(good);
        self.judged
    }

    /// How long to wait for the next probe: less while a row is counted that would change something.
    pub(super) fn wait(&self, pace: &Pace) -> Duration {
        let turning = match self.judged {
            Some(false) => self.good > 0,
            Some(true) | None => self.bad > 0,
        };
        jittered(if turning {
            pace.fast_interval
        } else {
            pace.interval
        })
    }
}

/// The interval within a tenth, so that instances started together do not probe together.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + 0.2 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> Pace {
        Pace {
            interval: Duration::from_secs(10),
            fast_interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            unhealthy_after: 3,
            healthy_after: 2,
        }
    }

    fn judged(results: &[bool]) -> Vec<Option<bool>> {
        let mut streak = Streak::default();
        let judge = |good: &bool| streak.judge(*good, &pace());
        results.iter().map(judge).collect()
    }

    #[test]
    fn one_bad_probe_takes_nobody_out_and_one_good_one_brings_nobody_back() {
        let results = [false, false, false, true, false, true, true, false, true];
        let (up, down) = (Some(true), Some(false));
        assert_eq!(
            judged(&results),
            [None, None, down, None, None, None, up, None, None]
        );
    }

    #[test]
    fn the_first_good_result_is_enough_for_a_backend_that_was_never_judged() {
        assert_eq!(judged(&[true, true]), [Some(true), Some(true)]);
        assert_eq!(judged(&[false, true]), [None, Some(true)]);
    }

    #[test]
    fn probes_come_fast_only_while_something_may_change() {
        let fast = |results: &[bool]| {
            let mut streak = Streak::default();
            for good in results {
                streak.judge(*good, &pace());
            }
            streak.wait(&pace()) < Duration::from_secs(5)
        };
        assert!(!fast(&[]) && !fast(&[true]));
        assert!(fast(&[false]) && fast(&[true, false]) && fast(&[true, false, false]));
        assert!(
            !fast(&[false, false, false]),
            "it is down, and not hammered"
        );
        assert!(fast(&[false, false, false, true]));
        assert!(!fast(&[false, false, false, true, true]));
    }

    #[test]
    fn intervals_differ_by_a_tenth_at_most() {
        for _ in 0..100 {
            let waited = Streak::default().wait(&pace());
            assert!(waited >= Duration::from_secs(9) && waited <= Duration::from_secs(11));
        }
    }
}
