//! What sound files mean.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::super::model::{Action, LogFormat, LogOutput, Protocol, Rewrite, ValueMatch};
use super::super::pattern::{PathPattern, Tail};
use super::*;

const SHORTEST: &str = "routes: [{ upstream: 'http://127.0.0.1:3000' }]\n";

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What is odd about a sound text.
fn warnings(text: &str, base: &std::path::Path) -> Vec<String> {
    let env = FixedEnv::default();
    let loaded = parse(text, "test", base, &env);
    loaded.unwrap_or_else(|e| panic!("{e}")).warnings
}

#[test]
fn a_limit_that_another_keeps_from_taking_effect_is_a_warning() {
    let of = |limits: &str| {
        let text = format!("limits: {{ {limits} }}\n{SHORTEST}");
        warnings(&text, std::path::Path::new("."))
    };
    let warning = "limits.max_connections_per_client: is above `max_connections` and has no effect";
    let above = of("max_connections: 10, max_connections_per_client: 11");
    assert_eq!(above, [warning]);
    assert!(of("max_connections: 10, max_connections_per_client: 10").is_empty());
    assert!(of("max_connections: 10").is_empty());
}

#[test]
fn what_is_odd_about_the_certificates_of_an_upstream_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let issue = |name: &str, end: i32| {
        let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.not_after = rcgen::date_time_ymd(end, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        write(&format!("{name}.crt"), &certificate);
        write(&format!("{name}.key"), &key.serialize_pem());
        certificate
    };
    let (old, new) = (issue("old", 2021), issue("new", 4000));
    write("both.crt", &(old + &new));
    let of = |tls: &str| {
        let text = format!(
            "upstreams: {{ u: {{ backends: ['127.0.0.1:1'], tls: {{ {tls} }} }} }}\n\
             routes: [{{ upstream: u }}]\n"
        );
        warnings(&text, folder.path())
    };
    assert!(of("ca: new.crt, client_cert: new.crt, client_key: new.key").is_empty());
    assert_eq!(
        of("ca: old.crt, client_cert: old.crt, client_key: old.key"),
        [
            "upstreams.u.tls.ca: the certificate has expired",
            "upstreams.u.tls.client_cert: the certificate has expired",
        ]
    );
    let both = "upstreams.u.tls.ca: 1 of 2 certificates in it have expired";
    assert_eq!(of("ca: both.crt"), [both]);
    let unverified = of("ca: new.crt, verify: false");
    let useless = "upstreams.u.tls.ca: has no effect with `verify: false`";
    assert_eq!(unverified.last().unwrap(), useless);
}

#[test]
fn the_shortest_file_has_the_safe_defaults() {
    let config = config(SHORTEST);
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(
        config.listeners[0].address,
        "0.0.0.0:8080".parse::<SocketAddr>().unwrap()
    );
    assert_eq!(&*config.listeners[0].name, "0.0.0.0:8080");
    assert!(config.listeners[0].health && config.listeners[0].metrics_allow.is_empty());
    assert_eq!(
        config.admin.unwrap().address,
        "127.0.0.1:9090".parse::<SocketAddr>().unwrap()
    );
    assert_eq!(config.limits.request_header_timeout, secs(10));
    assert_eq!(config.limits.request_header_bytes, 32 << 10);
    assert_eq!(config.limits.request_header_fields, 100);
    assert_eq!(config.limits.uri_bytes, 8 << 10);
    assert_eq!(config.limits.keepalive_timeout, secs(75));
    assert_eq!(config.limits.max_connections, 50_000);
    assert_eq!(config.shutdown.delay, Duration::ZERO);
    assert_eq!(config.shutdown.drain_timeout, secs(30));
    let access_log = config.access_log.unwrap();
    assert_eq!(access_log.output, LogOutput::Stdout);
    assert_eq!(access_log.format, LogFormat::Json);
    assert_eq!(config.log.level, log::LevelFilter::Info);
    assert_eq!(config.metrics.namespace, "gateway");
    let upstream = &config.upstreams[0];
    assert_eq!(&*upstream.name, "127.0.0.1:3000");
    assert_eq!(upstream.timeouts.connect, secs(1));
    assert_eq!(upstream.timeouts.first_byte, secs(15));
    assert_eq!(
        (upstream.retries.attempts, upstream.retries.budget),
        (1, 0.2)
    );
    let on = upstream.retries.on;
    assert!(on.connect_failure && on.refused_stream && on.reset && !on.timeout);
    assert!(!(400..600).any(|status| on.has_status(status)));
    assert_eq!(upstream.outlier.consecutive_failures, 5);
    assert!(upstream.health_check.is_none());
    let route = &config.routes[0];
    assert_eq!(&*route.name, "127.0.0.1:3000");
    assert_eq!(route.max_body_bytes, Some(10 << 20));
    let [
        PathPattern::Segments {
            segments,
            tail: Tail::Prefix,
        },
    ] = route.matcher.paths.as_slice()
    else {
        panic!("{:?}", route.matcher.paths);
    };
    assert!(segments.is_empty() && route.matcher.hosts.is_empty());
}

#[test]
fn routes_refer_to_upstreams_by_name_or_url() {
    let config = config(
        "upstreams:\n  b: { backends: [127.0.0.1:2] }\n  a: { backends: [127.0.0.1:1] }\n\
         routes:\n\
         - { match: { path: /b }, upstream: b }\n\
         - { match: { path: /x }, upstream: 'http://127.0.0.1:9/' }\n\
         - { match: { path: /y }, upstream: [{ upstream: 'http://127.0.0.1:9', weight: 3 }, { upstream: a }] }\n",
    );
    let names: Vec<_> = config
        .upstreams
        .iter()
        .map(|upstream| &*upstream.name)
        .collect();
    assert_eq!(names, ["127.0.0.1:9", "a", "b"]);
    let split = |index: usize| match &config.routes[index].action {
        Action::Proxy(split) => split
            .iter()
            .map(|b| (b.upstream, b.weight))
            .collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(split(0), [(2, 1)]);
    assert_eq!(split(1), [(0, 1)]);
    assert_eq!(split(2), [(0, 3), (1, 1)]);
}

#[test]
fn a_url_says_what_is_spoken_with_the_backend() {
    let authority = include_bytes!("../../tls/nobody.der").to_vec();
    let env = env()
        .with_authority(authority.clone())
        .with_host("a.test", &["10.0.0.7".parse().unwrap()]);
    let text = "routes:\n\
         - { match: { path: /p }, upstream: 'http://a.test' }\n\
         - { match: { path: /h }, upstream: 'h2c://a.test' }\n\
         - { match: { path: /s }, upstream: 'https://A.test/' }\n\
         - { match: { path: /t }, upstream: 'https://a.test:443' }\n";
    let config = parsed(text, &env).unwrap().config;
    let upstreams: Vec<_> = config
        .upstreams
        .iter()
        .map(|u| (&*u.name, u.protocol, &*u.backends[0].name, u.tls.is_some()))
        .collect();
    assert_eq!(
        upstreams,
        [
            ("a.test:80", Protocol::Http1, "a.test:80", false),
            ("h2c://a.test:80", Protocol::Http2, "a.test:80", false),
            ("https://a.test:443", Protocol::Http1, "a.test:443", true),
        ]
    );
    let tls = config.upstreams[2].tls.as_ref().unwrap();
    assert!(tls.verify && tls.authorities.iter().eq([&authority]));
    assert_eq!(&*config.upstreams[2].backends[0].server_name, "a.test");
}

#[test]
fn host_names_are_resolved_and_ipv4_is_preferred() {
    let addresses: [IpAddr; 2] = ["::1".parse().unwrap(), "10.0.0.7".parse().unwrap()];
    let env = env()
        .with_host("db", &addresses)
        .with_host("v6", &addresses[..1]);
    let text = "routes: [{ upstream: a }]\nupstreams: { a: { backends: [db:5, { address: v6:6, weight: 0 }] } }\n";
    let backends = parsed(text, &env).unwrap().config.upstreams[0]
        .backends
        .clone();
    assert_eq!(&*backends[0].name, "db:5");
    assert_eq!(
        backends[0].address,
        "10.0.0.7:5".parse::<SocketAddr>().unwrap()
    );
    assert_eq!(
        backends[1].address,
        "[::1]:6".parse::<SocketAddr>().unwrap()
    );
    assert_eq!(backends[1].weight, 0);
}

#[test]
fn names_of_routes_are_made_of_what_they_match() {
    let config = config(
        "routes:\n\
         - { match: { host: a.com, path: /x }, respond: {} }\n\
         - { match: { host: a.com, path: /x, method: GET }, respond: {} }\n\
         - { match: { method: PUT }, redirect: { scheme: https } }\n\
         - { match: { hosts: [b.com] }, respond: {} }\n\
         - { name: \"b.com/*#2\", match: { hosts: [b.com], method: GET }, respond: {} }\n\
         - { match: { hosts: [b.com], method: PUT }, respond: {} }\n",
    );
    let names: Vec<_> = config.routes.iter().map(|route| &*route.name).collect();
    assert_eq!(
        names,
        [
            "a.com/x",
            "a.com/x#2",
            "redirect",
            "b.com/*",
            "b.com/*#2",
            "b.com/*#3"
        ]
    );
}

#[test]
fn a_route_can_say_everything() {
    let config = config(
        r#"
upstreams: { a: { backends: [127.0.0.1:1] } }
routes:
  - name: all
    match:
      hosts: [A.example.com, "*.example.org"]
      paths: ["/u/:id", /v/*]
      methods: [GET, PUT, GET]
      headers: { X-A: "1", x-b: { present: false }, x-c: { regex: ^a } }
      query: { v: 2, w: { present: true } }
    upstream: a
    rewrite: { strip_prefix: /u/ }
    headers:
      request: { set: { Host: internal }, add: { x-id: "{path.id}" }, remove: [cookie] }
      response: { remove: [server] }
    max_body_size: unlimited
    timeouts: { first_byte: 1m }
    retries: { on: [502-504, 429], non_idempotent: true }
"#,
    );
    let route = &config.routes[0];
    let matcher = &route.matcher;
    assert_eq!(
        (
            matcher.hosts.len(),
            matcher.paths.len(),
            matcher.methods.len()
        ),
        (2, 2, 2)
    );
    assert!(matches!(&matcher.headers[0].value, ValueMatch::Exact(value) if value == "1"));
    assert!(matches!(matcher.headers[1].value, ValueMatch::Absent));
    assert!(matches!(matcher.headers[2].value, ValueMatch::Regex(_)));
    assert!(matches!(&matcher.query[0].value, ValueMatch::Exact(value) if value == "2"));
    assert!(matches!(matcher.query[1].value, ValueMatch::Present));
    assert!(matches!(&route.rewrite, Some(Rewrite::StripPrefix(prefix)) if prefix == "/u"));
    assert_eq!(route.request_headers.set.len(), 1);
    assert_eq!(route.max_body_bytes, None);
    assert_eq!(route.timeouts.first_byte, Some(secs(60)));
    assert_eq!(route.retries.non_idempotent, Some(true));
    let on = route.retries.on.unwrap_or_default();
    assert!(on.has_status(429) && on.has_status(502) && !on.has_status(500) && !on.reset);
}

#[test]
fn what_is_switched_off_is_not_there() {
    let config = config(&format!(
        "admin: {{ enabled: false }}\naccess_log: {{ enabled: false }}\n{SHORTEST}"
    ));
    assert!(config.admin.is_none() && config.access_log.is_none());
}

#[test]
fn a_probe_never_takes_longer_than_its_interval() {
    let text = "upstreams: { a: { backends: [127.0.0.1:1], health_check: { interval: 1s } } }\n";
    let config = config(&format!("{text}{SHORTEST}"));
    let upstream = config
        .upstreams
        .iter()
        .find(|upstream| &*upstream.name == "a")
        .unwrap();
    assert_eq!(
        upstream.health_check.as_ref().unwrap().pace.timeout,
        secs(1)
    );
}

#[test]
fn references_and_overrides_decide_values() {
    let env = env()
        .with_var("PORT", "3000")
        .with_var("GATEWAY_LOG_LEVEL", "debug")
        .with_var("GATEWAY_SERVER_THREADS", "3")
        .with_var("GATEWAY_PORT_80_TCP", "x");
    let text = "log: { level: nonsense }\nroutes: [{ upstream: 'http://127.0.0.1:${PORT}' }]\n";
    let loaded = parsed(text, &env).unwrap();
    assert_eq!(&*loaded.config.upstreams[0].name, "127.0.0.1:3000");
    assert_eq!(loaded.config.log.level, log::LevelFilter::Debug);
    assert_eq!(loaded.config.server.threads.get(), 3);
    assert_eq!(loaded.warnings.len(), 1);
}

#[test]
fn relative_paths_begin_at_the_folder_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g.yaml");
    std::fs::write(folder.path().join("page"), "hello\n").unwrap();
    let text = "access_log: { output: a.log }\nroutes: [{ respond: { body: 'file:page' } }]\n";
    std::fs::write(&path, text).unwrap();
    let config = load(&path, &env()).unwrap().config;
    assert_eq!(
        config.access_log.unwrap().output,
        LogOutput::File(folder.path().join("a.log"))
    );
    let Action::Respond(respond) = &config.routes[0].action else {
        panic!()
    };
    assert_eq!(&respond.body[..], b"hello");
}

#[test]
fn the_hash_is_that_of_the_text() {
    let other = format!("{SHORTEST}# a comment\n");
    assert_eq!(config(SHORTEST).source_hash, config(SHORTEST).source_hash);
    assert_ne!(config(SHORTEST).source_hash, config(&other).source_hash);
}

#[test]
fn fifty_thousand_routes_are_read() {
    let mut text = String::from("routes:\n");
    for index in 0..50_000 {
        text.push_str(&format!(
            "- {{ match: {{ path: /r/{index} }}, upstream: 'http://127.0.0.1:1' }}\n"
        ));
    }
    assert_eq!(config(&text).routes.len(), 50_000);
}

#[test]
fn written_backends_without_weight_may_stand_beside_a_discovery() {
    let text = "upstreams: { a: { backends: [{ address: 127.0.0.1:1, weight: 0 }], \
                discovery: { dns: { name: a, port: 1 } } } }\nroutes: [{ upstream: a }]";
    let config = config(text);
    assert_eq!(config.upstreams[0].backends[0].weight, 0);
    assert!(config.upstreams[0].discovery.is_some());
}

#[test]
fn a_list_in_a_file_needs_a_backend_with_a_weight() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backends.yaml");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let found = backends(&path, &model::Identity::Nobody, &env());
        found.map_err(|problems| problems.to_string())
    };
    let idle = "{ address: 127.0.0.1:1, weight: 0 }";
    let refused = read(&format!("[{idle}]")).unwrap_err();
    assert!(refused.contains("have no weight"), "{refused}");
    assert!(read("[]").unwrap_err().contains("has no backend"));
    assert_eq!(read(&format!("[{idle}, 127.0.0.1:2]")).unwrap().len(), 2);
}
