//! How much: limits on the rate of requests.
//!
//! A policy counts requests by a key, here (`table`) or together with other instances (`shared`). A route
//! has those that can decide at once, and those that have to know who calls first: the former stand
//! before authentication, so that nobody burns processors with signatures.

mod fields;
pub mod key;
pub mod lease;
mod policy;
pub mod rate;
pub mod shared;
pub mod table;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName};

use self::key::Caller;
use self::shared::Shared;
use crate::config::model::{self, RateHeaders, RouteLimit, Told};
use crate::metrics::Metrics;

pub use self::policy::{Charge, Policy};

use self::policy::{Asked, Outcome};

/// The policies of a generation.
pub struct RateLimits {
    policies: Vec<Arc<Policy>>,
    /// Which fields tell clients of their limits.
    pub headers: RateHeaders,
    /// How long a request waits for Redis in all.
    pub timeout: Duration,
    /// Whether readiness depends on Redis.
    pub required: bool,
    shared: Arc<Shared>,
}

impl RateLimits {
    /// Prepares policies. Those of the same name go on counting.
    pub fn compile(config: &model::RateLimits, metrics: &Metrics, previous: Option<&Self>) -> Self {
        let shared = previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.shared));
        shared.set_patience(config.timeout);
        let mut scopes = config.policies.iter().map(|policy| policy.scope);
        shared.set_used(scopes.any(|scope| scope != model::Scope::Node));
        let before = |name: &Arc<str>| {
            let policies = &previous?.policies;
            let before = policies.iter().find(|policy| policy.config.name == *name);
            before.map(|before| &**before)
        };
        let compile = |config: &model::RatePolicy| {
            let before = before(&config.name);
            Arc::new(Policy::compile(config, &shared, metrics, before))
        };
        Self {
            policies: config.policies.iter().map(compile).collect(),
            headers: config.headers,
            timeout: config.timeout,
            required: config.required,
            shared,
        }
    }

    /// What asks Redis; the same for all generations.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

/// What a route is limited by.
#[derive(Default)]
pub struct RouteLimits {
    /// Before it is known who calls.
    pub of_clients: Limits,
    /// Behind that.
    pub of_identities: Limits,
    /// Headers by which responses say what requests cost.
    cost_headers: Box<[HeaderName]>,
}

/// Policies that are asked one after the other.
#[derive(Default)]
pub struct Limits {
    policies: Box<[(Arc<Policy>, Option<u64>)]>,
    /// Whether what was taken is needed again: to give it back, to tell clients, or to learn costs.
    remembers: bool,
}

/// What limits have done with a request.
#[derive(Default)]
pub struct Ledger {
    /// What was taken for it, as far as that is needed again.
    pub charges: Vec<Charge>,
    /// How long it has waited for Redis; `None` before it was held against any limit.
    pub waited: Option<Duration>,
    /// So many of the charges are not given back when a policy refuses.
    stays: usize,
}

/// How far a request has come with the policies of a route.
pub enum Step<'a, 'f> {
    /// All have let it through, or one has not.
    Over(Result<(), Refused>),
    /// The policy at this place has to ask Redis.
    Waits(usize, Asked<'a, 'f>),
}

/// Why a request is not let through.
pub enum Refused {
    /// There were too many, says this policy.
    Limited(Charge),
    /// Nobody can say.
    Unavailable,
}

impl RouteLimits {
    /// The policies of a route.
    pub fn compile(limits: &[RouteLimit], all: &RateLimits) -> Self {
        let found = limits.iter().filter_map(|limit| {
            let policy = all.policies.get(limit.policy)?;
            Some((Arc::clone(policy), limit.cost))
        });
        let mut cost_headers = Vec::new();
        let found = found.inspect(|(policy, _)| {
            cost_headers.extend(policy.config.cost.response_header.clone());
        });
        let (behind, before): (Vec<_>, Vec<_>) =
            found.partition(|(policy, _)| policy.needs_identity());
        Self {
            of_clients: Limits::new(before, all.headers),
            of_identities: Limits::new(behind, all.headers),
            cost_headers: cost_headers.into(),
        }
    }

    /// Learns from a response what its request cost in all, and takes the headers out that say it.
    pub fn settle(&self, charges: &mut [Charge], response: &mut HeaderMap) {
        for header in &self.cost_headers {
            let Some(value) = response.remove(header) else {
                continue;
            };
            let cost = value
                .to_str()
                .ok()
                .and_then(|text| text.trim().parse().ok());
            if let Some(cost) = cost {
                let now = Instant::now();
                let said_by = |charge: &&mut Charge| charge.cost_header() == Some(header);
                let told = charges.iter_mut().filter(said_by);
                told.for_each(|charge| charge.settle(cost, now));
            }
        }
    }
}

impl Limits {
    fn new(policies: Vec<(Arc<Policy>, Option<u64>)>, headers: RateHeaders) -> Self {
        let costs_more =
            |(policy, _): &(Arc<Policy>, _)| policy.config.cost.response_header.is_some();
        Self {
            remembers: policies.len() > 1
                || policies.iter().any(costs_more)
                || [headers.standard, headers.x_ratelimit].contains(&Told::Always),
            policies: policies.into(),
        }
    }

    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// Holds a request against the policies, or as far as the first that refuses it or has to ask Redis. What
    /// was taken is written down, if that is of any use; when one refuses, what earlier ones of them took is
    /// given back.
    ///
    /// Apart from [`Limits::finish`], so that requests that wait for nobody run through little code.
    pub fn start<'a, 'f>(
        &self,
        caller: &'a Caller<'f>,
        now: Instant,
        ledger: &mut Ledger,
    ) -> Step<'a, 'f> {
        ledger.waited.get_or_insert_default();
        // What stood before authentication stays taken: nobody gets credentials checked for nothing.
        ledger.stays = ledger.charges.len();
        self.go_on(0, caller, now, ledger)
    }

    /// Asks Redis, and goes on with the other policies. All that a request waits for Redis, here and before, is
    /// `patience` at most.
    pub async fn finish<'a, 'f>(
        &self,
        mut step: Step<'a, 'f>,
        patience: Duration,
        ledger: &mut Ledger,
    ) -> Result<(), Refused> {
        let since = Instant::now();
        let waited = ledger.waited.unwrap_or_default();
        let until = since + patience.saturating_sub(waited);
        loop {
            let (place, asked) = match step {
                Step::Over(result) => return result,
                Step::Waits(place, asked) => (place, asked),
            };
            if let Some((policy, _)) = self.policies.get(place) {
                let outcome = policy.wait(&asked, until).await;
                ledger.waited = Some(waited + since.elapsed());
                self.note(policy, outcome, ledger)?;
            }
            step = self.go_on(place + 1, asked.caller, Instant::now(), ledger);
        }
    }

    fn go_on<'a, 'f>(
        &self,
        from: usize,
        caller: &'a Caller<'f>,
        now: Instant,
        ledger: &mut Ledger,
    ) -> Step<'a, 'f> {
        for (place, (policy, cost)) in self.policies.iter().enumerate().skip(from) {
            let Some(asked) = policy.ask(caller, *cost, self.remembers) else {
                continue;
            };
            match policy.decide(&asked, now) {
                Some(Outcome::Free) => {}
                None => return Step::Waits(place, asked),
                Some(outcome) => {
                    if let Err(refused) = self.note(policy, outcome, ledger) {
                        return Step::Over(Err(refused));
                    }
                }
            }
        }
        Step::Over(Ok(()))
    }

    fn note(
        &self,
        policy: &Arc<Policy>,
        outcome: Outcome,
        ledger: &mut Ledger,
    ) -> Result<(), Refused> {
        let refused = match outcome {
            Outcome::Free => return Ok(()),
            Outcome::Admitted(taken) => {
                ledger.charges.push(Charge::new(policy, taken));
                return Ok(());
            }
            Outcome::Refused(taken) => Refused::Limited(Charge::new(policy, taken)),
            Outcome::Closed => Refused::Unavailable,
        };
        let taken = ledger.charges.iter().skip(ledger.stays);
        taken.for_each(|charge| charge.give_back(Instant::now()));
        Err(refused)
    }
}

/// Tells a client of the policies that its request was held against.
pub fn tell(charges: &[Charge], which: RateHeaders, headers: &mut HeaderMap) {
    fields::tell(charges, which, headers);
}

/// Whole seconds after which trying again makes sense.
pub fn retry_after(charge: &Charge) -> u64 {
    fields::seconds(charge.verdict().retry_after())
}
