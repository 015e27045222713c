//! What is asked, judged and told.

use std::time::Duration;

use super::*;

const APP: &str = "https://app.example.com";

fn policy() -> model::Cors {
    let origins = [APP, "https://*.partner.test"];
    let patterns = origins.iter().map(|text| pattern(text));
    model::Cors {
        origins: Origins::Listed(patterns.collect()),
        methods: Listed::Any,
        headers: Listed::Only(names(&["content-type", "x-token"])),
        expose: Listed::Only(names(&["x-request-id", "x-total"])),
        credentials: true,
        private_network: false,
        max_age: Duration::from_secs(600),
    }
}

fn pattern(text: &str) -> OriginPattern {
    OriginPattern::parse(text).unwrap()
}

fn names(names: &[&'static str]) -> Vec<HeaderName> {
    names
        .iter()
        .map(|name| HeaderName::from_static(name))
        .collect()
}

fn everybody() -> model::Cors {
    model::Cors {
        origins: Origins::Any,
        credentials: false,
        ..policy()
    }
}

fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let fields = fields.iter().map(|(name, value)| {
        let name = HeaderName::from_static(name);
        (name, HeaderValue::from_static(value))
    });
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(name, value);
    }
    map
}

fn asking(method: &'static str, further: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut all = vec![("origin", APP), ("access-control-request-method", method)];
    all.extend(further);
    fields(&all)
}

fn judged(policy: &model::Cors, answered: &[Method], asked: &HeaderMap) -> Result<(), CorsError> {
    let method = preflight(&Method::OPTIONS, asked).unwrap();
    Cors::compile(policy, answered).judge(asked, &method)
}

/// The fields of a response, as `name: value` in order of name.
fn told(policy: &model::Cors, stage: Stage, request: &HeaderMap, from: HeaderMap) -> Vec<String> {
    let mut response = from;
    Cors::compile(policy, &[]).apply(request, stage, &mut response);
    let line =
        |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
    let mut lines: Vec<String> = response.iter().map(line).collect();
    lines.sort();
    lines
}

#[test]
fn a_preflight_is_options_with_an_origin_and_one_method() {
    let good = asking("PUT", &[]);
    assert_eq!(preflight(&Method::OPTIONS, &good), Some(Method::PUT));
    assert_eq!(preflight(&Method::GET, &good), None);
    for none in [
        fields(&[("origin", APP)]),
        fields(&[("access-control-request-method", "PUT")]),
        asking("PUT", &[("access-control-request-method", "GET")]),
        asking("P UT", &[]),
        asking("", &[]),
    ] {
        assert_eq!(preflight(&Method::OPTIONS, &none), None, "{none:?}");
    }
}

#[test]
fn origin_method_headers_and_network_are_judged_in_this_order() {
    let headers = ("access-control-request-headers", "content-type,x-token");
    let policy = policy();
    assert_eq!(judged(&policy, &[], &asking("PUT", &[headers])), Ok(()));
    let foreign = fields(&[
        ("origin", "https://evil.test"),
        ("access-control-request-method", "PUT"),
    ]);
    assert_eq!(judged(&policy, &[], &foreign), Err(CorsError::Origin));
    let twice = asking("PUT", &[("origin", "https://evil.test")]);
    assert_eq!(judged(&policy, &[], &twice), Err(CorsError::Origin));
    let put = asking("PUT", &[]);
    let answered = [Method::GET, Method::POST];
    assert_eq!(judged(&policy, &answered, &put), Err(CorsError::Method));
    let other = [("access-control-request-headers", "x-token, x-other")];
    let other = asking("GET", &other);
    assert_eq!(judged(&policy, &answered, &other), Err(CorsError::Header));
    let public = [("access-control-request-private-network", "true")];
    let public = asking("GET", &public);
    assert_eq!(
        judged(&policy, &[], &public),
        Err(CorsError::PrivateNetwork)
    );
    let open = model::Cors {
        private_network: true,
        ..policy
    };
    assert_eq!(judged(&open, &[], &public), Ok(()));
}

#[test]
fn methods_are_those_of_policy_and_route() {
    let listed = model::Cors {
        methods: Listed::Only(vec![Method::GET, Method::PUT]),
        ..policy()
    };
    for (answered, method, expected) in [
        (&[][..], "GET", Ok(())),
        (&[], "HEAD", Ok(())),
        (&[], "POST", Err(CorsError::Method)),
        (&[], "put", Err(CorsError::Method)),
        (&[Method::PUT], "PUT", Ok(())),
        (&[Method::PUT], "GET", Err(CorsError::Method)),
    ] {
        let asked = asking(method, &[]);
        assert_eq!(judged(&listed, answered, &asked), expected, "{method}");
    }
}

#[test]
fn requested_headers_are_bounded_and_names() {
    let any = model::Cors {
        headers: Listed::Any,
        ..policy()
    };
    let ask = |names: &'static str| {
        let asked = asking("GET", &[("access-control-request-headers", names)]);
        judged(&any, &[], &asked)
    };
    assert_eq!(ask("x-a, ,X-B,authorization"), Ok(()));
    assert_eq!(ask("x a"), Err(CorsError::Header));
    let most = ["x"; MAX_REQUESTED].join(",");
    assert_eq!(ask(String::leak(most.clone())), Ok(()));
    assert_eq!(ask(String::leak(most + ",x")), Err(CorsError::Header));
}

#[test]
fn a_page_of_an_allowed_origin_reads_the_response() {
    let lines = told(
        &policy(),
        Stage::Request,
        &fields(&[("origin", APP)]),
        HeaderMap::new(),
    );
    assert_eq!(
        lines,
        [
            "access-control-allow-credentials: true",
            "access-control-allow-origin: https://app.example.com",
            "access-control-expose-headers: x-request-id, x-total",
            "vary: Origin",
        ]
    );
}

#[test]
fn others_are_told_nothing_but_that_it_depends() {
    for request in [
        fields(&[]),
        fields(&[("origin", "https://evil.test")]),
        fields(&[("origin", "null")]),
        fields(&[("origin", "https://app.example.com https://evil.test")]),
    ] {
        for stage in [Stage::Request, Stage::Preflight] {
            let lines = told(&policy(), stage, &request, HeaderMap::new());
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(lines[0].starts_with("vary: ") && lines[0].ends_with("Origin"));
        }
    }
}

#[test]
fn what_is_for_everybody_does_not_depend_on_the_origin() {
    for request in [fields(&[]), fields(&[("origin", "null")])] {
        assert_eq!(
            told(&everybody(), Stage::Request, &request, HeaderMap::new()),
            [
                "access-control-allow-origin: *",
                "access-control-expose-headers: x-request-id, x-total",
            ]
        );
    }
}

#[test]
fn a_granted_preflight_says_what_may_be_sent() {
    let asked = asking(
        "PUT",
        &[
            ("access-control-request-headers", "authorization"),
            ("access-control-request-private-network", "true"),
        ],
    );
    let open = model::Cors {
        headers: Listed::Any,
        private_network: true,
        ..everybody()
    };
    assert_eq!(
        told(&open, Stage::Granted, &asked, HeaderMap::new()),
        [
            "access-control-allow-headers: authorization",
            "access-control-allow-methods: PUT",
            "access-control-allow-origin: *",
            "access-control-allow-private-network: true",
            "access-control-max-age: 600",
            "vary: Access-Control-Request-Method, Access-Control-Request-Headers, \
             Access-Control-Request-Private-Network",
        ]
    );
    let lines = told(
        &policy(),
        Stage::Granted,
        &asking("PUT", &[]),
        HeaderMap::new(),
    );
    assert!(lines.contains(&"access-control-allow-headers: content-type, x-token".to_owned()));
}

#[test]
fn what_a_backend_says_is_replaced_and_what_it_varies_by_stays() {
    let backend = fields(&[
        ("access-control-allow-origin", "*"),
        ("access-control-allow-origin", "https://evil.test"),
        ("access-control-allow-credentials", "true"),
        ("access-control-expose-headers", "x-secret"),
        ("vary", "Accept-Encoding"),
    ]);
    let request = fields(&[("origin", "https://evil.test")]);
    let lines = told(&policy(), Stage::Request, &request, backend);
    assert_eq!(lines, ["vary: Accept-Encoding, Origin"]);
    for vary in ["*", "accept, origin"] {
        let lines = told(
            &policy(),
            Stage::Request,
            &request,
            fields(&[("vary", vary)]),
        );
        assert_eq!(lines, [format!("vary: {vary}")]);
    }
}
