//! How many retries an upstream may be given, so that they never become a storm.
//!
//! Every request pays a share of a retry into a balance, every retry takes one out; a small number
//! a second is free, so that an upstream with little traffic can still be retried.
//!
//! What was never sent is no load on who could act on it, and is paid from an account of its own, into
//! which every answer pays a whole retry: while most backends answer, the requests that reach a dead one
//! all go elsewhere, and when nobody answers any more, that ends.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

/// Thousandths of a retry that may be saved up: 100 retries.
const MAX_BALANCE: i64 = 100_000;
const ONE: i64 = 1000;
/// Retries of what was never sent that may be saved up: as many requests as may be on their way to one
/// backend when it dies.
const MAX_UNSENT: i64 = 1000;

/// What a retry costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Price {
    /// What cannot become a storm is free.
    Nothing,
    /// Nothing was sent.
    Unsent,
    /// One retry of the budget.
    One,
}

/// The balance of one upstream.
#[derive(Debug)]
pub struct RetryBudget {
    /// Thousandths of a retry that a request pays.
    deposit: i64,
    min_per_second: u32,
    balance: AtomicI64,
    unsent: AtomicI64,
    epoch: Instant,
    /// The current second in the upper half, the free retries it has given in the lower.
    free: AtomicU64,
}

impl RetryBudget {
    /// An empty balance.
    pub fn new(share: f64, min_per_second: u32, now: Instant) -> Self {
        Self {
            deposit: deposit(share),
            min_per_second,
            balance: AtomicI64::new(0),
            unsent: AtomicI64::new(MAX_UNSENT),
            epoch: now,
            free: AtomicU64::new(0),
        }
    }

    /// Whether it was made for this share and minimum.
    pub fn is_of(&self, share: f64, min_per_second: u32) -> bool {
        self.deposit == deposit(share) && self.min_per_second == min_per_second
    }

    /// Records a request, retries not counted.
    pub fn request(&self) {
        if self.balance.load(Ordering::Relaxed) < MAX_BALANCE {
            self.balance.fetch_add(self.deposit, Ordering::Relaxed);
        }
    }

    /// Records an answer that is no failure.
    pub fn answered(&self) {
        // On the good path nothing is written.
        if self.unsent.load(Ordering::Relaxed) < MAX_UNSENT {
            self.unsent.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes what a retry costs, if there is enough.
    pub fn pay(&self, price: Price, now: Instant) -> bool {
        match price {
            Price::Nothing => true,
            Price::Unsent => self.take_unsent() || self.take(now),
            Price::One => self.take(now),
        }
    }

    fn take_unsent(&self) -> bool {
        let take = |balance: i64| (balance > 0).then(|| balance - 1);
        self.unsent
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }

    /// Takes one retry, if there is one.
    fn take(&self, now: Instant) -> bool {
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

/// Thousandths of a retry that a request pays.
fn deposit(share: f64) -> i64 {
    (share * ONE as f64) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn budget(share: f64, min_per_second: u32, now: Instant) -> RetryBudget {
        RetryBudget::new(share, min_per_second, now)
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
    fn what_was_not_sent_is_paid_by_answers() {
        let now = Instant::now();
        let budget = budget(0.0, 0, now);
        let unsent = |times: i64| {
            let paid = (0..times).filter(|_| budget.pay(Price::Unsent, now));
            paid.count() as i64
        };
        assert_eq!(unsent(2 * MAX_UNSENT), MAX_UNSENT);
        assert_eq!(unsent(1), 0, "nobody answers any more");
        (0..5).for_each(|_| budget.answered());
        assert_eq!(unsent(10), 5);
        assert!(!budget.pay(Price::One, now) && budget.pay(Price::Nothing, now));
        (0..10 * MAX_UNSENT).for_each(|_| budget.answered());
        assert_eq!(unsent(2 * MAX_UNSENT), MAX_UNSENT);
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
