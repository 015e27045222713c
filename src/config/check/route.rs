//! Checks routes: their names, and what their parts mean together.

use std::collections::HashMap;
use std::sync::Arc;

use super::Checker;
use super::action::Indexes;
use super::auth::Schemes;
use super::concurrency::priority;
use super::process::label;
use super::ratelimit::Policies;
use super::timeouts::of_route;
use crate::config::file;
use crate::config::model::{AuthPolicy, Cors, HeaderRules, Route};
use crate::config::pattern::PathPattern;
use crate::config::scalar::List;
use crate::config::tree::Path;

/// What routes may refer to.
pub(super) struct Known<'a> {
    /// Upstreams by name.
    pub upstreams: &'a Indexes,
    /// The schemes of `auth`.
    pub schemes: &'a Schemes,
    /// What routes ask for that say nothing of `auth`.
    pub default: Option<AuthPolicy>,
    /// The policies of `ratelimit`.
    pub policies: &'a Policies,
    /// The largest request body of routes that say nothing of it.
    pub max_body_bytes: Option<u64>,
    /// Which pages of other origins may call routes that say nothing of it.
    pub cors: Option<&'a Cors>,
}

impl Checker<'_> {
    /// The routes in the order of the file; `None` is one that is not sound.
    pub(super) fn routes(
        &mut self,
        written: &List<file::Route>,
        known: &Known<'_>,
    ) -> Vec<Option<Route>> {
        let root = Path::Root;
        let list = root.key("routes");
        if written.is_empty() && self.is_whole(&list) {
            self.refuse(&list, "has no route, expected at least one");
        }
        let mut names = self.names(written, &list);
        let mut routes: Vec<Option<Route>> = (0..written.0.len()).map(|_| None).collect();
        for (index, route) in written.iter() {
            let name = match &route.name {
                Some(name) => name.clone(),
                None => names.derive(route),
            };
            let item = list.item(index);
            routes[index] = self.route(route, name.into(), known, &item);
        }
        routes
    }

    fn names(&mut self, written: &List<file::Route>, list: &Path<'_>) -> Names {
        let mut names = Names::default();
        for (index, route) in written.iter() {
            let Some(name) = &route.name else { continue };
            let item = list.item(index);
            let at = item.key("name");
            self.accept(&at, label(name));
            if let Some(first) = names.taken.get(name) {
                let shown = self.shown(&at, name);
                let first = list.item(*first);
                let what = format!("{shown} is the name of {first} too, expected a unique one");
                self.refuse(&at, what);
            } else {
                names.taken.insert(name.clone(), index);
            }
        }
        names
    }

    fn route(
        &mut self,
        written: &file::Route,
        name: Arc<str>,
        known: &Known<'_>,
        at: &Path<'_>,
    ) -> Option<Route> {
        let matcher = self.matcher(&written.matcher, &at.key("match"));
        let paths = matcher.as_ref().map(|matcher| matcher.paths.as_slice());
        let action = self.action(written, paths, known.upstreams, at);
        let auth = match &written.auth {
            Some(auth) => self.policy(auth, known.schemes, paths, &at.key("auth")),
            None => Some(known.default.clone()),
        };
        let copies = written.mirror.as_ref();
        let mirror = self.mirror(copies, action.as_ref(), known.upstreams, &at.key("mirror"))?;
        let asked = auth.as_ref().and_then(Option::as_ref);
        let limits = written.ratelimit.as_ref();
        let limits = self.route_limits(limits, known.policies, paths, asked, at);
        let ip_access = self.ip_access(written.ip_access.as_ref(), &at.key("ip_access"));
        let answered = matcher.as_ref().map_or(&[][..], |matcher| &matcher.methods);
        let cors = written.cors.as_ref();
        let cors = self.route_cors(cors, known.cors, answered, &at.key("cors"));
        let concurrency = self.concurrency(
            written.concurrency.as_ref(),
            paths,
            asked.is_some(),
            &at.key("concurrency"),
        );
        let headers = self.headers(&written.headers, paths, &at.key("headers"));
        let rewrite = written
            .rewrite
            .as_ref()
            .map(|rewrite| self.rewrite(rewrite, &at.key("rewrite")));
        let fallback = written.fallback.as_ref().map(|fallback| {
            let at = at.key("fallback");
            self.route_fallback(fallback, action.as_ref(), known.upstreams, &at)
        });
        let (request_headers, response_headers) = headers?;
        Some(Route {
            name,
            matcher: matcher?,
            action: action?,
            ip_access,
            cors,
            auth: auth?,
            limits: limits?,
            priority: priority(written.priority),
            concurrency: concurrency?,
            rewrite: match rewrite {
                Some(rewrite) => Some(rewrite?),
                None => None,
            },
            request_headers,
            response_headers,
            max_body_bytes: match &written.max_body_size {
                Some(limit) => limit.0,
                None => known.max_body_bytes,
            },
            timeouts: of_route(&written.timeouts),
            mirror,
            retries: self.route_retries(&written.retries, &at.key("retries")),
            fallback: match fallback {
                Some(fallback) => Some(fallback?),
                None => None,
            },
            maintenance: written.maintenance,
        })
    }

    fn headers(
        &mut self,
        written: &file::Headers,
        paths: Option<&[PathPattern]>,
        at: &Path<'_>,
    ) -> Option<(HeaderRules, HeaderRules)> {
        let request = self.header_rules(&written.request, paths, &at.key("request"));
        let response = self.header_rules(&written.response, paths, &at.key("response"));
        Some((request?, response?))
    }
}

/// Names that are taken, and how often a derived one was wanted.
#[derive(Default)]
struct Names {
    taken: HashMap<String, usize>,
    wanted: HashMap<String, usize>,
}

impl Names {
    /// A name for a route without one: its first host and path, or its upstream; `#2` and so on
    /// when that is taken.
    fn derive(&mut self, route: &file::Route) -> String {
        let name = derived(route);
        let count = self.wanted.entry(name.clone()).or_insert(0);
        loop {
            *count += 1;
            let candidate = if *count == 1 {
                name.clone()
            } else {
                format!("{name}#{count}")
            };
            if !self.taken.contains_key(&candidate) {
                return candidate;
            }
        }
    }
}

fn derived(route: &file::Route) -> String {
    let first = |list: &List<String>| list.iter().next().map(|(_, text)| text.clone());
    let matcher = &route.matcher;
    let host = matcher.host.clone().or_else(|| first(&matcher.hosts));
    let path = matcher.path.clone().or_else(|| first(&matcher.paths));
    let path = path.or_else(|| matcher.path_regex.clone());
    if host.is_some() || path.is_some() {
        return host.unwrap_or_default() + path.as_deref().unwrap_or("/*");
    }
    match (&route.upstream, &route.redirect) {
        (Some(file::Target::One(name)), _) => without_scheme(name),
        (Some(file::Target::Split(branches)), _) => branches
            .iter()
            .next()
            .map_or_else(String::new, |(_, branch)| without_scheme(&branch.upstream)),
        (None, Some(_)) => "redirect".to_owned(),
        (None, None) => "respond".to_owned(),
    }
}

fn without_scheme(upstream: &str) -> String {
    let name = upstream.strip_prefix("http://").unwrap_or(upstream);
    name.trim_end_matches('/').to_owned()
}
