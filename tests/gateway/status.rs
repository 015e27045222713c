//! What operators are told by the admin listener.

use std::net::TcpStream;

use crate::support::client::{get, request};
use crate::support::{Gateway, Origin};

#[test]
fn the_status_names_what_runs() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "upstreams: {{ shop: {{ backends: ['{}'] }} }}
routes:
  - {{ name: first, match: {{ path: /a }}, upstream: shop }}
  - {{ name: second, match: {{ path: /b }}, respond: {{}} }}",
        origin.address()
    ));
    let status = get(gateway.admin(), "/status").json();
    assert!(
        status["version"]
            .as_str()
            .is_some_and(|text| text.contains(env!("CARGO_PKG_VERSION")))
    );
    let text = status.to_string();
    for word in [
        "generation",
        "first",
        "second",
        "shop",
        &origin.address().to_string(),
    ] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
}

#[test]
fn other_paths_and_methods_are_refused_as_json() {
    let gateway = Gateway::start("routes: [{ name: a, respond: {} }]");
    assert_eq!(get(gateway.admin(), "/").status, 200);
    let missing = get(gateway.admin(), "/nothing");
    assert_eq!(
        (missing.status, &missing.json()["error"]),
        (404, &"not_found".into())
    );
    let wrong = request(gateway.admin(), "POST", "/status", &[], b"");
    assert_eq!(wrong.status, 405);
    assert!(
        wrong
            .header("allow")
            .is_some_and(|allow| allow.contains("GET"))
    );
    assert_eq!(
        request(gateway.admin(), "HEAD", "/metrics", &[], b"").status,
        200
    );
}

#[test]
fn the_admin_listener_can_be_switched_off() {
    let gateway = Gateway::start(
        "admin: { enabled: false }\nroutes: [{ name: a, match: { path: /a }, respond: {} }]",
    );
    assert_eq!(get(gateway.addr(), "/a").status, 200);
    assert!(
        !gateway
            .log_lines()
            .iter()
            .any(|line| line.contains("admin on"))
    );
}

#[test]
fn operators_paths_are_not_on_the_traffic_port() {
    let gateway = Gateway::start("routes: [{ name: a, match: { path: /a }, respond: {} }]");
    for path in ["/status", "/metrics"] {
        get(gateway.addr(), path).assert_refusal(404, "not_found");
    }
}

#[test]
fn a_silent_admin_connection_does_not_block_the_others() {
    let gateway = Gateway::start("routes: [{ name: a, respond: {} }]");
    let _silent: Vec<TcpStream> = (0..20)
        .map(|_| TcpStream::connect(gateway.admin()).unwrap())
        .collect();
    assert_eq!(get(gateway.admin(), "/status").status, 200);
}
