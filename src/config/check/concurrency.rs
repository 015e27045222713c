//! Checks how many requests may be in flight at the same time.

use std::num::NonZeroU32;

use super::Checker;
use super::idle::NO_QUEUE;
use super::ratelimit::key_part;
use super::reach;
use crate::config::file::{self, OneOrMany};
use crate::config::model::{
    Adaptive, Bounds, Concurrency, KeyOf, KeyPart, MAX_CONCURRENCY_LIMITS, Priority, Route,
    Upstream, UpstreamConcurrency,
};
use crate::config::pattern::PathPattern;
use crate::config::tree::Path;

/// What metrics call a limit that counts all requests as one.
const ALL: &str = "all";
/// A limit that is to find its place begins here: enough for what a start brings, and soon doubled where
/// that is too little.
const FIRST_LIMIT: u32 = 50;
/// Who waits for a place of such a limit, unless it is said: it may be low for a moment.
const ADAPTIVE_QUEUE: u32 = 100;
/// With less, chance alone would lower the limit.
const LEAST_SLACK: f64 = 0.05;

impl Checker<'_> {
    /// The limits of a route, those with a key first: whoever has too many in flight shall not wait
    /// among the others. `None`: one is not sound.
    pub(super) fn concurrency(
        &mut self,
        written: Option<&OneOrMany<file::Concurrency>>,
        paths: Option<&[PathPattern]>,
        has_auth: bool,
        at: &Path<'_>,
    ) -> Option<Vec<Concurrency>> {
        let Some(written) = written else {
            return Some(Vec::new());
        };
        let mut limits: Vec<Option<Concurrency>> = Vec::new();
        for (index, one) in written.iter() {
            let item = index.map(|index| at.item(index));
            let at = item.as_ref().unwrap_or(at);
            let limit = self.concurrency_limit(one, paths, has_auth, at);
            let same = |known: &Option<Concurrency>| {
                let keys = known.as_ref().zip(limit.as_ref());
                keys.is_some_and(|(known, limit)| known.key == limit.key)
            };
            if limits.iter().any(same) {
                self.refuse(
                    at,
                    "counts by what another one counts by, expected one of them",
                );
            }
            limits.push(limit);
        }
        if limits.len() > MAX_CONCURRENCY_LIMITS {
            let what = format!(
                "has {} limits, expected at most {MAX_CONCURRENCY_LIMITS}",
                limits.len()
            );
            self.refuse(at, what);
        }
        let mut limits = limits.into_iter().collect::<Option<Vec<_>>>()?;
        limits.sort_by_key(|limit| limit.key.is_empty());
        Some(limits)
    }

    fn concurrency_limit(
        &mut self,
        written: &file::Concurrency,
        paths: Option<&[PathPattern]>,
        has_auth: bool,
        at: &Path<'_>,
    ) -> Option<Concurrency> {
        let key_at = at.key("key");
        let mut key: Vec<KeyPart> = Vec::new();
        for text in written.key.iter() {
            let part = self.accept(&key_at, key_part(text, written.ipv6_prefix))?;
            if key.contains(&part) {
                self.refuse(&key_at, "has a part twice, expected it once");
                return None;
            }
            if let (KeyOf::PathParam(name), Some(paths)) = (&part.of, paths)
                && !paths.iter().all(|path| path.has_parameter(name))
            {
                let what = "counts by a parameter that is not in every path of the route";
                self.refuse(&key_at, what);
            }
            key.push(part);
        }
        if !has_auth && key.iter().any(KeyPart::needs_identity) {
            let what = "counts by who calls, but nobody is asked: clients' addresses are counted";
            self.warnings.push(format!("{at}: {what}"));
        }
        if written.queue == 0 {
            self.idle(at, &["queue_timeout"], NO_QUEUE);
        }
        let label = written.key.iter().collect::<Vec<_>>().join("+");
        Some(Concurrency {
            label: if key.is_empty() {
                ALL.into()
            } else {
                label.into()
            },
            key,
            bounds: Bounds {
                limit: written.limit,
                queue: written.queue,
                queue_timeout: written.queue_timeout.0,
            },
        })
    }

    /// The limit of an upstream. `None`: it is not sound.
    pub(super) fn upstream_concurrency(
        &mut self,
        written: &file::UpstreamConcurrency,
        at: &Path<'_>,
    ) -> Option<UpstreamConcurrency> {
        let adaptive = written.adaptive.as_ref().map(|adaptive| {
            if adaptive.min > adaptive.max {
                let what = "is above `max`, expected at most that";
                self.refuse(&at.key("adaptive").key("min"), what);
            }
            if adaptive.slack.0 < LEAST_SLACK {
                let shown = self.shown(&at.key("adaptive").key("slack"), "it");
                let what =
                    format!("{shown} is less than latency varies by itself, expected at least 5%");
                self.refuse(&at.key("adaptive").key("slack"), what);
            }
            Adaptive {
                min: adaptive.min,
                max: adaptive.max,
                slack: adaptive.slack.0,
            }
        });
        let per_backend = written.per_backend.and_then(NonZeroU32::new);
        let (limit, queue) = match (written.limit, &adaptive) {
            (Some(limit), None) => (limit, 0),
            (None, None) if per_backend.is_some() => (u32::MAX, 0),
            (None, Some(adaptive)) => {
                let first = FIRST_LIMIT.min(adaptive.max).max(adaptive.min);
                (first, ADAPTIVE_QUEUE)
            }
            (Some(_), Some(_)) => {
                let what = "stands beside `adaptive`, expected one of them";
                self.refuse(&at.key("limit"), what);
                return None;
            }
            (None, None) => {
                // What was refused below is not missing.
                if self.is_whole(at) {
                    self.refuse(
                        at,
                        "has no limit, expected `limit`, `per_backend` or `adaptive`",
                    );
                }
                return None;
            }
        };
        let queue = written.queue.unwrap_or(queue);
        if queue == 0 {
            self.idle(at, &["queue_timeout"], NO_QUEUE);
        }
        Some(UpstreamConcurrency {
            bounds: Bounds {
                limit,
                queue,
                queue_timeout: written.queue_timeout.0,
            },
            per_backend,
            adaptive,
            top: Priority::Low,
        })
    }
}

/// Tells the limits of upstreams which class of their requests is the most important.
pub(super) fn rank(upstreams: &mut [Upstream], routes: &[Route]) {
    for route in routes {
        for target in reach::upstreams(route, upstreams) {
            let upstream = upstreams.get_mut(target);
            if let Some(limit) = upstream.and_then(|upstream| upstream.concurrency.as_mut()) {
                limit.top = limit.top.max(route.priority);
            }
        }
    }
}

/// How important a route's requests are.
pub(super) fn priority(written: file::Priority) -> Priority {
    match written {
        file::Priority::Critical => Priority::Critical,
        file::Priority::High => Priority::High,
        file::Priority::Normal => Priority::Normal,
        file::Priority::Low => Priority::Low,
    }
}
