//! Routes that can never be told apart: a mistake, since only one of them would ever be used.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;

use http::Method;

use super::model::{CertCondition, Match, Route, ValueMatch};
use super::pattern::{HostPattern, PathPattern, Segment, Tail};

/// Two routes that can never be told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Index of the route that comes first in the file.
    pub first: usize,
    /// Index of the other one.
    pub second: usize,
    /// What both of them match, in words.
    pub what: String,
}

/// Finds the routes that share host pattern, path shape, a method (or name none, both), and header
/// and query conditions. Names of parameters and the order of conditions do not matter.
///
/// Each route is compared with the first that claims the same, by hash, so the time grows with the
/// number of routes and not with that of pairs. In order of the second route.
pub fn conflicts(routes: &[Route]) -> Vec<Conflict> {
    let mut claimed: HashMap<Claim<'_>, usize> = HashMap::new();
    let mut condition_ids: HashMap<BTreeSet<String>, usize> = HashMap::new();
    let mut conflicts = Vec::new();
    for (second, route) in routes.iter().enumerate() {
        let next_id = condition_ids.len();
        let conditions = *condition_ids
            .entry(conditions(&route.matcher))
            .or_insert(next_id);
        // Two routes that collide in many ways are one mistake.
        let mut reported = BTreeSet::new();
        for claim in claims(&route.matcher, conditions) {
            match claimed.entry(claim) {
                Entry::Vacant(entry) => {
                    entry.insert(second);
                }
                Entry::Occupied(entry) => {
                    let first = *entry.get();
                    if first != second && reported.insert(first) {
                        let what = describe(entry.key(), &routes[second].matcher);
                        conflicts.push(Conflict {
                            first,
                            second,
                            what,
                        });
                    }
                }
            }
        }
    }
    conflicts
}

/// One thing that a route matches. Equal claims cannot be told apart.
#[derive(PartialEq, Eq, Hash)]
struct Claim<'a> {
    host: Option<&'a HostPattern>,
    path: String,
    method: Option<&'a Method>,
    /// Which set of conditions.
    conditions: usize,
}

fn claims(matcher: &Match, conditions: usize) -> impl Iterator<Item = Claim<'_>> {
    let hosts = each_or_none(&matcher.hosts);
    hosts.flat_map(move |host| {
        matcher.paths.iter().flat_map(move |path| {
            let path = shape(path);
            each_or_none(&matcher.methods).map(move |method| Claim {
                host,
                path: path.clone(),
                method,
                conditions,
            })
        })
    })
}

/// Each of a list, or once `None` for an empty one, which sets no condition.
fn each_or_none<T>(list: &[T]) -> impl Iterator<Item = Option<&T>> {
    let none = list.is_empty().then_some(None);
    list.iter().map(Some).chain(none)
}

/// The pattern without the names of its parameters. Equal shapes match the same paths.
fn shape(pattern: &PathPattern) -> String {
    let (segments, tail) = match pattern {
        PathPattern::Regex(expression) => return format!("~ {}", written(expression.as_str())),
        PathPattern::Segments { segments, tail } => (segments, tail),
    };
    let mut shape = String::new();
    for segment in segments {
        match segment {
            // Told from parameters and tails even when the text is `:` or `*`.
            Segment::Literal(text) if text.starts_with([':', '*', '\\']) => {
                shape.push_str("/\\");
                shape.push_str(text);
            }
            Segment::Literal(text) => {
                shape.push('/');
                shape.push_str(text);
            }
            Segment::Param(_) => shape.push_str("/:"),
        }
    }
    match tail {
        Tail::Prefix | Tail::CatchAll(_) => shape.push_str("/*"),
        Tail::End if shape.is_empty() => shape.push('/'),
        Tail::End => {}
    }
    shape
}

/// The expression as the operator wrote it, without the anchors that make it match a whole path.
fn written(expression: &str) -> &str {
    let inner = expression.strip_prefix(r"\A(?:");
    let inner = inner.and_then(|text| text.strip_suffix(r")\z"));
    inner.unwrap_or(expression)
}

/// The header and query conditions as a set of texts.
fn conditions(matcher: &Match) -> BTreeSet<String> {
    let headers = matcher.headers.iter().map(|condition| {
        let name = condition.name.as_str();
        format!("header {name} {}", value_text(&condition.value))
    });
    let query = matcher.query.iter().map(|condition| {
        // Quoted, since a parameter's name can hold anything.
        format!(
            "query {:?} {}",
            condition.name,
            value_text(&condition.value)
        )
    });
    let client_cert = matcher.client_cert.iter().map(|condition| match condition {
        CertCondition::Present => "client certificate present".to_owned(),
        CertCondition::Absent => "client certificate absent".to_owned(),
        CertCondition::Subject(expression) => format!("client subject {expression}"),
        CertCondition::Names(expression) => format!("client names {expression}"),
    });
    headers.chain(query).chain(client_cert).collect()
}

fn value_text(value: &ValueMatch) -> String {
    match value {
        ValueMatch::Present => "present".to_owned(),
        ValueMatch::Absent => "absent".to_owned(),
        ValueMatch::Exact(text) => format!("= {text}"),
        ValueMatch::Regex(expression) => format!("~ {}", expression.as_str()),
    }
}

fn describe(claim: &Claim<'_>, matcher: &Match) -> String {
    let mut what = match claim.method {
        None => "every method".to_owned(),
        Some(method) => method.to_string(),
    };
    // Writing to a string does not fail.
    let _ = match claim.host {
        None => write!(what, " on every host"),
        Some(HostPattern::Exact(name)) => write!(what, " on host {name}"),
        Some(HostPattern::Wildcard(suffix)) => write!(what, " on host *.{suffix}"),
    };
    let _ = write!(what, " and path {}", claim.path);
    if !(matcher.headers.is_empty() && matcher.query.is_empty()) {
        what.push_str(", with the same header and query conditions");
    }
    what
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

    use std::time::{Duration, Instant};

    use http::{HeaderName, StatusCode};
    use regex::Regex;

    use super::*;
    use crate::config::model::{
        Action, FixedResponse, HeaderCondition, HeaderRules, Priority, QueryCondition,
        RouteRetries, TimeoutOverrides,
    };

    fn route(matcher: Match) -> Route {
        Route {
            name: "route".into(),
            matcher,
            action: Action::Respond(FixedResponse {
                status: StatusCode::OK,
                content_type: http::HeaderValue::from_static("text/plain"),
                body: bytes::Bytes::new(),
            }),
            ip_access: None,
            cors: None,
            auth: None,
            limits: Vec::new(),
            priority: Priority::Normal,
            concurrency: Vec::new(),
            rewrite: None,
            request_headers: HeaderRules::default(),
            response_headers: HeaderRules::default(),
            max_body_bytes: None,
            timeouts: TimeoutOverrides::default(),
            retries: RouteRetries::default(),
            fallback: None,
            mirror: None,
            maintenance: false,
        }
    }

    fn path(text: &str) -> PathPattern {
        let mut tail = Tail::End;
        let mut segments = Vec::new();
        for segment in text.trim_start_matches('/').split('/') {
            match (segment.get(..1), segment.get(1..)) {
                (Some(":"), Some(name)) => segments.push(Segment::Param(name.to_owned())),
                (Some("*"), Some("")) => tail = Tail::Prefix,
                (Some("*"), Some(name)) => tail = Tail::CatchAll(name.to_owned()),
                _ => segments.push(Segment::Literal(segment.to_owned())),
            }
        }
        PathPattern::Segments { segments, tail }
    }

    fn at(pattern: &str) -> Match {
        Match {
            hosts: Vec::new(),
            paths: vec![path(pattern)],
            methods: Vec::new(),
            headers: Vec::new(),
            query: Vec::new(),
            client_cert: Vec::new(),
        }
    }

    fn found(matchers: impl IntoIterator<Item = Match>) -> Vec<(usize, usize, String)> {
        let routes: Vec<_> = matchers.into_iter().map(route).collect();
        let tuple = |conflict: Conflict| (conflict.first, conflict.second, conflict.what);
        conflicts(&routes).into_iter().map(tuple).collect()
    }

    fn collide(first: Match, second: Match) -> bool {
        !found([first, second]).is_empty()
    }

    #[test]
    fn names_of_parameters_do_not_matter() {
        let what = "every method on every host and path /users/:".to_owned();
        assert_eq!(
            found([at("/users/:id"), at("/users/:name")]),
            [(0, 1, what)]
        );
        assert!(collide(at("/a/*"), at("/a/*rest")));
        assert!(!collide(at("/a/:id"), at("/a/*")));
        assert!(!collide(at("/a/:id"), at("/a/id")));
        assert!(!collide(at("/a"), at("/a/")));
        assert!(!collide(at("/a"), at("/b")));
    }

    #[test]
    fn a_literal_colon_is_no_parameter() {
        let literal = |text: &str| Match {
            paths: vec![PathPattern::Segments {
                segments: vec![Segment::Literal(text.to_owned())],
                tail: Tail::End,
            }],
            ..at("/")
        };
        assert!(!collide(literal(":"), at("/:id")));
        assert!(!collide(literal("*"), at("/*")));
        assert!(!collide(literal("\\:"), literal(":")));
    }

    #[test]
    fn expressions_are_compared_by_text() {
        let regex = |text: &str| Match {
            paths: vec![PathPattern::Regex(Regex::new(text).unwrap())],
            ..at("/")
        };
        assert!(collide(regex("/a+"), regex("/a+")));
        assert!(!collide(regex("/a+"), regex("/a{1,}")));
        let what = "every method on every host and path ~ /a+".to_owned();
        assert_eq!(
            found([regex(r"\A(?:/a+)\z"), regex(r"\A(?:/a+)\z")]),
            [(0, 1, what)]
        );
    }

    #[test]
    fn hosts_are_compared_as_patterns() {
        let on = |host: HostPattern| Match {
            hosts: vec![HostPattern::Exact("b.test".to_owned()), host],
            ..at("/x")
        };
        let exact = |name: &str| on(HostPattern::Exact(name.to_owned()));
        let wildcard = || on(HostPattern::Wildcard("a.test".to_owned()));
        let only = |host: &str| Match {
            hosts: vec![HostPattern::Exact(host.to_owned())],
            ..at("/x")
        };
        let what = "every method on host b.test and path /x".to_owned();
        assert_eq!(found([exact("a.test"), wildcard()]), [(0, 1, what)]);
        assert!(!collide(only("a.test"), wildcard()));
        assert!(!collide(only("a.test"), at("/x")));
    }

    #[test]
    fn one_method_in_common_is_enough() {
        let with = |methods: &[Method]| Match {
            methods: methods.to_vec(),
            ..at("/x")
        };
        let what = "GET on every host and path /x".to_owned();
        let first = with(&[Method::POST, Method::GET]);
        assert_eq!(found([first, with(&[Method::GET])]), [(0, 1, what)]);
        assert!(!collide(with(&[Method::POST]), with(&[Method::GET])));
        assert!(!collide(with(&[Method::GET]), with(&[Method::HEAD])));
        assert!(!collide(with(&[Method::GET]), with(&[])));
    }

    #[test]
    fn conditions_are_compared_as_sets() {
        let header = |name: &'static str, value: &str| HeaderCondition {
            name: HeaderName::from_static(name),
            value: ValueMatch::Exact(value.to_owned()),
        };
        let query = |value| Match {
            query: vec![QueryCondition {
                name: "v".to_owned(),
                value,
            }],
            ..at("/x")
        };
        let with = |headers: Vec<HeaderCondition>| Match {
            headers,
            ..at("/x")
        };
        let (a, b) = (header("x-a", "1"), header("x-b", "2"));
        assert!(collide(
            with(vec![a.clone(), b.clone()]),
            with(vec![b.clone(), a.clone()])
        ));
        assert!(!collide(with(vec![a.clone()]), with(vec![a.clone(), b])));
        assert!(!collide(with(vec![a]), with(vec![header("x-a", "2")])));
        assert!(!collide(
            query(ValueMatch::Present),
            query(ValueMatch::Absent)
        ));
        assert!(!collide(
            query(ValueMatch::Exact("1".to_owned())),
            query(ValueMatch::Regex(Regex::new("1").unwrap()))
        ));
        let text = &found([query(ValueMatch::Present), query(ValueMatch::Present)])[0].2;
        assert!(
            text.ends_with("with the same header and query conditions"),
            "{text}"
        );
    }

    #[test]
    fn a_pair_is_reported_once_and_a_route_never_conflicts_with_itself() {
        let twice = || Match {
            paths: vec![path("/x"), path("/x"), path("/y")],
            ..at("/")
        };
        assert!(found([twice()]).is_empty());
        let pairs: Vec<_> = found([twice(), twice(), at("/y")])
            .into_iter()
            .map(|(first, second, _)| (first, second))
            .collect();
        assert_eq!(pairs, [(0, 1), (0, 2)]);
    }

    #[test]
    fn fifty_thousand_routes_take_no_time() {
        let started = Instant::now();
        let matchers = (0..50_000).map(|number| at(&format!("/service/{number}/:id")));
        assert!(found(matchers).is_empty());
        // Comparing all pairs would take minutes.
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
