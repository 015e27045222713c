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
use crate::config::model::{self, RateHeaders, RouteLimit};
use crate::metrics::Metrics;

pub use self::policy::{Charge, Outcome, Policy};

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
pub struct Limits(Box<[(Arc<Policy>, Option<u64>)]>);

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
            cost_headers: cost_headers.into(),
            of_clients: Limits(before.into()),
            of_identities: Limits(behind.into()),
        }
    }

    /// Learns from a response what its request cost in all, and takes the headers out that say it.
    pub fn settle(&self, charges: &[Charge], response: &mut HeaderMap) {
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
                let said_by = |charge: &&Charge| charge.cost_header() == Some(header);
                let told = charges.iter().filter(said_by);
                told.for_each(|charge| charge.settle(cost, now));
            }
        }
    }
}

impl Limits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Holds a request against all of them, or as far as the first that refuses it. What was taken is
    /// added to `charges`; when one refuses, what earlier ones of them took is given back.
    pub async fn take(
        &self,
        caller: &Caller<'_>,
        now: Instant,
        timeout: Duration,
        charges: &mut Vec<Charge>,
    ) -> Result<(), Refused> {
        // What stood before authentication stays taken: nobody gets credentials checked for nothing.
        let before = charges.len();
        for (policy, cost) in &self.0 {
            match policy.take(caller, *cost, now, now + timeout).await {
                Outcome::Exempt | Outcome::Open => {}
                Outcome::Admitted(charge) => charges.push(charge),
                Outcome::Refused(charge) => {
                    charges.iter().skip(before).for_each(Charge::give_back);
                    return Err(Refused::Limited(charge));
                }
                Outcome::Closed => {
                    charges.iter().skip(before).for_each(Charge::give_back);
                    return Err(Refused::Unavailable);
                }
            }
        }
        Ok(())
    }
}

/// Tells a client of the policies that its request was held against.
pub fn tell(charges: &[Charge], which: RateHeaders, headers: &mut HeaderMap) {
    fields::tell(charges, which, headers);
}

/// Whole seconds after which trying again makes sense.
pub fn retry_after(charge: &Charge) -> u64 {
    fields::seconds(charge.verdict.retry_after)
}
