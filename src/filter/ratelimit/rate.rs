//! GCRA, the generic cell rate algorithm (ITU-T I.371), on one number for each key.
//!
//! The number is the theoretical arrival time, TAT: when the bucket would be full again. A request is let
//! through if that time, moved on by what the request costs, is not further away than the bucket is
//! deep. Times are nanoseconds since a beginning that is the caller's.
//!
//! Each unit moves the TAT on by [`Rate::interval`], and no admitted request leaves it beyond
//! [`Rate::depth`] from its time. So any span of time `t` lets through `(depth + t) / interval` units at
//! most, which is not more than `burst + limit × t / period`, since the interval is rounded up. That costs
//! less than 1 % of the limit up to ten million a second for one key.
//!
//! Sums saturate. No depth is longer than `LONGEST`, so that a TAT at the end of time is refused.

use std::time::Duration;

use crate::config::model::Window;

/// Nanoseconds since the caller's beginning.
pub type Nanos = u64;

/// The longest time that is computed with, 146 years; a bucket that takes longer to fill holds less.
const LONGEST: Nanos = Nanos::MAX / 4;

/// One window of a policy, as it is computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// What one unit takes to come back, rounded up so that the limit is never exceeded.
    pub interval: Nanos,
    /// What a whole bucket takes to fill.
    pub depth: Nanos,
    /// As configured.
    pub window: Window,
}

/// What a limiter says of a request. Few ask for the numbers, so they are computed when somebody does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is let through.
    pub admitted: bool,
    /// The window that says the rest: the one that refuses, or else the one with the least left. Of
    /// several that refuse it is the one that refuses longest.
    pub window: usize,
    /// What is left at once, and what a unit takes of it.
    pub(super) left: Nanos,
    pub(super) unit: Nanos,
    /// When trying again makes sense. For a request that is let through, what it turned out to cost beyond what was
    /// left.
    pub(super) wait: Nanos,
    /// When the bucket is full again.
    pub(super) debt: Nanos,
}

impl Rate {
    /// Of a window.
    pub fn new(window: Window) -> Self {
        let interval = nanos(window.period).div_ceil(window.limit.max(1));
        Self::of(interval, window)
    }

    fn of(interval: Nanos, window: Window) -> Self {
        // Not zero, even for more than a unit each nanosecond: it is divided by.
        let interval = interval.clamp(1, LONGEST);
        Self {
            interval,
            depth: interval.saturating_mul(window.burst.max(1)).min(LONGEST),
            window,
        }
    }

    /// One of `count` equal shares, for an instance that has to count by itself and lets through requests
    /// of this cost. Rates add up to the whole; bursts, too, unless there are fewer units than that: each
    /// share has room for one request.
    pub fn share(&self, count: u32, cost: u64) -> Self {
        let count = u64::from(count.max(1));
        let Window {
            limit,
            period,
            burst,
        } = self.window;
        let interval = self.interval.saturating_mul(count);
        let window = Window {
            limit: (limit / count).max(1),
            period: match limit >= count {
                true => period,
                false => Duration::from_nanos(interval),
            },
            burst: (burst / count).max(cost.min(burst)).max(1),
        };
        Self::of(interval, window)
    }

    /// The TAT after a request of this cost, or what it would have to wait for. A cost of nothing is
    /// always admitted and changes nothing. One greater than the burst never is: it is told the time in
    /// which a bucket fills, since any shorter one would promise something.
    pub fn take(&self, tat: Nanos, cost: u64, now: Nanos) -> Result<Nanos, Nanos> {
        if cost == 0 {
            return Ok(tat);
        }
        let cost = self.interval.saturating_mul(cost);
        if cost > self.depth {
            return Err(self.depth);
        }
        let after = tat.max(now).saturating_add(cost);
        let latest = now.saturating_add(self.depth);
        match after.checked_sub(latest) {
            None | Some(0) => Ok(after),
            Some(wait) => Err(wait),
        }
    }

    /// How far anything moves a TAT at most.
    pub fn latest(&self, now: Nanos) -> Nanos {
        now.saturating_add(self.depth).saturating_add(self.debt())
    }

    /// What may be owed beyond a whole bucket.
    fn debt(&self) -> Nanos {
        nanos(self.window.period).min(LONGEST).max(self.depth)
    }

    /// The TAT after something that has already happened, whatever was left. The debt is bounded by what
    /// a period brings back, or by the bucket if that is deeper, so that no cost shuts a key out for ever.
    pub fn charge(&self, tat: Nanos, cost: u64, now: Nanos) -> Nanos {
        let cost = self.interval.saturating_mul(cost);
        tat.max(tat.max(now).saturating_add(cost).min(self.latest(now)))
    }

    /// The TAT without a cost that was taken, by a request that was refused after all.
    pub fn give_back(&self, tat: Nanos, cost: u64) -> Nanos {
        tat.saturating_sub(self.interval.saturating_mul(cost))
    }
}

impl Verdict {
    /// What a policy without windows would say.
    pub(super) const FREE: Self = Self {
        admitted: true,
        window: 0,
        left: u64::MAX,
        unit: 1,
        wait: 0,
        debt: 0,
    };

    /// Of one window, with its TAT and, if it refuses, for how long.
    pub fn new(window: usize, rate: &Rate, tat: Nanos, now: Nanos, refused: Option<Nanos>) -> Self {
        let debt = tat.saturating_sub(now);
        Self {
            admitted: refused.is_none(),
            window,
            left: rate.depth.saturating_sub(debt),
            unit: rate.interval,
            wait: refused.unwrap_or(0),
            debt,
        }
    }

    /// What is left of the window at once.
    pub fn remaining(&self) -> u64 {
        self.left / self.unit.max(1)
    }

    /// When trying again makes sense, for a request that is refused.
    pub fn retry_after(&self) -> Duration {
        Duration::from_nanos(self.wait)
    }

    /// How long so many units, of those that are left, have to do: who uses no more in that time stays within the
    /// limit. Without any, when there is one again.
    pub fn lasts(&self, units: u64) -> Duration {
        Duration::from_nanos(match units {
            0 => self
                .wait
                .saturating_add(self.unit.saturating_sub(self.left)),
            _ => self.unit.saturating_mul(units),
        })
    }

    /// The request cost so many units more in the end. More than these limits let anybody owe is not owed.
    pub(super) fn charge(&mut self, units: u64, rate: &Rate) {
        let cost = self.unit.saturating_mul(units);
        let beyond = self.wait.saturating_add(cost.saturating_sub(self.left));
        self.wait = beyond.min(rate.debt());
        self.left = self.left.saturating_sub(cost);
        self.debt = self.debt.saturating_add(cost).min(rate.latest(0));
    }

    /// The request cost so many units less in the end.
    pub(super) fn give_back(&mut self, units: u64) {
        let cost = self.unit.saturating_mul(units);
        self.left = self.left.saturating_add(cost);
        self.debt = self.debt.saturating_sub(cost);
    }

    /// When the bucket is full again.
    pub fn reset(&self) -> Duration {
        Duration::from_nanos(self.debt)
    }

    /// Of two windows' verdicts the one that counts; the first of equal ones.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let stricter = match (self.admitted, other.admitted) {
            (true, true) => other.remaining() < self.remaining(),
            (false, false) => other.wait > self.wait,
            (first, _) => first,
        };
        if stricter { other } else { self }
    }
}

fn nanos(time: Duration) -> Nanos {
    Nanos::try_from(time.as_nanos()).unwrap_or(Nanos::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn remaining(rate: &Rate, tat: Nanos, now: Nanos) -> u64 {
        Verdict::new(0, rate, tat, now, None).remaining()
    }

    fn rate(limit: u64, period: u64, burst: u64) -> Rate {
        let period = Duration::from_secs(period);
        Rate::new(Window {
            limit,
            period,
            burst,
        })
    }

    #[test]
    fn a_bucket_is_emptied_and_comes_back_unit_by_unit() {
        let rate = rate(10, 1, 5);
        let ms = |ms: u64| 100 * SECOND + ms * 1_000_000;
        // Time, cost, then the wait or what is left.
        let steps: [(u64, u64, Result<u64, u64>); 12] = [
            (0, 3, Ok(2)),
            (0, 3, Err(100)),
            (0, 2, Ok(0)),
            (0, 1, Err(100)),
            (0, 5, Err(500)),
            (99, 1, Err(1)),
            (100, 1, Ok(0)),
            (100, 0, Ok(0)),
            (350, 1, Ok(1)),
            (350, 2, Err(50)),
            (50, 1, Err(250)),
            (5000, 5, Ok(0)),
        ];
        let mut tat = 0;
        for (step, (at, cost, expected)) in steps.into_iter().enumerate() {
            let got = rate.take(tat, cost, ms(at)).map(|after| {
                tat = after;
                remaining(&rate, tat, ms(at))
            });
            let expected = expected.map_err(|wait| wait * 1_000_000);
            assert_eq!(got, expected, "step {step}");
        }
    }

    #[test]
    fn what_is_left_lasts_for_as_long_as_it_takes_to_come_back() {
        let rate = rate(10, 1, 5);
        let of = |tat| Verdict::new(0, &rate, tat, 0, None);
        let millis = |verdict: &Verdict| verdict.lasts(verdict.remaining()).as_millis();
        assert_eq!(millis(&of(100_000_000)), 400);
        assert_eq!(millis(&of(450_000_000)), 50, "nothing is left for so long");
        let mut verdict = of(100_000_000);
        verdict.charge(3, &rate);
        assert_eq!((verdict.remaining(), millis(&verdict)), (1, 100));
        verdict.charge(4, &rate);
        assert_eq!((verdict.remaining(), millis(&verdict)), (0, 400));
        assert_eq!(verdict.reset(), Duration::from_millis(800));
        verdict.charge(u64::MAX, &rate);
        assert_eq!(millis(&verdict), 1100, "a period's debt, and one unit");
        assert_eq!(verdict.reset(), Duration::from_millis(1500));
        let mut verdict = of(300_000_000);
        verdict.give_back(2);
        assert_eq!((verdict.remaining(), millis(&verdict)), (4, 400));
    }

    #[test]
    fn after_the_wait_it_is_admitted_and_not_a_nanosecond_earlier() {
        for (limit, period, burst, cost) in [(3, 1, 1, 1), (7, 60, 20, 13), (50_000, 86_400, 9, 9)]
        {
            let rate = rate(limit, period, burst);
            let tat = rate.take(0, burst, 17).unwrap();
            let wait = rate.take(tat, cost, 17).unwrap_err();
            assert!(rate.take(tat, cost, 17 + wait).is_ok());
            assert!(rate.take(tat, cost, 17 + wait - 1).is_err());
        }
    }

    #[test]
    fn in_no_span_of_time_more_than_the_burst_and_the_limit() {
        for (limit, period, burst) in [(1, 1, 1), (3, 1, 7), (999, 1, 10), (7, 60, 3)] {
            let rate = rate(limit, period, burst);
            let (mut tat, mut admitted) = (0, 0_u128);
            for step in 0..10_000_u64 {
                let now = step * 7_777_777;
                while let Ok(after) = rate.take(tat, 1, now) {
                    (tat, admitted) = (after, admitted + 1);
                }
                let period = u128::from(period) * u128::from(SECOND);
                let most = u128::from(burst) + u128::from(limit) * u128::from(now) / period;
                assert!(
                    (most * 99 / 100..=most).contains(&admitted),
                    "{admitted} of {most}"
                );
            }
        }
    }

    #[test]
    fn what_never_fits_is_told_the_time_of_a_bucket() {
        let rate = rate(10, 1, 5);
        assert_eq!(rate.take(0, 6, 0), Err(SECOND / 2));
        assert_eq!(rate.take(0, u64::MAX, SECOND), Err(SECOND / 2));
    }

    #[test]
    fn costs_nothing_for_nothing_even_when_there_is_nothing() {
        let rate = rate(10, 1, 5);
        assert_eq!(rate.take(9 * SECOND, 0, 0), Ok(9 * SECOND));
        assert_eq!(remaining(&rate, 9 * SECOND, 0), 0);
    }

    #[test]
    fn debts_are_bounded() {
        let rate = rate(10, 1, 5);
        assert_eq!(rate.charge(0, 3, SECOND), rate.take(0, 3, SECOND).unwrap());
        assert_eq!(rate.charge(0, 8, 0), 8 * SECOND / 10);
        assert_eq!(rate.charge(0, u64::MAX, 0), SECOND * 3 / 2);
        let far = 9 * SECOND;
        assert_eq!(rate.charge(far, 1, 0), far, "never forgiven");
    }

    #[test]
    fn what_is_given_back_is_there_again() {
        let rate = rate(10, 1, 5);
        let tat = rate.take(0, 4, SECOND).unwrap();
        let back = rate.give_back(tat, 3);
        assert_eq!(remaining(&rate, back, SECOND), 4);
        assert_eq!(rate.give_back(5, u64::MAX), 0);
    }

    #[test]
    fn extremes_neither_overflow_nor_admit() {
        let slow = rate(1, u64::MAX, u64::MAX);
        assert_eq!(slow.depth, LONGEST);
        assert!(slow.take(Nanos::MAX, 1, 0).is_err());
        assert!(slow.take(0, 2, SECOND).is_err());
        let fast = rate(u64::MAX, 1, u64::MAX);
        assert_eq!(fast.interval, 1);
        assert!(fast.take(0, u64::MAX, 0).is_err());
        assert_eq!(fast.charge(0, u64::MAX, Nanos::MAX), Nanos::MAX);
        let none = rate(0, 0, 0);
        assert_eq!((none.interval, none.depth), (1, 1));
    }

    #[test]
    fn shares_add_up_to_the_whole() {
        let whole = rate(100, 1, 50);
        let share = whole.share(3, 1);
        assert_eq!(share.interval, 3 * whole.interval);
        assert_eq!((share.window.limit, share.window.burst), (33, 16));
        assert_eq!(share.depth, 16 * share.interval);
        assert_eq!(whole.share(1, 1), whole);
        assert_eq!(whole.share(0, 1), whole);
        assert_eq!(whole.share(3, 20).window.burst, 20);
        assert_eq!(whole.share(3, 70).window.burst, 50);
    }

    #[test]
    fn a_share_of_less_than_one_is_one_in_a_longer_time() {
        let share = rate(2, 1, 2).share(4, 1);
        assert_eq!(share.interval, 2 * SECOND);
        assert_eq!(share.depth, 2 * SECOND);
        let expected = Window {
            limit: 1,
            period: Duration::from_secs(2),
            burst: 1,
        };
        assert_eq!(share.window, expected);
    }

    #[test]
    fn the_verdict_that_counts() {
        let verdict = |admitted, window, remaining: u64, retry: u64| Verdict {
            admitted,
            window,
            left: remaining * 10 + 9,
            unit: 10,
            wait: retry * SECOND,
            debt: 0,
        };
        let rows = [
            (verdict(true, 0, 5, 0), verdict(true, 1, 3, 0), 1),
            (verdict(true, 0, 3, 0), verdict(true, 1, 3, 0), 0),
            (verdict(true, 0, 0, 0), verdict(false, 1, 9, 1), 1),
            (verdict(false, 0, 9, 1), verdict(true, 1, 0, 0), 0),
            (verdict(false, 0, 0, 1), verdict(false, 1, 0, 2), 1),
            (verdict(false, 0, 0, 2), verdict(false, 1, 0, 1), 0),
        ];
        for (first, second, window) in rows {
            assert_eq!(first.and(second).window, window);
        }
    }
}
