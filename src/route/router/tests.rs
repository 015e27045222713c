//! The precedence of routes, rule by rule and against a reference that scores every route.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod reference;

use http::{HeaderName, StatusCode};
use regex::Regex;

use super::*;
use crate::config::model::{
    Action, FixedResponse, HeaderCondition, HeaderRules, Match, Priority, QueryCondition,
    RouteRetries, TimeoutOverrides, ValueMatch,
};
use crate::config::pattern::{PathPattern, Segment, Tail};

/// A route in short: `name`, then what is given of `host`, `paths`, methods and conditions.
fn route(name: &str, paths: &[&str]) -> Route {
    Route {
        name: name.into(),
        matcher: Match {
            hosts: Vec::new(),
            paths: paths.iter().copied().map(path).collect(),
            methods: Vec::new(),
            headers: Vec::new(),
            query: Vec::new(),
            client_cert: Vec::new(),
        },
        action: Action::Respond(FixedResponse {
            status: StatusCode::OK,
            content_type: HeaderValue::from_static("text/plain"),
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

/// A pattern as it is written in the file; `~` begins an expression.
fn path(text: &str) -> PathPattern {
    if let Some(expression) = text.strip_prefix('~') {
        return PathPattern::Regex(Regex::new(expression).unwrap());
    }
    let mut tail = Tail::End;
    let mut segments = Vec::new();
    for segment in text.strip_prefix('/').unwrap().split('/') {
        match (segment.get(..1), segment.get(1..)) {
            (Some(":"), Some(name)) => segments.push(Segment::Param(name.to_owned())),
            (Some("*"), Some("")) => tail = Tail::Prefix,
            (Some("*"), Some(name)) => tail = Tail::CatchAll(name.to_owned()),
            _ => segments.push(Segment::Literal(segment.to_owned())),
        }
    }
    PathPattern::Segments { segments, tail }
}

trait With: Sized {
    fn on(self, host: &str) -> Self;
    fn methods(self, methods: &[Method]) -> Self;
    fn header(self, name: &'static str, value: ValueMatch) -> Self;
    fn query(self, name: &str, value: ValueMatch) -> Self;
}

impl With for Route {
    fn on(mut self, host: &str) -> Self {
        self.matcher.hosts.push(match host.strip_prefix("*.") {
            Some(suffix) => HostPattern::Wildcard(suffix.to_owned()),
            None => HostPattern::Exact(host.to_owned()),
        });
        self
    }

    fn methods(mut self, methods: &[Method]) -> Self {
        self.matcher.methods = methods.to_vec();
        self
    }

    fn header(mut self, name: &'static str, value: ValueMatch) -> Self {
        let name = HeaderName::from_static(name);
        self.matcher.headers.push(HeaderCondition { name, value });
        self
    }

    fn query(mut self, name: &str, value: ValueMatch) -> Self {
        let name = name.to_owned();
        self.matcher.query.push(QueryCondition { name, value });
        self
    }
}

#[derive(Debug)]
struct Asked {
    method: Method,
    host: &'static str,
    path: &'static str,
    query: &'static str,
    headers: HeaderMap,
}

fn get(host: &'static str, path: &'static str) -> Asked {
    ask(Method::GET, host, path)
}

fn ask(method: Method, host: &'static str, path: &'static str) -> Asked {
    let (query, headers) = ("", HeaderMap::new());
    Asked {
        method,
        host,
        path,
        query,
        headers,
    }
}

/// The name of the route, `404`, or `405` with what is allowed; the same for both orders.
fn answer(routes: &[Route], asked: &Asked) -> String {
    let mut reversed = routes.to_vec();
    reversed.reverse();
    let answers =
        [routes, &reversed].map(
            |routes| match find(&Router::compile(routes).unwrap(), asked) {
                Found::Route { index, .. } => routes[index].name.to_string(),
                Found::MethodNotAllowed { allow } => format!("405 {}", allow.to_str().unwrap()),
                Found::NotFound => "404".to_owned(),
            },
        );
    assert_eq!(
        answers[0], answers[1],
        "the order in the file must not matter"
    );
    let [answer, _] = answers;
    answer
}

fn find(router: &Router, asked: &Asked) -> Found {
    router.find(&Lookup {
        host: asked.host,
        path: asked.path,
        method: &asked.method,
        headers: &asked.headers,
        query: asked.query,
        client_cert: None,
    })
}

fn params(pattern: &str, path: &'static str, names: &[&str]) -> Option<Vec<Option<&'static str>>> {
    let router = Router::compile(&[route("only", &[pattern])]).unwrap();
    match find(&router, &get("a.test", path)) {
        Found::Route { params, .. } => {
            Some(names.iter().map(|name| params.get(name, path)).collect())
        }
        _ => None,
    }
}

/// The table of `docs/routing.md`.
#[test]
fn the_documented_examples_hold() {
    let api = |name, path| route(name, &[path]).on("api.example.com");
    let routes = [
        api("me", "/users/me"),
        api("user", "/users/:id"),
        api("user-beta", "/users/:id").header("x-beta", ValueMatch::Present),
        api("users-write", "/users/*").methods(&[Method::POST]),
        route("tenant", &["/*"]).on("*.example.com"),
        route("default", &["/*"]),
    ];
    let post = |path| ask(Method::POST, "api.example.com", path);
    let mut beta = get("api.example.com", "/users/7");
    beta.headers.insert("x-beta", HeaderValue::from_static("1"));
    for (asked, expected) in [
        (get("api.example.com", "/users/me"), "me"),
        (get("api.example.com", "/users/7"), "user"),
        (beta, "user-beta"),
        (post("/users/7"), "user"),
        (post("/users/7/keys"), "users-write"),
        (get("api.example.com", "/users/7/keys"), "tenant"),
        (get("shop.example.com", "/"), "tenant"),
        (get("example.com", "/"), "default"),
    ] {
        assert_eq!(answer(&routes, &asked), expected, "{asked:?}");
    }
}

#[test]
fn hosts_go_from_exact_over_the_longest_suffix_to_any() {
    let routes = [
        route("any", &["/*"]),
        route("short", &["/*"]).on("*.test"),
        route("long", &["/*"]).on("*.a.test"),
        route("exact", &["/*"]).on("b.a.test"),
    ];
    assert_eq!(answer(&routes, &get("b.a.test", "/")), "exact");
    assert_eq!(answer(&routes, &get("c.a.test", "/")), "long");
    assert_eq!(answer(&routes, &get("d.c.a.test", "/")), "long");
    assert_eq!(answer(&routes, &get("a.test", "/")), "short");
    assert_eq!(answer(&routes, &get("test", "/")), "any");
    assert_eq!(answer(&routes, &get(".a.test", "/")), "short");
    assert_eq!(answer(&routes, &get("", "/")), "any");
    assert_eq!(answer(&routes, &get("[::1]:80", "/")), "any");
}

#[test]
fn hosts_are_compared_without_case_port_and_trailing_dot() {
    let routes = [
        route("exact", &["/"]).on("a.test"),
        route("wildcard", &["/"]).on("*.b.test"),
        route("address", &["/"]).on("[::1]"),
    ];
    for host in ["a.test", "A.Test", "a.test:8080", "a.test.", "A.TEST.:80"] {
        assert_eq!(answer(&routes, &get(host, "/")), "exact", "{host}");
    }
    assert_eq!(answer(&routes, &get("X.B.Test:1", "/")), "wildcard");
    assert_eq!(answer(&routes, &get("b.test", "/")), "404");
    assert_eq!(answer(&routes, &get("[::1]:8080", "/")), "address");
}

#[test]
fn paths_go_from_literal_over_expression_to_pattern() {
    let routes = [
        route("tail", &["/*"]),
        route("pattern", &["/users/:id"]),
        route("regex", &["~/users/[0-9]+"]),
        route("longer regex", &["~/users/[0-9][0-9]+"]),
        route("exact", &["/users/7"]),
    ];
    assert_eq!(answer(&routes, &get("", "/users/7")), "exact");
    assert_eq!(answer(&routes, &get("", "/users/8")), "regex");
    assert_eq!(answer(&routes, &get("", "/users/88")), "longer regex");
    assert_eq!(answer(&routes, &get("", "/users/x")), "pattern");
    assert_eq!(
        answer(&routes, &get("", "/users/8/x")),
        "tail",
        "an expression matches all"
    );
}

#[test]
fn expressions_match_the_whole_path_in_every_branch() {
    let routes = [route("regex", &["~/a|/b"])];
    assert_eq!(answer(&routes, &get("", "/a")), "regex");
    assert_eq!(answer(&routes, &get("", "/b")), "regex");
    assert_eq!(answer(&routes, &get("", "/a/x")), "404");
    assert_eq!(answer(&routes, &get("", "/x/b")), "404");
}

#[test]
fn named_groups_of_an_expression_are_parameters() {
    let found = |path| {
        params(
            "~/v(?<major>[0-9]+)(-(?<tag>[a-z]+))?/(.*)",
            path,
            &["major", "tag"],
        )
    };
    assert_eq!(found("/v12-beta/x"), Some(vec![Some("12"), Some("beta")]));
    assert_eq!(found("/v12/x"), Some(vec![Some("12"), None]));
    assert_eq!(found("/v/x"), None);
}

#[test]
fn patterns_are_compared_segment_by_segment() {
    let routes = [
        route("a tail", &["/a/*"]),
        route("param b", &["/:x/b"]),
        route("a param", &["/a/:x"]),
        route("two params", &["/:x/:y"]),
        route("root", &["/*"]),
    ];
    assert_eq!(answer(&routes, &get("", "/a/b")), "a param");
    assert_eq!(answer(&routes, &get("", "/a/b/c")), "a tail");
    assert_eq!(answer(&routes, &get("", "/c/b")), "param b");
    assert_eq!(answer(&routes, &get("", "/c/d")), "two params");
    assert_eq!(answer(&routes, &get("", "/c")), "root");
}

#[test]
fn a_dead_end_is_left_again() {
    let routes = [
        route("deep", &["/a/:x/c/d"]),
        route("other", &["/:x/:y/*rest"]),
    ];
    assert_eq!(answer(&routes, &get("", "/a/b/c/e")), "other");
    let router = Router::compile(&routes).unwrap();
    let Found::Route { params, .. } = find(&router, &get("", "/a/b/c/e")) else {
        panic!("not found");
    };
    let value = |name| params.get(name, "/a/b/c/e");
    assert_eq!(
        (value("x"), value("y"), value("rest")),
        (Some("a"), Some("b"), Some("c/e"))
    );
}

#[test]
fn a_tail_matches_nothing_a_slash_and_anything() {
    let rest = |path| params("/a/*rest", path, &["rest"]);
    assert_eq!(rest("/a"), Some(vec![Some("")]));
    assert_eq!(rest("/a/"), Some(vec![Some("")]));
    assert_eq!(rest("/a/b"), Some(vec![Some("b")]));
    assert_eq!(rest("/a/b//c/"), Some(vec![Some("b//c/")]));
    assert_eq!(rest("/ab"), None);
    assert_eq!(params("/a/*", "/a/b", &["rest"]), Some(vec![None]));
    assert_eq!(params("/*rest", "/", &["rest"]), Some(vec![Some("")]));
    assert_eq!(params("/*", "*", &[]), Some(vec![]), "OPTIONS *");
    assert_eq!(params("/*rest", "*", &["rest"]), Some(vec![Some("")]));
    assert_eq!(params("/a/*", "*", &[]), None);
}

#[test]
fn parameters_are_raw_and_never_empty() {
    let id = |path| params("/users/:id", path, &["id"]);
    assert_eq!(id("/users/7"), Some(vec![Some("7")]));
    assert_eq!(id("/users/a%2Fb"), Some(vec![Some("a%2Fb")]));
    assert_eq!(id("/users/"), None);
    assert_eq!(id("/users/7/"), None);
    assert_eq!(id("/users"), None);
    let both = params("/:a/x/:b/*rest", "/1/x/2/3/4", &["b", "a", "rest", "none"]);
    assert_eq!(both, Some(vec![Some("2"), Some("1"), Some("3/4"), None]));
}

#[test]
fn a_trailing_slash_is_a_path_of_its_own() {
    let routes = [
        route("with", &["/a/", "/p/:x/"]),
        route("without", &["/a", "/p/:x", "/"]),
    ];
    assert_eq!(answer(&routes, &get("", "/a/")), "with");
    assert_eq!(answer(&routes, &get("", "/a")), "without");
    assert_eq!(answer(&routes, &get("", "/p/1/")), "with");
    assert_eq!(answer(&routes, &get("", "/p/1")), "without");
    assert_eq!(answer(&routes, &get("", "/")), "without");
}

#[test]
fn named_methods_then_headers_then_query_then_name() {
    let present = || ValueMatch::Present;
    let routes = [
        route("c nothing", &["/x"]),
        route("b nothing", &["/x"]),
        route("query", &["/x"]).query("q", present()),
        route("header", &["/x"]).header("x-a", present()),
        route("headers", &["/x"])
            .header("x-a", present())
            .header("x-b", present()),
        route("method", &["/x"]).methods(&[Method::PUT]),
    ];
    let mut asked = get("", "/x");
    assert_eq!(answer(&routes, &asked), "b nothing");
    asked.query = "q";
    assert_eq!(answer(&routes, &asked), "query");
    asked.headers.insert("x-a", HeaderValue::from_static("1"));
    assert_eq!(answer(&routes, &asked), "header");
    asked.headers.insert("x-b", HeaderValue::from_static("1"));
    assert_eq!(answer(&routes, &asked), "headers");
    asked.method = Method::PUT;
    assert_eq!(answer(&routes, &asked), "method");
}

#[test]
fn conditions_fall_through_to_less_specific_paths_and_hosts() {
    let flag = || ValueMatch::Exact("1".to_owned());
    let routes = [
        route("host", &["/x"]).on("a.test").header("x-a", flag()),
        route("wildcard", &["/:p"])
            .on("*.test")
            .methods(&[Method::POST]),
        route("any", &["/*"]),
    ];
    assert_eq!(answer(&routes, &get("a.test", "/x")), "any");
    assert_eq!(
        answer(&routes, &ask(Method::POST, "a.test", "/x")),
        "wildcard"
    );
    let mut asked = get("a.test", "/x");
    asked.headers.insert("x-a", HeaderValue::from_static("1"));
    assert_eq!(answer(&routes, &asked), "host");
}

#[test]
fn a_wrong_method_is_405_with_all_that_are_right() {
    let purge = Method::from_bytes(b"PURGE").unwrap();
    let routes = [
        route("read", &["/x"]).methods(&[Method::GET]).on("a.test"),
        route("write", &["/:p"])
            .methods(&[Method::POST, purge])
            .on("a.test"),
        route("everywhere", &["/*"]).methods(&[Method::DELETE, Method::POST]),
        route("condition", &["/x"])
            .methods(&[Method::PUT])
            .header("x-a", ValueMatch::Present),
    ];
    let patch = ask(Method::PATCH, "a.test", "/x");
    assert_eq!(
        answer(&routes, &patch),
        "405 DELETE, GET, HEAD, POST, PURGE"
    );
    assert_eq!(answer(&routes, &get("b.test", "/x")), "405 DELETE, POST");
    assert_eq!(
        answer(&routes, &ask(Method::OPTIONS, "b.test", "/x")),
        "405 DELETE, POST"
    );
    assert_eq!(answer(&routes[..2], &get("b.test", "/x")), "404");
    assert_eq!(
        answer(&routes[..1], &ask(Method::PUT, "a.test", "/y")),
        "404"
    );
}

#[test]
fn get_answers_head_unless_another_names_it() {
    let read = || route("read", &["/x"]).methods(&[Method::GET]);
    let head = || route("z head", &["/x"]).methods(&[Method::HEAD]);
    let any = || route("any", &["/x"]);
    let asked = ask(Method::HEAD, "", "/x");
    assert_eq!(answer(&[read()], &asked), "read");
    assert_eq!(answer(&[read(), any()], &asked), "read");
    assert_eq!(answer(&[read(), any(), head()], &asked), "z head");
    let picky = head().header("x-a", ValueMatch::Present);
    assert_eq!(answer(&[read(), picky], &asked), "read");
    assert_eq!(answer(&[head()], &get("", "/x")), "405 HEAD");
}

#[test]
fn one_shape_written_twice_is_one() {
    let routes = [route("twice", &["/:a", "/:b"]), route("other", &["/:c"])];
    assert_eq!(answer(&routes, &get("", "/1")), "other");
    let router = Router::compile(&routes[..1]).unwrap();
    let Found::Route { params, .. } = find(&router, &get("", "/1")) else {
        panic!("not found");
    };
    assert_eq!(
        (params.get("a", "/1"), params.get("b", "/1")),
        (Some("1"), None)
    );
}

#[test]
fn expressions_that_cannot_be_anchored_are_an_error() {
    // The comment swallows the end of the group that anchors it.
    assert!(Router::compile(&[route("only", &["~(?x)/a # b"])]).is_err());
}
