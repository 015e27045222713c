//! Warns of settings that nothing comes of, because what they belong to is switched off. It is no mistake to
//! switch something off for a while, so this refuses nothing.

use super::Checker;
use super::reach;
use crate::config::file::{self, File};
use crate::config::model::{Route, Upstream};
use crate::config::tree::Path;

/// What a switch at its end says.
pub(super) const DISABLED: &str = "with `enabled: false`";
/// Who may wait, when nothing is said of it or none.
pub(super) const NO_QUEUE: &str = "without a `queue`";
/// The switch of retries.
const NO_ATTEMPTS: &str = "with `attempts: 0`";

/// What a route says of retries, beside how many there are.
const ROUTE_RETRIES: [&str; 4] = ["on", "non_idempotent", "idempotency_key", "hedge"];
/// What an upstream says of them.
const RETRIES: [&str; 8] = [
    "on",
    "non_idempotent",
    "idempotency_key",
    "backoff",
    "max_body",
    "hedge",
    "budget",
    "min_per_second",
];
const CIRCUIT: [&str; 9] = [
    "failure_threshold",
    "error_rate",
    "minimum_requests",
    "window",
    "timeout",
    "timeout_secs",
    "success_threshold",
    "half_open_requests",
    "failure_on",
];
const RATE_LIMITS: [&str; 5] = ["failure_mode", "timeout", "default", "headers", "policies"];

impl Checker<'_> {
    /// Warns of those of these keys that are written, since `why`.
    pub(super) fn idle(&mut self, at: &Path<'_>, keys: &[&str], why: &str) {
        for key in keys {
            let at = at.key(key);
            if self.is_written(&at) {
                self.warnings.push(format!("{at}: has no effect {why}"));
            }
        }
    }

    /// What the process is told that is switched off.
    pub(super) fn idle_process(&mut self, file: &File) {
        let root = Path::Root;
        let auth = root.key("auth");
        for (is_on, at, keys) in [
            (
                file.admin.enabled,
                root.key("admin"),
                &["address", "token"][..],
            ),
            (
                file.access_log.enabled,
                root.key("access_log"),
                &["format", "output", "buffer"],
            ),
            (file.ratelimit.enabled, root.key("ratelimit"), &RATE_LIMITS),
            (
                file.auth.validate.enabled,
                auth.key("validate"),
                &["path", "any_of"],
            ),
        ] {
            if !is_on {
                self.idle(&at, keys, DISABLED);
            }
        }
    }

    /// What an upstream is told by itself. Of retries, routes decide, too.
    pub(super) fn idle_upstream(&mut self, written: &file::Upstream, at: &Path<'_>) {
        self.idle_circuit(&written.circuit_breaker, &at.key("circuit_breaker"));
        self.idle_outlier(&written.outlier, &at.key("outlier"));
        if !written.zones.prefer_local {
            let why = "with `prefer_local: false`";
            self.idle(&at.key("zones"), &["min_healthy"], why);
        }
    }

    fn idle_circuit(&mut self, written: &file::CircuitBreaker, at: &Path<'_>) {
        if !written.enabled {
            self.idle(at, &CIRCUIT, DISABLED);
        } else if written.error_rate.0 == 0.0 {
            let keys = ["minimum_requests", "window"];
            self.idle(at, &keys, "with `error_rate: 0`");
        }
    }

    fn idle_outlier(&mut self, written: &file::Outlier, at: &Path<'_>) {
        if written.slow_factor > 0 {
            return;
        }
        self.idle(at, &["slow_at_least"], "with `slow_factor: 0`");
        if written.failure_rate.0 > 0.0 {
            return;
        }
        let why = "with `failure_rate: 0` and `slow_factor: 0`";
        self.idle(at, &["minimum_requests", "window"], why);
        if written.consecutive_failures == 0 && written.consecutive_5xx == 0 {
            let keys = ["base_ejection", "max_ejection", "max_ejected"];
            self.idle(at, &keys, "where nothing ejects a backend");
        }
    }

    /// What routes and upstreams say of retries where there are none, as the two say together.
    pub(super) fn idle_retries(&mut self, upstreams: &[Upstream], routes: &[Route]) {
        let has_attempts = |upstream: &Upstream| upstream.retries.attempts > 0;
        let mut retried: Vec<bool> = upstreams.iter().map(has_attempts).collect();
        let root = Path::Root;
        let list = root.key("routes");
        for (index, route) in routes.iter().enumerate() {
            let item = list.item(index);
            let at = item.key("retries");
            let reached = reach::upstreams(route, upstreams);
            match route.retries.attempts {
                Some(0) => self.idle(&at, &ROUTE_RETRIES, NO_ATTEMPTS),
                Some(_) => reached.into_iter().for_each(|at| retried[at] = true),
                None if reached.iter().any(|at| has_attempts(&upstreams[*at])) => {}
                None => self.idle(&at, &ROUTE_RETRIES, "where its upstream has `attempts: 0`"),
            }
        }
        let list = root.key("upstreams");
        let known = upstreams.iter().zip(retried);
        for (upstream, _) in known.filter(|(_, is_retried)| !is_retried) {
            let item = list.key(&upstream.name);
            self.idle(&item.key("retries"), &RETRIES, NO_ATTEMPTS);
        }
    }
}
