//! How one key stands with the store: what was ordered and lent, what the store said of its buckets, and who
//! waits for that.

use std::sync::Arc;

use tokio::sync::watch;

use super::order::{Loan, Order};
use crate::filter::ratelimit::rate::{Nanos, Rate, Verdict};
use crate::filter::ratelimit::shared::{Answer, Step};

const MS: Nanos = 1_000_000;

/// How long nobody asks again when nothing was left, whatever it takes to come back.
const ASKED_AGAIN: Nanos = 2000 * MS;

/// When nothing is left, the store is not asked again for so long, or for a part of what the smallest
/// bucket takes to fill: what comes back meanwhile waits in the bucket.
const PAUSE: Nanos = 50 * MS;
const PAUSE_PART: u64 = 20;

/// The part of a burst that all instances together let through before they know of a key: the 4 % that are promised.
const CREDIT_PART: u64 = 25;

/// Credit is given to keys that had at least this part of their burst left.
const PLENTY: u64 = 4;

/// One key's.
pub(super) struct Account {
    pub name: Arc<str>,
    pub rates: Arc<[Rate]>,
    /// What the store believes to be held: tokens that are here, and those that were used since.
    pub held: u64,
    pub slot: u64,
    /// The store may or may not have heard of the last order: what is held cannot be settled.
    pub is_astray: bool,
    pub in_flight: bool,
    /// Let through on credit.
    pub unpaid: u64,
    /// Paid, and given back since.
    pub refund: u64,
    /// When the last order was.
    pub since: Nanos,
    /// How many tokens were to be held; `None` before the first order.
    pub target: Option<u64>,
    known: Known,
    refusal: Option<Box<Refusal>>,
    /// What requests wait for, and the cheapest of them.
    pub waited_for: u64,
    pub cheapest: u64,
    /// Says whether the last order has failed.
    waiting: Option<watch::Sender<bool>>,
}

/// What the store said last, for clients.
#[derive(Clone, Copy)]
struct Known {
    window: usize,
    left: u64,
    /// When the bucket is full again.
    full: Nanos,
    has_plenty: bool,
}

/// Nothing was left.
#[derive(Clone, Copy)]
struct Refusal {
    verdict: Verdict,
    at: Nanos,
    until: Nanos,
    /// Cheaper requests may have more luck.
    cost: u64,
}

impl Account {
    pub fn new(name: String, rates: &Arc<[Rate]>, now: Nanos) -> Self {
        Self {
            name: name.into(),
            known: Known::nothing(rates, now),
            rates: Arc::clone(rates),
            held: 0,
            slot: 0,
            is_astray: false,
            in_flight: false,
            unpaid: 0,
            refund: 0,
            since: now,
            target: None,
            refusal: None,
            waited_for: 0,
            cheapest: 0,
            waiting: None,
        }
    }

    /// Goes on with other limits.
    pub fn adopt(&mut self, rates: &Arc<[Rate]>) {
        if self.rates != *rates {
            self.refusal = None;
            self.known.has_plenty = false;
        }
        self.rates = Arc::clone(rates);
    }

    /// One more request waits. It sees when something has changed, and whether that is a failure.
    pub fn wait(&mut self, cost: u64) -> watch::Receiver<bool> {
        self.cheapest = match self.waited_for {
            0 => cost,
            _ => self.cheapest.min(cost),
        };
        self.waited_for = self.waited_for.saturating_add(cost);
        let waiting = self
            .waiting
            .get_or_insert_with(|| watch::Sender::new(false));
        waiting.subscribe()
    }

    /// One request waits no longer.
    pub fn leave(&mut self, cost: u64) {
        self.waited_for = self.waited_for.saturating_sub(cost);
        if self.waited_for == 0 {
            self.waiting = None;
        }
    }

    /// Those who wait look again, unless an order has failed.
    pub fn wake(&self, has_failed: bool) {
        if let Some(waiting) = &self.waiting {
            waiting.send_replace(has_failed);
        }
    }

    /// What the store says of the buckets, after an order.
    pub fn learn(&mut self, order: &Order, loan: &Loan, now: Nanos) {
        self.slot = loan.slot;
        self.is_astray = false;
        let answer = Answer {
            admitted: true,
            debts: loan.debts,
        };
        self.known = Known::of(&answer.verdict(&self.rates, 0), &self.rates, now);
        self.refusal = self.denied(order, loan, now).map(Box::new);
    }

    /// What is refused from now on, because nothing was left.
    fn denied(&self, order: &Order, loan: &Loan, now: Nanos) -> Option<Refusal> {
        let got_less = loan.lent < order.needed || (loan.lent == 0 && order.wanted > 0);
        if !got_less && !self.is_overdrawn(loan) {
            return None;
        }
        // Cheaper requests than those that were too expensive may have more luck.
        let cost = match loan.lent {
            0 => order.least.max(1),
            _ => 1,
        };
        let answer = Answer {
            admitted: false,
            debts: loan.debts,
        };
        let verdict = answer.verdict(&self.rates, cost);
        let mut pause = verdict.wait.max(self.pause());
        if !self.is_overdrawn(loan) {
            // Others may have given back meanwhile, or somebody has deleted the key.
            pause = pause.min(ASKED_AGAIN);
        }
        Some(Refusal {
            verdict,
            at: now,
            until: now.saturating_add(pause),
            cost,
        })
    }

    /// More was paid than there was: nothing is let through before it has come back.
    fn is_overdrawn(&self, loan: &Loan) -> bool {
        let windows = self.rates.iter().zip(loan.debts);
        let mut debts = windows.map(|(rate, debt)| (Step::new(rate, 1), debt));
        debts.any(|(step, debt)| debt > step.depth)
    }

    fn pause(&self) -> Nanos {
        PAUSE.min(self.shortest() / PAUSE_PART)
    }

    /// What the smallest bucket takes to fill.
    fn shortest(&self) -> Nanos {
        let depths = self.rates.iter().map(|rate| rate.depth);
        depths.min().unwrap_or(0)
    }

    /// Nobody can let the store pay for a request that its bucket does not hold.
    pub fn too_much(&self, cost: u64) -> Option<Verdict> {
        let mut bursts = self.rates.iter().map(|rate| rate.window.burst.max(1));
        let fits = bursts.all(|burst| cost <= burst);
        let refused = Answer {
            admitted: false,
            ..Answer::default()
        };
        (!fits).then(|| refused.verdict(&self.rates, cost))
    }

    /// What may be let through before the store knows of it. `instances` is 0 while their number is not known.
    pub fn credit(&self, instances: u32) -> u64 {
        if instances == 0 || !self.known.has_plenty {
            return 0;
        }
        let bursts = self.rates.iter().map(|rate| rate.window.burst);
        bursts.min().unwrap_or(0) / CREDIT_PART / u64::from(instances)
    }

    /// Whether anything is refused.
    pub fn is_refusing(&self, now: Nanos) -> bool {
        let refusal = self.refusal.as_ref();
        refusal.is_some_and(|refusal| now < refusal.until)
    }

    /// Why a request of this cost is refused.
    pub fn refusal(&self, cost: u64, now: Nanos) -> Option<Verdict> {
        let refusal = self.refusal.as_deref()?;
        if now >= refusal.until || cost < refusal.cost {
            return None;
        }
        let passed = now.saturating_sub(refusal.at);
        Some(Verdict {
            wait: refusal.verdict.wait.saturating_sub(passed).max(MS),
            debt: refusal.verdict.debt.saturating_sub(passed),
            ..refusal.verdict
        })
    }

    /// What a request is told that is let through while so many tokens are here.
    pub fn admission(&self, tokens: u64, now: Nanos) -> Verdict {
        let left = self.known.left.saturating_add(tokens);
        let left = left.saturating_sub(self.unpaid);
        let rate = self.rates.get(self.known.window);
        let unit = rate.map_or(1, |rate| rate.interval);
        Verdict {
            admitted: true,
            window: self.known.window,
            left: left.saturating_mul(unit),
            unit,
            wait: 0,
            debt: self.known.full.saturating_sub(now),
        }
    }
}

impl Known {
    /// Before the store said anything: a full bucket.
    fn nothing(rates: &[Rate], now: Nanos) -> Self {
        let verdict = Answer {
            admitted: true,
            ..Answer::default()
        };
        Self::of(&verdict.verdict(rates, 0), rates, now)
    }

    fn of(verdict: &Verdict, rates: &[Rate], now: Nanos) -> Self {
        let rate = rates.get(verdict.window);
        let burst = rate.map_or(0, |rate| rate.window.burst);
        let left = verdict.remaining();
        Self {
            window: verdict.window,
            left,
            full: now.saturating_add(verdict.debt),
            has_plenty: left >= burst / PLENTY,
        }
    }
}
