//! Finds the route of a request.
//!
//! # Precedence
//!
//! Of all routes whose every condition holds, the most specific wins:
//!
//! 1. host: exact, then the wildcard with the longest suffix, then any;
//! 2. path: literal, then expressions (the longer text first, then in lexicographic order), then
//!    patterns, compared segment by segment from the left: a literal before a parameter before the
//!    end of the pattern before a tail (`/*`, `/*rest`);
//! 3. a route that names methods before one that does not;
//! 4. more conditions on headers and the client's certificate before fewer;
//! 5. more query conditions before fewer;
//! 6. the name, in lexicographic order.
//!
//! The order in the file decides nothing. If no route of the most specific host and path fits, less
//! specific ones are tried, hosts included.
//!
//! A route that names GET answers HEAD too; among routes of the same host and path, one that names
//! HEAD itself takes precedence over that. OPTIONS is not implied. When no route matches, but some
//! would with another method, the answer is 405 with the union of their methods.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use http::{HeaderMap, HeaderValue, Method};

use super::condition::Conditions;
use super::host;
use super::params::{Params, Ranges};
use super::paths::{Claim, Entry, Leaf, Map, PathTable};
use crate::config::model::Route;
use crate::config::pattern::HostPattern;
use crate::tls::ClientCert;

/// What a route is found by.
#[derive(Clone, Copy)]
pub struct Lookup<'a> {
    /// The host as the client wrote it, or already normal. Port, case and trailing dot are ignored.
    pub host: &'a str,
    /// The normalised path: begins with `/`, or is the `*` of `OPTIONS *`.
    pub path: &'a str,
    /// The method.
    pub method: &'a Method,
    /// The request's header.
    pub headers: &'a HeaderMap,
    /// The query as it was, without its question mark.
    pub query: &'a str,
    /// The certificate that the client showed.
    pub client_cert: Option<&'a ClientCert>,
}

/// What was found.
#[derive(Clone, Debug)]
pub enum Found {
    /// The most specific route.
    Route {
        /// Index into `Config::routes`.
        index: usize,
        /// The parameters of the path.
        params: Params,
    },
    /// No route, but there would be one with another method.
    MethodNotAllowed {
        /// The value of `Allow`.
        allow: HeaderValue,
    },
    /// No route.
    NotFound,
}

/// All routes, arranged so that the cost of a look-up does not grow with their number.
///
/// Only routes that share host and path, and differ in method, header or query, are tried one by
/// one.
#[derive(Debug)]
pub struct Router {
    exact: Map<PathTable>,
    /// By suffix, without the `*.` in front.
    wildcards: Map<PathTable>,
    /// Longer suffixes of a host are not looked up, so a host of a thousand dots costs nothing.
    longest_wildcard: usize,
    any: Option<PathTable>,
    /// Parallel to the routes.
    conditions: Vec<Conditions>,
}

impl Router {
    /// Arranges the routes for look-up.
    ///
    /// # Errors
    ///
    /// When the path expressions of one host cannot be compiled together and anchored.
    pub fn compile(routes: &[Route]) -> Result<Self, regex::Error> {
        let conditions: Vec<_> = routes
            .iter()
            .map(|route| Conditions::compile(&route.matcher))
            .collect();
        let claims = claims(routes, &conditions);
        let mut router = Self {
            exact: Map::default(),
            wildcards: Map::default(),
            longest_wildcard: 0,
            any: None,
            conditions,
        };
        for (pattern, claims) in claims {
            let table = PathTable::compile(&claims)?;
            match pattern {
                None => router.any = Some(table),
                Some(HostPattern::Exact(name)) => {
                    router.exact.insert(name.into(), table);
                }
                Some(HostPattern::Wildcard(suffix)) => {
                    router.longest_wildcard = router.longest_wildcard.max(suffix.len());
                    router.wildcards.insert(suffix.into(), table);
                }
            }
        }
        Ok(router)
    }

    /// Finds the route of a request.
    pub fn find(&self, lookup: &Lookup<'_>) -> Found {
        let host = host::normalize(lookup.host);
        let mut ranges = Ranges::default();
        let mut method_missed = false;
        let mut visit = |leaf| self.choose(leaf, lookup, &mut method_missed);
        for table in self.tables(&host) {
            if let Some(entry) = table.search(lookup.path, &mut ranges, &mut visit) {
                let index = entry.route as usize;
                let params = match &entry.names {
                    None => Params::default(),
                    Some(names) => Params::new(Some(names.clone()), ranges),
                };
                return Found::Route { index, params };
            }
        }
        // A second search keeps the first one free of collecting methods.
        if method_missed && let Some(allow) = self.allowed(&host, lookup) {
            return Found::MethodNotAllowed { allow };
        }
        Found::NotFound
    }

    /// The tables of the hosts that this one fits, most specific first.
    fn tables<'r>(&'r self, host: &'r str) -> impl Iterator<Item = &'r PathTable> {
        let suffixes = host
            .match_indices('.')
            .filter(|(dot, _)| *dot > 0)
            .filter_map(|(dot, _)| host.get(dot + 1..))
            .filter(|suffix| suffix.len() <= self.longest_wildcard)
            .filter_map(|suffix| self.wildcards.get(suffix));
        let exact = self.exact.get(host).into_iter();
        exact.chain(suffixes).chain(self.any.as_ref())
    }

    /// The first route of a leaf whose conditions hold.
    fn choose<'r>(
        &'r self,
        leaf: &'r Leaf,
        lookup: &Lookup<'_>,
        method_missed: &mut bool,
    ) -> Option<&'r Entry> {
        if leaf.names_head && *lookup.method == Method::HEAD {
            let named = leaf.entries.iter().find(|entry| {
                let conditions = self.conditions(entry);
                conditions.methods.name_head() && conditions.hold(lookup)
            });
            if named.is_some() {
                return named;
            }
        }
        leaf.entries.iter().find(|entry| {
            let conditions = self.conditions(entry);
            let answered = conditions.methods.answer(lookup.method);
            *method_missed |= !answered;
            answered && conditions.hold(lookup)
        })
    }

    /// `Allow`: the methods of all routes that match in everything else.
    fn allowed(&self, host: &str, lookup: &Lookup<'_>) -> Option<HeaderValue> {
        let mut methods = BTreeSet::new();
        let mut collect = |leaf: &Leaf| -> Option<()> {
            for entry in &leaf.entries {
                let conditions = self.conditions(entry);
                if conditions.hold(lookup) {
                    methods.extend(conditions.methods.answered().map(str::to_owned));
                }
            }
            None
        };
        for table in self.tables(host) {
            table.search(lookup.path, &mut Ranges::default(), &mut collect);
        }
        let methods: Vec<String> = methods.into_iter().collect();
        if methods.is_empty() {
            return None;
        }
        // Methods are tokens, so the value is always good.
        HeaderValue::try_from(methods.join(", ")).ok()
    }

    fn conditions(&self, entry: &Entry) -> &Conditions {
        // Entries and conditions were made of the same routes.
        &self.conditions[entry.route as usize]
    }
}

type Claims<'a> = HashMap<Option<HostPattern>, Vec<Claim<'a>>>;

/// What each host's paths are claimed by, in order of precedence 3 to 6.
fn claims<'a>(routes: &'a [Route], conditions: &[Conditions]) -> Claims<'a> {
    let mut order: Vec<_> = routes.iter().zip(0u32..).zip(conditions).collect();
    order.sort_by_key(|((route, _), _)| {
        let Route { name, matcher, .. } = *route;
        (
            matcher.methods.is_empty(),
            Reverse(matcher.headers.len() + matcher.client_cert.len()),
            Reverse(matcher.query.len()),
            &**name,
        )
    });
    let mut claims = Claims::new();
    for ((route, index), conditions) in order {
        let names_head = conditions.methods.name_head();
        let hosts = route.matcher.hosts.iter().map(|host| Some(normal(host)));
        let any = route.matcher.hosts.is_empty().then_some(None);
        for host in hosts.chain(any) {
            let of_route = route.matcher.paths.iter().map(|pattern| Claim {
                route: index,
                names_head,
                pattern,
            });
            claims.entry(host).or_default().extend(of_route);
        }
    }
    claims
}

/// The pattern in the form that requests are looked up by.
fn normal(pattern: &HostPattern) -> HostPattern {
    match pattern {
        HostPattern::Exact(name) => HostPattern::Exact(host::normalize(name).into_owned()),
        HostPattern::Wildcard(suffix) => HostPattern::Wildcard(suffix.to_ascii_lowercase()),
    }
}

#[cfg(test)]
mod tests;
