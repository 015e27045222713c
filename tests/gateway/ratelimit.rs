//! Limits on the rate of requests, counted by one gateway.
//!
//! Limits are by the hour where a test counts requests, so that nothing comes back while it runs.

use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::client::{Response, get, request};
use crate::support::h2::{H2, request as h2_request};
use crate::support::tokens::{SECRET, Signer};
use crate::support::{Client, Gateway, Origin, Script, eventually};

/// These policies, and one route, `all`, that has these of them.
fn config(policies: &str, limits: &str) -> String {
    format!(
        "ratelimit:\n  headers: {{ ratelimit: always }}\n  policies:\n    {policies}\nroutes:\n  - name: all\n    respond: {{ body: ok }}\n    ratelimit: {limits}\n"
    )
}

fn with(gateway: &Gateway, field: &str) -> Response {
    request(gateway.addr(), "GET", "/", &[field], b"")
}

fn from(gateway: &Gateway, last: u8) -> Response {
    let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
    Client::connect_from(source, gateway.addr()).get("/")
}

#[test]
fn a_client_has_its_number_and_is_told_so() {
    let policy = "per-client: { limit: 3/h }";
    let gateway = Gateway::start(&config(policy, "per-client"));
    for left in [2, 1, 0] {
        let answer = get(gateway.addr(), "/");
        assert_eq!(answer.status, 200);
        let rate = answer.header("ratelimit").unwrap();
        assert!(
            rate.starts_with(&format!("\"per-client\";r={left};t=")),
            "{rate}"
        );
        let policy = answer.header("ratelimit-policy");
        assert_eq!(policy, Some("\"per-client\";q=3;w=3600"));
        assert_eq!(answer.header("x-ratelimit-limit"), None);
    }
    let refused = get(gateway.addr(), "/");
    let id = refused.assert_refusal(429, "rate_limited");
    assert_eq!(refused.json()["policy"], "per-client");
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1150..=1200).contains(&after), "{after}");
    let rate = refused.header("ratelimit").unwrap();
    assert_eq!(rate, format!("\"per-client\";r=0;t={after}"));
    // Another client has its own.
    assert_eq!(from(&gateway, 2).status, 200);
    let line = gateway.wait_access(|line| line["request_id"] == id);
    assert_eq!(line["error_type"], "rate_limited");
    assert!(line["rate_limit_duration_ms"].is_number(), "{line}");
    let decisions = |result| {
        let labels = [
            ("policy", "per-client"),
            ("result", result),
            ("source", "local"),
        ];
        gateway.metric("gateway_ratelimit_decisions_total", &labels)
    };
    assert_eq!((decisions("allowed"), decisions("limited")), (4.0, 1.0));
    let refusals = [("reason", "rate_limited")];
    assert_eq!(
        gateway.metric("gateway_http_refusals_total", &refusals),
        1.0
    );
}

#[test]
fn only_refusals_tell_of_limits_unless_more_is_asked_for() {
    let yaml = config("p: { limit: 1/h }", "p").replace("  headers: { ratelimit: always }\n", "");
    let gateway = Gateway::start(&yaml);
    let first = get(gateway.addr(), "/");
    assert_eq!((first.status, first.header("ratelimit")), (200, None));
    let refused = get(gateway.addr(), "/");
    assert!(refused.header("ratelimit").is_some() && refused.header("retry-after").is_some());
    assert_eq!(refused.header("ratelimit-policy"), Some("\"p\";q=1;w=3600"));
    assert_eq!(refused.header("x-ratelimit-limit"), None);
}

#[test]
fn what_was_used_comes_back() {
    let gateway = Gateway::start(&config("p: { limit: 2/s, burst: 1 }", "p"));
    let mut client = gateway.connect();
    for status in [200, 429, 200, 429] {
        eventually("the next one is another", || {
            client.get("/").status == status
        });
    }
}

#[test]
fn several_windows_hold_together_and_the_older_fields_tell_of_the_tightest() {
    let yaml = config("p: { limit: [5/h, { limit: 100/day, burst: 2 }] }", "p").replace(
        "headers: { ratelimit: always }",
        "headers: { ratelimit: always, x_ratelimit: always }",
    );
    let gateway = Gateway::start(&yaml);
    let first = get(gateway.addr(), "/");
    let policy = first.header("ratelimit-policy");
    assert_eq!(
        policy,
        Some("\"p:3600\";q=5;w=3600, \"p:86400\";q=100;w=86400")
    );
    assert_eq!(first.header("x-ratelimit-limit"), Some("100"));
    assert_eq!(first.header("x-ratelimit-remaining"), Some("1"));
    assert!(first.header("x-ratelimit-reset").is_some());
    assert_eq!(get(gateway.addr(), "/").status, 200);
    // Two at once say the day's, and the hour's is not touched by what it refuses.
    for _ in 0..3 {
        let refused = get(gateway.addr(), "/");
        assert_eq!(refused.status, 429);
        let rate = refused.header("ratelimit").unwrap();
        assert!(rate.starts_with("\"p:86400\";r=0;t="), "{rate}");
    }
}

#[test]
fn requests_are_counted_by_what_the_key_says() {
    let policies = "tenant: { key: 'header:x-tenant', limit: 1/h }\n    \
                    both: { key: ['cookie:sid', 'path:id'], limit: 1/h }";
    let yaml = config(policies, "tenant")
        + "  - { name: of, match: { path: '/of/:id' }, respond: { body: ok }, ratelimit: [both] }\n";
    let gateway = Gateway::start(&yaml);
    let of = |path: &str, cookie: &str| {
        let field = format!("Cookie: a=b; sid={cookie}");
        request(gateway.addr(), "GET", path, &[&field], b"").status
    };
    assert_eq!(with(&gateway, "X-Tenant: blue").status, 200);
    assert_eq!(with(&gateway, "X-Tenant: blue").status, 429);
    assert_eq!(with(&gateway, "X-Tenant: red").status, 200);
    // Without the header it is the client that is counted, and nobody escapes by leaving it out.
    assert_eq!(get(gateway.addr(), "/").status, 200);
    assert_eq!(get(gateway.addr(), "/").status, 429);
    assert_eq!(from(&gateway, 2).status, 200);
    assert_eq!((of("/of/1", "x"), of("/of/1", "x")), (200, 429));
    assert_eq!((of("/of/2", "x"), of("/of/1", "y")), (200, 200));
}

#[test]
fn who_calls_is_counted_behind_authentication_and_clients_before_it() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "auth: {{ default: main, jwt: {{ name: main, secret: '{SECRET}' }} }}
ratelimit:
  default: [clients, users]
  policies:
    clients: {{ limit: 8/h }}
    users: {{ key: subject, limit: 2/h, tiers: {{ claim: plan, limits: {{ gold: 3/h }} }} }}
routes: [{{ name: all, upstream: 'http://{}' }}]",
        origin.address()
    ));
    let call = |subject: &str, plan: &str, last: u8| {
        let token = Signer::hs256(SECRET).token(json!({ "sub": subject, "plan": plan }));
        let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
        let mut client = Client::connect_from(source, gateway.addr());
        client.exchange(format!(
            "GET / HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {token}\r\n\r\n"
        ))
    };
    let statuses = |subject, plan, last| [(); 4].map(|()| call(subject, plan, last).status);
    assert_eq!(statuses("alice", "free", 1), [200, 200, 429, 429]);
    assert_eq!(statuses("bob", "gold", 2), [200, 200, 200, 429]);
    // What stood before authentication stays taken, whoever refuses behind it.
    assert_eq!(statuses("carol", "gold", 1), [200, 200, 200, 429]);
    // Bad credentials do: nobody has them checked without end.
    let bad = |last| {
        let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
        let mut client = Client::connect_from(source, gateway.addr());
        client.exchange("GET / HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer x\r\n\r\n")
    };
    let refused: Vec<u16> = (0..10).map(|_| bad(3).status).collect();
    assert_eq!(refused, [401, 401, 401, 401, 401, 401, 401, 401, 429, 429]);
    // What is owed in one tier is not owed in another.
    assert_eq!(statuses("alice", "gold", 4), [200, 200, 200, 429]);
    assert_eq!(origin.requests(), 11);
}

#[test]
fn routes_and_responses_say_what_a_request_costs() {
    let origin = Origin::answering(|request| {
        let cost = request.header("x-want").unwrap_or("0").to_owned();
        Script::new().read_body().send(format!(
            "HTTP/1.1 200 OK\r\nX-Cost: {cost}\r\nContent-Length: 0\r\n\r\n"
        ))
    });
    let backend = origin.address();
    let gateway = Gateway::start(&format!(
        "ratelimit:
  headers: {{ ratelimit: always }}
  policies:
    p: {{ limit: 10/h }}
    q: {{ key: 'header:x-who', limit: 10/h, cost_header: x-cost }}
routes:
  - {{ name: dear, match: {{ path: /dear }}, respond: {{ body: ok }}, ratelimit: [{{ policy: p, cost: 7 }}] }}
  - {{ name: cheap, match: {{ path: /cheap }}, respond: {{ body: ok }}, ratelimit: p }}
  - {{ name: all, upstream: 'http://{backend}', ratelimit: q }}"
    ));
    let status = |path: &str| get(gateway.addr(), path).status;
    assert_eq!((status("/dear"), status("/dear")), (200, 429));
    assert_eq!([(); 4].map(|()| status("/cheap")), [200, 200, 200, 429]);
    let costs = |cost: &str| {
        let fields = ["X-Who: a", &format!("X-Want: {cost}")];
        request(gateway.addr(), "GET", "/", &fields, b"")
    };
    let first = costs("4");
    assert_eq!((first.status, first.header("x-cost")), (200, None));
    let left = |answer: &Response| answer.header("ratelimit").unwrap().to_owned();
    assert_eq!(left(&first), "\"q\";r=6;t=2160");
    let second = costs("0");
    assert_eq!(
        left(&second),
        "\"q\";r=6;t=2160",
        "it cost nothing after all"
    );
    // More than there is becomes a debt.
    let dear = left(&costs("10"));
    let until: u64 = dear["\"q\";r=0;t=".len()..].parse().unwrap();
    assert!((1750..=1800).contains(&until), "5 to come back: {dear}");
    let refused = costs("0");
    assert_eq!(
        (refused.status, refused.json()["policy"].as_str()),
        (429, Some("q"))
    );
}

#[test]
fn some_are_exempt_and_some_policies_only_count() {
    let policies = "p: { limit: 1/h, exempt: { networks: ['::ffff:127.0.0.2'], keys: [127.0.0.3] } }\n    \
                    dry: { limit: 1/h, dry_run: true }";
    let gateway = Gateway::start(&config(policies, "[p, dry]"));
    for last in [2, 3] {
        for _ in 0..3 {
            assert_eq!(from(&gateway, last).status, 200);
        }
    }
    let first = from(&gateway, 4);
    let policies = first.headers.all("ratelimit-policy");
    assert_eq!(policies, ["\"p\";q=1;w=3600"], "a dry run tells nobody");
    assert_eq!(from(&gateway, 4).status, 429);
    let count = |policy, result| {
        let labels = [("policy", policy), ("result", result), ("source", "local")];
        gateway.metric("gateway_ratelimit_decisions_total", &labels)
    };
    assert_eq!(
        (count("p", "exempt"), count("dry", "would_limit")),
        (6.0, 4.0)
    );
}

#[test]
fn exempt_keys_are_written_as_requests_have_them() {
    let policies = "header: { key: 'header:x-client', limit: 1/h, exempt: { keys: [monitoring] } }
    cookie: { key: ['cookie:sid', client_ip], limit: 1/h, exempt: { keys: ['a%b|::ffff:127.0.0.1'] } }
    subject: { key: subject, limit: 1/h, exempt: { keys: ['main:ab c|d'] } }";
    let auth = format!("auth: {{ jwt: {{ name: main, secret: '{SECRET}' }} }}\n");
    let routes = "routes:
  - { name: header, match: { path: /header }, respond: {}, ratelimit: header }
  - { name: cookie, match: { path: /cookie }, respond: {}, ratelimit: cookie }
  - { name: subject, match: { path: /subject }, respond: {}, auth: main, ratelimit: subject }";
    let gateway = Gateway::start(&format!(
        "{auth}ratelimit:\n  policies:\n    {policies}\n{routes}"
    ));
    let bearer = |subject: &str| {
        let token = Signer::hs256(SECRET).token(serde_json::json!({ "sub": subject }));
        format!("Authorization: Bearer {token}")
    };
    for (path, exempt, other) in [
        (
            "/header",
            "X-Client: monitoring".to_owned(),
            "X-Client: else".to_owned(),
        ),
        (
            "/cookie",
            "Cookie: sid=a%b".to_owned(),
            "Cookie: sid=a".to_owned(),
        ),
        ("/subject", bearer("ab c|d"), bearer("ab c")),
    ] {
        let statuses = |field: &str| {
            let get = || request(gateway.addr(), "GET", path, &[field], b"").status;
            [get(), get()]
        };
        assert_eq!(statuses(&exempt), [200, 200], "{path}");
        assert_eq!(statuses(&other), [200, 429], "{path}");
    }
}

#[test]
fn calls_are_told_that_resources_are_exhausted() {
    let yaml = config("p: { limit: 1/h }", "p");
    let listener = "listeners: [{ name: main, address: 127.0.0.1:0, h2c: true }]\n";
    let gateway = Gateway::start(&format!("{listener}{yaml}"));
    let mut client = H2::connect(gateway.addr());
    let call = || h2_request("POST", "/a.B/C").header("content-type", "application/grpc");
    client.send(call(), "");
    let answer = client.send(call(), "");
    assert_eq!(
        (answer.status.as_u16(), answer.header("grpc-status")),
        (200, "8")
    );
    assert_ne!(answer.header("ratelimit"), "");
    let after: u64 = answer.header("retry-after").parse().unwrap();
    assert!((3500..=3600).contains(&after), "{after}");
    assert!(answer.body.is_empty());
}

#[test]
fn a_reload_keeps_what_was_counted() {
    let yaml = |limit: &str, burst: u64| {
        config(&format!("p: {{ limit: {limit}, burst: {burst} }}"), "p")
            + "admin: { address: 127.0.0.1:0, token: t0ken }\n"
    };
    let gateway = Gateway::start(&yaml("10/h", 2));
    let statuses = || [(); 2].map(|()| get(gateway.addr(), "/").status);
    assert_eq!(statuses(), [200, 200]);
    gateway.rewrite(&yaml("10/h", 3));
    assert_eq!(gateway.call("/reload", "t0ken", "").status, 200);
    assert_eq!(statuses(), [200, 429], "one more than before, not three");
    gateway.rewrite(&(yaml("10/h", 3).replace("  policies", "  enabled: false\n  policies")));
    assert_eq!(gateway.call("/reload", "t0ken", "").status, 200);
    assert_eq!(statuses(), [200, 200]);
    assert_eq!(get(gateway.addr(), "/").header("ratelimit"), None);
}

#[test]
fn fields_of_a_backends_own_are_replaced() {
    let origin = Origin::script(Script::new().read_body().send(
        "HTTP/1.1 200 OK\r\nRateLimit: \"x\";r=9\r\nRateLimit-Policy: \"x\";q=9\r\nContent-Length: 0\r\n\r\n",
    ));
    let gateway = Gateway::start(&format!(
        "ratelimit: {{ headers: {{ ratelimit: always }}, policies: {{ p: {{ limit: 5/h }} }} }}
routes: [{{ name: all, upstream: 'http://{}', ratelimit: p }}]",
        origin.address()
    ));
    let answer = get(gateway.addr(), "/");
    assert_eq!(answer.headers.all("ratelimit-policy"), ["\"p\";q=5;w=3600"]);
    assert_eq!(answer.headers.all("ratelimit").len(), 1);
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (yaml, expected) in [
        (
            config("p: { limit: 100 }", "p"),
            "`100` is no rate, expected a rate such as",
        ),
        (config("p: { limit: 0/s }", "p"), "is less than one"),
        (
            config("p: { key: ip, limit: 1/s }", "p"),
            "is nothing that requests are counted by",
        ),
        (
            config("p: { key: [route, route], limit: 1/s }", "p"),
            "has a part twice",
        ),
        (
            config("p: { key: 'path:id', limit: 1/s }", "p"),
            "not in every path of the route",
        ),
        (
            config("p: { limit: [1/s, 2/h], burst: 3 }", "p"),
            "stands beside several limits",
        ),
        (
            config("p: { limit: 1/s, mode: fast }", "p"),
            "no effect without `scope: shared`",
        ),
        (
            config("p: { limit: 1/s, scope: shared }", "p"),
            "needs the key `redis`",
        ),
        (
            config("per-user: { limit: 1/s }", "per-usr"),
            "did you mean `per-user`?",
        ),
        (config("p: { limit: 1/s }", "[p, p]"), "is there twice"),
        (
            config("p: { limit: 1/s, cost: 0, cost_header: x-c }", "p"),
            "would refuse nothing",
        ),
        (
            config("p: { limit: 5/s, cost: 6 }", "p"),
            "expected at most the burst, 5",
        ),
        (
            config("p: { limit: 5/s, burst: 2 }", "[{ policy: p, cost: 3 }]"),
            "at most the burst, 2",
        ),
        (
            config("a b: { limit: 1/s }", "none"),
            "is no name for a policy",
        ),
        (
            config(
                "p: { limit: [1/s, 2/h], tiers: { claim: plan, limits: { x: 1/s } } }",
                "p",
            ),
            "has 1 limits, expected 2 as the policy has",
        ),
    ] {
        let folder = crate::support::gateway::config_directory(&yaml);
        let file = folder.path().join("gateway.yaml");
        let run = Gateway::command(&["-t", "-c", file.to_str().unwrap()]);
        assert_eq!(run.code, Some(1), "{yaml}");
        assert!(
            run.output().contains(expected),
            "{}\nfor {expected}",
            run.output()
        );
    }
}

#[test]
fn requests_that_were_begun_slowly_do_not_pass_together() {
    let gateway = Gateway::start(&config("p: { limit: 2/s, burst: 1 }", "p"));
    let mut clients: Vec<Client> = (0..4)
        .map(|_| {
            let mut client = gateway.connect();
            client.send("GET / HTTP/1.1\r\n");
            // One more unit comes back.
            thread::sleep(Duration::from_millis(550));
            client
        })
        .collect();
    for client in &mut clients {
        client.send("Host: a\r\n\r\n");
    }
    let statuses = clients
        .iter_mut()
        .map(|client| client.read_response().status);
    // One, or two if that took half a second.
    let admitted = statuses.filter(|status| *status == 200).count();
    assert!((1..=2).contains(&admitted), "{admitted}");
}
