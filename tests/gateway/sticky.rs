//! Clients that come back to their backend, by a signed cookie.

use crate::support::client::{Response, format_request, get, request};
use crate::support::tls::Authority;
use crate::support::{Gateway, Origin};

const KEY: &str = "a key of enough characters";

fn named(count: usize) -> Vec<Origin> {
    (0..count)
        .map(|at| Origin::named(&format!("o{at}")))
        .collect()
}

fn config(origins: &[Origin], sticky: &str, more: &str) -> String {
    let backends: Vec<_> = origins
        .iter()
        .map(|one| format!("'{}'", one.address()))
        .collect();
    format!(
        "server: {{ threads: 1, watch: false }}
admin: {{ address: 127.0.0.1:0, token: key }}
upstreams: {{ u: {{ backends: [{}], sticky: {{ {sticky} }}, {more} }} }}
routes: [{{ name: all, upstream: u }}]",
        backends.join(", ")
    )
}

fn ask(gateway: &Gateway, cookies: &[&str]) -> Response {
    let fields: Vec<_> = cookies
        .iter()
        .map(|cookie| format!("Cookie: {cookie}"))
        .collect();
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    let response = gateway
        .connect()
        .exchange(format_request("GET", "/", &fields, b""));
    assert_eq!(response.status, 200);
    response
}

fn origin(response: &Response) -> String {
    response.json()["origin"].as_str().unwrap().to_owned()
}

/// The pair that the client is to send back.
fn cookie(response: &Response) -> String {
    let field = response.header("set-cookie").expect("a cookie");
    assert!(
        field.contains("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"),
        "{field}"
    );
    field.split(';').next().unwrap().to_owned()
}

#[test]
fn a_client_comes_back_to_its_backend_which_does_not_see_the_cookie() {
    let origins = named(3);
    let gateway = Gateway::start(&config(&origins, &format!("keys: ['{KEY}']"), ""));
    let first = ask(&gateway, &[]);
    let (mine, given) = (origin(&first), cookie(&first));
    assert!(given.starts_with("sticky_u="), "{given}");
    for _ in 0..6 {
        let again = ask(&gateway, &[&format!("a=b; {given}; d=e")]);
        assert_eq!(origin(&again), mine);
        assert_eq!(again.header("set-cookie"), None, "it has one");
    }
    let seen: Vec<_> = origins.iter().flat_map(Origin::seen).collect();
    let sent: Vec<_> = seen
        .iter()
        .filter_map(|request| request.header("cookie"))
        .collect();
    assert_eq!(sent, ["a=b; d=e"; 6]);
    let others: std::collections::HashSet<_> =
        (0..6).map(|_| origin(&ask(&gateway, &[]))).collect();
    assert_eq!(others.len(), 3, "clients without a cookie go round");
}

#[test]
fn what_is_forged_is_ignored_and_replaced() {
    let origins = named(2);
    let gateway = Gateway::start(&config(
        &origins,
        &format!("keys: ['{KEY}'], cookie: id"),
        "",
    ));
    let good = cookie(&ask(&gateway, &[]));
    assert!(good.starts_with("id="), "{good}");
    let mut changed = good.clone().into_bytes();
    changed[20] ^= 1;
    let changed = String::from_utf8(changed).unwrap();
    for wrong in [&changed, "id=", "id=AAAA", "id=10.0.0.1:80", &good[..20]] {
        let answer = ask(&gateway, &[wrong]);
        assert_ne!(cookie(&answer), good[..20], "{wrong}");
    }
    // Two of them name nobody.
    assert!(
        ask(&gateway, &[&good, &good])
            .header("set-cookie")
            .is_some()
    );
}

#[test]
fn a_client_moves_when_its_backend_is_out_or_drained() {
    let mut origins = named(2);
    let settings = "outlier: { consecutive_failures: 1, base_ejection: 1h, max_ejection: 1h }";
    let gateway = Gateway::start(&config(&origins, &format!("keys: ['{KEY}']"), settings));
    let first = ask(&gateway, &[]);
    let (mine, given) = (origin(&first), cookie(&first));
    let place = usize::from(mine == "o1");
    let path = format!("/upstreams/u/backends/{}/drain", origins[place].address());
    assert_eq!(gateway.call(&path, "key", "").status, 200);
    let moved = ask(&gateway, &[&given]);
    assert_ne!(origin(&moved), mine);
    let other = cookie(&moved);
    assert_ne!(other, given);
    let token = ["Authorization: Bearer key"];
    assert_eq!(
        request(gateway.admin(), "DELETE", &path, &token, b"").status,
        200
    );
    assert_eq!(origin(&ask(&gateway, &[&given])), mine, "it is still good");
    assert_ne!(origin(&ask(&gateway, &[&other])), mine);

    origins[place].stop();
    for _ in 0..2 {
        let moved = ask(&gateway, &[&given]);
        assert_ne!(origin(&moved), mine, "by a retry first, by ejection then");
        assert!(moved.header("set-cookie").is_some());
    }
}

#[test]
fn another_instance_and_a_new_key_know_the_cookie() {
    let origins = named(3);
    let old = Gateway::start(&config(&origins, &format!("keys: ['{KEY}']"), ""));
    let first = ask(&old, &[]);
    let keys = format!("keys: ['another key of the next year', '{KEY}']");
    let new = Gateway::start(&config(&origins, &keys, ""));
    let again = ask(&new, &[&cookie(&first)]);
    assert_eq!(origin(&again), origin(&first));
    let renewed = cookie(&again);
    let last = ask(&new, &[&renewed]);
    assert_eq!(
        (origin(&last), last.header("set-cookie")),
        (origin(&first), None)
    );
}

#[test]
fn cookies_outlive_reloads_and_backends_that_are_gone_do_not_matter() {
    let origins = named(3);
    let sticky = format!("keys: ['{KEY}']");
    let gateway = Gateway::start(&config(&origins, &sticky, ""));
    let first = ask(&gateway, &[]);
    assert_eq!(origin(&first), "o0");
    gateway.rewrite(&config(&origins, &sticky, "retries: { attempts: 2 }"));
    assert_eq!(gateway.call("/reload", "key", "").status, 200);
    assert_eq!(origin(&ask(&gateway, &[&cookie(&first)])), "o0");
    gateway.rewrite(&config(&origins[1..], &sticky, ""));
    assert_eq!(gateway.call("/reload", "key", "").status, 200);
    let moved = ask(&gateway, &[&cookie(&first)]);
    assert!(origin(&moved) != "o0" && moved.header("set-cookie").is_some());
}

#[test]
fn by_tls_the_cookie_is_for_tls_alone() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    authority.store("a", &["a.test"]);
    let at = authority.folder().display();
    let gateway = Gateway::start(&format!(
        "listeners:
  - name: main
    address: 127.0.0.1:0
    tls: {{ certificates: [{{ cert: {at}/a.crt, key: {at}/a.key }}] }}
  - {{ name: plain, address: '127.0.0.1:0' }}
upstreams: {{ u: {{ backends: ['{}'], sticky: {{ keys: ['{KEY}'] }} }} }}
routes: [{{ name: all, upstream: u }}]",
        origin.address()
    ));
    let client = authority.client().connect(gateway.addr(), "a.test");
    let answer = client.unwrap().get("a.test", "/");
    let field = answer.header("set-cookie").unwrap();
    assert!(field.ends_with("; SameSite=Lax; Secure"), "{field}");
    let plain = get(gateway.listener("plain"), "/");
    assert!(!cookie(&plain).is_empty());
    let field = plain.header("set-cookie").unwrap();
    assert!(!field.contains("Secure"), "{field}");
}

#[test]
fn a_client_stays_when_another_group_is_preferred_again() {
    let mut origins = named(2);
    let backends: Vec<_> = origins.iter().map(Origin::address).collect();
    let gateway = Gateway::start(&format!(
        "server: {{ threads: 1, watch: false }}
upstreams:
  u:
    backends: [{{ address: '{}' }}, {{ address: '{}', priority: 1 }}]
    sticky: {{ keys: ['{KEY}'] }}
    health_check: {{ interval: 2s, fast_interval: 100ms, timeout: 2s, unhealthy_after: 1, healthy_after: 1 }}
routes: [{{ name: all, upstream: u }}]",
        backends[0], backends[1]
    ));
    let active = [("backend_service", "u")];
    origins[0].stop();
    gateway.wait_metric("gateway_upstream_active_priority", &active, 1.0);
    let given = cookie(&ask(&gateway, &[]));
    origins[0].restart();
    gateway.wait_metric("gateway_upstream_active_priority", &active, 0.0);
    assert_eq!(origin(&ask(&gateway, &[&given])), "o1");
    assert_eq!(origin(&ask(&gateway, &[])), "o0");
}
