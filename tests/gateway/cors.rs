//! Cross-origin resource sharing: preflights answered at the edge, what responses and refusals say, and
//! why a preflight is denied.

use std::fs;

use crate::support::client::{Response, request};
use crate::support::command::{binary, finish};
use crate::support::h2::{self, H2};
use crate::support::tokens::{SECRET, Signer};
use crate::support::{DeadPort, Gateway, Origin, Script};

const APP: &str = "https://app.example.com";

const POLICY: &str = "cors: { allow_origins: ['https://app.example.com', 'https://*.partner.test'], \
                      allow_headers: [authorization, content-type], expose_headers: [x-total], \
                      allow_credentials: true, max_age: 5m }";

fn config(origin: &Origin, further: &str, routes: &str) -> String {
    format!(
        "{further}
listeners: [{{ name: main, address: 127.0.0.1:0, h2c: true }}]
upstreams: {{ u: {{ backends: ['{}'] }} }}
routes:
{routes}",
        origin.address()
    )
}

fn ask(gateway: &Gateway, path: &str, origin: &str, further: &[&str]) -> Response {
    let origin = format!("Origin: {origin}");
    let fields = [&[origin.as_str()], further].concat();
    request(gateway.addr(), "OPTIONS", path, &fields, b"")
}

fn preflight(gateway: &Gateway, path: &str, method: &str, further: &[&str]) -> Response {
    let method = format!("Access-Control-Request-Method: {method}");
    let fields = [&[method.as_str()], further].concat();
    ask(gateway, path, APP, &fields)
}

/// The fields of a response that are the policy's, without their common beginning.
fn told(response: &Response) -> Vec<(String, String)> {
    let all = response.headers.0.iter();
    let own = all.filter_map(|(name, value)| {
        let name = name.to_ascii_lowercase();
        let short = name.strip_prefix("access-control-")?;
        Some((short.to_owned(), value.to_owned()))
    });
    let mut own: Vec<_> = own.collect();
    own.sort();
    own
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = expected.iter();
    owned
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[track_caller]
fn assert_readable(response: &Response) {
    let expected = [
        ("allow-credentials", "true"),
        ("allow-origin", APP),
        ("expose-headers", "x-total"),
    ];
    assert_eq!(told(response), pairs(&expected));
    assert_eq!(response.header("vary"), Some("Origin"));
}

#[test]
fn a_preflight_is_answered_at_the_edge_before_authentication() {
    let origin = Origin::echo();
    let auth = format!("auth: {{ default: main, jwt: {{ name: main, secret: '{SECRET}' }} }}\n");
    let route = format!(
        "  - {{ name: api, match: {{ path: /api, methods: [PUT, GET] }}, {POLICY}, upstream: u }}"
    );
    let gateway = Gateway::start(&config(&origin, &auth, &route));
    let headers = "Access-Control-Request-Headers: authorization,content-type";
    let answer = preflight(&gateway, "/api", "PUT", &[headers]);
    assert_eq!((answer.status, &*answer.body), (204, &b""[..]));
    assert_eq!(answer.header("content-length"), None);
    assert!(answer.header("x-request-id").is_some());
    let expected = [
        ("allow-credentials", "true"),
        ("allow-headers", "authorization, content-type"),
        ("allow-methods", "PUT, GET"),
        ("allow-origin", APP),
        ("max-age", "300"),
    ];
    assert_eq!(told(&answer), pairs(&expected));
    assert_eq!(
        answer.header("vary"),
        Some("Access-Control-Request-Method, Access-Control-Request-Headers, Origin")
    );
    assert_eq!(origin.requests(), 0);
    let line = gateway.wait_access(|line| line["method"] == "OPTIONS");
    assert_eq!(
        (&line["route"], &line["status_code"]),
        (&"api".into(), &204.into())
    );
    // The request itself still has to show who calls.
    let field = format!("Origin: {APP}");
    let refused = request(gateway.addr(), "PUT", "/api", &[&field], b"x");
    refused.assert_refusal(401, "unauthorized");
    assert_readable(&refused);
    let token = Signer::hs256(SECRET).token(serde_json::json!({}));
    let bearer = format!("Authorization: Bearer {token}");
    let answer = request(gateway.addr(), "PUT", "/api", &[&field, &bearer], b"x");
    assert_eq!(answer.status, 200);
    assert_readable(&answer);
}

#[test]
fn a_denied_preflight_says_why_in_the_log() {
    let origin = Origin::echo();
    let route = format!(
        "  - {{ name: api, match: {{ path: /api/* }}, {}, upstream: u }}",
        POLICY.replace(
            "allow_headers",
            "allow_methods: [GET, DELETE], allow_headers"
        )
    );
    let gateway = Gateway::start(&config(&origin, "", &route));
    let method = "Access-Control-Request-Method: GET";
    let header = "Access-Control-Request-Headers: x-evil";
    let public = "Access-Control-Request-Private-Network: true";
    for (path, why, answer) in [
        (
            "/api/a",
            "cors_origin",
            ask(&gateway, "/api/a", "https://evil.test", &[method]),
        ),
        (
            "/api/b",
            "cors_origin",
            ask(&gateway, "/api/b", "null", &[method]),
        ),
        (
            "/api/c",
            "cors_method",
            preflight(&gateway, "/api/c", "PUT", &[]),
        ),
        (
            "/api/d",
            "cors_header",
            preflight(&gateway, "/api/d", "GET", &[header]),
        ),
        (
            "/api/e",
            "cors_private_network",
            preflight(&gateway, "/api/e", "GET", &[public]),
        ),
    ] {
        answer.assert_refusal(403, "cors_denied");
        assert_eq!(answer.json()["error_type"], why);
        assert!(
            told(&answer)
                .iter()
                .all(|(name, _)| name != "allow-methods"),
            "{path}"
        );
        let line = gateway.wait_access(|line| line["path"] == path);
        assert_eq!(
            (&line["error_type"], &line["route"]),
            (&why.into(), &"api".into())
        );
    }
    assert_eq!(origin.requests(), 0);
    let denied = [("reason", "cors_denied")];
    gateway.wait_metric("gateway_http_refusals_total", &denied, 5.0);
    let mut client = gateway.connect();
    let question = "OPTIONS /api/a HTTP/1.1\r\nHost: a\r\nOrigin: https://evil.test\r\n\
                    Access-Control-Request-Method: GET\r\n\r\n";
    assert_eq!(client.exchange(question).status, 403);
    assert_eq!(client.get("/api/a").status, 200, "the connection stays");
}

#[test]
fn a_preflight_goes_to_the_route_of_the_method_that_it_asks_about() {
    let origin = Origin::echo();
    let other = POLICY.replace("app.example.com", "other.example.com");
    let gateway = Gateway::start(&config(
        &origin,
        "",
        &format!(
            "  - {{ name: read, match: {{ path: /a, methods: [GET] }}, {other}, upstream: u }}
  - {{ name: write, match: {{ path: /a, methods: [POST] }}, {POLICY}, upstream: u }}
  - {{ name: own, match: {{ path: /own }}, upstream: u }}
  - {{ name: options, match: {{ path: /options, methods: [OPTIONS] }}, upstream: u }}"
        ),
    ));
    assert_eq!(preflight(&gateway, "/a", "POST", &[]).status, 204);
    preflight(&gateway, "/a", "GET", &[]).assert_refusal(403, "cors_denied");
    request(gateway.addr(), "PUT", "/a", &[], b"").assert_refusal(405, "method_not_allowed");
    preflight(&gateway, "/nowhere", "GET", &[]).assert_refusal(404, "not_found");
    assert_eq!(origin.requests(), 0);
    // What has no policy is left to the backend.
    for path in ["/own", "/options"] {
        let answer = preflight(&gateway, path, "POST", &[]);
        assert_eq!((answer.status, told(&answer)), (200, Vec::new()));
    }
    assert_eq!(origin.requests(), 2);
}

#[test]
fn a_preflight_for_a_method_that_nobody_answers_is_denied_by_a_route_of_the_path() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&config(
        &origin,
        "",
        &format!(
            "  - {{ name: api, match: {{ path: /api, methods: [GET, POST] }}, {POLICY}, upstream: u }}
  - {{ name: read, match: {{ path: /two, methods: [GET] }}, upstream: u }}
  - {{ name: write, match: {{ path: /two, methods: [POST] }}, {POLICY}, upstream: u }}
  - {{ name: plain, match: {{ path: /plain, methods: [GET] }}, upstream: u }}
  - {{ name: both, match: {{ path: /both, methods: [GET, OPTIONS] }}, {POLICY}, upstream: u }}
  - {{ name: own, match: {{ path: /own, methods: [OPTIONS] }}, upstream: u }}
  - {{ name: rest, match: {{ path: /own, methods: [GET] }}, {POLICY}, upstream: u }}"
        ),
    ));
    for (path, route) in [("/api", "api"), ("/two", "write"), ("/both", "both")] {
        let denied = preflight(&gateway, path, "DELETE", &[]);
        denied.assert_refusal(403, "cors_denied");
        assert_eq!(denied.json()["error_type"], "cors_method");
        assert_eq!(denied.header("allow"), None);
        let line = gateway.wait_access(|line| line["path"] == path);
        let logged = (&line["error_type"], &line["route"]);
        assert_eq!(logged, (&"cors_method".into(), &route.into()));
    }
    // The request itself asks for what is not there, as does whoever asks routes without a policy.
    let field = format!("Origin: {APP}");
    let itself = request(gateway.addr(), "DELETE", "/api", &[&field], b"");
    itself.assert_refusal(405, "method_not_allowed");
    for (path, method) in [("/plain", "DELETE"), ("/two", "GET")] {
        preflight(&gateway, path, method, &[]).assert_refusal(405, "method_not_allowed");
    }
    assert_eq!(origin.requests(), 0);
    // Whoever answers OPTIONS without a policy answers preflights.
    assert_eq!(preflight(&gateway, "/own", "DELETE", &[]).status, 200);
    assert_eq!(origin.requests(), 1);
}

#[test]
fn options_that_asks_nothing_goes_on_as_usual() {
    let origin = Origin::echo();
    let route = format!("  - {{ name: api, {POLICY}, upstream: u }}");
    let gateway = Gateway::start(&config(&origin, "", &route));
    let answer = ask(&gateway, "/", APP, &[]);
    assert_eq!(answer.status, 200);
    assert_readable(&answer);
    let plain = request(gateway.addr(), "OPTIONS", "/", &[], b"");
    assert_eq!(plain.status, 200);
    assert_eq!(origin.requests(), 2);
}

#[test]
fn what_the_backend_says_is_replaced_and_never_doubled() {
    let origin = Origin::script(Script::new().read_body().send(
        "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Allow-Origin: null\r\n\
         Access-Control-Allow-Methods: PATCH\r\nVary: Accept-Encoding\r\nContent-Length: 0\r\n\r\n",
    ));
    let rules = "headers: { response: { add: { access-control-allow-origin: 'https://x.test' } } }";
    let route = format!("  - {{ name: api, {POLICY}, {rules}, upstream: u }}");
    let gateway = Gateway::start(&config(&origin, "", &route));
    let from = |origin: &str| {
        let field = format!("Origin: {origin}");
        request(gateway.addr(), "GET", "/", &[&field], b"")
    };
    for origin in [
        APP,
        "https://a.b.partner.test",
        "HTTPS://APP.example.com:443",
    ] {
        let answer = from(origin);
        let fields = told(&answer);
        assert!(fields.contains(&("allow-origin".to_owned(), origin.to_owned())));
        assert_eq!(fields.len(), 3, "{fields:?}");
        assert_eq!(answer.header("vary"), Some("Accept-Encoding, Origin"));
    }
    for origin in [
        "https://evil.test",
        "https://partner.test",
        "null",
        "https://app.example.com:8443",
    ] {
        let answer = from(origin);
        assert_eq!(
            (answer.status, told(&answer)),
            (200, Vec::new()),
            "{origin}"
        );
        assert_eq!(answer.header("vary"), Some("Accept-Encoding, Origin"));
    }
    let without = request(gateway.addr(), "GET", "/", &[], b"");
    assert_eq!(told(&without), Vec::new());
    assert_eq!(without.header("vary"), Some("Accept-Encoding, Origin"));
}

#[test]
fn refusals_can_be_read_by_the_page() {
    let origin = Origin::echo();
    let dead = DeadPort::refusing();
    let gateway = Gateway::start(&config(
        &origin,
        &format!("{POLICY}\n"),
        &format!(
            "  - {{ name: dead, match: {{ path: /dead }}, upstream: 'http://{}' }}
  - {{ name: down, match: {{ path: /down }}, maintenance: true, upstream: u }}
  - {{ name: shut, match: {{ path: /shut }}, ip_access: {{ deny: [127.0.0.1] }}, upstream: u }}
  - {{ name: small, match: {{ path: /small }}, max_body_size: 1, upstream: u }}
  - {{ name: own, match: {{ path: /own }}, cors: none, upstream: u }}
  - {{ name: fixed, match: {{ path: /fixed }}, respond: {{ body: fixed }} }}
  - {{ name: moved, match: {{ path: /moved }}, redirect: {{ path: /fixed }} }}",
            dead.address()
        ),
    ));
    let field = format!("Origin: {APP}");
    for (path, status) in [
        ("/dead", 502),
        ("/down", 503),
        ("/shut", 403),
        ("/small", 413),
        ("/nowhere", 404),
        ("/fixed", 200),
        ("/moved", 302),
    ] {
        let answer = request(gateway.addr(), "POST", path, &[&field], b"xx");
        assert_eq!(answer.status, status, "{path}");
        assert_readable(&answer);
    }
    let own = request(gateway.addr(), "POST", "/own", &[&field], b"xx");
    assert_eq!((own.status, told(&own)), (200, Vec::new()));
    // The page is to read that of the request, which is not sent unless the browser's question is
    // answered.
    assert_eq!(preflight(&gateway, "/down", "POST", &[]).status, 204);
    assert_eq!(preflight(&gateway, "/shut", "POST", &[]).status, 403);
}

#[test]
fn everybody_may_call_what_is_public() {
    let origin = Origin::echo();
    let policy =
        "cors: { allow_origins: ['*'], allow_headers: ['*'], allow_private_network: true }";
    let route = format!("  - {{ name: api, {policy}, upstream: u }}");
    let gateway = Gateway::start(&config(&origin, "", &route));
    let answer = request(gateway.addr(), "GET", "/", &[], b"");
    assert_eq!(told(&answer), pairs(&[("allow-origin", "*")]));
    assert_eq!(answer.header("vary"), None);
    let further = [
        "Access-Control-Request-Headers: authorization,x-any",
        "Access-Control-Request-Private-Network: true",
    ];
    let answer = preflight(&gateway, "/", "PATCH", &further);
    assert_eq!(answer.status, 204);
    let expected = [
        ("allow-headers", "authorization,x-any"),
        ("allow-methods", "PATCH"),
        ("allow-origin", "*"),
        ("allow-private-network", "true"),
        ("max-age", "600"),
    ];
    assert_eq!(told(&answer), pairs(&expected));
}

#[test]
fn http2_clients_and_the_endpoint_for_tokens_are_answered_too() {
    let origin = Origin::echo();
    let auth = format!("auth: {{ jwt: {{ name: main, secret: '{SECRET}' }} }}\n{POLICY}\n");
    let gateway = Gateway::start(&config(&origin, &auth, "  - { name: all, upstream: u }"));
    let mut client = H2::connect(gateway.addr());
    for path in ["/", "/api/validate"] {
        let question = h2::request("OPTIONS", path).header("origin", APP);
        let question = question.header("access-control-request-method", "GET");
        let question = question.header("access-control-request-headers", "authorization");
        let answer = client.exchange(question);
        assert_eq!(answer.status, 204, "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), APP);
    }
    assert_eq!(origin.requests(), 0);
    let answer = client.exchange(h2::get("/api/validate").header("origin", APP));
    assert_eq!(answer.status, 401);
    assert_eq!(answer.header("access-control-allow-origin"), APP);
}

#[test]
fn what_would_be_unsafe_or_means_nothing_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    let text = "cors: { allow_origins: ['*'], allow_credentials: true }
routes:
  - { name: a, match: { path: /a }, respond: {}, cors: { allow_origins: [] } }
  - { name: b, match: { path: /b }, respond: {}, cors: off }
  - { name: c, match: { path: /c }, respond: {}, cors: { allow_origins: [example.com] } }
  - { name: d, match: { path: /d }, respond: {}, cors: { allow_origins: [{ regex: '.*' }], allow_credentials: true } }
  - { name: e, match: { path: /e }, respond: {}, cors: { allow_origins: [null], expose_headers: ['*'], allow_credentials: true } }
  - { name: f, match: { path: /f }, respond: {}, cors: { allow_origins: ['*'], allow_methods: [get], allow_headers: ['a b'], max_age: 2d } }
  - { name: g, match: { path: /g, methods: [GET] }, respond: {}, cors: { allow_origins: ['*'], allow_methods: [PUT, POST] } }
  - { name: h, match: { path: /h, methods: [GET] }, respond: {}, cors: { allow_origins: ['*'], allow_methods: [PUT, HEAD] } }
  - { name: i, match: { path: /i }, respond: {}, cors: { allow_origins: [{ regex: 'chrome-extension://.*' }], allow_credentials: true } }
  - { name: j, match: { path: /j }, respond: {}, cors: { allow_origins: [{ regex: 'chrome-extension://.*' }] } }";
    fs::write(&file, text).unwrap();
    let run = finish(binary().arg("-t").arg("-c").arg(&file));
    assert_eq!(run.code, Some(1));
    for expected in [
        ":1: cors.allow_origins[0]: lets every page call with the credentials",
        ":3: routes[0].cors.allow_origins: has no origin",
        ":4: routes[1].cors: `off` is no policy, expected `none`",
        ":5: routes[2].cors.allow_origins[0]: `example.com` has no scheme",
        ":6: routes[3].cors.allow_origins[0].regex: lets every page call",
        ":7: routes[4].cors.allow_origins[0]: has no value",
        ":7: routes[4].cors.expose_headers: has `*`",
        ":8: routes[5].cors.allow_methods[0]: `get` is not a method",
        ":8: routes[5].cors.allow_headers[0]: `a b` is not a header name",
        ":8: routes[5].cors.max_age: ",
        ":9: routes[6].cors.allow_methods: allows `PUT`, `POST` alone and `match` has `GET` alone",
        ":11: routes[8].cors.allow_origins[0].regex: lets every page call",
    ] {
        assert!(run.stderr.contains(expected), "{expected}\n{}", run.stderr);
    }
    for sound in ["routes[7]", "routes[9]"] {
        assert!(!run.stderr.contains(sound), "{}", run.stderr);
    }
}
