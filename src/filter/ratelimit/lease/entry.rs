//! What an instance has of one key: tokens, and what it orders next. The rest is in its [`Account`].

use std::sync::Arc;

use tokio::sync::watch;

use super::account::Account;
use super::order::{LIFE, Loan, Order};
use crate::filter::ratelimit::rate::{Nanos, Rate, Verdict};

const MS: Nanos = 1_000_000;

/// Tokens are leased for about so long a time of the latest use. Three quarters of it pass between two orders, of
/// which each costs what a dozen requests do, and less than `RENEWED`.
const AHEAD: Nanos = 1500 * MS;

/// The shortest time from which use is told.
const MEASURED: Nanos = 10 * MS;

/// Who did not use a token for as long, gives them back.
const IDLE: Nanos = 1000 * MS;

/// After that, tokens in use are accounted anew, before they lapse.
const RENEWED: Nanos = 1200 * MS;

/// How long tokens may be used.
pub(super) const LIFE_NANOS: Nanos = LIFE.as_nanos() as Nanos;

/// One key. What a request needs that finds tokens, with the key in one line of the cache.
pub(super) struct Entry {
    tokens: u64,
    /// Used since the last order.
    used: u64,
    /// When tokens lapse.
    until: Nanos,
    last_use: Nanos,
    /// Where the account's rates are, so that they can be told from others.
    rates: usize,
    account: Box<Account>,
    /// When there are no more tokens than that, others are ordered: a quarter of what there was.
    low: u32,
    /// It is in the list of those that have something to order.
    pub is_due: bool,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It is decided.
    Decided(Verdict),
    /// The store has to be asked.
    Wait,
}

/// Whether something is to be ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing.
    Nothing,
    /// In the next round, or when there are many.
    Later,
    /// At once.
    Now,
}

impl Entry {
    pub fn new(name: String, rates: &Arc<[Rate]>, now: Nanos) -> Self {
        Self {
            tokens: 0,
            used: 0,
            until: now,
            last_use: now,
            rates: address(rates),
            low: 0,
            account: Box::new(Account::new(name, rates, now)),
            is_due: false,
        }
    }

    /// Goes on with other limits. Tokens were leased under the former, and are used up.
    pub fn adopt(&mut self, rates: &Arc<[Rate]>) {
        if self.rates != address(rates) {
            self.rates = address(rates);
            self.account.adopt(rates);
        }
    }

    /// Takes a request's cost, if there is so much that nothing else has to be done. It looks at this line
    /// alone.
    pub fn spend(&mut self, rates: &Arc<[Rate]>, cost: u64, now: Nanos) -> bool {
        let is_known = self.rates == address(rates) && cost > 0;
        let kept = cost.saturating_add(u64::from(self.low));
        let has_enough = is_known && now < self.until && self.tokens > kept;
        if has_enough {
            self.use_tokens(cost, now);
        }
        has_enough
    }

    /// Decides on a request. `instances` is 0 while their number is not known.
    pub fn decide(&mut self, cost: u64, instances: u32, now: Nanos) -> (Next, Need) {
        if cost == 0 {
            return (self.admit(now), Need::Nothing);
        }
        if now < self.until && self.tokens >= cost {
            self.use_tokens(cost, now);
            let is_low = self.tokens <= u64::from(self.low)
                && self.account.target.is_some_and(|target| target > 0);
            let need = match is_low && self.account.refusal(1, now).is_none() {
                true => Need::Later,
                false => Need::Nothing,
            };
            return (self.admit(now), need);
        }
        let refusal = self.account.too_much(cost);
        if let Some(verdict) = refusal.or_else(|| self.account.refusal(cost, now)) {
            return (Next::Decided(verdict), Need::Nothing);
        }
        let unpaid = self.account.unpaid.saturating_add(cost);
        if unpaid <= self.account.credit(instances) {
            self.account.unpaid = unpaid;
            self.used = self.used.saturating_add(cost);
            self.last_use = now;
            return (self.admit(now), Need::Later);
        }
        (Next::Wait, Need::Now)
    }

    /// Takes what a response turned out to cost.
    pub fn charge(&mut self, cost: u64, now: Nanos) {
        let there = match now < self.until {
            true => cost.min(self.tokens),
            false => 0,
        };
        self.tokens -= there;
        self.account.unpaid = self.account.unpaid.saturating_add(cost - there);
        self.used = self.used.saturating_add(cost);
        self.last_use = now;
    }

    /// Takes a cost back: first from what is not paid yet, then as tokens that were leased and are not settled, and
    /// the store gives back what is left.
    pub fn give_back(&mut self, cost: u64) -> Need {
        self.used = self.used.saturating_sub(cost);
        let account = &mut self.account;
        let unpaid = cost.min(account.unpaid);
        account.unpaid -= unpaid;
        let unsettled = match account.is_astray {
            true => 0,
            false => account.held.saturating_sub(self.tokens),
        };
        let tokens = unsettled.min(cost - unpaid);
        self.tokens += tokens;
        let settled = cost - unpaid - tokens;
        account.refund = account.refund.saturating_add(settled);
        match settled {
            0 => Need::Nothing,
            _ => Need::Later,
        }
    }

    /// One more request waits. It sees when something has changed, and whether that is a failure.
    pub fn wait(&mut self, cost: u64) -> watch::Receiver<bool> {
        self.account.wait(cost)
    }

    /// One request waits no longer.
    pub fn leave(&mut self, cost: u64) {
        self.account.leave(cost);
    }

    /// Nobody answers: those who wait look again, and what was to be given back is lost.
    pub fn give_up(&mut self) {
        self.account.refund = 0;
        self.account.wake(false);
    }

    /// The key, as it is called in the store.
    pub fn name(&self) -> Arc<str> {
        Arc::clone(&self.account.name)
    }

    /// What is to be ordered. Nothing while there is no answer to the last order.
    pub fn order(&mut self, key: u64, now: Nanos) -> Option<Order> {
        if self.account.in_flight {
            return None;
        }
        self.lapse(now);
        let is_idle = self.is_idle(now);
        let target = match is_idle {
            true => 0,
            false => self.next_target(now),
        };
        let account = &mut self.account;
        let needed = account.waited_for.saturating_sub(self.tokens);
        let least = account.cheapest.saturating_sub(self.tokens).max(1);
        let (back, keep) = match is_idle && needed == 0 {
            true => (self.tokens, 0),
            false => (0, self.tokens),
        };
        let is_known = !account.is_astray;
        let known = |tokens: u64| if is_known { tokens } else { 0 };
        let order = Order {
            key,
            name: Arc::clone(&account.name),
            rates: Arc::clone(&account.rates),
            slot: account.slot,
            held: known(account.held),
            // If that gets lost, it is lost.
            back: known(back).saturating_add(std::mem::take(&mut account.refund)),
            keep: known(keep),
            pay: account.unpaid,
            least: if needed > 0 { least } else { 0 },
            needed,
            wanted: needed.saturating_add(target.saturating_sub(self.tokens)),
            at: now,
        };
        account.target = Some(target);
        account.held = known(keep);
        account.since = now;
        account.in_flight = true;
        self.tokens = keep;
        self.used = 0;
        Some(order)
    }

    /// How many tokens are worth having: those of the latest use. A key that begins gets more from order
    /// to order, and one that is used once gets none.
    fn next_target(&self, now: Nanos) -> u64 {
        let Some(last) = self.account.target else {
            return 0;
        };
        let passed = now.saturating_sub(self.account.since).max(MEASURED);
        let used = u128::from(self.used) * u128::from(AHEAD) / u128::from(passed);
        let used = u64::try_from(used).unwrap_or(u64::MAX).max(1);
        used.clamp(last / 2, last.saturating_mul(2).saturating_add(1))
    }

    /// The store answered; `None` when it did not, or nobody knows whether it did.
    pub fn settle(&mut self, order: &Order, loan: Option<Loan>, now: Nanos) {
        self.account.in_flight = false;
        match loan {
            Some(loan) => self.receive(order, &loan, now),
            None => {
                self.account.is_astray = true;
                self.account.held = 0;
            }
        }
        self.account.wake(loan.is_none());
    }

    fn receive(&mut self, order: &Order, loan: &Loan, now: Nanos) {
        // What went astray before is not known to the store and lapses.
        let kept = self.tokens.min(order.keep);
        self.tokens = kept.saturating_add(loan.lent);
        self.low = u32::try_from(self.tokens / 4).unwrap_or(u32::MAX);
        self.until = order.at + LIFE_NANOS;
        let account = &mut self.account;
        // What was given back meanwhile is paid all the same.
        let given_back = order.pay.saturating_sub(account.unpaid);
        account.refund = account.refund.saturating_add(given_back);
        account.unpaid = account.unpaid.saturating_sub(order.pay);
        account.held = order.keep.saturating_add(loan.lent);
        account.learn(order, loan, now);
    }

    /// What else there is to do with it, when nobody asks. `None`: it can be forgotten.
    pub fn rest(&mut self, now: Nanos) -> Option<Need> {
        if self.is_due || self.account.in_flight || self.account.waited_for > 0 {
            return Some(Need::Nothing);
        }
        self.lapse(now);
        let is_idle = self.is_idle(now);
        if self.is_unsettled() || (is_idle && self.tokens > 0) {
            return Some(Need::Later);
        }
        if is_idle {
            return self.account.is_refusing(now).then_some(Need::Nothing);
        }
        // Settled before they lapse, and held on to.
        let is_old = self.tokens > 0 && now + (LIFE_NANOS - RENEWED) >= self.until;
        Some(if is_old { Need::Later } else { Need::Nothing })
    }

    /// Whether it may make way for another key.
    pub fn is_dispensable(&self, now: Nanos) -> bool {
        let account = &self.account;
        let is_free = !account.in_flight && account.waited_for == 0 && account.unpaid == 0;
        is_free && !account.is_refusing(now)
    }

    /// Whether something was let through that is not paid yet, or paid that was given back.
    pub fn is_unsettled(&self) -> bool {
        self.account.unpaid > 0 || self.account.refund > 0
    }

    /// Whether an order is on its way.
    pub fn is_ordering(&self) -> bool {
        self.account.in_flight
    }

    pub fn last_use(&self) -> Nanos {
        self.last_use
    }

    fn use_tokens(&mut self, cost: u64, now: Nanos) {
        self.tokens -= cost;
        self.used = self.used.saturating_add(cost);
        self.last_use = now;
    }

    fn is_idle(&self, now: Nanos) -> bool {
        now >= self.last_use + IDLE
    }

    fn lapse(&mut self, now: Nanos) {
        if now >= self.until {
            self.tokens = 0;
            self.account.held = 0;
        }
    }

    fn admit(&self, now: Nanos) -> Next {
        Next::Decided(self.account.admission(self.tokens, now))
    }
}

/// That of no others while somebody has these.
fn address(rates: &Arc<[Rate]>) -> usize {
    Arc::as_ptr(rates).cast::<()>().addr()
}

#[cfg(test)]
impl Entry {
    pub fn has_tokens(&self) -> bool {
        self.tokens > 0
    }

    pub fn has_tokens_at(&self, now: Nanos) -> bool {
        self.has_tokens() && now < self.until
    }

    pub fn is_waited_for(&self) -> bool {
        self.account.waited_for > 0
    }
}
