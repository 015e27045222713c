//! What is asked of the store, and what it answers.

use tokio::sync::oneshot;

use crate::config::model::MAX_WINDOWS;
use crate::filter::ratelimit::rate::{Nanos, Rate, Verdict};
use crate::metrics::RedisError;

/// The longest time that is told the store, 146 years: it computes with signed numbers.
const LONGEST: Nanos = Nanos::MAX / 4;

/// What is done with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Its cost is taken, if it is there.
    Take,
    /// Its cost is taken, whether it is there or not.
    Charge,
    /// Its cost is given back.
    Give,
}

impl Action {
    /// As the script is told.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Take => "take",
            Self::Charge => "charge",
            Self::Give => "give",
        }
    }
}

/// What one window has to do with a cost; all of it times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// In which the cost comes back.
    pub step: Nanos,
    /// In which the bucket fills.
    pub depth: Nanos,
    /// The greatest debt, of what was charged unasked: no key is shut out for ever.
    pub most: Nanos,
}

impl Step {
    /// Of a cost in a window.
    pub fn new(rate: &Rate, cost: u64) -> Self {
        let depth = rate.depth.min(LONGEST);
        let period = Nanos::try_from(rate.window.period.as_nanos()).unwrap_or(LONGEST);
        Self {
            step: rate.interval.saturating_mul(cost).min(LONGEST),
            depth,
            most: depth.saturating_add(depth.max(period)).min(LONGEST),
        }
    }
}

/// The steps of all windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    steps: [Step; MAX_WINDOWS],
    count: usize,
}

impl Steps {
    /// Of a cost. Windows beyond the most that there are do not count.
    pub fn new(rates: &[Rate], cost: u64) -> Self {
        let mut steps = Self::default();
        for (step, rate) in steps.steps.iter_mut().zip(rates) {
            *step = Step::new(rate, cost);
            steps.count += 1;
        }
        steps
    }

    /// One a window.
    pub fn iter(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().take(self.count)
    }
}

/// What the store knows of a key then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Whether the cost was there.
    pub admitted: bool,
    /// What each bucket takes to fill.
    pub debts: [Nanos; MAX_WINDOWS],
}

impl Answer {
    /// What it means for a request of this cost.
    pub fn verdict(&self, rates: &[Rate], cost: u64) -> Verdict {
        let windows = rates.iter().zip(self.debts).enumerate();
        let verdicts =
            windows.map(|(window, (rate, debt))| self.of_window(window, rate, debt, cost));
        let strictest = verdicts.reduce(Verdict::and);
        strictest.unwrap_or(Verdict {
            admitted: self.admitted,
            ..Verdict::FREE
        })
    }

    fn of_window(&self, window: usize, rate: &Rate, debt: Nanos, cost: u64) -> Verdict {
        let Step { step, depth, .. } = Step::new(rate, cost);
        let wait = match step {
            _ if self.admitted => 0,
            // Never; any time would promise something.
            step if step > depth => depth,
            step => debt.saturating_add(step).saturating_sub(depth),
        };
        Verdict {
            admitted: self.admitted,
            window,
            left: depth.saturating_sub(debt),
            unit: rate.interval,
            wait,
            debt,
        }
    }
}

/// A question, to be answered elsewhere. Dropped, it counts as not answered.
pub struct Question {
    /// The key, as it is called in the store.
    pub key: String,
    /// What is done with it.
    pub action: Action,
    /// The cost, and the windows that it counts in.
    pub steps: Steps,
    /// Who waits, if anybody does.
    pub(super) asker: Option<oneshot::Sender<Result<Answer, RedisError>>>,
}

impl Question {
    /// Whether nobody waits any more for what was to be waited for.
    pub fn is_abandoned(&self) -> bool {
        let asker = self.asker.as_ref();
        asker.is_some_and(oneshot::Sender::is_closed)
    }

    /// Answers it. Says whether that was in time.
    pub fn answer(self, answer: Result<Answer, RedisError>) -> bool {
        match self.asker {
            Some(asker) => asker.send(answer).is_ok(),
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::model::Window;

    fn rate(limit: u64, seconds: u64, burst: u64) -> Rate {
        let period = Duration::from_secs(seconds);
        Rate::new(Window {
            limit,
            period,
            burst,
        })
    }

    fn answer(admitted: bool, millis: &[u64]) -> Answer {
        let mut debts = [0; MAX_WINDOWS];
        for (debt, millis) in debts.iter_mut().zip(millis) {
            *debt = millis * 1_000_000;
        }
        Answer { admitted, debts }
    }

    #[test]
    fn an_answer_speaks_of_the_window_with_the_least_left() {
        let rates = [rate(10, 1, 10), rate(60, 60, 60)];
        let verdict = answer(true, &[200, 55_500]).verdict(&rates, 1);
        assert_eq!((verdict.admitted, verdict.window), (true, 1));
        assert_eq!(verdict.remaining(), 4);
        assert_eq!(verdict.reset(), Duration::from_millis(55_500));
        assert_eq!(verdict.retry_after(), Duration::ZERO);
        let verdict = answer(true, &[900, 0]).verdict(&rates, 1);
        assert_eq!((verdict.window, verdict.remaining()), (0, 1));
    }

    #[test]
    fn a_refusal_speaks_of_the_window_that_refuses_longest() {
        let rates = [rate(10, 1, 10), rate(60, 60, 60)];
        let verdict = answer(false, &[950, 60_000]).verdict(&rates, 1);
        assert_eq!((verdict.admitted, verdict.window), (false, 1));
        assert_eq!(verdict.retry_after(), Duration::from_secs(1));
        assert_eq!(verdict.remaining(), 0);
        let verdict = answer(false, &[950, 0]).verdict(&rates, 1);
        assert_eq!(verdict.window, 0);
        assert_eq!(verdict.retry_after(), Duration::from_millis(50));
        let verdict = answer(false, &[500, 0]).verdict(&rates, 11);
        assert_eq!(verdict.retry_after(), Duration::from_secs(1), "never");
        assert_eq!(verdict.remaining(), 5);
    }

    #[test]
    fn huge_costs_stay_within_what_the_store_computes_with() {
        let huge = Rate {
            interval: u64::MAX,
            depth: u64::MAX,
            window: rate(1, 1, 1).window,
        };
        for step in Steps::new(&[huge, rate(1, 1, u64::MAX)], u64::MAX).iter() {
            assert_eq!(
                (step.step, step.depth, step.most),
                (LONGEST, LONGEST, LONGEST)
            );
        }
        let refused = answer(false, &[0]).verdict(&[rate(1, 1, 1)], u64::MAX);
        assert_eq!(refused.retry_after(), Duration::from_secs(1));
    }
}
