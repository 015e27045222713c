//! One policy: whom it counts together, what it asks, and what becomes of a request.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderName;

use super::fields::Announced;
use super::key::{self, Caller, Seed};
use super::lease::{self, Leases};
use super::rate::{Nanos, Rate, Verdict};
use super::shared::{Shared, Unanswered};
use super::table::Table;
use crate::config::model::{FailureMode, KeyPart, MAX_WINDOWS, Mode, RatePolicy, Scope, Window};
use crate::metrics::{LimitResult, LimitSource, Metrics, RateLimitMetrics};

/// A policy, ready to run. What each request asks of it has few lines of the cache.
pub struct Policy {
    /// As configured.
    pub config: Box<RatePolicy>,
    key: Box<[KeyPart]>,
    /// What a request costs, unless its route says otherwise.
    cost: u64,
    base: Limits,
    /// By the claim's value.
    tiers: Box<[(Box<str>, Limits)]>,
    buckets: Arc<Buckets>,
    shared: Arc<Shared>,
    metrics: Arc<RateLimitMetrics>,
    /// Whether it counts by itself.
    is_local: bool,
    /// Whether anybody is not limited.
    has_exempt: bool,
    /// The numbers of keys that are not.
    exempt: Box<[u64]>,
}

/// What a policy counts in here. It goes over to the next generation.
pub(super) struct Buckets {
    table: Table,
    /// What is leased from Redis, in the mode that does so.
    leases: Option<Arc<Leases>>,
    /// Makes the numbers of keys.
    seed: Seed,
    /// What times are counted from.
    beginning: Instant,
}

/// Windows, as they are computed with and as clients are told of them.
struct Limits {
    rates: Arc<[Rate]>,
    announced: Box<Announced>,
}

/// What became of a request.
pub enum Outcome {
    /// It is let through, and nothing of that is needed again.
    Free,
    /// It is let through.
    Admitted(Taken),
    /// It is refused.
    Refused(Taken),
    /// Nobody can say, and so it is refused.
    Closed,
}

/// What was taken of a key's budget.
pub struct Taken {
    tier: Option<usize>,
    key: u64,
    place: Place,
    cost: u64,
    verdict: Verdict,
}

/// What a policy took.
pub struct Charge {
    policy: Arc<Policy>,
    taken: Taken,
    /// What the request cost in all, as far as responses have said.
    total: u64,
}

/// Where it was taken.
enum Place {
    /// From this instance's own buckets, of which it has one of so many shares.
    Here(u32),
    /// From the bucket of this name in Redis.
    Redis(Box<str>),
    /// From what was leased; with the name, if a response may say that it costs more.
    Lease(Option<Box<str>>),
}

/// A request that is to be held against a policy.
pub struct Asked<'a, 'f> {
    pub(super) caller: &'a Caller<'f>,
    tier: Option<usize>,
    key: u64,
    cost: u64,
    /// Whether what is taken is needed again.
    is_noted: bool,
}

impl Policy {
    /// Prepares a policy. What it counted before it goes on counting, as long as it counts the same.
    pub fn compile(
        config: &RatePolicy,
        shared: &Arc<Shared>,
        metrics: &Metrics,
        previous: Option<&Self>,
    ) -> Self {
        let limits = |windows: &[Window]| Limits {
            rates: windows.iter().copied().map(Rate::new).collect(),
            announced: Box::new(Announced::new(&config.name, windows)),
        };
        let tiers = config.tiers.iter().flat_map(|tiers| &tiers.limits);
        let counts_the_same = |previous: &&Self| {
            let table = &previous.buckets.table;
            previous.config.key == config.key
                && previous.config.scope == config.scope
                && table.fits(config.max_keys, config.windows.len())
        };
        let buckets = match previous.filter(counts_the_same) {
            Some(previous) => Arc::clone(&previous.buckets),
            None => Arc::new(Buckets {
                table: Table::new(config.max_keys, config.windows.len()),
                leases: (config.scope == Scope::Shared(Mode::Fast))
                    .then(|| Leases::new(shared, config.max_keys)),
                seed: Seed::default(),
                beginning: Instant::now(),
            }),
        };
        let exempt = config.exempt.keys.iter();
        let policy = Self {
            exempt: exempt
                .map(|values| key::hash_of(&config.key, values, buckets.seed))
                .collect(),
            base: limits(&config.windows),
            tiers: tiers
                .map(|(value, windows)| (value.as_str().into(), limits(windows)))
                .collect(),
            buckets,
            shared: Arc::clone(shared),
            metrics: metrics.rate_limit(&config.name),
            key: config.key.clone().into(),
            cost: config.cost.request,
            is_local: config.scope == Scope::Node,
            has_exempt: !(config.exempt.networks.is_empty() && config.exempt.keys.is_empty()),
            config: Box::new(config.clone()),
        };
        let has_other_limits = |previous: &Self| {
            previous.config.windows != config.windows || previous.config.tiers != config.tiers
        };
        if previous.is_some_and(has_other_limits) {
            policy.bound_debts(Instant::now());
        }
        policy
    }

    /// What is owed here is no more than any of the limits allows.
    fn bound_debts(&self, now: Instant) {
        if !self.is_local {
            // Shares of an outage are deeper than the limits that they are of.
            return;
        }
        let now = self.buckets.nanos(now);
        let mut latest = [0; MAX_WINDOWS];
        let all = self.tiers.iter().map(|(_, limits)| limits);
        for limits in all.chain([&self.base]) {
            for (latest, rate) in latest.iter_mut().zip(&*limits.rates) {
                *latest = rate.latest(now).max(*latest);
            }
        }
        self.buckets.table.bound(&latest);
    }

    /// Whether it can decide only when it is known who calls.
    pub fn needs_identity(&self) -> bool {
        let key = &self.config.key;
        self.config.tiers.is_some() || key.iter().any(|part| part.needs_identity())
    }

    /// What is to be asked about a request; nothing of one that is not limited.
    pub(super) fn ask<'a, 'f>(
        &self,
        caller: &'a Caller<'f>,
        cost: Option<u64>,
        is_noted: bool,
    ) -> Option<Asked<'a, 'f>> {
        let mut key = key::hash(&self.key, caller, self.buckets.seed);
        if self.has_exempt && self.is_exempt(caller, key) {
            self.metrics
                .decided(LimitResult::Exempt, LimitSource::Local);
            return None;
        }
        let tier = match self.tiers.is_empty() {
            true => None,
            false => self.tier(caller),
        };
        if let Some((value, _)) = tier.and_then(|tier| self.tiers.get(tier)) {
            key = key::in_tier(key, value, self.buckets.seed);
        }
        Some(Asked {
            caller,
            tier,
            key,
            cost: cost.unwrap_or(self.cost),
            is_noted,
        })
    }

    /// Decides, if nobody else has to be asked.
    pub(super) fn decide(&self, asked: &Asked<'_, '_>, now: Instant) -> Option<Outcome> {
        if self.is_local {
            let verdict = self.count_here(asked, &self.limits(asked.tier).rates, now);
            if verdict.admitted && !asked.is_noted {
                self.metrics
                    .decided(LimitResult::Allowed, LimitSource::Local);
                return Some(Outcome::Free);
            }
            return Some(self.decided(asked, Place::Here(1), verdict, LimitSource::Local));
        }
        let leases = self.buckets.leases.as_ref()?;
        let rates = &self.limits(asked.tier).rates;
        if !asked.is_noted && leases.spend(asked.key, rates, asked.cost, now) {
            self.metrics
                .decided(LimitResult::Allowed, LimitSource::Redis);
            return Some(Outcome::Free);
        }
        self.lease(leases, asked, now)
    }

    // What few requests need stands apart, here and below: code, too, is waited for in memory.
    #[inline(never)]
    fn lease(&self, leases: &Leases, asked: &Asked<'_, '_>, now: Instant) -> Option<Outcome> {
        let name = || self.name(asked.caller).into_string();
        let rates = &self.limits(asked.tier).rates;
        match leases.take(asked.key, name, rates, asked.cost, now) {
            lease::Taken::Decided(verdict) => Some(self.leased(asked, verdict)),
            lease::Taken::Unanswered(_) => Some(self.without_redis(asked, now)),
            lease::Taken::Wait => None,
        }
    }

    /// Has Redis decide, and waits for it until then at most.
    pub(super) async fn wait(&self, asked: &Asked<'_, '_>, until: Instant) -> Outcome {
        if let Some(leases) = &self.buckets.leases {
            let since = Instant::now();
            let answer = leases.wait(asked.key, asked.cost, until).await;
            return match self.waited(answer, since) {
                Some(verdict) => self.leased(asked, verdict),
                None => self.without_redis(asked, Instant::now()),
            };
        }
        let name = self.name(asked.caller);
        let rates = &self.limits(asked.tier).rates;
        let since = Instant::now();
        let answer = self.shared.take(&name, rates, asked.cost, until).await;
        match self.waited(answer, since) {
            Some(verdict) => self.decided(asked, Place::Redis(name), verdict, LimitSource::Redis),
            None => self.without_redis(asked, Instant::now()),
        }
    }

    fn waited(&self, answer: Result<Verdict, Unanswered>, since: Instant) -> Option<Verdict> {
        self.metrics.waited(since.elapsed());
        answer.ok()
    }

    fn leased(&self, asked: &Asked<'_, '_>, verdict: Verdict) -> Outcome {
        let may_cost_more = self.config.cost.response_header.is_some();
        let name = may_cost_more.then(|| self.name(asked.caller));
        self.decided(asked, Place::Lease(name), verdict, LimitSource::Redis)
    }

    /// What happens when Redis cannot decide.
    fn without_redis(&self, asked: &Asked<'_, '_>, now: Instant) -> Outcome {
        self.metrics.failed();
        let source = LimitSource::Fallback;
        match self.config.failure_mode {
            FailureMode::Local => {
                let instances = self.shared.instances();
                let whole = self.limits(asked.tier).rates.iter();
                let share = |rate: &Rate| rate.share(instances, asked.cost);
                let rates: Vec<Rate> = whole.map(share).collect();
                let verdict = self.count_here(asked, &rates, now);
                self.decided(asked, Place::Here(instances), verdict, source)
            }
            FailureMode::Open => {
                self.metrics.decided(LimitResult::Allowed, source);
                Outcome::Free
            }
            FailureMode::Closed if self.config.dry_run => {
                self.metrics.decided(LimitResult::WouldLimit, source);
                Outcome::Free
            }
            FailureMode::Closed => {
                self.metrics.decided(LimitResult::Limited, source);
                Outcome::Closed
            }
        }
    }

    fn count_here(&self, asked: &Asked<'_, '_>, rates: &[Rate], now: Instant) -> Verdict {
        let now = self.buckets.nanos(now);
        self.buckets.table.take(asked.key, rates, asked.cost, now)
    }

    #[inline(never)]
    fn decided(
        &self,
        asked: &Asked<'_, '_>,
        place: Place,
        verdict: Verdict,
        source: LimitSource,
    ) -> Outcome {
        let result = match verdict.admitted {
            true => LimitResult::Allowed,
            false if self.config.dry_run => LimitResult::WouldLimit,
            false => LimitResult::Limited,
        };
        self.metrics.decided(result, source);
        if !asked.is_noted && result != LimitResult::Limited {
            return Outcome::Free;
        }
        let taken = Taken {
            tier: asked.tier,
            key: asked.key,
            place,
            // What was refused took nothing.
            cost: if verdict.admitted { asked.cost } else { 0 },
            verdict,
        };
        match result {
            LimitResult::Limited => Outcome::Refused(taken),
            _ => Outcome::Admitted(taken),
        }
    }

    #[inline(never)]
    fn is_exempt(&self, caller: &Caller<'_>, key: u64) -> bool {
        let client = caller.client_ip.to_canonical();
        let mut networks = self.config.exempt.networks.iter();
        networks.any(|network| network.contains(&client)) || self.exempt.contains(&key)
    }

    #[inline(never)]
    fn tier(&self, caller: &Caller<'_>) -> Option<usize> {
        let tiers = self.config.tiers.as_ref()?;
        let value = key::claim(&tiers.claim, caller)?;
        self.tiers.iter().position(|(tier, _)| **tier == *value)
    }

    fn limits(&self, tier: Option<usize>) -> &Limits {
        let tier = tier.and_then(|index| self.tiers.get(index));
        tier.map_or(&self.base, |(_, limits)| limits)
    }

    fn name(&self, caller: &Caller<'_>) -> Box<str> {
        let key = key::name(&self.key, caller);
        format!("ratelimit:{}:{key}", self.config.name).into()
    }
}

impl Buckets {
    fn nanos(&self, now: Instant) -> Nanos {
        let since = now.saturating_duration_since(self.beginning);
        // A bucket that was never touched is full from the beginning, whatever it is deep.
        Nanos::try_from(since.as_nanos()).unwrap_or(Nanos::MAX)
    }
}

impl Charge {
    pub(super) fn new(policy: &Arc<Policy>, taken: Taken) -> Self {
        Self {
            policy: Arc::clone(policy),
            total: taken.cost,
            taken,
        }
    }

    /// What was decided.
    pub fn verdict(&self) -> &Verdict {
        &self.taken.verdict
    }

    /// What can be said of the limits.
    pub(super) fn announced(&self) -> &Announced {
        &self.policy.limits(self.taken.tier).announced
    }

    /// The policy's name.
    pub fn policy(&self) -> &Arc<str> {
        &self.policy.config.name
    }

    /// Gives back what was taken, for a request that another policy refuses.
    pub fn give_back(&self, now: Instant) {
        self.return_units(self.taken.cost, now);
    }

    /// Whether clients are told: a policy that only counts tells nobody.
    pub(super) fn is_told(&self) -> bool {
        !self.policy.config.dry_run
    }

    fn return_units(&self, units: u64, now: Instant) {
        let rates = &self.policy.limits(self.taken.tier).rates;
        let buckets = &self.policy.buckets;
        match (&self.taken.place, &buckets.leases) {
            (Place::Redis(name), _) => self.policy.shared.give_back(name, rates, units),
            (Place::Lease(name), Some(leases)) => {
                leases.give_back(self.taken.key, name.as_deref(), rates, units, now);
            }
            _ => buckets
                .table
                .give_back(self.taken.key, &self.own_rates(), units),
        }
    }

    /// The rates of this instance's own buckets.
    fn own_rates(&self) -> Vec<Rate> {
        let rates = self.policy.limits(self.taken.tier).rates.iter();
        let shares = match self.taken.place {
            Place::Here(shares) => shares,
            Place::Redis(_) | Place::Lease(_) => 1,
        };
        rates
            .map(|rate| rate.share(shares, self.taken.cost))
            .collect()
    }

    /// The header by which responses say what requests cost.
    pub(super) fn cost_header(&self) -> Option<&HeaderName> {
        self.policy.config.cost.response_header.as_ref()
    }

    /// The request cost so much in all.
    pub(super) fn settle(&mut self, total: u64, now: Instant) {
        // Another response may have said something else, of an attempt that then failed.
        let before = std::mem::replace(&mut self.total, total);
        if total < before {
            let less = before - total;
            self.taken.verdict.give_back(less);
            return self.return_units(less, now);
        }
        let more = total - before;
        let rates = &self.policy.limits(self.taken.tier).rates;
        if let Some(rate) = rates.get(self.taken.verdict.window) {
            self.taken.verdict.charge(more, rate);
        }
        let buckets = &self.policy.buckets;
        match (&self.taken.place, &buckets.leases) {
            (Place::Redis(name), _) => self.policy.shared.charge(name, rates, more),
            (Place::Lease(Some(name)), Some(leases)) => {
                leases.charge(self.taken.key, || name.to_string(), rates, more, now);
            }
            _ => {
                let now = buckets.nanos(now);
                buckets
                    .table
                    .charge(self.taken.key, &self.own_rates(), more, now);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use std::time::Duration;

    use http::HeaderMap;

    use super::*;
    use crate::config::model::{Cost, Exempt};

    const HOUR: Duration = Duration::from_secs(3600);

    fn config(limit: u64, period: Duration) -> RatePolicy {
        let window = Window {
            limit,
            period,
            burst: limit,
        };
        RatePolicy {
            name: "p".into(),
            key: Vec::new(),
            windows: [window].into(),
            tiers: None,
            scope: Scope::Node,
            cost: Cost {
                request: 10,
                response_header: None,
            },
            failure_mode: FailureMode::Local,
            dry_run: false,
            exempt: Exempt::default(),
            max_keys: 1024,
        }
    }

    fn compile(config: &RatePolicy, previous: Option<&Policy>) -> Arc<Policy> {
        let (shared, metrics) = (Arc::default(), Metrics::new("gateway"));
        Arc::new(Policy::compile(config, &shared, &metrics, previous))
    }

    /// What becomes of a request now.
    fn decide(policy: &Policy, cost: u64) -> Taken {
        let headers = HeaderMap::new();
        let caller = Caller {
            client_ip: [192, 0, 2, 1].into(),
            route: "all",
            identity: None,
            headers: &headers,
            path_param: &|_| None,
        };
        let asked = policy.ask(&caller, Some(cost), true).unwrap();
        match policy.decide(&asked, Instant::now()).unwrap() {
            Outcome::Admitted(taken) | Outcome::Refused(taken) => taken,
            _ => panic!("neither taken nor refused"),
        }
    }

    #[test]
    fn what_responses_say_one_after_the_other_counts_once() {
        let policy = compile(&config(100, HOUR), None);
        let mut charge = Charge::new(&policy, decide(&policy, 10));
        let left = || decide(&policy, 0).verdict.remaining();
        for (total, expected) in [(1, 99), (1, 99), (30, 70), (30, 70), (4, 96)] {
            charge.settle(total, Instant::now());
            assert_eq!((charge.verdict().remaining(), left()), (expected, expected));
        }
    }

    #[test]
    fn a_reload_to_a_quicker_limit_ends_what_only_the_former_explains() {
        let slow = compile(&config(10, HOUR), None);
        assert!(decide(&slow, 10).verdict.admitted);
        let same = compile(&config(10, HOUR), Some(&slow));
        assert!(decide(&same, 1).verdict.reset() > HOUR / 2);
        let quick = compile(&config(10, Duration::from_secs(1)), Some(&same));
        assert!(decide(&quick, 1).verdict.reset() <= Duration::from_secs(2));
    }
}
