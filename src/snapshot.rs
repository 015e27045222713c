//! What runs: one immutable generation of routes and upstreams, behind one pointer.
//!
//! A request takes the generation once and keeps it. Only [`Snapshot::compile`] can fail, so a
//! request never discovers a configuration error.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use ipnet::IpNet;

use crate::config::Config;
use crate::config::model::Limits;
use crate::metrics::{Metrics, RouteMetrics};
use crate::route::{Route, Router};
use crate::upstream::Upstream;

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
    /// The upstreams, in order of name.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Bounds on what a client sends.
    pub limits: Limits,
    /// Where requests without a route are measured.
    pub no_route: Arc<RouteMetrics>,
}

/// A configuration that passed its checks cannot be run all the same.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The expressions of a host's paths are too large together.
    #[error("the path expressions cannot be compiled together: {0}")]
    PathExpressions(#[from] regex::Error),
}

impl Snapshot {
    /// Builds everything a request needs.
    pub fn compile(
        config: &Config,
        generation: u64,
        metrics: &Metrics,
        now: Instant,
    ) -> Result<Self, CompileError> {
        let upstreams: Vec<Arc<Upstream>> = config
            .upstreams
            .iter()
            .map(|upstream| Arc::new(Upstream::compile(upstream, metrics, now)))
            .collect();
        let routes = config
            .routes
            .iter()
            .map(|route| Arc::new(Route::compile(route, &upstreams, metrics)))
            .collect();
        Ok(Self {
            generation,
            source_hash: config.source_hash,
            router: Router::compile(&config.routes)?,
            routes,
            upstreams,
            trusted_proxies: config.trusted_proxies.clone(),
            limits: config.limits,
            no_route: metrics.no_route(),
        })
    }
}

/// The generation in force.
pub struct Live {
    current: ArcSwap<Snapshot>,
}

impl Live {
    /// Starts with this one.
    pub fn new(snapshot: Snapshot) -> Self {
        Self {
            current: ArcSwap::from_pointee(snapshot),
        }
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
