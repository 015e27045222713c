//! What `/status` says of the running configuration.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde_json::{Value, json};

use super::{StatusSource, circuit, control, providers, revocations};
use crate::background::discovery::{self, Discovery};
use crate::background::reload::{Reloader, Report};
use crate::background::revocations::Revoker;
use crate::config::model::Priority;
use crate::filter::concurrency::{Limit, Standing};
use crate::gateway::Gateway;
use crate::listener::ListenerState;
use crate::metrics::Build;
use crate::overload::Overload;
use crate::route::{Action, Route};
use crate::snapshot::Snapshot;
use crate::store::{Mode, SentinelState, Store};
use crate::upstream::{Findings, Upstream};

/// Reads the status off the live parts.
pub struct Status {
    build: Build,
    gateway: Gateway,
    listeners: Vec<Arc<ListenerState>>,
    reloader: Arc<Reloader>,
    discovery: Option<Arc<Discovery>>,
    shared: Option<(Arc<Store>, Arc<Revoker>)>,
    started: SystemTime,
}

impl Status {
    /// Of this gateway, started now.
    pub fn new(
        build: Build,
        gateway: &Gateway,
        listeners: Vec<Arc<ListenerState>>,
        reloader: Arc<Reloader>,
    ) -> Self {
        Self {
            build,
            gateway: gateway.clone(),
            listeners,
            reloader,
            discovery: None,
            shared: None,
            started: SystemTime::now(),
        }
    }

    /// Shows where backends come from, too.
    pub fn with_discovery(mut self, discovery: Arc<Discovery>) -> Self {
        self.discovery = Some(discovery);
        self
    }

    /// Shows what is shared with other instances, too.
    pub fn with_shared(mut self, store: Arc<Store>, revoker: Arc<Revoker>) -> Self {
        self.shared = Some((store, revoker));
        self
    }
}

impl StatusSource for Status {
    fn status(&self) -> Value {
        let snapshot: Arc<Snapshot> = self.gateway.live.load();
        let now = Instant::now();
        let routes: Vec<Value> = snapshot
            .routes
            .iter()
            .map(|route| of_route(route))
            .collect();
        let upstreams: Vec<Value> = snapshot
            .upstreams
            .iter()
            .map(|upstream| {
                let discovery = self.discovery.as_ref();
                let report = discovery.and_then(|discovery| discovery.report(upstream));
                let mut shown = of_upstream(upstream, now);
                shown["discovery"] = report.as_ref().map(of_discovery).into();
                shown
            })
            .collect();
        json!({
            "version": self.build.version,
            "commit": self.build.commit,
            "state": self.gateway.lifecycle.state().as_str(),
            "started": humantime::format_rfc3339_seconds(self.started).to_string(),
            "in_flight": self.gateway.lifecycle.in_flight(),
            "overload": of_overload(&self.gateway.overload, snapshot.top),
            "config": of_config(&snapshot, &self.reloader.report()),
            "maintenance": control::maintenance(&snapshot),
            "auth": { "providers": providers::of(&snapshot.auth) },
            "redis": self.shared.as_ref().map(|(store, _)| of_store(store)),
            "revocations": self.shared.as_ref().map(|(_, revoker)| revocations::summary(revoker)),
            "listeners": self.listeners.iter().map(|one| of_listener(one)).collect::<Vec<_>>(),
            "routes": routes,
            "upstreams": upstreams,
        })
    }
}

/// The store; null when none is configured.
fn of_store(store: &Store) -> Value {
    let Some(state) = store.state() else {
        return Value::Null;
    };
    let failure = state.last_failure.as_ref().map(|(at, failure)| {
        json!({
            "time": humantime::format_rfc3339_seconds(*at).to_string(),
            "kind": failure.kind.as_str(),
            "what": failure.what,
        })
    });
    let servers: Vec<Value> = state
        .servers
        .iter()
        .map(|one| json!({ "address": one.address, "connections": one.connections }))
        .collect();
    let mut shown = json!({
        "mode": state.mode.as_str(),
        "address": state.address,
        "state": state.label(),
        "connections": state.connections,
        "pool_size": state.pool_size,
        "servers": servers,
        "last_failure": failure,
    });
    match state.mode {
        Mode::Single => {}
        Mode::Sentinel => {
            let sentinel =
                |one: &SentinelState| json!({ "address": one.address, "master": one.master });
            shown["sentinels"] = state.sentinels.iter().map(sentinel).collect();
        }
        Mode::Cluster => shown["unserved_slots"] = state.unserved_slots.into(),
    }
    shown
}

fn of_listener(listener: &ListenerState) -> Value {
    let Some(tls) = &listener.settings().tls else {
        return json!({ "name": &*listener.name, "tls": false });
    };
    let expires = |seconds: i64| {
        let since = std::time::Duration::from_secs(seconds.try_into().unwrap_or(0));
        humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since).to_string()
    };
    let certificates: Vec<Value> = tls
        .expiries()
        .into_iter()
        .map(|one| json!({ "server_name": one.server_name, "expires": expires(one.not_after) }))
        .collect();
    json!({ "name": &*listener.name, "tls": true, "certificates": certificates })
}

fn of_config(snapshot: &Snapshot, report: &Report) -> Value {
    let time = |at: SystemTime| humantime::format_rfc3339_seconds(at).to_string();
    let failure = report.failure.as_ref().map(|failure| {
        json!({
            "time": time(failure.at),
            "trigger": failure.trigger.as_str(),
            "problems": failure.problems,
        })
    });
    json!({
        "generation": snapshot.generation,
        "hash": format!("{:016x}", snapshot.source_hash),
        "loaded": time(report.loaded),
        "upgrade_needed": report.upgrade_needed,
        "last_failure": failure,
    })
}

fn of_route(route: &Route) -> Value {
    match &route.action {
        Action::Proxy(split) => {
            let names: Vec<&str> = split.upstreams().iter().map(|one| &*one.name).collect();
            json!({ "name": &*route.name, "action": "proxy", "upstreams": names })
        }
        Action::Redirect(_) => json!({ "name": &*route.name, "action": "redirect" }),
        Action::Respond(_) => json!({ "name": &*route.name, "action": "respond" }),
    }
}

fn of_upstream(upstream: &Upstream, now: Instant) -> Value {
    let members = upstream.members();
    let mut drained = upstream.drained();
    drained.retain(|name| members.iter().all(|one| *one.name != **name));
    let backends: Vec<Value> = members
        .iter()
        .map(|backend| {
            json!({
                "name": &*backend.name,
                "address": backend.address().to_string(),
                "weight": backend.weight,
                "state": backend.state(now).label(),
                "in_flight": backend.in_flight(),
                "health_check": upstream.health_check.as_ref().map(|_| of_probes(&backend.findings())),
            })
        })
        .collect();
    json!({
        "name": &*upstream.name,
        "concurrency": upstream.concurrency.as_ref().and_then(Limit::standing).map(of_limit),
        "circuit_breaker": circuit::shown(upstream, now),
        "backends": backends,
        "draining_when_back": drained,
    })
}

fn of_overload(overload: &Overload, top: Priority) -> Value {
    let (used, available) = overload.memory();
    json!({
        "memory_used": used,
        "memory_limit": (available > 0).then_some(available),
        "shedding": overload.shedding(top).map(Priority::as_str),
    })
}

fn of_limit(standing: Standing) -> Value {
    json!({
        "limit": standing.limit,
        "in_flight": standing.in_flight,
        "queued": standing.queued,
        "base_latency_ms": standing.base.map(|base| base.as_secs_f64() * 1e3),
    })
}

/// What probes found; what was wrong stays to be read when all is well again.
fn of_probes(findings: &Findings) -> Value {
    let time = |at: &SystemTime| humantime::format_rfc3339_seconds(*at).to_string();
    json!({
        "last": findings.last.as_ref().map(|(at, _)| time(at)),
        "good": findings.last.as_ref().map(|(_, good)| *good),
        "last_error": findings.error.as_ref().map(|(at, what)| json!({ "time": time(at), "what": what })),
    })
}

/// Where backends come from, and how that is.
fn of_discovery(report: &discovery::Report) -> Value {
    let time = |at: &SystemTime| humantime::format_rfc3339_seconds(*at).to_string();
    json!({
        "source": report.source,
        "found": report.found,
        "last_answer": report.answered.as_ref().map(time),
        "last_error": report.error.as_ref().map(|(at, what)| json!({ "time": time(at), "what": what })),
    })
}
