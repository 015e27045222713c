//! Every metric: name, help, labels, and the handles through which the request path feeds them.
//!
//! Handles are taken when a snapshot is compiled and held by it. Feeding one is a few atomic
//! additions: no lock, no look-up by string, no series to create. A scrape walks the handles that
//! are still held, so the series of a route or backend that a reload removed go away with it.

mod auth;
mod backend;
mod catalogue;
mod circuit;
mod concurrency;
mod discovery;
mod family;
mod grpc;
mod histogram;
mod jwks;
mod label;
mod listener;
mod live;
mod mirror;
mod openmetrics;
mod overload;
mod ratelimit;
mod redis;
mod render;
mod revocations;
mod route;
mod shared;
mod status;
mod tls;
mod upstream;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;

pub use self::auth::{AuthError, AuthMethod, AuthMetrics};
pub use self::backend::{BackendMetrics, EjectionReason, ProbeResult};
pub use self::circuit::{CircuitMetrics, CircuitState};
pub use self::concurrency::{ConcurrencyMetrics, ConcurrencyRefusal};
pub use self::discovery::{DiscoveryMetrics, DiscoveryResult};
pub use self::grpc::GrpcCode;
pub use self::histogram::Histogram;
pub use self::jwks::{JwksFetch, JwksMetrics};
pub use self::label::MethodLabel;
pub use self::listener::{
    ConnectionClose, ConnectionGuard, Http2Guard, InFlightGuard, ListenerMetrics,
};
pub use self::mirror::{MirrorMetrics, MirrorResult};
pub use self::overload::{OverloadMetrics, Shed};
pub use self::ratelimit::{LimitResult, LimitSource, RateLimitMetrics};
pub use self::redis::{RedisCommand, RedisError, RedisMetrics};
pub use self::render::{Format, render};
pub use self::revocations::RevocationMetrics;
pub use self::route::RouteMetrics;
pub use self::tls::{HandshakeFailure, TlsMetrics};
pub use self::upstream::{
    FailureReason, HedgeResult, PooledConnection, RetryReason, RetrySkip, UpstreamMetrics,
};

/// A counter that only grows; clones count together.
pub use prometheus::IntCounter as Counter;

use self::family::Family;
use self::label::{Counts, Label, label};
use self::live::Live;

/// The route label of requests that were refused before their route was known.
pub const NO_ROUTE: &str = "none";

label! {
    /// What became of a call that would change something.
    AdminCall {
        /// It was done.
        Done = "done",
        /// It could not be done.
        Failed = "failed",
        /// The caller may not, or did not say what.
        Refused = "refused",
    }
}

/// All metrics of the process. Shared by `Arc`; handles outlive no snapshot that holds them.
pub struct Metrics {
    namespace: String,
    routes: Live<Arc<str>, RouteMetrics>,
    upstreams: Live<Arc<str>, UpstreamMetrics>,
    backends: Live<backend::Key, BackendMetrics>,
    circuits: Live<Arc<str>, CircuitMetrics>,
    listeners: Live<Arc<str>, ListenerMetrics>,
    no_route: Arc<RouteMetrics>,
    auth: Arc<AuthMetrics>,
    jwks: Live<Arc<str>, JwksMetrics>,
    rate_limits: Live<Arc<str>, RateLimitMetrics>,
    concurrency: Live<concurrency::Key, ConcurrencyMetrics>,
    discovery: Live<Arc<str>, DiscoveryMetrics>,
    mirrors: Live<Arc<str>, MirrorMetrics>,
    refusals: Mutex<BTreeMap<&'static str, Counter>>,
    reloads_succeeded: Counter,
    reloads_failed: Counter,
    maintenance: AtomicBool,
    maintenance_routes: AtomicUsize,
    admin_calls: Counts<{ AdminCall::ALL.len() }>,
    access_log_dropped: Counter,
    panics: Counter,
    redis: Arc<RedisMetrics>,
    revocations: Arc<RevocationMetrics>,
    overload: Arc<OverloadMetrics>,
    identity: Mutex<Identity>,
    process: ProcessCollector,
}

/// What runs, as labels of the information metrics.
#[derive(Default)]
struct Identity {
    build: Option<Build>,
    config: Option<(u64, u64)>,
}

/// What the binary was built from.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// The package's version.
    pub version: &'static str,
    /// The commit.
    pub commit: &'static str,
    /// The compiler.
    pub rustc: &'static str,
}

impl Metrics {
    /// Metrics whose names begin with `namespace` and an underscore.
    ///
    /// The configuration has checked the namespace; a character that no metric name may hold is
    /// written as an underscore, so that a scrape is valid whatever was passed.
    pub fn new(namespace: &str) -> Self {
        let routes = Live::default();
        let no_route = routes.get(NO_ROUTE.into(), RouteMetrics::default);
        Self {
            namespace: valid_name(namespace),
            routes,
            upstreams: Live::default(),
            backends: Live::default(),
            circuits: Live::default(),
            listeners: Live::default(),
            no_route,
            auth: Arc::default(),
            jwks: Live::default(),
            rate_limits: Live::default(),
            concurrency: Live::default(),
            discovery: Live::default(),
            mirrors: Live::default(),
            refusals: Mutex::default(),
            reloads_succeeded: plain_counter(),
            reloads_failed: plain_counter(),
            maintenance: AtomicBool::new(false),
            maintenance_routes: AtomicUsize::new(0),
            admin_calls: Counts::default(),
            access_log_dropped: plain_counter(),
            panics: plain_counter(),
            redis: Arc::default(),
            revocations: Arc::default(),
            overload: Arc::default(),
            identity: Mutex::default(),
            process: ProcessCollector::for_self(),
        }
    }

    /// The handle of a route. Whoever asks for the same name while one is held gets the same one.
    pub fn route(&self, name: &str) -> Arc<RouteMetrics> {
        self.routes.get(name.into(), RouteMetrics::default)
    }

    /// The handle of requests without a route.
    pub fn no_route(&self) -> Arc<RouteMetrics> {
        Arc::clone(&self.no_route)
    }

    /// The handle of an upstream.
    pub fn upstream(&self, name: &str) -> Arc<UpstreamMetrics> {
        self.upstreams.get(name.into(), UpstreamMetrics::default)
    }

    /// The handle of one backend of an upstream; its series end when the last handle is dropped.
    pub fn backend(&self, upstream: &str, backend: &str) -> Arc<BackendMetrics> {
        let key = (upstream.into(), backend.into());
        self.backends.get(key, BackendMetrics::default)
    }

    /// The handle of the circuit breaker of an upstream.
    pub fn circuit(&self, upstream: &str) -> Arc<CircuitMetrics> {
        self.circuits.get(upstream.into(), CircuitMetrics::default)
    }

    /// The handle of a listener.
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        self.listeners.get(name.into(), ListenerMetrics::default)
    }

    /// The handle of authentication.
    pub fn auth(&self) -> Arc<AuthMetrics> {
        Arc::clone(&self.auth)
    }

    /// The handle of a provider whose keys are fetched.
    pub fn jwks(&self, provider: &str) -> Arc<JwksMetrics> {
        self.jwks.get(provider.into(), JwksMetrics::default)
    }

    /// The handle of a policy that limits the rate of requests.
    pub fn rate_limit(&self, policy: &str) -> Arc<RateLimitMetrics> {
        self.rate_limits
            .get(policy.into(), RateLimitMetrics::default)
    }

    /// The handle of the copies of a route's requests.
    pub fn mirror(&self, route: &str) -> Arc<MirrorMetrics> {
        self.mirrors.get(route.into(), MirrorMetrics::default)
    }

    /// The handle of a limit on requests at the same time, of a route or of an upstream; the other is
    /// empty.
    pub fn concurrency(&self, route: &str, upstream: &str, key: &str) -> Arc<ConcurrencyMetrics> {
        let key = (route.into(), upstream.into(), key.into());
        self.concurrency.get(key, ConcurrencyMetrics::default)
    }

    /// The handle of an upstream's discovery.
    pub fn discovery(&self, upstream: &str) -> Arc<DiscoveryMetrics> {
        self.discovery
            .get(upstream.into(), DiscoveryMetrics::default)
    }

    /// The counter of requests refused for this reason, to be taken when the process starts.
    pub fn refusal(&self, reason: &'static str) -> Counter {
        let mut refusals = lock(&self.refusals);
        refusals.entry(reason).or_insert_with(plain_counter).clone()
    }

    /// The counter of reloads that were published.
    pub fn reloads_succeeded(&self) -> &Counter {
        &self.reloads_succeeded
    }

    /// The counter of reloads that left the old configuration in place.
    pub fn reloads_failed(&self) -> &Counter {
        &self.reloads_failed
    }

    /// States whether all that goes to backends is down for maintenance, and how many routes are by
    /// themselves.
    pub fn set_maintenance(&self, all: bool, routes: usize) {
        self.maintenance.store(all, Relaxed);
        self.maintenance_routes.store(routes, Relaxed);
    }

    /// Counts a call on the admin listener that would change something.
    pub fn admin_call(&self, result: AdminCall) {
        self.admin_calls.inc(result);
    }

    /// The counter of access log lines that could not be kept.
    pub fn access_log_dropped(&self) -> &Counter {
        &self.access_log_dropped
    }

    /// The counter of panics.
    pub fn panics(&self) -> &Counter {
        &self.panics
    }

    /// What is measured of the shared store.
    pub fn redis(&self) -> &Arc<RedisMetrics> {
        &self.redis
    }

    /// What is measured of revocations.
    pub fn revocations(&self) -> &Arc<RevocationMetrics> {
        &self.revocations
    }

    /// What is measured of the limits of the process.
    pub fn overload(&self) -> &Arc<OverloadMetrics> {
        &self.overload
    }

    /// States what the binary was built from.
    pub fn set_build(&self, build: Build) {
        lock(&self.identity).build = Some(build);
    }

    /// States which configuration runs: its generation and the hash of its source.
    pub fn set_config(&self, generation: u64, source_hash: u64) {
        lock(&self.identity).config = Some((generation, source_hash));
    }

    /// Everything as it is now, in order of name, without families that have no series yet.
    fn gather(&self) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        route::collect(&self.namespace, &self.routes.held(), &mut families);
        upstream::collect(&self.namespace, &self.upstreams.held(), &mut families);
        backend::collect(&self.namespace, &self.backends.held(), &mut families);
        circuit::collect(&self.namespace, &self.circuits.held(), &mut families);
        listener::collect(&self.namespace, &self.listeners.held(), &mut families);
        self.redis.collect(&self.namespace, &mut families);
        self.revocations.collect(&self.namespace, &mut families);
        self.overload.collect(&self.namespace, &mut families);
        self.auth.collect(&self.namespace, &mut families);
        jwks::collect(&self.namespace, &self.jwks.held(), &mut families);
        mirror::collect(&self.namespace, &self.mirrors.held(), &mut families);
        concurrency::collect(&self.namespace, &self.concurrency.held(), &mut families);
        discovery::collect(&self.namespace, &self.discovery.held(), &mut families);
        ratelimit::collect(&self.namespace, &self.rate_limits.held(), &mut families);
        self.collect_process(&mut families);
        families.extend(self.process.collect());
        families.retain(|family| !family.get_metric().is_empty());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        families
    }

    fn collect_process(&self, out: &mut Vec<MetricFamily>) {
        let namespace = &self.namespace;
        let mut refusals = Family::new(namespace, &catalogue::REFUSALS);
        for (reason, counter) in lock(&self.refusals).iter() {
            refusals.count(&[("reason", reason)], counter.get());
        }
        let mut reloads = Family::new(namespace, &catalogue::CONFIG_RELOADS);
        reloads.count(&[("result", "failure")], self.reloads_failed.get());
        reloads.count(&[("result", "success")], self.reloads_succeeded.get());
        self.collect_control(out);
        let mut dropped = Family::new(namespace, &catalogue::ACCESS_LOG_DROPPED);
        dropped.count(&[], self.access_log_dropped.get());
        let mut panics = Family::new(namespace, &catalogue::PANICS);
        panics.count(&[], self.panics.get());
        out.extend([refusals, reloads, dropped, panics].map(Family::finish));
        self.collect_identity(out);
    }

    fn collect_control(&self, out: &mut Vec<MetricFamily>) {
        let namespace = &self.namespace;
        let mut all = Family::new(namespace, &catalogue::MAINTENANCE);
        all.gauge(&[], self.maintenance.load(Relaxed).into());
        let mut routes = Family::new(namespace, &catalogue::MAINTENANCE_ROUTES);
        let count = self.maintenance_routes.load(Relaxed);
        routes.gauge(&[], i64::try_from(count).unwrap_or(i64::MAX));
        let mut calls = Family::new(namespace, &catalogue::ADMIN_CALLS);
        for (result, count) in self.admin_calls.read::<AdminCall>() {
            calls.count(&[("result", result)], count);
        }
        out.extend([all, routes, calls].map(Family::finish));
    }

    fn collect_identity(&self, out: &mut Vec<MetricFamily>) {
        let identity = lock(&self.identity);
        if let Some(build) = identity.build {
            let mut family = Family::new(&self.namespace, &catalogue::BUILD_INFO);
            let labels = [
                ("commit", build.commit),
                ("rustc", build.rustc),
                ("version", build.version),
            ];
            family.gauge(&labels, 1);
            out.push(family.finish());
        }
        if let Some((generation, hash)) = identity.config {
            let mut family = Family::new(&self.namespace, &catalogue::CONFIG_INFO);
            let (hash, version) = (format!("{hash:016x}"), generation.to_string());
            family.gauge(&[("hash", &hash), ("version", &version)], 1);
            out.push(family.finish());
        }
    }
}

/// A counter whose name is given when it is rendered.
fn plain_counter() -> Counter {
    // The name and help are constants that the crate accepts, so this cannot fail.
    #[expect(clippy::expect_used, reason = "a constant, valid name")]
    Counter::new("count", "A count.").expect("a valid name")
}

/// A panic while the lock was held leaves a map that is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn valid_name(name: &str) -> String {
    let valid = |(at, c): (usize, char)| match c {
        'a'..='z' | 'A'..='Z' | '_' | ':' => c,
        '0'..='9' if at > 0 => c,
        _ => '_',
    };
    name.chars().enumerate().map(valid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics) -> String {
        String::from_utf8_lossy(&render(metrics, Format::Text).1).into_owned()
    }

    #[test]
    fn handles_of_one_name_count_together_and_go_when_dropped() {
        let metrics = Metrics::new("gateway");
        let (first, second) = (
            metrics.backend("users", "a:1"),
            metrics.backend("users", "a:1"),
        );
        assert!(Arc::ptr_eq(&first, &second));
        assert!(text(&metrics).contains("gateway_backend_up{backend=\"a:1\""));
        drop((first, second));
        assert!(!text(&metrics).contains("a:1"));
    }

    #[test]
    fn states_what_runs() {
        let metrics = Metrics::new("edge");
        metrics.set_build(Build {
            version: "0.1.0",
            commit: "abc",
            rustc: "1.95",
        });
        metrics.set_config(1, 7);
        metrics.set_config(2, 255);
        let text = text(&metrics);
        assert!(
            text.contains("edge_build_info{commit=\"abc\",rustc=\"1.95\",version=\"0.1.0\"} 1")
        );
        assert!(text.contains("edge_config_info{hash=\"00000000000000ff\",version=\"2\"} 1"));
        assert_eq!(text.matches("edge_config_info{").count(), 1);
    }

    #[test]
    fn counts_refusals_reloads_and_panics() {
        let metrics = Metrics::new("gateway");
        metrics.refusal("no_route").inc();
        metrics.refusal("no_route").inc();
        metrics.reloads_failed().inc();
        metrics.panics().inc();
        let text = text(&metrics);
        assert!(text.contains("gateway_http_refusals_total{reason=\"no_route\"} 2\n"));
        assert!(text.contains("gateway_config_reloads_total{result=\"failure\"} 1\n"));
        assert!(text.contains("gateway_config_reloads_total{result=\"success\"} 0\n"));
        assert!(text.contains("gateway_panics_total 1\n"));
        assert!(text.contains("gateway_access_log_dropped_total 0\n"));
        assert!(text.contains("process_resident_memory_bytes "));
    }

    #[test]
    fn a_namespace_cannot_spoil_the_format() {
        assert_eq!(valid_name("9ed ge-x"), "_ed_ge_x");
    }
}
