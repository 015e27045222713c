//! How many retries an upstream may be given, so that they never become a storm.
//!
//! Every request pays a share of a retry into a balance, every retry takes one out; a small number
//! a second is free, so that an upstream with little traffic can still be retried.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use crate::config::model;

/// Thousandths of a retry that may be saved up: 100 retries.
const MAX_BALANCE: i64 = 100_000;
const ONE: i64 = 1000;

/// The balance of one upstream.
#[derive(Debug)]
pub struct RetryBudget {
    /// Thousandths of a retry that a request pays.
    deposit: i64,
    min_per_second: u32,
    balance: AtomicI64,
    epoch: Instant,
    /// The current second in the upper half, the free retries it has given in the lower.
    free: AtomicU64,
}

impl RetryBudget {
    /// An empty balance.
    pub fn new(policy: &model::Retries, now: Instant) -> Self {
        Self {
            deposit: (policy.budget * ONE as f64) as i64,
            min_per_second: policy.min_per_second,
            balance: AtomicI64::new(0),
            epoch: now,
            free: AtomicU64::new(0),
        }
    }

    /// Records a request, retries not counted.
    pub fn request(&self) {
        if self.balance.load(Ordering::Relaxed) < MAX_BALANCE {
            self.balance.fetch_add(self.deposit, Ordering::Relaxed);
        }
    }

    /// Takes one retry, if there is one.
    pub fn take(&self, now: Instant) -> bool {
        self.take_saved() || self.take_free(now)
    }

    fn take_saved(&self) -> bool {
        let take = |balance: i64| (balance >= ONE).then(|| balance - ONE);
        self.balance
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }

    fn take_free(&self, now: Instant) -> bool {
        let second = now.saturating_duration_since(self.epoch).as_secs();
        let take = |state: u64| {
            let (at, given) = (state >> 32, state & u64::from(u32::MAX));
            let given = if at == second { given } else { 0 };
            (given < u64::from(self.min_per_second)).then_some(second << 32 | (given + 1))
        };
        self.free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn budget(share: f64, min_per_second: u32, now: Instant) -> RetryBudget {
        let policy = model::Retries {
            attempts: 1,
            budget: share,
            min_per_second,
        };
        RetryBudget::new(&policy, now)
    }

    #[test]
    fn a_share_of_the_requests_may_be_retried() {
        let now = Instant::now();
        let budget = budget(0.2, 0, now);
        assert!(!budget.take(now));
        for _ in 0..50 {
            budget.request();
        }
        assert_eq!((0..50).filter(|_| budget.take(now)).count(), 10);
    }

    #[test]
    fn a_few_a_second_are_free() {
        let now = Instant::now();
        let budget = budget(0.0, 3, now);
        assert_eq!((0..10).filter(|_| budget.take(now)).count(), 3);
        let later = now + Duration::from_secs(1);
        assert_eq!((0..10).filter(|_| budget.take(later)).count(), 3);
    }

    #[test]
    fn quiet_hours_do_not_save_up_a_storm() {
        let now = Instant::now();
        let budget = budget(1.0, 0, now);
        for _ in 0..1_000_000 {
            budget.request();
        }
        assert!((0..10_000).filter(|_| budget.take(now)).count() <= 101);
    }
}
