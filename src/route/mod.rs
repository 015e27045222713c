//! Which route a request belongs to, and what the route makes of it.

mod condition;
pub mod host;
pub mod mirror;
mod params;
mod paths;
pub mod redirect;
pub mod rewrite;
mod router;

use std::sync::Arc;

pub use mirror::Mirror;
pub use params::Params;
pub use router::{Found, Lookup, Router};

use crate::config::model::{
    self, FixedResponse, Priority, Redirect, Rewrite, RouteRetries, TimeoutOverrides,
};
use crate::filter::auth::{Auth, Policy};
use crate::filter::concurrency;
use crate::filter::cors::Cors;
use crate::filter::headers::HeaderFilter;
use crate::filter::ip_access::IpAccess;
use crate::filter::maintenance::Maintenance;
use crate::filter::ratelimit::{RateLimits, RouteLimits};
use crate::metrics::{Metrics, RouteMetrics};
use crate::upstream::Upstream;
use crate::upstream::balance::Schedule;

/// A route, ready to run.
pub struct Route {
    /// Its name, the `route` of metrics and logs.
    pub name: Arc<str>,
    /// What is done with its requests.
    pub action: Action,
    /// Who may call it by address; `None`: everyone.
    pub ip_access: Option<IpAccess>,
    /// Which pages of other origins may call it; `None` leaves it to the backend.
    pub cors: Option<Cors>,
    /// Who may call it; `None`: everyone.
    pub auth: Option<Policy>,
    /// What it is limited by.
    pub limits: RouteLimits,
    /// How important its requests are when there is not room for all.
    pub priority: Priority,
    /// How many of its requests may be in flight at the same time.
    pub concurrency: Box<[concurrency::Limit]>,
    /// How the path is changed for the backend.
    pub rewrite: Option<Rewrite>,
    /// Changes to the request's header.
    pub request_headers: HeaderFilter,
    /// Changes to the response's header.
    pub response_headers: HeaderFilter,
    /// Largest request body; `None` is unlimited.
    pub max_body_bytes: Option<u64>,
    /// Overrides of the upstream's timeouts.
    pub timeouts: TimeoutOverrides,
    /// Overrides of the upstream's retries.
    pub retries: RouteRetries,
    /// What is done while its upstream cannot be used; `None`: what the upstream says.
    pub fallback: Option<model::Fallback>,
    /// Who gets copies of its requests.
    pub mirror: Option<Arc<Mirror>>,
    /// Whether it is down for maintenance.
    pub maintenance: Maintenance,
    /// What is measured of it.
    pub metrics: Arc<RouteMetrics>,
}

/// What is done with a request.
pub enum Action {
    /// Sent to an upstream.
    Proxy(Split),
    /// Answered with a redirect.
    Redirect(Redirect),
    /// Answered with a fixed response.
    Respond(FixedResponse),
}

/// The upstreams of a route, by weight: one for most, several for a canary release.
pub struct Split {
    upstreams: Vec<Arc<Upstream>>,
    weights: Vec<u32>,
    schedule: Arc<Schedule>,
}

impl Split {
    fn compile(
        branches: &[model::WeightedUpstream],
        all: &[Arc<Upstream>],
        previous: Option<&Self>,
    ) -> Self {
        let mut upstreams = Vec::with_capacity(branches.len());
        let mut weights = Vec::with_capacity(branches.len());
        for branch in branches {
            upstreams.push(Arc::clone(&all[branch.upstream]));
            weights.push(branch.weight);
        }
        // A schedule that began anew with every reload would favour its first choice.
        let unchanged = previous.filter(|previous| {
            let names = |list: &[Arc<Upstream>]| list.iter().map(|one| one.name.clone()).collect();
            let (before, now): (Vec<_>, Vec<_>) = (names(&previous.upstreams), names(&upstreams));
            before == now && previous.weights == weights
        });
        let schedule = match unchanged {
            Some(previous) => Arc::clone(&previous.schedule),
            None => {
                let choices: Vec<_> = (0u16..).zip(weights.iter().copied()).collect();
                Arc::new(Schedule::new(&choices))
            }
        };
        Self {
            upstreams,
            weights,
            schedule,
        }
    }

    /// All of them.
    pub fn upstreams(&self) -> &[Arc<Upstream>] {
        &self.upstreams
    }

    /// The upstream of the next request.
    pub fn next(&self) -> Option<&Arc<Upstream>> {
        match self.upstreams.as_slice() {
            [only] => Some(only),
            several => several.get(usize::from(self.schedule.next()?)),
        }
    }
}

impl Route {
    /// Builds a route over the upstreams of its configuration. What was switched on the route of
    /// that name in the generation before stays switched.
    pub fn compile(
        config: &model::Route,
        upstreams: &[Arc<Upstream>],
        auth: &Auth,
        limits: &RateLimits,
        metrics: &Metrics,
        previous: Option<&Self>,
    ) -> Self {
        let turn = previous.and_then(Self::split);
        Self {
            name: Arc::clone(&config.name),
            action: match &config.action {
                model::Action::Proxy(branches) => {
                    Action::Proxy(Split::compile(branches, upstreams, turn))
                }
                model::Action::Redirect(redirect) => Action::Redirect(redirect.clone()),
                model::Action::Respond(response) => Action::Respond(response.clone()),
            },
            ip_access: config.ip_access.as_ref().map(IpAccess::compile),
            cors: config
                .cors
                .as_ref()
                .map(|policy| Cors::compile(policy, &config.matcher.methods)),
            auth: config
                .auth
                .as_ref()
                .map(|policy| Policy::compile(policy, auth)),
            limits: RouteLimits::compile(&config.limits, limits),
            priority: config.priority,
            concurrency: concurrency::Limit::of_route(
                &config.concurrency,
                &config.name,
                config.priority,
                metrics,
                previous.map_or(&[], |previous| &previous.concurrency),
            ),
            rewrite: config.rewrite.clone(),
            request_headers: HeaderFilter::compile(&config.request_headers),
            response_headers: HeaderFilter::compile(&config.response_headers),
            max_body_bytes: config.max_body_bytes,
            timeouts: config.timeouts.clone(),
            retries: config.retries.clone(),
            fallback: config.fallback.clone(),
            mirror: config.mirror.as_ref().map(|mirror| {
                let before = previous.and_then(|previous| previous.mirror.as_deref());
                let (name, all) = (&config.name, upstreams);
                Arc::new(Mirror::compile(mirror, name, all, metrics, before))
            }),
            maintenance: Maintenance::new(
                config.maintenance,
                previous.map(|previous| &previous.maintenance),
            ),
            metrics: metrics.route(&config.name),
        }
    }

    fn split(&self) -> Option<&Split> {
        match &self.action {
            Action::Proxy(split) => Some(split),
            Action::Redirect(_) | Action::Respond(_) => None,
        }
    }
}
