//! Maintenance mode: for everything or for a route, by file, by variable and by switch.

use crate::support::client::get;
use crate::support::{Gateway, Origin};

fn config(origin: &Origin, more: &str) -> String {
    format!(
        "server: {{ threads: 1, watch: false }}
admin: {{ address: 127.0.0.1:0, token: key }}
{more}
upstreams: {{ u: {{ backends: ['{}'] }} }}
routes:
  - {{ name: shop, match: {{ path: /shop }}, upstream: u }}
  - {{ name: desk, match: {{ path: /desk }}, upstream: u }}
  - {{ name: page, match: {{ path: /page }}, respond: {{ body: open }} }}",
        origin.address()
    )
}

#[track_caller]
fn statuses(gateway: &Gateway) -> [u16; 3] {
    let mut client = gateway.connect();
    ["/shop", "/desk", "/page"].map(|path| client.get(path).status)
}

#[test]
fn all_of_it_answers_503_and_spares_what_needs_no_backend() {
    let origin = Origin::echo();
    let maintenance =
        "maintenance: { enabled: true, retry_after: 2m, message: 'Back at \"noon\".' }";
    let gateway = Gateway::start(&config(&origin, maintenance));
    assert_eq!(statuses(&gateway), [503, 503, 200]);
    let answer = get(gateway.addr(), "/shop");
    answer.assert_refusal(503, "maintenance");
    assert_eq!(answer.header("retry-after"), Some("120"));
    assert_eq!(answer.json()["message"], "Back at \"noon\".");
    assert_eq!(origin.requests(), 0);
    for path in ["/health", "/ready"] {
        assert_eq!(get(gateway.addr(), path).status, 200, "{path}");
    }
    assert_eq!(gateway.metric("gateway_maintenance_mode", &[]), 1.0);
    let refused = [("reason", "maintenance")];
    assert_eq!(gateway.metric("gateway_http_refusals_total", &refused), 3.0);
    let line = gateway.wait_access(|line| line["path"] == "/shop");
    assert_eq!(line["error_type"], "maintenance");
    assert_eq!(line["route"], "shop");
}

#[test]
fn a_route_alone_can_be_down() {
    let origin = Origin::echo();
    let text = config(&origin, "");
    let text = text.replace("path: /desk }", "path: /desk }, maintenance: true");
    let text = text.replace("path: /page }", "path: /page }, maintenance: true");
    let gateway = Gateway::start(&text);
    assert_eq!(statuses(&gateway), [200, 503, 503]);
    assert_eq!(
        get(gateway.addr(), "/desk").header("retry-after"),
        Some("60")
    );
    assert_eq!(gateway.metric("gateway_maintenance_mode", &[]), 0.0);
    assert_eq!(gateway.metric("gateway_maintenance_routes", &[]), 2.0);
}

#[test]
fn the_variable_overrides_the_file() {
    let origin = Origin::echo();
    let start = |value: &str, text: &str| {
        Gateway::start_with(&config(&origin, text), |command| {
            command.env("MAINTENANCE_MODE", value);
        })
    };
    assert_eq!(statuses(&start("true", "")), [503, 503, 200]);
    let on = "maintenance: { enabled: true }";
    assert_eq!(statuses(&start("false", on)), [200, 200, 200]);
    assert_eq!(statuses(&start("", on)), [503, 503, 200]);
}

#[test]
fn it_is_switched_at_run_time_and_stays_so_across_reloads() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&config(&origin, ""));
    let mut kept = gateway.connect();
    assert_eq!(kept.get("/shop").status, 200);
    let on = gateway.call("/maintenance", "key", "{\"enabled\": true}");
    assert_eq!((on.status, &on.json()["enabled"]), (200, &true.into()));
    assert_eq!(
        kept.get("/shop").status,
        503,
        "on a connection that is open"
    );
    gateway.rewrite(&config(&origin, "limits: { uri_size: 4KiB }"));
    let reload = gateway.call("/reload", "key", "");
    assert_eq!(reload.json()["result"], "reloaded");
    assert_eq!(statuses(&gateway), [503, 503, 200]);
    assert_eq!(gateway.status()["maintenance"]["switched"]["all"], true);
    gateway.call("/maintenance", "key", "{\"enabled\": false}");
    assert_eq!(statuses(&gateway), [200, 200, 200]);
    assert!(gateway.status()["maintenance"]["switched"]["all"].is_null());
    assert_eq!(gateway.metric("gateway_maintenance_mode", &[]), 0.0);
}

#[test]
fn a_route_is_switched_at_run_time() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&config(&origin, ""));
    let call = |on: bool| {
        let body = format!("{{\"enabled\": {on}, \"route\": \"desk\"}}");
        gateway.call("/maintenance", "key", &body)
    };
    assert_eq!(call(true).json()["routes"], serde_json::json!(["desk"]));
    assert_eq!(statuses(&gateway), [200, 503, 200]);
    gateway.rewrite(&config(&origin, "limits: { uri_size: 4KiB }"));
    gateway.call("/reload", "key", "");
    assert_eq!(statuses(&gateway), [200, 503, 200]);
    assert_eq!(
        get(gateway.admin(), "/maintenance").json()["routes"][0],
        "desk"
    );
    call(false);
    assert_eq!(statuses(&gateway), [200, 200, 200]);
}

#[test]
fn a_value_that_is_no_boolean_is_refused_with_the_variable_as_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    std::fs::write(&file, "routes: [{ respond: {} }]").unwrap();
    let mut command = crate::support::command::binary();
    command
        .env("MAINTENANCE_MODE", "maybe")
        .arg("-t")
        .arg(&file);
    let run = crate::support::command::finish(&mut command);
    assert_eq!(run.code, Some(1));
    let expected = "MAINTENANCE_MODE: maintenance.enabled: ";
    assert!(run.stderr.contains(expected), "{}", run.stderr);
}
