//! Checks when circuits open, and what is done in the place of refusing.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use super::Checker;
use super::action::Indexes;
use super::header::{changeable, header_name};
use super::upstream::Upstreams;
use crate::config::file;
use crate::config::model::{
    Action, CircuitBreaker, FailureOn, Fallback, FallbackResponse, FixedResponse,
};
use crate::config::problem::{Invalid, quote};
use crate::config::tree::Path;

/// How long a circuit stays open when nothing is said: briefly at first, since a backend that restarts is
/// back in a second or two, and at most.
const OPEN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

impl Checker<'_> {
    /// `None` inside: it is switched off.
    pub(super) fn circuit_breaker(
        &mut self,
        written: &file::CircuitBreaker,
        at: &Path<'_>,
    ) -> Option<CircuitBreaker> {
        self.at_most_one(at, &["timeout", "timeout_secs"]);
        if !written.enabled {
            return None;
        }
        if written.failure_threshold == 0 && written.error_rate.0 == 0.0 {
            let what = "opens for nothing, expected `failure_threshold` or `error_rate` above 0, \
                        or `enabled: false`";
            self.refuse(at, what);
        }
        let of_seconds = written
            .timeout_secs
            .map(|seconds| Duration::from_secs(seconds.into()));
        let timeout = written.timeout.as_ref().map(|timeout| timeout.0);
        let said = timeout.or(of_seconds).map(|timeout| (timeout, timeout));
        let (first_timeout, timeout) = said.unwrap_or(OPEN);
        Some(CircuitBreaker {
            failure_threshold: written.failure_threshold,
            error_rate: written.error_rate.0,
            minimum_requests: written.minimum_requests,
            window: written.window.0,
            first_timeout,
            timeout,
            success_threshold: written.success_threshold,
            half_open_requests: written.half_open_requests,
            failure_on: self.failure_on(&written.failure_on, &at.key("failure_on")),
        })
    }

    fn failure_on(&mut self, written: &file::FailureOn, at: &Path<'_>) -> FailureOn {
        let list = at.key("statuses");
        for (index, range) in written.statuses.iter() {
            if range.0.0 < 400 {
                let what = "is no status of a failure, expected 400 to 599";
                self.refuse(&list.item(index), what);
            }
        }
        let slower_than = written.slower_than.as_ref().map(|limit| limit.0);
        let nothing = !written.errors && !written.timeouts && slower_than.is_none();
        if nothing && written.statuses.is_empty() {
            self.refuse(at, "names no failure, expected at least one kind");
        }
        FailureOn {
            statuses: written.statuses.iter().map(|(_, range)| range.0).collect(),
            errors: written.errors,
            timeouts: written.timeouts,
            slower_than,
        }
    }

    /// Gives upstreams their fallbacks, which may be each other.
    pub(super) fn fallbacks(
        &mut self,
        written: &BTreeMap<String, file::Upstream>,
        upstreams: &mut Upstreams,
        indexes: &Indexes,
    ) {
        let root = Path::Root;
        let list = root.key("upstreams");
        for (name, upstream) in written {
            let Some(fallback) = &upstream.fallback else {
                continue;
            };
            let (item, own) = (list.key(name), indexes.get(name).copied());
            let at = item.key("fallback");
            let fallback = self.fallback(fallback, indexes, &at);
            if let Some(Fallback::Upstream(other)) = fallback
                && Some(other) == own
            {
                let what = "is the upstream itself, expected another one";
                self.refuse(&at.key("upstream"), what);
            }
            match upstreams.get_mut(name) {
                // What is not sound takes the upstream with it: the problem was told.
                Some(slot) if fallback.is_none() => *slot = None,
                Some(Some(upstream)) => upstream.fallback = fallback,
                _ => {}
            }
        }
    }

    /// The fallback of a route with this action.
    pub(super) fn route_fallback(
        &mut self,
        written: &file::Fallback,
        action: Option<&Action>,
        indexes: &Indexes,
        at: &Path<'_>,
    ) -> Option<Fallback> {
        let fallback = self.fallback(written, indexes, at)?;
        if let (Fallback::Upstream(other), Some(Action::Proxy(split))) = (&fallback, action)
            && split.iter().all(|branch| branch.upstream == *other)
        {
            let what = "is the route's own upstream, expected another one";
            self.refuse(&at.key("upstream"), what);
        }
        Some(fallback)
    }

    fn fallback(
        &mut self,
        written: &file::Fallback,
        indexes: &Indexes,
        at: &Path<'_>,
    ) -> Option<Fallback> {
        self.at_most_one(at, &["upstream", "respond"]);
        if let Some(name) = &written.upstream {
            let at = at.key("upstream");
            return self.reference(name, indexes, &at).map(Fallback::Upstream);
        }
        let Some(respond) = &written.respond else {
            if self.is_whole(at) {
                self.refuse(at, "does nothing, expected one of `upstream` and `respond`");
            }
            return None;
        };
        let at = at.key("respond");
        self.fallback_response(respond, &at).map(Fallback::Respond)
    }

    fn fallback_response(
        &mut self,
        written: &file::FallbackResponse,
        at: &Path<'_>,
    ) -> Option<FallbackResponse> {
        if matches!(written.status, 204 | 205 | 304) && !written.body.is_empty() {
            let what = "stands beside a status that allows no body, expected none";
            self.refuse(&at.key("body"), what);
        }
        let content_type = self.field(&written.content_type, &at.key("content_type"));
        let list = at.key("headers");
        let mut headers = Vec::with_capacity(written.headers.len());
        for (name, value) in &written.headers {
            let at = list.key(name);
            let name = self.accept(&at, header_name(name).and_then(changeable));
            headers.push(name.zip(self.field(value, &at)));
        }
        Some(FallbackResponse {
            fixed: FixedResponse {
                status: StatusCode::from_u16(written.status).ok()?,
                content_type: content_type?,
                body: Bytes::from(written.body.clone()),
            },
            headers: headers.into_iter().collect::<Option<_>>()?,
        })
    }

    fn field(&mut self, text: &str, at: &Path<'_>) -> Option<HeaderValue> {
        let value = HeaderValue::from_str(text).map_err(|_| {
            let detail = format!("{} is no value of a header", quote(text));
            Invalid::new(detail, "visible characters and spaces")
        });
        self.accept(at, value)
    }
}
