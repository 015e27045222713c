//! Who may call by the client's address: globally, by route, from files, and what a refusal says.

use std::fs;

use crate::support::client::{Response, get, request};
use crate::support::command::{binary, finish};
use crate::support::gateway::config_directory;
use crate::support::h2::{self, H2};
use crate::support::{Gateway, Origin, eventually};

/// The tests call from a trusted proxy, which says who the client is.
const TRUSTED: &str = "trusted_proxies: [127.0.0.1]\n";

fn config(origin: &Origin, global: &str, route: &str) -> String {
    format!(
        "{TRUSTED}{global}
admin: {{ address: 127.0.0.1:0, token: key }}
listeners: [{{ name: main, address: 127.0.0.1:0, h2c: true }}]
upstreams: {{ u: {{ backends: ['{}'] }} }}
routes:
  - {{ name: all, upstream: u }}
  - {{ name: inner, match: {{ path: /inner }}, {route} upstream: u }}",
        origin.address()
    )
}

fn from(gateway: &Gateway, client: &str, path: &str) -> Response {
    let field = format!("X-Forwarded-For: {client}");
    request(gateway.addr(), "GET", path, &[&field], b"")
}

#[track_caller]
fn assert_denied(answer: &Response) {
    answer.assert_refusal(403, "ip_denied");
}

#[test]
fn a_denied_client_is_refused_whatever_it_asks_for_but_health() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&config(
        &origin,
        "ip_access: { deny: [203.0.113.0/24, '2001:db8:bad::/48'] }",
        "",
    ));
    for path in ["/", "/inner", "/api/validate"] {
        assert_denied(&from(&gateway, "203.0.113.9", path));
    }
    assert_denied(&from(&gateway, "2001:db8:bad::1", "/"));
    assert_denied(&from(&gateway, "::ffff:203.0.113.9", "/"));
    assert_eq!(origin.requests(), 0);
    for path in ["/health", "/ready"] {
        assert_eq!(from(&gateway, "203.0.113.9", path).status, 200, "{path}");
    }
    assert_eq!(from(&gateway, "203.0.114.0", "/").status, 200);
    let line = gateway.wait_access(|line| line["client_ip"] == "203.0.113.9");
    assert_eq!(
        (&line["error_type"], &line["status_code"], &line["route"]),
        (&"ip_denied".into(), &403.into(), &"none".into())
    );
    let denied = [("reason", "ip_denied")];
    gateway.wait_metric("gateway_http_refusals_total", &denied, 5.0);
}

#[test]
fn a_request_without_a_route_is_refused_too() {
    let gateway = Gateway::start(&format!(
        "{TRUSTED}ip_access: {{ allow: [127.0.0.1] }}
routes: [{{ name: a, match: {{ path: /a }}, respond: {{}} }}]"
    ));
    assert_eq!(get(gateway.addr(), "/b").status, 404);
    assert_denied(&from(&gateway, "198.51.100.1", "/b"));
}

#[test]
fn a_route_s_lists_hold_in_addition() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&config(
        &origin,
        "ip_access: { deny: [10.0.0.66] }",
        "ip_access: { allow: [10.0.0.0/8], deny: [10.0.0.7] },",
    ));
    for (client, outer, inner) in [
        ("10.0.0.1", 200, 200),
        ("10.0.0.7", 200, 403),
        ("10.0.0.66", 403, 403),
        ("192.0.2.1", 200, 403),
    ] {
        assert_eq!(from(&gateway, client, "/").status, outer, "{client}");
        assert_eq!(from(&gateway, client, "/inner").status, inner, "{client}");
    }
    let line = gateway.wait_access(|line| line["client_ip"] == "10.0.0.7" && line["path"] != "/");
    assert_eq!(line["route"], "inner");
}

#[test]
fn who_is_not_trusted_cannot_claim_another_address() {
    let origin = Origin::echo();
    let text = config(&origin, "ip_access: { allow: [10.0.0.0/8] }", "");
    let gateway = Gateway::start(&text.replace(TRUSTED, ""));
    assert_denied(&from(&gateway, "10.0.0.1", "/"));
}

#[test]
fn the_address_comes_before_the_password() {
    let origin = Origin::echo();
    let secret = "0123456789abcdef0123456789abcdef";
    let global = format!("auth: {{ default: main, jwt: {{ name: main, secret: {secret} }} }}");
    let text = config(&origin, &global, "ip_access: { deny: [10.0.0.7] },");
    let gateway = Gateway::start(&text);
    assert_denied(&from(&gateway, "10.0.0.7", "/inner"));
    assert_eq!(from(&gateway, "10.0.0.8", "/inner").status, 401);
}

#[test]
fn a_call_is_told_in_its_own_way_and_the_connection_stays() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&config(&origin, "ip_access: { deny: [10.0.0.7] }", ""));
    let mut client = H2::connect(gateway.addr());
    let call = |client: &str| {
        let call = h2::request("POST", "/").header("content-type", "application/grpc");
        call.header("x-forwarded-for", client)
    };
    let answer = client.send(call("10.0.0.7"), "");
    assert_eq!(answer.header("grpc-status"), "7");
    let plain = h2::get("/").header("x-forwarded-for", "10.0.0.7");
    client.exchange(plain).assert_refusal(403, "ip_denied");
    assert_eq!(client.exchange(h2::get("/")).status, 200);
}

#[test]
fn lists_of_files_are_loaded_again_when_they_change() {
    let origin = Origin::echo();
    let global = "ip_access: { deny_file: deny.txt }";
    let route = "ip_access: { allow_file: [a.txt, b.txt] },";
    let text = config(&origin, global, route);
    let folder = config_directory(&text);
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("deny.txt", "# nobody yet\n\n");
    write("a.txt", "10.0.0.0/8 # here\n");
    write("b.txt", "192.0.2.1 ; there\n2001:db8::/32\n");
    let mut command = binary();
    command.arg("-c").arg(folder.path().join("gateway.yaml"));
    let gateway = Gateway::launch(command, None);
    assert_eq!(from(&gateway, "10.0.0.1", "/inner").status, 200);
    assert_eq!(from(&gateway, "192.0.2.1", "/inner").status, 200);
    assert_eq!(from(&gateway, "2001:db8::9", "/inner").status, 200);
    assert_denied(&from(&gateway, "192.0.2.2", "/inner"));
    write("deny.txt", "10.0.0.1\n");
    eventually("the list is loaded", || {
        from(&gateway, "10.0.0.1", "/").status == 403
    });
    write("b.txt", "192.0.2.2\n");
    // Whoever looks at the files may be faster.
    assert_eq!(gateway.call("/reload", "key", "").status, 200);
    assert_eq!(from(&gateway, "192.0.2.2", "/inner").status, 200);
    assert_denied(&from(&gateway, "192.0.2.1", "/inner"));
    let again = gateway.call("/reload", "key", "");
    assert_eq!(again.json()["result"], "unchanged");
    // A list that is broken changes nothing.
    write("deny.txt", "everybody\n");
    let reload = gateway.call("/reload", "key", "");
    assert_eq!(reload.status, 422, "{}", reload.text());
    assert_denied(&from(&gateway, "10.0.0.1", "/"));
}

#[test]
fn every_bad_line_is_told_with_its_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("deny.txt", "10.0.0.0/8\n10.0.0.0/33\n# fine\nhost.test\n");
    write(
        "gateway.yaml",
        "ip_access:
  deny_file: deny.txt
  allow_file: [none.txt]
  allow: []
routes:
  - { name: a, ip_access: {}, respond: {} }
  - { name: b, match: { path: /b }, ip_access: { deny: [10.0.0.256] }, respond: {} }",
    );
    let file = folder.path().join("gateway.yaml");
    let run = finish(binary().arg("-t").arg("-c").arg(&file));
    assert_eq!(run.code, Some(1));
    let (file, deny) = (file.display(), folder.path().join("deny.txt"));
    let deny = deny.display();
    for expected in [
        format!("{deny}:2: `10.0.0.0/33` is not a network"),
        format!("{deny}:4: `host.test` is not a network"),
        format!("{file}:3: ip_access.allow_file[0]: `none.txt`: No such file"),
        format!("{file}:4: ip_access.allow: is empty"),
        format!("{file}:6: routes[0].ip_access: has no list"),
        format!("{file}:7: routes[1].ip_access.deny[0]: `10.0.0.256` is not a network"),
    ] {
        assert!(run.stderr.contains(&expected), "{expected}\n{}", run.stderr);
    }
}

#[test]
fn an_allow_list_without_anybody_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("allow.txt"), "# nobody\n").unwrap();
    let file = folder.path().join("gateway.yaml");
    let text = "ip_access: { allow_file: allow.txt }\nroutes: [{ name: a, respond: {} }]";
    fs::write(&file, text).unwrap();
    let run = finish(binary().arg("-t").arg("-c").arg(&file));
    assert_eq!(run.code, Some(0), "{}", run.output());
    let warning = "ip_access: allows nobody";
    assert!(run.output().contains(warning), "{}", run.output());
}
