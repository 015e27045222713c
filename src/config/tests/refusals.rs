//! What is refused, and how that is said.

use super::*;

/// The only problem of a file, without the name of the file.
fn only(text: &str) -> String {
    let problems = problems(text, &env());
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems[0]
        .strip_prefix("g.yaml:")
        .unwrap_or(&problems[0])
        .to_owned()
}

/// The only problem of a route that otherwise answers by itself.
fn route(rest: &str) -> String {
    only(&format!("routes: [{{ respond: {{}}, {rest} }}]"))
}

/// The only problem of a route that proxies.
fn proxied(rest: &str) -> String {
    only(&format!(
        "routes: [{{ upstream: 'http://127.0.0.1:1', {rest} }}]"
    ))
}

/// The only problem of an upstream that has a backend.
fn upstream(rest: &str) -> String {
    only(&format!(
        "upstreams: {{ a: {{ backends: [127.0.0.1:1], {rest} }} }}\nroutes: [{{ upstream: a }}]"
    ))
}

#[test]
fn every_problem_of_a_file_is_found_in_one_run() {
    let text = "\
limits:
  request_header_timeout: 30
  header_timeout: 5s
upstreams:
  users: { backends: [127.0.0.1:3000, nowhere], balanse: round_robin }
  users: {}
routes:
  - { name: a, match: { path: users }, upstream: user }
  - { name: a, upstream: users, respond: {} }
  - name: c
  - { upstream: users, max_body_size: [1] }
";
    let found = problems(text, &env());
    let expected = [
        "g.yaml:2: limits.request_header_timeout: `30` has no unit, expected a duration such as",
        "g.yaml:3: limits.header_timeout: unknown key, did you mean `request_header_timeout`?",
        "g.yaml:5: upstreams.users.balanse: unknown key, did you mean `balance`?",
        "g.yaml:5: upstreams.users.backends[1]: `nowhere` has no port, expected a host and port",
        "g.yaml:6: upstreams.users: is given twice, first on line 5, expected it once",
        "g.yaml:8: routes[0].match.path: `users` does not begin with `/`, expected a path",
        "g.yaml:8: routes[0].upstream: `user` is an unknown upstream, did you mean `users`?",
        "g.yaml:9: routes[1].name: `a` is the name of routes[0] too, expected a unique one",
        "g.yaml:9: routes[1].respond: stands beside `upstream`, expected one of them",
        "g.yaml:10: routes[2]: does nothing, expected one of `upstream`, `redirect` and `respond`",
        "g.yaml:11: routes[3].max_body_size: is a list, expected a size such as",
        "g.yaml:11: routes[3]: `users` matches every method on every host and path /*, as does `a`",
    ];
    for start in expected {
        assert!(
            found.iter().any(|line| line.starts_with(start)),
            "{start}\n{found:#?}"
        );
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn a_file_that_cannot_be_read_or_is_no_yaml_is_one_problem() {
    let problems = load(Path::new("/nowhere/g.yaml"), &env())
        .unwrap_err()
        .to_string();
    assert!(
        problems.starts_with("/nowhere/g.yaml: cannot be read: "),
        "{problems}"
    );
    assert!(only("a: [1\nb: 2\n").contains("the YAML cannot be read: "));
    assert!(only("just a text").contains("`just a text` is a single value, expected a mapping"));
    assert!(only("").contains("routes: has no route, expected at least one"));
    assert!(only("routes: []").starts_with("1: routes: has no route"));
}

#[test]
fn one_mistake_is_one_problem() {
    // What is refused leaves a gap; the gap is no further problem.
    assert!(only("routes: [{ upstrem: x }]").contains("did you mean `upstream`?"));
    assert!(only("routes: [{ respond: { status: abc } }]").contains("not a whole number"));
    assert!(only("routes: [5]").contains("routes[0]: `5` is a single value, expected a mapping"));
    assert!(only("routes: { a: 1 }").contains("routes: is a mapping, expected a list"));
    assert!(only("upstreams: { a: 5 }\nroutes: [{ upstream: a }]").contains("upstreams.a: `5`"));
    assert!(
        only("upstreams: { a: { backends: [[]] } }\nroutes: [{ upstream: a }]")
            .contains("is a list")
    );
    assert!(only("routes: [{ respond: ~ }]").contains("has no value, expected a mapping"));
    assert!(
        only("listeners: [{ name: x }]\nroutes: [{ respond: {} }]")
            .contains("listeners[0].address: is missing, expected an address")
    );
    assert!(route("match: { headers: { a: {} } }").contains("says not one thing"));
}

#[test]
fn values_have_bounds() {
    for (text, key) in [
        (
            "limits: { keepalive_timeout: 0s }",
            "limits.keepalive_timeout: `0s` is out of range",
        ),
        (
            "limits: { request_header_size: 1GiB }",
            "limits.request_header_size: `1GiB` is out of range",
        ),
        (
            "limits: { request_header_count: 5 }",
            "limits.request_header_count: `5` is out of range",
        ),
        (
            "limits: { max_connections: -1 }",
            "limits.max_connections: `-1` is out of range",
        ),
        (
            "server: { threads: 0 }",
            "server.threads: `0` is out of range",
        ),
        (
            "shutdown: { delay: 2h }",
            "shutdown.delay: `2h` is out of range",
        ),
        (
            "log: { level: infos }",
            "`infos` is none of the choices, did you mean `info`?",
        ),
        (
            "admin: { enabled: yes }",
            "admin.enabled: `yes` is neither true nor false",
        ),
        (
            "trusted_proxies: [10.0.0.0/40]",
            "trusted_proxies[0]: `10.0.0.0/40` is not a network",
        ),
        (
            "metrics: { namespace: a-b }",
            "metrics.namespace: `a-b` is no prefix",
        ),
        ("access_log: { output: '' }", "access_log.output: is empty"),
    ] {
        let problem = only(&format!("{text}\nroutes: [{{ respond: {{}} }}]"));
        assert!(
            problem.contains(key) && problem.contains("expected"),
            "{problem}"
        );
    }
}

#[test]
fn listeners_do_not_take_each_others_addresses() {
    let listeners = |list: &str| only(&format!("listeners: {list}\nroutes: [{{ respond: {{}} }}]"));
    let admin = listeners("[{ address: 127.0.0.1:9090 }]");
    assert!(
        admin.contains("admin.address: `127.0.0.1:9090` is taken by a listener"),
        "{admin}"
    );
    assert!(
        listeners("[{ address: 127.0.0.1:1 }, { address: 0.0.0.0:1 }]")
            .contains("listeners[1].address")
    );
    assert!(listeners("[]").contains("is empty, expected at least one listener"));
    let named = "[{ address: 127.0.0.1:1, name: a }, { address: 127.0.0.1:2, name: a }]";
    assert!(listeners(named).contains("listeners[1].name: `a` is taken"));
    config(
        "listeners: [{ address: '127.0.0.1:0' }, { address: '127.0.0.1:0' }]\nroutes: [{ respond: {} }]",
    );
}

#[test]
fn upstreams_have_backends_that_can_be_dialled() {
    let backends = |list: &str| {
        only(&format!(
            "upstreams: {{ a: {{ backends: {list} }} }}\nroutes: [{{ upstream: a }}]"
        ))
    };
    assert!(backends("[]").contains("upstreams.a.backends: has no backend"));
    assert!(backends("['http://127.0.0.1:1']").contains("is a URL, expected a host and port"));
    assert!(backends("[127.0.0.1:0]").contains("has the port 0"));
    assert!(backends("['a b:1']").contains("has no proper host"));
    assert!(backends("[db:1]").contains("`db:1`: the name does not resolve"));
    assert!(
        backends("[127.0.0.1:1, 127.0.0.1:1]")
            .contains("backends[1]: `127.0.0.1:1` is given twice")
    );
    assert!(backends("[{ address: 127.0.0.1:1, weight: 0 }]").contains("have no weight"));
    assert!(
        backends("[{ address: 127.0.0.1:1, weight: 1001 }]")
            .contains("backends[0].weight: `1001` is out of range")
    );
    assert!(backends("[{ address: db:1 }]").contains("upstreams.a.backends[0].address"));
    assert!(
        only("upstreams: { 'a b': { backends: [127.0.0.1:1] } }\nroutes: [{ respond: {} }]")
            .contains("is no name for an upstream")
    );
    assert!(upstream("timeouts: { connect: 6s }").contains("at most `5s`"));
    assert!(upstream("retries: { budget: 120% }").contains("`120%` is out of range"));
    assert!(upstream("retries: { on: [404] }").contains("`404` is nothing to retry for"));
    let hedge = |hedge: &str| upstream(&format!("retries: {{ hedge: {hedge} }}"));
    assert!(hedge("{}").contains("retries.hedge: says no time"));
    assert!(hedge("{ percentile: 100% }").contains("is no part of the answers"));
    assert!(hedge("{ after: 1s, percentile: 95% }").contains("stands beside"));
    let timeouts = |timeouts: &str| upstream(&format!("timeouts: {{ {timeouts} }}"));
    assert!(timeouts("deadline_header: 'a b'").contains("is not a header name"));
    assert!(timeouts("deadline_header: host").contains("deadline_header: is a header of another"));
    assert!(upstream("retries: { on: [] }").contains("retries.on: is empty"));
    assert!(upstream("retries: { attempts: 0, on: [] }").contains("retries.on: is empty"));
    assert!(upstream("retries: { max_body: 2MiB }").contains("at most `1MiB`"));
    let short = upstream("retries: { backoff: { base: 1s, max: 10ms } }");
    assert!(short.contains("backoff.max: is shorter than `base`"));
    assert!(upstream("balance: fastest").contains("expected `round_robin`, `least_requests`"));
    assert!(upstream("balance: hash").contains("`hash` needs a key"));
    for (settings, refusal) in [
        ("policy: hash", "balance.key: is missing"),
        ("policy: hash, key: route", "`route` is the same for all"),
        ("policy: hash, key: colour", "`colour` is nothing that"),
        ("policy: hash, key: [path, path]", "has a part twice"),
        (
            "policy: hash, key: path, fallback: hash",
            "fallback: is `hash`",
        ),
        (
            "policy: hash, key: path, load_factor: 0.5",
            "`0.5` is out of range",
        ),
        ("policy: hash, key: path, decay: 1s", "decay: has no effect"),
        (
            "policy: random, key: path",
            "key: has no effect without `policy: hash`",
        ),
        ("policy: random, decay: 1s", "without `policy: peak_ewma`"),
    ] {
        let said = upstream(&format!("balance: {{ {settings} }}"));
        assert!(said.contains(refusal), "{settings}: {said}");
    }
    for (settings, refusal) in [
        ("keys: []", "sticky.keys: has 0 keys"),
        ("keys: [short]", "keys[0]: is short"),
        ("cookie: a", "keys: is missing"),
        (
            "keys: [a-key-of-enough-letters], cookie: 'a;b'",
            "`a;b` is no name for a cookie, expected letters, digits, `_`, `-` and `.`",
        ),
        (
            "keys: [a-key-of-enough-letters], ttl: 1s",
            "`1s` is out of range",
        ),
    ] {
        let said = upstream(&format!("sticky: {{ {settings} }}"));
        assert!(said.contains(refusal), "{settings}: {said}");
    }
    assert!(upstream("slow_start: { min_weight: 0 }").contains("min_weight: is 0"));
    assert!(upstream("failover: { failback: 10% }").contains("is below `threshold`"));
    assert!(upstream("zones: { min_healthy: 0 }").contains("min_healthy: is 0"));
    assert!(backends("[{ address: 127.0.0.1:1, zone: '' }]").contains("backends[0].zone: "));
    assert!(backends("[{ address: 127.0.0.1:1, priority: 10 }]").contains("`10` is out of range"));
    assert!(upstream("health_check: { timeout: 9s }").contains("longer than `interval`"));
    assert!(upstream("health_check: { path: health }").contains("`health` is not a path"));
    assert!(upstream("health_check: { path: /, expected_statuses: [] }").contains("is empty"));
    assert!(
        upstream("health_check: { path: /, expected_statuses: [700] }").contains("not a status")
    );
    assert!(upstream("health_check: { fast_interval: 9s }").contains("longer than `interval`"));
    assert!(upstream("health_check: { method: GET }").contains("no effect without `path`"));
    assert!(upstream("health_check: { expected_body: ok }").contains("no effect without `path`"));
    assert!(upstream("health_check: { path: /, method: PUT }").contains("no method for a probe"));
    assert!(upstream("health_check: { path: /, method: HEAD, expected_body: a }").contains("HEAD"));
    assert!(upstream("health_check: { path: /, expected_body: '' }").contains("is empty"));
    assert!(upstream("health_check: { path: /, headers: { host: a } }").contains("or `host`"));
    assert!(upstream("health_check: { path: /, headers: { 'a b': a } }").contains("header name"));
    assert!(upstream("health_check: { path: /, grpc: {} }").contains("beside `path`"));
    assert!(upstream("health_check: { grpc: { service: 'a b' } }").contains("name of a service"));
    assert!(upstream("health_check: { host: a }").contains("no effect without `path` or `grpc`"));
    for path in ["/a<b", "/a>b", "/a`b", "/a b", "/a#b"] {
        let found = upstream(&format!("health_check: {{ path: '{path}' }}"));
        assert!(found.contains("is not a path"), "{path}: {found}");
    }
    for host in [
        "a:b:c", "a b", "a/b", "u@a", "a:", ":1", "a:65536", "[::1", "",
    ] {
        for question in ["path: /", "grpc: {}"] {
            let found = upstream(&format!("health_check: {{ {question}, host: '{host}' }}"));
            assert!(found.contains("is not a host"), "{host}: {found}");
        }
    }
    assert!(upstream("health_check: { port: 0 }").contains("`0`"));
    assert!(upstream("health_check: { initial: maybe }").contains("`healthy`"));
    let discovery = |text: &str| upstream(&format!("discovery: {{ {text} }}"));
    assert!(discovery("required: true").contains("has no source"));
    assert!(discovery("dns: { name: a, port: 1 }, file: { path: a }").contains("both `dns` and"));
    assert!(discovery("dns: { name: a }").contains("dns.port: is missing"));
    assert!(discovery("dns: { name: a b, port: 1 }").contains("`a b` is no name"));
    assert!(discovery("dns: { name: a..b, port: 1 }").contains("is no name"));
    assert!(discovery("dns: { name: 10.0.0.1, port: 1 }").contains("belongs into `backends`"));
    assert!(discovery("dns: { name: a, type: srv, port: 1 }").contains("records tell it"));
    assert!(discovery("dns: { name: a, port: 1, type: mx }").contains("`mx`"));
    assert!(
        discovery("dns: { name: a, port: 1, resolvers: ['10.0.0.1:0'] }").contains("name server")
    );
    assert!(
        discovery("dns: { name: a, port: 1, max_ttl: 500ms }").contains("max_ttl: leaves no time")
    );
    assert!(upstream("outlier: { max_ejection: 1s }").contains("shorter than `base_ejection`"));
}

#[test]
fn a_url_in_the_place_of_an_upstream_has_nothing_but_a_host() {
    let url = |url: &str| only(&format!("routes: [{{ upstream: '{url}' }}]"));
    let needs = "routes[0].upstream.tls: needs the authorities that the system trusts";
    assert!(url("https://127.0.0.1").contains(needs));
    assert!(url("http://127.0.0.1:1/api").contains("has a path or query"));
    assert!(url("http://127.0.0.1:1?x").contains("has a path or query"));
    assert!(url("http://a:b@127.0.0.1:1").contains("user name or password"));
    assert!(url("ftp://127.0.0.1").contains("another scheme"));
    assert!(url("http://").contains("is not a URL"));
    assert!(url("http://127.0.0.1:99999").contains("has no proper host and port"));
    assert!(url("http://nowhere.test").contains("does not resolve"));
}

#[test]
fn routes_are_refused_for_what_they_say() {
    assert!(
        route("match: { path: /a, paths: [/b] }").contains("match.paths: stands beside `path`")
    );
    assert!(route("match: { host: a, hosts: [b] }").contains("match.hosts: stands beside `host`"));
    assert!(
        route("match: { method: GET, methods: [PUT] }").contains("match.methods: stands beside")
    );
    assert!(
        route("match: { method: get }")
            .contains("`get` is not a method, expected one in upper case")
    );
    assert!(route("match: { hosts: [] }").contains("match.hosts: is empty"));
    assert!(route("match: { host: 'a:80' }").contains("has a port or scheme"));
    assert!(route("match: { path_regex: '(' }").contains("is not a regular expression"));
    assert!(route("match: { headers: { 'a b': x } }").contains("is not a header name"));
    assert!(route("match: { headers: { a: x, A: y } }").contains("given twice in different case"));
    assert!(route("match: { query: { a: { regex: '[' } } }").contains("match.query.a.regex"));
    assert!(route("name: ''").contains("name: `` is no name"));
    assert!(
        route("rewrite: { strip_prefix: /a }")
            .contains("rewrite: has no effect without `upstream`")
    );
    assert!(route("timeouts: { read: 1s }").contains("timeouts: has no effect"));
    assert!(
        route("headers: { request: { remove: [a] } }").contains("headers.request: has no effect")
    );
    assert!(proxied("rewrite: {}").contains("rewrite: does nothing"));
    assert!(proxied("rewrite: { strip_prefix: a }").contains("`a` is not a path prefix"));
    assert!(
        proxied("rewrite: { strip_prefix: /a, regex: { pattern: a, replacement: b } }")
            .contains("stands beside")
    );
    assert!(
        proxied("rewrite: { replace_prefix: { from: /a } }")
            .contains("replace_prefix.to: is missing")
    );
    assert!(
        proxied("headers: { request: { set: { x: '{clientip}' } } }")
            .contains("did you mean `client_ip`?")
    );
    assert!(
        proxied("headers: { request: { set: { x: '{path.id}' } } }")
            .contains("is in no path of the route")
    );
    assert!(
        proxied("headers: { request: { set: { Content-Length: '1' } } }")
            .contains("belongs to the connection")
    );
    assert!(proxied("headers: { request: { remove: [host] } }").contains("names `host`"));
}

#[test]
fn actions_are_refused_for_what_they_say() {
    let action = |text: &str| only(&format!("routes: [{{ {text} }}]"));
    assert!(action("redirect: {}").contains("redirect: changes nothing"));
    assert!(action("redirect: { scheme: ftp }").contains("`ftp` is no scheme"));
    assert!(action("redirect: { scheme: https, status: 303 }").contains("`303` is no redirect"));
    assert!(action("redirect: { path: //evil.example }").contains("not a path to redirect to"));
    assert!(action("redirect: { host: '*.a.com' }").contains("is more than one host"));
    assert!(action("respond: { status: 204, body: x }").contains("a status that allows no body"));
    assert!(action("respond: { content_type: \"a\\n\" }").contains("is not a content type"));
    assert!(action("upstream: []").contains("upstream: is empty"));
    assert!(
        action("upstream: [{ upstream: 'http://127.0.0.1:1', weight: 0 }]")
            .contains("has no weight")
    );
    assert!(action("upstream: [{ weight: 1 }]").contains("upstream[0].upstream: is missing"));
}

#[test]
fn problems_never_show_what_a_reference_stands_for() {
    let env = env()
        .with_var("SECRET", "hunter2")
        .with_var("GATEWAY_LIMITS_URI_SIZE", "hunter2")
        .with_var("GATEWAY_UPSTREAMS_A_BACKENDS_0", "hunter2");
    let value = "\"a ${SECRET} {hunter\"";
    let text = format!(
        "limits: {{ keepalive_timeout: {value} }}\n\
         log: {{ level: {value} }}\n\
         listeners: [{{ address: {value} }}]\n\
         upstreams: {{ a: {{ backends: [{value}], health_check: {{ path: {value} }} }} }}\n\
         routes:\n\
         - {{ name: {value}, upstream: {value} }}\n\
         - {{ name: {value}, match: {{ host: {value}, path: {value}, path_regex: '(${{SECRET}}' }}, respond: {{}} }}\n\
         - {{ redirect: {{ scheme: {value}, host: {value}, path: {value} }} }}\n\
         - {{ respond: {value} }}\n\
         - {{ upstream: 'ftp://${{SECRET}}', headers: {{ request: {{ set: {{ x: {value} }}, remove: [{value}] }} }} }}\n\
         - {{ upstream: 'http://${{SECRET}}:1', rewrite: {{ strip_prefix: {value} }} }}\n"
    );
    let found = problems(&text, &env);
    assert!(found.len() > 15, "{found:#?}");
    for line in &found {
        assert!(!line.contains("hunter2"), "{line}");
    }
    let starts = |start: &str| {
        assert!(
            found.iter().any(|line| line.starts_with(start)),
            "{start} {found:#?}"
        )
    };
    starts(
        "g.yaml:1: limits.keepalive_timeout: `a ${SECRET} {hunter` is not accepted, expected a duration",
    );
    starts(
        "GATEWAY_LIMITS_URI_SIZE: limits.uri_size: `$GATEWAY_LIMITS_URI_SIZE` is not accepted, expected a size",
    );
    starts("GATEWAY_UPSTREAMS_A_BACKENDS_0: upstreams.a.backends[0]: ");
}

#[test]
fn a_missing_variable_or_file_is_a_problem_of_its_line() {
    let text = "log:\n  level: ${NONE}\naccess_log:\n  output: file:none\nroutes: [{ upstream: '${NONE}' }]\n";
    let found = problems(text, &env());
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(
        found[0].starts_with("g.yaml:2: log.level: the environment variable `NONE` is not set")
    );
    assert!(found[1].starts_with("g.yaml:4: access_log.output: `file:none` cannot be read"));
    assert!(found[2].starts_with("g.yaml:5: routes[0].upstream: the environment variable"));
}

#[test]
fn a_file_reference_is_no_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g.yaml");
    std::fs::write(folder.path().join("a.crt"), "-----BEGIN").unwrap();
    let text = "listeners:\n- address: 127.0.0.1:1\n  tls:\n    certificates:\n\
                \x20   - { cert: 'file:a.crt', key: a.key }\nroutes: [{ respond: {} }]\n";
    std::fs::write(&path, text).unwrap();
    let problems = load(&path, &env()).unwrap_err().to_string();
    let expected = "g.yaml:5: listeners[0].tls.certificates[0].cert: `file:a.crt` stands for what \
                    is in that file, expected its path: leave `file:` out";
    assert!(problems.ends_with(expected), "{problems}");
}
