//! The router against the slowest one possible: score every route, take the best.

use std::cmp::Reverse;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;

/// How specific a match is; the smallest wins. In the order of the module's list.
type Score = (
    Reverse<usize>,
    PathScore,
    u8,
    Reverse<usize>,
    Reverse<usize>,
    String,
);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathScore {
    Literal,
    Regex(Reverse<usize>, String),
    /// A digit per segment: literal, parameter, end, tail.
    Pattern(Vec<u8>),
}

/// What the module's documentation says, without regard to cost.
fn naive(routes: &[Route], asked: &Asked) -> String {
    let scored = routes.iter().filter(|route| conditions_hold(route, asked));
    let mut methods = BTreeSet::new();
    let mut best: Option<Score> = None;
    for route in scored {
        let host = host_score(route, asked.host);
        let paths = route.matcher.paths.iter();
        let path = paths
            .filter_map(|pattern| path_score(pattern, asked.path))
            .min();
        let (Some(host), Some(path)) = (host, path) else {
            continue;
        };
        match method_score(route, &asked.method) {
            None => {
                methods.extend(route.matcher.methods.iter().map(Method::as_str));
                if route.matcher.methods.contains(&Method::GET) {
                    methods.insert("HEAD");
                }
            }
            Some(method) => {
                let headers = Reverse(route.matcher.headers.len());
                let query = Reverse(route.matcher.query.len());
                let score = (
                    Reverse(host),
                    path,
                    method,
                    headers,
                    query,
                    route.name.to_string(),
                );
                best = best.into_iter().chain([score]).min();
            }
        }
    }
    match best {
        Some(score) => score.5,
        None if methods.is_empty() => "404".to_owned(),
        None => format!("405 {}", methods.into_iter().collect::<Vec<_>>().join(", ")),
    }
}

/// 0 for any host, then the length of the suffix, then exact.
fn host_score(route: &Route, host: &str) -> Option<usize> {
    let hosts = &route.matcher.hosts;
    let score = |pattern: &HostPattern| match pattern {
        HostPattern::Exact(name) => (name == host).then_some(usize::MAX),
        HostPattern::Wildcard(suffix) => {
            let label = host.strip_suffix(suffix)?.strip_suffix('.')?;
            (!label.is_empty()).then_some(suffix.len())
        }
    };
    let any = hosts.is_empty().then_some(0);
    hosts.iter().filter_map(score).chain(any).max()
}

fn path_score(pattern: &PathPattern, path: &str) -> Option<PathScore> {
    let (segments, tail) = match pattern {
        PathPattern::Regex(regex) => {
            let text = regex.as_str();
            let whole = Regex::new(&format!("^(?:{text})$")).unwrap();
            let score = PathScore::Regex(Reverse(text.len()), text.to_owned());
            return whole.is_match(path).then_some(score);
        }
        PathPattern::Segments { segments, tail } => (segments, tail),
    };
    let mut parts = path
        .strip_prefix('/')
        .map(|path| path.split('/'))
        .into_iter()
        .flatten();
    let mut score = Vec::new();
    for segment in segments {
        let part = parts.next()?;
        score.push(match segment {
            Segment::Literal(text) if text == part => 0,
            Segment::Param(_) if !part.is_empty() => 1,
            _ => return None,
        });
    }
    match tail {
        Tail::End if parts.next().is_some() => return None,
        Tail::End if score.iter().all(|&kind| kind == 0) => return Some(PathScore::Literal),
        Tail::End => score.push(2),
        Tail::Prefix | Tail::CatchAll(_) => score.push(3),
    }
    Some(PathScore::Pattern(score))
}

fn method_score(route: &Route, method: &Method) -> Option<u8> {
    let methods = &route.matcher.methods;
    let implied = *method == Method::HEAD && methods.contains(&Method::GET);
    match (methods.contains(method), implied, methods.is_empty()) {
        (true, _, _) => Some(0),
        (_, true, _) => Some(1),
        (_, _, true) => Some(2),
        _ => None,
    }
}

fn conditions_hold(route: &Route, asked: &Asked) -> bool {
    let holds = |value: Option<&str>, expected: &ValueMatch| match expected {
        ValueMatch::Present => value.is_some(),
        ValueMatch::Absent => value.is_none(),
        ValueMatch::Exact(text) => value == Some(text),
        ValueMatch::Regex(regex) => value.is_some_and(|value| regex.is_match(value)),
    };
    let header = |condition: &HeaderCondition| {
        let value = asked.headers.get(&condition.name);
        holds(value.map(|value| value.to_str().unwrap()), &condition.value)
    };
    let query = |condition: &QueryCondition| {
        let value = asked.query.strip_prefix(condition.name.as_str());
        holds(
            value.and_then(|rest| rest.strip_prefix('=')),
            &condition.value,
        )
    };
    let matcher = &route.matcher;
    matcher.headers.iter().all(header) && matcher.query.iter().all(query)
}

const HOSTS: [&str; 5] = ["a.test", "b.a.test", "*.a.test", "*.test", "*.b.a.test"];
const METHODS: [Method; 4] = [Method::GET, Method::HEAD, Method::POST, Method::OPTIONS];
const REGEXES: [&str; 4] = ["~/a/.*", "~/[ab]", "~/(a|b)/[^/]*", "~.*"];

fn value() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![
        Just(ValueMatch::Present),
        Just(ValueMatch::Absent),
        select(vec!["1", "2"]).prop_map(|text| ValueMatch::Exact(text.to_owned())),
        Just(ValueMatch::Regex(Regex::new("^1").unwrap())),
    ]
}

fn pattern() -> impl Strategy<Value = String> {
    let segment = select(vec!["a", "b", "", ":x", ":y"]);
    let segments = prop::collection::vec(segment, 0..4);
    let written = (segments, select(vec!["", "/*", "/*rest"])).prop_map(|(segments, tail)| {
        let text: String = segments.iter().flat_map(|segment| ["/", segment]).collect();
        if text.is_empty() && tail.is_empty() {
            "/".to_owned()
        } else {
            text + tail
        }
    });
    prop_oneof![4 => written, 1 => select(REGEXES.to_vec()).prop_map(str::to_owned)]
}

fn any_route() -> impl Strategy<Value = Route> {
    (
        subsequence(HOSTS.to_vec(), 0..3),
        prop::collection::vec(pattern(), 1..3),
        prop_oneof![Just(Vec::new()), subsequence(METHODS.to_vec(), 1..3)],
        prop::collection::vec((select(vec!["x-a", "x-b"]), value()), 0..2),
        prop::collection::vec((select(vec!["p", "q"]), value()), 0..2),
    )
        .prop_map(|(hosts, paths, methods, headers, query)| {
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            let mut route = route("", &paths).methods(&methods);
            for host in hosts {
                route = route.on(host);
            }
            for (name, value) in headers {
                route = route.header(name, value);
            }
            for (name, value) in query {
                route = route.query(name, value);
            }
            route
        })
}

fn any_request() -> impl Strategy<Value = Asked> {
    let paths = vec![
        "*", "/", "//", "/a", "/b", "/c", "/a/", "/a/a", "/a/b", "/b/a", "/a/c", "/c/a", "/a//b",
        "/a/b/a", "/b/b/b", "/a/c/a", "/c/b/a", "/a/b/a/b", "/a/b/",
    ];
    (
        select(METHODS.to_vec()),
        select(vec![
            "a.test",
            "b.a.test",
            "c.b.a.test",
            "test",
            "other",
            "",
        ]),
        select(paths),
        select(vec!["", "p=1", "q=1", "q=2", "p=12"]),
        select(vec![None, Some("1"), Some("2")]),
    )
        .prop_map(|(method, host, path, query, header)| {
            let mut headers = HeaderMap::new();
            if let Some(value) = header {
                headers.insert("x-a", HeaderValue::from_static(value));
            }
            Asked {
                method,
                host,
                path,
                query,
                headers,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn agrees_with_the_reference_in_every_order(
        mut routes in prop::collection::vec(any_route(), 1..12),
        requests in prop::collection::vec(any_request(), 8),
        rotation in 0usize..12,
    ) {
        for (route, number) in routes.iter_mut().zip(0..) {
            route.name = format!("{number:02}").into();
        }
        // Names follow the order of making, so that a turned file is a different one.
        let turn = rotation % routes.len();
        routes.rotate_left(turn);
        for asked in &requests {
            let expected = naive(&routes, asked);
            let shown = format!("{} {}{}", asked.method, asked.host, asked.path);
            prop_assert_eq!(answer(&routes, asked), expected, "{}", shown);
        }
    }
}
