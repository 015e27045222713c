//! A model of what the script does in the store, in whole numbers.

use super::super::{LIFE, Loan, Order};
use crate::filter::ratelimit::shared::Step;

/// One key in the store. Its time is in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Bucket {
    at: u64,
    pub debts: Vec<u64>,
    slot: u64,
    newer: u64,
    older: u64,
}

impl Bucket {
    pub fn lend(&mut self, order: &Order, instances: u64, now: u64) -> Loan {
        let steps: Vec<_> = order.rates.iter().map(|rate| Step::new(rate, 1)).collect();
        self.debts.resize(steps.len(), 0);
        // Nanosecond by nanosecond in principle; the floors change at the ends of two slots only.
        let life = LIFE.as_nanos() as u64;
        let ends = [(self.slot + 1) * life, (self.slot + 2) * life];
        for stop in [ends[0].min(now), ends[1].min(now), now] {
            let lent = match stop {
                stop if stop <= ends[0] => self.newer + self.older,
                stop if stop <= ends[1] => self.newer,
                _ => 0,
            };
            for (debt, step) in self.debts.iter_mut().zip(&steps) {
                let floor = (lent * step.step).min(*debt);
                *debt = debt.saturating_sub(stop.saturating_sub(self.at)).max(floor);
            }
            self.at = self.at.max(stop);
        }
        while self.slot < now / life {
            self.older = std::mem::take(&mut self.newer);
            self.slot += 1;
        }
        let lent = self.settle(order, &steps, instances);
        let mut loan = Loan {
            lent,
            slot: self.slot,
            debts: Default::default(),
        };
        for (place, debt) in loan.debts.iter_mut().zip(&self.debts) {
            *place = *debt;
        }
        loan
    }

    /// Tokens that are lent and not settled.
    pub fn held(&self) -> u64 {
        self.newer + self.older
    }

    fn settle(&mut self, order: &Order, steps: &[Step], instances: u64) -> u64 {
        let mut nothing = 0;
        let account = match order.slot {
            slot if slot == self.slot => &mut self.newer,
            slot if slot + 1 == self.slot => &mut self.older,
            _ => &mut nothing,
        };
        let known = order.held.min(*account);
        *account -= known;
        let lost = order.held - known;
        let pay = order.pay + order.keep.min(lost);
        let back = if lost > 0 { 0 } else { order.back };
        self.newer += order.keep;
        let held = self.held();
        let mut free = i64::MAX;
        for (debt, step) in self.debts.iter_mut().zip(steps) {
            let floor = (held * step.step).min(*debt);
            let less = debt.saturating_sub(back * step.step).max(floor);
            *debt = less.max((less + pay * step.step).min(step.most));
            let left = step.depth as i64 - *debt as i64;
            free = free.min(left.div_euclid(step.step as i64));
        }
        let mut lent = 0;
        if free > 0 && free as u64 >= order.least {
            let fair = (free as u64 / (2 * instances)).max(1);
            let speculative = order.wanted.min(fair);
            lent = speculative.max(order.needed).min(free as u64);
        }
        self.newer += lent;
        for (debt, step) in self.debts.iter_mut().zip(steps) {
            *debt += lent * step.step;
        }
        lent
    }
}
