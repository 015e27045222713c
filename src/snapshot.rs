//! What runs: one immutable generation of routes and upstreams, behind one pointer.
//!
//! A request takes the generation once and keeps it. Only [`Snapshot::compile`] can fail, so a
//! request never discovers a configuration error.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::Method;
use ipnet::IpNet;
use tokio::sync::watch;

use crate::config::model::{self, Limits, Priority, Shutdown};
use crate::config::{Config, Fault, Secret};
use crate::filter::auth::Auth;
use crate::filter::cors::Cors;
use crate::filter::ip_access::IpAccess;
use crate::filter::maintenance::{self, Maintenance, Switches};
use crate::filter::priority;
use crate::filter::ratelimit::RateLimits;
use crate::metrics::{Metrics, RouteMetrics};
use crate::reply::Notice;
use crate::route::{Route, Router};
use crate::upstream::Upstream;

/// What the endpoints of the gateway's own answer.
const OWN_METHODS: [Method; 3] = [Method::GET, Method::HEAD, Method::POST];

/// One generation of the configuration, ready to run.
pub struct Snapshot {
    /// Its number; the first is 1.
    pub generation: u64,
    /// The hash of its source.
    pub source_hash: u64,
    /// Finds the route of a request.
    pub router: Router,
    /// The routes, by the router's index.
    pub routes: Vec<Arc<Route>>,
    /// How clients prove who they are.
    pub auth: Arc<Auth>,
    /// How many requests are let through.
    pub rate_limits: RateLimits,
    /// The upstreams, in order of name.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Who may call at all, by address.
    pub ip_access: Option<IpAccess>,
    /// Which pages of other origins may call what is no route's.
    pub cors: Option<Cors>,
    /// Whether a route has such a policy.
    pub has_cors: bool,
    /// Bounds on what a client sends.
    pub limits: Limits,
    /// The most important class of all routes.
    pub top: Priority,
    /// Requests of all classes that may be in flight when there is one more of each class.
    pub most_requests: [usize; Priority::ALL.len()],
    /// How the process ends.
    pub shutdown: Shutdown,
    /// What operators must show before they may change anything.
    pub admin_token: Option<Secret>,
    /// Whether everything that goes to a backend is down for maintenance.
    pub maintenance: Maintenance,
    /// What clients are told during maintenance.
    pub notice: Arc<Notice>,
    /// Where requests without a route are measured.
    pub no_route: Arc<RouteMetrics>,
}

/// A configuration that passed its checks cannot be run all the same.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The expressions of a host's paths are too large together.
    #[error("the path expressions cannot be compiled together: {0}")]
    PathExpressions(#[from] regex::Error),
    /// The keys of authentication are of no use.
    #[error("the keys of authentication cannot be used: {}", spell(.0))]
    Auth(Vec<Fault>),
}

/// What is wrong, by the keys that it is written under.
fn spell(faults: &[Fault]) -> String {
    let lines: Vec<String> = faults.iter().map(Fault::to_string).collect();
    lines.join("; ")
}

impl Snapshot {
    /// Builds everything a request needs. What is unchanged since the generation before is taken
    /// over from it, and so is what was learned and switched.
    ///
    /// The handles of metrics are taken while that generation still holds its own, so that the
    /// series of what stays go on counting.
    pub fn compile(
        config: &Config,
        generation: u64,
        metrics: &Metrics,
        now: Instant,
        previous: Option<&Self>,
    ) -> Result<Self, CompileError> {
        // What can fail comes first: upstreams share what they have learned with the generation before,
        // and that must not be touched by one that never runs.
        let router = Router::compile(&config.routes)?;
        let before = previous.map(|previous| &*previous.auth);
        let auth = Auth::compile(&config.auth, metrics, before).map_err(CompileError::Auth)?;
        let upstreams = compile_upstreams(config, metrics, now, previous);
        let before = previous.map(|previous| &previous.rate_limits);
        let rate_limits = RateLimits::compile(&config.ratelimit, metrics, before);
        let routes = compile_routes(config, &upstreams, &auth, &rate_limits, metrics, previous);
        let admin = config.admin.as_ref();
        let classes = config.routes.iter().map(|route| route.priority);
        let top = classes.max().unwrap_or_default();
        Ok(Self {
            generation,
            source_hash: config.source_hash,
            router,
            has_cors: routes.iter().any(|route| route.cors.is_some()),
            routes,
            auth: Arc::new(auth),
            rate_limits,
            upstreams,
            trusted_proxies: config.trusted_proxies.clone(),
            ip_access: config.ip_access.as_ref().map(IpAccess::compile),
            cors: config
                .cors
                .as_ref()
                .map(|policy| Cors::compile(policy, &OWN_METHODS)),
            limits: config.limits,
            top,
            most_requests: Priority::ALL
                .map(|class| priority::share(config.limits.max_requests, class, top) as usize),
            shutdown: config.shutdown.clone(),
            admin_token: admin.and_then(|admin| admin.token.clone()),
            maintenance: Maintenance::new(
                config.maintenance.enabled,
                previous.map(|previous| &previous.maintenance),
            ),
            notice: maintenance::notice(&config.maintenance),
            no_route: metrics.no_route(),
        })
    }

    /// Whether it has these lists of networks: a file may have others by now.
    pub fn has_networks_of(&self, config: &Config) -> bool {
        let same = |running: &Option<IpAccess>, read: &Option<model::IpAccess>| {
            *running == read.as_ref().map(IpAccess::compile)
        };
        let mut routes = self.routes.iter().zip(&config.routes);
        same(&self.ip_access, &config.ip_access)
            && routes.all(|(running, read)| same(&running.ip_access, &read.ip_access))
    }

    /// An upstream by its name.
    pub fn upstream(&self, name: &str) -> Option<&Arc<Upstream>> {
        let place = self.upstreams.binary_search_by(|one| (*one.name).cmp(name));
        self.upstreams.get(place.ok()?)
    }

    /// A route by its name. Not for the way of a request: it looks at every route.
    pub fn route(&self, name: &str) -> Option<&Arc<Route>> {
        self.routes.iter().find(|route| *route.name == *name)
    }

    /// What is switched at run time, for the successor of this process.
    pub fn export(&self) -> Switches {
        let switched = |route: &Arc<Route>| {
            let switched = route.maintenance.switched()?;
            Some((route.name.to_string(), switched))
        };
        let held = |upstream: &Arc<Upstream>| {
            let open = upstream.forced_circuit()?;
            Some((upstream.name.to_string(), open))
        };
        Switches {
            all: self.maintenance.switched(),
            routes: self.routes.iter().filter_map(switched).collect(),
            circuits: self.upstreams.iter().filter_map(held).collect(),
        }
    }

    /// Takes over what the process before had switched. Routes and upstreams that are gone are passed
    /// over.
    pub fn import(&self, switches: &Switches) {
        let now = Instant::now();
        for upstream in &self.upstreams {
            let open = switches.circuits.get(&*upstream.name);
            upstream.force_circuit(open.copied(), now);
        }
        self.maintenance.restore(switches.all);
        for route in &self.routes {
            let switched = switches.routes.get(&*route.name);
            route.maintenance.restore(switched.copied());
        }
    }

    /// Which backends operators drain, by the name of the upstream, for the successor of this process.
    pub fn draining(&self) -> BTreeMap<String, BTreeSet<String>> {
        let of = |upstream: &Arc<Upstream>| {
            let names = upstream.drained();
            (!names.is_empty()).then(|| (upstream.name.to_string(), names))
        };
        self.upstreams.iter().filter_map(of).collect()
    }

    /// Takes over which backends are drained, also of those that are still to be discovered. Upstreams
    /// that are gone are passed over.
    pub fn drain(&self, draining: &BTreeMap<String, BTreeSet<String>>, now: Instant) {
        let nobody = BTreeSet::new();
        for upstream in &self.upstreams {
            let names = draining.get(&*upstream.name);
            upstream.set_drained(names.unwrap_or(&nobody), now);
        }
    }

    /// Has the places that it shares with the generation before counted by its own limits.
    fn put_limits_into_force(&self, now: Instant) {
        for limit in self.routes.iter().flat_map(|route| &route.concurrency) {
            limit.put_into_force(now);
        }
        for upstream in &self.upstreams {
            if let Some(limit) = &upstream.concurrency {
                limit.put_into_force(now);
            }
            upstream.fit_concurrency(now);
        }
    }

    /// How many routes are down for maintenance by themselves.
    pub fn routes_in_maintenance(&self) -> usize {
        let on = |route: &&Arc<Route>| route.maintenance.is_on();
        self.routes.iter().filter(on).count()
    }
}

/// Upstreams whose configuration did not change are the same as before.
fn compile_upstreams(
    config: &Config,
    metrics: &Metrics,
    now: Instant,
    previous: Option<&Snapshot>,
) -> Vec<Arc<Upstream>> {
    let compile = |upstream: &model::Upstream| {
        let before = previous.and_then(|previous| previous.upstream(&upstream.name));
        match before {
            Some(before) if before.config == *upstream => Arc::clone(before),
            _ => {
                let before = before.map(|before| &**before);
                Arc::new(Upstream::compile(upstream, metrics, now, before))
            }
        }
    };
    config.upstreams.iter().map(compile).collect()
}

fn compile_routes(
    config: &Config,
    upstreams: &[Arc<Upstream>],
    auth: &Auth,
    limits: &RateLimits,
    metrics: &Metrics,
    previous: Option<&Snapshot>,
) -> Vec<Arc<Route>> {
    let routes = previous.map_or(&[][..], |previous| &previous.routes);
    let before: HashMap<&str, &Arc<Route>> =
        routes.iter().map(|route| (&*route.name, route)).collect();
    let compile = |route: &model::Route| {
        let before = before.get(&*route.name).map(|before| &***before);
        Arc::new(Route::compile(
            route, upstreams, auth, limits, metrics, before,
        ))
    };
    config.routes.iter().map(compile).collect()
}

/// The generation in force.
pub struct Live {
    current: ArcSwap<Snapshot>,
    /// The number of the generation, for whoever waits for the next one.
    generation: watch::Sender<u64>,
    /// Told whenever upstreams may have other members: a generation, or what was discovered.
    members: watch::Sender<()>,
}

impl Live {
    /// Starts with this one.
    pub fn new(snapshot: Snapshot) -> Self {
        Self {
            generation: watch::Sender::new(snapshot.generation),
            current: ArcSwap::from_pointee(snapshot),
            members: watch::Sender::new(()),
        }
    }

    /// Puts another generation into force and hands back the one before.
    pub fn publish(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        let generation = snapshot.generation;
        let snapshot = Arc::new(snapshot);
        let before = self.current.swap(Arc::clone(&snapshot));
        snapshot.put_limits_into_force(Instant::now());
        self.generation.send_replace(generation);
        self.members.send_replace(());
        before
    }

    /// What an idle connection is given for another request when the process ends.
    pub fn keepalive_grace(&self) -> Duration {
        self.current.load().shutdown.keepalive_grace
    }

    /// Tells of every further generation.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// States that an upstream has other members than before.
    pub fn members_changed(&self) {
        self.members.send_replace(());
    }

    /// Tells whenever upstreams may have other members: with every further generation, too.
    pub fn subscribe_members(&self) -> watch::Receiver<()> {
        self.members.subscribe()
    }

    /// The generation in force, to be kept for as long as a request lasts.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The bounds in force. A copy: whoever waits for a client must not keep a generation alive.
    pub fn limits(&self) -> Limits {
        self.current.load().limits
    }
}

#[cfg(test)]
mod tests;
