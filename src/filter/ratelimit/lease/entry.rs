//! What an instance has of one key: tokens, credit, refusals; and what it asks for next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::order::{LIFE, Loan, Order};
use crate::filter::ratelimit::rate::{Rate, Verdict};
use crate::filter::ratelimit::shared::{Answer, Step};

/// Tokens are leased for about so long a time of the latest use.
const AHEAD: Duration = Duration::from_secs(1);

/// The shortest time from which use is told.
const MEASURED: Duration = Duration::from_millis(10);

/// Who did not use a token for as long, gives them back.
const IDLE: Duration = Duration::from_secs(1);

/// After that, tokens in use are accounted anew, before they lapse.
const RENEWED: Duration = Duration::from_millis(1200);

/// How long nobody asks again when nothing was left, whatever it takes to come back.
const ASKED_AGAIN: Duration = Duration::from_secs(2);

/// When nothing is left, the store is not asked again for so long, or for a part of what the smallest
/// bucket takes to fill: what comes back meanwhile waits in the bucket.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_PART: u32 = 20;

/// The part of a burst that all instances together let through before they know of a key. With what comes
/// back while it is being paid it stays below the 5 % that are promised.
const CREDIT_PART: u64 = 25;

/// A bucket that takes as long to fill drains by less than 1 % of its depth until the next orders go out
/// and are answered. Waking the thread of the store for each key instead would cost as much as a question for
/// each request.
const DEEP: Duration = Duration::from_millis(950);

/// Credit is given to keys that had at least this part of their burst left.
const PLENTY: u64 = 4;

/// One key.
pub(super) struct Entry {
    name: Arc<str>,
    rates: Arc<[Rate]>,
    tokens: u64,
    /// What the store believes to be held: these tokens, and those that were used since.
    held: u64,
    slot: u64,
    /// When tokens lapse.
    until: Instant,
    /// The store may or may not have heard of the last order: what is held cannot be settled.
    is_astray: bool,
    /// Let through on credit.
    unpaid: u64,
    /// Used since the last order, and when that was.
    used: u64,
    since: Instant,
    last_use: Instant,
    /// How many tokens were to be held; `None` before the first order.
    target: Option<u64>,
    /// When there are no more than that, others are ordered: a quarter of what there was.
    low: u64,
    known: Known,
    refusal: Option<Box<Refusal>>,
    /// It is in the list of those that have something to order.
    pub is_due: bool,
    in_flight: bool,
    /// What requests wait for, and the cheapest of them.
    waited_for: u64,
    cheapest: u64,
    waiting: Option<watch::Sender<()>>,
}

/// What the store said last, for clients.
#[derive(Clone, Copy)]
struct Known {
    window: usize,
    left: u64,
    /// When the bucket is full again.
    full: Instant,
    has_plenty: bool,
}

/// Nothing was left.
#[derive(Clone, Copy)]
struct Refusal {
    verdict: Verdict,
    at: Instant,
    until: Instant,
    /// Cheaper requests may have more luck.
    cost: u64,
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
    /// With others.
    Soon,
    /// At once.
    Now,
}

impl Entry {
    pub fn new(name: String, rates: &[Rate], now: Instant) -> Self {
        Self {
            name: name.into(),
            known: Known::nothing(rates, now),
            rates: rates.into(),
            tokens: 0,
            held: 0,
            slot: 0,
            until: now,
            is_astray: false,
            unpaid: 0,
            used: 0,
            since: now,
            last_use: now,
            target: None,
            low: 0,
            refusal: None,
            is_due: false,
            in_flight: false,
            waited_for: 0,
            cheapest: 0,
            waiting: None,
        }
    }

    /// Goes on with other limits.
    pub fn adopt(&mut self, rates: &[Rate]) {
        if *self.rates != *rates {
            self.rates = rates.into();
            self.refusal = None;
        }
    }

    /// Decides on a request. `instances` is 0 while their number is not known.
    pub fn decide(&mut self, cost: u64, instances: u32, now: Instant) -> (Next, Need) {
        if cost == 0 {
            return (self.admit(now), Need::Nothing);
        }
        if now < self.until && self.tokens >= cost {
            self.tokens -= cost;
            self.used = self.used.saturating_add(cost);
            self.last_use = now;
            let is_low = self.tokens <= self.low && self.target.is_some_and(|target| target > 0);
            let need = match is_low && self.refusal(1, now).is_none() {
                true => Need::Soon,
                false => Need::Nothing,
            };
            return (self.admit(now), need);
        }
        if let Some(verdict) = self.too_much(cost).or_else(|| self.refusal(cost, now)) {
            return (Next::Decided(verdict), Need::Nothing);
        }
        let credit = self.credit(instances);
        if self.unpaid.saturating_add(cost) <= credit {
            self.unpaid += cost;
            self.used = self.used.saturating_add(cost);
            self.last_use = now;
            return (self.admit(now), self.need_to_pay());
        }
        (Next::Wait, Need::Now)
    }

    /// How soon credit has to be paid: until then its bucket drains once more.
    pub fn need_to_pay(&self) -> Need {
        let depths = self.rates.iter().map(|rate| rate.depth);
        let shortest = Duration::from_nanos(depths.min().unwrap_or(0));
        match shortest < DEEP {
            true => Need::Now,
            false => Need::Soon,
        }
    }

    /// Takes what a response turned out to cost.
    pub fn charge(&mut self, cost: u64, now: Instant) {
        let there = match now < self.until {
            true => cost.min(self.tokens),
            false => 0,
        };
        self.tokens -= there;
        self.unpaid = self.unpaid.saturating_add(cost - there);
        self.used = self.used.saturating_add(cost);
        self.last_use = now;
    }

    /// Takes a cost back that was taken a moment ago.
    pub fn give_back(&mut self, cost: u64) {
        let unpaid = cost.min(self.unpaid);
        self.unpaid -= unpaid;
        if !self.is_astray {
            let tokens = self.tokens.saturating_add(cost - unpaid);
            // Those that are settled are gone.
            self.tokens = tokens.min(self.held.max(self.tokens));
        }
        self.used = self.used.saturating_sub(cost);
    }

    /// One more request waits. It sees when something has changed.
    pub fn wait(&mut self, cost: u64) -> watch::Receiver<()> {
        self.cheapest = match self.waited_for {
            0 => cost,
            _ => self.cheapest.min(cost),
        };
        self.waited_for = self.waited_for.saturating_add(cost);
        let waiting = self.waiting.get_or_insert_with(|| watch::Sender::new(()));
        waiting.subscribe()
    }

    /// One request waits no longer.
    pub fn leave(&mut self, cost: u64) {
        self.waited_for = self.waited_for.saturating_sub(cost);
        if self.waited_for == 0 {
            self.waiting = None;
        }
    }

    /// Those who wait look again.
    pub fn wake(&self) {
        if let Some(waiting) = &self.waiting {
            waiting.send_replace(());
        }
    }

    /// What is to be ordered. Nothing while there is no answer to the last order.
    pub fn order(&mut self, key: u64, now: Instant) -> Option<Order> {
        if self.in_flight {
            return None;
        }
        self.lapse(now);
        let is_idle = self.is_idle(now);
        let target = match is_idle {
            true => 0,
            false => self.next_target(now),
        };
        let needed = self.waited_for.saturating_sub(self.tokens);
        let least = self.cheapest.saturating_sub(self.tokens).max(1);
        let (back, keep) = match is_idle && needed == 0 {
            true => (self.tokens, 0),
            false => (0, self.tokens),
        };
        let is_known = !self.is_astray;
        let known = |tokens: u64| if is_known { tokens } else { 0 };
        let order = Order {
            key,
            name: Arc::clone(&self.name),
            rates: Arc::clone(&self.rates),
            slot: self.slot,
            held: known(self.held),
            back: known(back),
            keep: known(keep),
            pay: self.unpaid,
            least: if needed > 0 { least } else { 0 },
            needed,
            wanted: needed.saturating_add(target.saturating_sub(self.tokens)),
            at: now,
        };
        self.target = Some(target);
        self.tokens = keep;
        self.held = known(keep);
        self.used = 0;
        self.since = now;
        self.in_flight = true;
        Some(order)
    }

    /// How many tokens are worth having: those of the latest use. A key that begins gets more from order
    /// to order, and one that is used once gets none.
    fn next_target(&self, now: Instant) -> u64 {
        let Some(last) = self.target else { return 0 };
        let passed = now.saturating_duration_since(self.since).max(MEASURED);
        let used = u128::from(self.used) * AHEAD.as_nanos() / passed.as_nanos();
        let used = u64::try_from(used).unwrap_or(u64::MAX).max(1);
        used.clamp(last / 2, last.saturating_mul(2).saturating_add(1))
    }

    /// The store answered; `None` when it did not, or nobody knows whether it did.
    pub fn settle(&mut self, order: &Order, loan: Option<Loan>, now: Instant) {
        self.in_flight = false;
        match loan {
            Some(loan) => self.receive(order, loan, now),
            None => {
                self.is_astray = true;
                self.held = 0;
            }
        }
        self.wake();
    }

    fn receive(&mut self, order: &Order, loan: Loan, now: Instant) {
        self.unpaid = self.unpaid.saturating_sub(order.pay);
        // What went astray before is not known to the store and lapses.
        let kept = self.tokens.min(order.keep);
        self.tokens = kept.saturating_add(loan.lent);
        self.low = self.tokens / 4;
        self.held = order.keep.saturating_add(loan.lent);
        self.slot = loan.slot;
        self.until = order.at + LIFE;
        self.is_astray = false;
        let answer = Answer {
            admitted: true,
            debts: loan.debts,
        };
        self.known = Known::of(&answer.verdict(&self.rates, 0), &self.rates, now);
        self.refusal = self.denied(order, loan, now).map(Box::new);
    }

    /// What is refused from now on, because nothing was left.
    fn denied(&self, order: &Order, loan: Loan, now: Instant) -> Option<Refusal> {
        let got_less = loan.lent < order.needed || (loan.lent == 0 && order.wanted > 0);
        if !got_less && !self.is_overdrawn(&loan) {
            return None;
        }
        // Cheaper requests than those that were too expensive may have more luck.
        let cost = if loan.lent == 0 {
            order.least.max(1)
        } else {
            1
        };
        let answer = Answer {
            admitted: false,
            debts: loan.debts,
        };
        let verdict = answer.verdict(&self.rates, cost);
        let mut pause = verdict.retry_after.max(self.pause());
        if !self.is_overdrawn(&loan) {
            // Others may have given back meanwhile, or somebody has deleted the key.
            pause = pause.min(ASKED_AGAIN);
        }
        let until = now + pause;
        let at = now;
        Some(Refusal {
            verdict,
            at,
            until,
            cost,
        })
    }

    /// More was paid than there was: nothing is let through before it has come back.
    fn is_overdrawn(&self, loan: &Loan) -> bool {
        let windows = self.rates.iter().zip(loan.debts);
        let mut debts = windows.map(|(rate, debt)| (Step::new(rate, 1), debt));
        debts.any(|(step, debt)| debt > step.depth)
    }

    fn pause(&self) -> Duration {
        let depths = self.rates.iter().map(|rate| rate.depth);
        let shortest = Duration::from_nanos(depths.min().unwrap_or(0));
        PAUSE.min(shortest / PAUSE_PART)
    }

    /// What else there is to do with it, when nobody asks. `None`: it can be forgotten.
    pub fn rest(&mut self, now: Instant) -> Option<Need> {
        if self.in_flight || self.is_due || self.waited_for > 0 {
            return Some(Need::Nothing);
        }
        self.lapse(now);
        let is_idle = self.is_idle(now);
        if self.unpaid > 0 || (is_idle && self.tokens > 0) {
            return Some(Need::Soon);
        }
        if is_idle {
            return self.is_refusing(now).then_some(Need::Nothing);
        }
        // Settled before they lapse, and held on to.
        let is_old = self.tokens > 0 && now + (LIFE - RENEWED) >= self.until;
        Some(if is_old { Need::Soon } else { Need::Nothing })
    }

    /// Whether it may make way for another key.
    pub fn is_dispensable(&self, now: Instant) -> bool {
        let is_free = !self.in_flight && self.waited_for == 0 && self.unpaid == 0;
        is_free && !self.is_refusing(now)
    }

    /// Whether something was let through that is not paid yet.
    pub fn is_in_debt(&self) -> bool {
        self.unpaid > 0
    }

    pub fn last_use(&self) -> Instant {
        self.last_use
    }

    fn is_idle(&self, now: Instant) -> bool {
        now >= self.last_use + IDLE
    }

    fn is_refusing(&self, now: Instant) -> bool {
        self.refusal
            .as_ref()
            .is_some_and(|refusal| now < refusal.until)
    }

    fn lapse(&mut self, now: Instant) {
        if now >= self.until {
            self.tokens = 0;
            self.held = 0;
        }
    }

    /// Nobody can let the store pay for a request that its bucket does not hold.
    fn too_much(&self, cost: u64) -> Option<Verdict> {
        let fits = self
            .rates
            .iter()
            .all(|rate| cost <= rate.window.burst.max(1));
        let admitted = false;
        let refused = Answer {
            admitted,
            ..Answer::default()
        };
        (!fits).then(|| refused.verdict(&self.rates, cost))
    }

    fn credit(&self, instances: u32) -> u64 {
        if instances == 0 || !self.known.has_plenty {
            return 0;
        }
        let bursts = self.rates.iter().map(|rate| rate.window.burst);
        bursts.min().unwrap_or(0) / CREDIT_PART / u64::from(instances)
    }

    fn refusal(&self, cost: u64, now: Instant) -> Option<Verdict> {
        let refusal = self.refusal.as_deref()?;
        if now >= refusal.until || cost < refusal.cost {
            return None;
        }
        let passed = now.saturating_duration_since(refusal.at);
        let left = |time: Duration| time.saturating_sub(passed);
        Some(Verdict {
            retry_after: left(refusal.verdict.retry_after).max(Duration::from_millis(1)),
            reset: left(refusal.verdict.reset),
            ..refusal.verdict
        })
    }

    fn admit(&self, now: Instant) -> Next {
        let left = self.known.left.saturating_add(self.tokens);
        Next::Decided(Verdict {
            admitted: true,
            window: self.known.window,
            remaining: left.saturating_sub(self.unpaid),
            retry_after: Duration::ZERO,
            reset: self.known.full.saturating_duration_since(now),
        })
    }
}

impl Known {
    /// Before the store said anything: a full bucket.
    fn nothing(rates: &[Rate], now: Instant) -> Self {
        let verdict = Answer {
            admitted: true,
            ..Answer::default()
        };
        Self::of(&verdict.verdict(rates, 0), rates, now)
    }

    fn of(verdict: &Verdict, rates: &[Rate], now: Instant) -> Self {
        let burst = rates
            .get(verdict.window)
            .map_or(0, |rate| rate.window.burst);
        let far = Duration::from_secs(10 * 365 * 24 * 3600);
        Self {
            window: verdict.window,
            left: verdict.remaining,
            full: now + verdict.reset.min(far),
            has_plenty: verdict.remaining >= burst / PLENTY,
        }
    }
}

#[cfg(test)]
impl Entry {
    pub fn has_tokens(&self) -> bool {
        self.tokens > 0
    }

    pub fn has_tokens_at(&self, now: Instant) -> bool {
        self.has_tokens() && now < self.until
    }

    pub fn is_waited_for(&self) -> bool {
        self.waited_for > 0
    }
}
