//! Whether it lives, whether it is ready, and how it ends.

use std::net::TcpStream;

use crate::support::client::{format_request, get, request};
use crate::support::{Gate, Gateway, Origin, Script, eventually};

#[test]
fn all_four_paths_answer_on_the_traffic_port_without_a_backend() {
    let gateway = Gateway::start("routes: [{ name: none, match: { path: /only }, respond: {} }]");
    let mut client = gateway.connect();
    for path in ["/health", "/ready", "/_health/live", "/_health/ready"] {
        let response = client.get(path);
        assert_eq!(response.status, 200, "{path}");
        assert_eq!(response.header("content-type"), Some("application/json"));
        response.json();
    }
    client.send("HEAD /health HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.read_response_to_head().status, 200);
}

#[test]
fn the_admin_port_answers_them_too() {
    let gateway = Gateway::start("routes: [{ name: none, respond: {} }]");
    for path in ["/health", "/ready"] {
        assert_eq!(get(gateway.admin(), path).status, 200, "{path}");
    }
}

#[test]
fn switched_off_they_are_ordinary_paths() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "listeners: [{{ name: main, address: 127.0.0.1:0, health: false }}]
routes: [{{ name: all, upstream: 'http://{}' }}]",
        origin.address()
    ));
    assert_eq!(get(gateway.addr(), "/health").json()["target"], "/health");
}

#[test]
fn they_are_answered_before_any_route() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    assert_eq!(get(gateway.addr(), "/ready").status, 200);
    assert_eq!(origin.requests(), 0);
}

#[test]
fn readiness_fails_first_and_requests_in_flight_finish() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::answering(move |request| match request.target.as_str() {
        "/held" => Script::new()
            .send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
            .wait(&held)
            .send("lf"),
        _ => Script::answer("ok"),
    });
    let mut gateway = Gateway::start(&format!(
        "shutdown: {{ delay: 5s, drain_timeout: 10s }}
routes: [{{ name: all, upstream: 'http://{}' }}]",
        origin.address()
    ));
    let mut in_flight = gateway.connect();
    in_flight.send(format_request("GET", "/held", &[], b""));
    eventually("the request is in flight", || origin.requests() == 1);

    gateway.signal("TERM");
    eventually("readiness fails", || {
        get(gateway.addr(), "/ready").status == 503
    });
    let reasons = get(gateway.addr(), "/ready").json();
    assert!(reasons.to_string().contains("drain"), "{reasons}");
    assert_eq!(get(gateway.addr(), "/health").status, 200, "it still lives");
    assert_eq!(get(gateway.addr(), "/new").text(), "ok", "and still serves");

    eventually("the port closes", || {
        TcpStream::connect(gateway.addr()).is_err()
    });
    gate.open();
    assert_eq!(in_flight.read_response().text(), "half");
    assert_eq!(gateway.wait_exit().code(), Some(0));
}

#[test]
fn a_draining_gateway_asks_clients_to_go_elsewhere() {
    let origin = Origin::echo();
    let mut gateway = Gateway::start(&format!(
        "shutdown: {{ delay: 5s, drain_timeout: 5s }}
routes: [{{ name: all, upstream: 'http://{}' }}]",
        origin.address()
    ));
    let mut client = gateway.connect();
    assert_ne!(client.get("/").header("connection"), Some("close"));
    gateway.signal("TERM");
    eventually("readiness fails", || {
        get(gateway.addr(), "/ready").status == 503
    });
    let last = client.get("/");
    assert_eq!(
        (last.status, last.header("connection")),
        (200, Some("close"))
    );
    assert!(client.is_closed());
    assert_eq!(gateway.wait_exit().code(), Some(0));
}

#[test]
fn an_idle_gateway_ends_soon_with_open_connections() {
    let origin = Origin::echo();
    let mut gateway = Gateway::start(&format!(
        "shutdown: {{ keepalive_grace: 500ms }}
routes: [{{ name: all, upstream: 'http://{}' }}]",
        origin.address()
    ));
    let mut idle = gateway.connect();
    assert_eq!(idle.get("/").status, 200);
    let begun = std::time::Instant::now();
    assert_eq!(gateway.stop().code(), Some(0));
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    assert!(idle.is_closed());
}

#[test]
fn what_is_not_finished_in_time_is_cut() {
    let origin = Origin::script(Script::new().hold());
    let mut gateway = Gateway::start(&format!(
        "shutdown: {{ drain_timeout: 1s }}
routes: [{{ name: all, upstream: 'http://{}' }}]",
        origin.address()
    ));
    let mut client = gateway.connect();
    client.send(format_request("GET", "/", &[], b""));
    eventually("the request is in flight", || origin.requests() == 1);
    assert_eq!(gateway.stop().code(), Some(0));
}

#[test]
fn the_access_log_is_complete_after_the_end() {
    let origin = Origin::echo();
    let mut gateway = Gateway::in_front_of(&origin);
    for n in 0..50 {
        request(gateway.addr(), "GET", &format!("/{n}"), &[], b"");
    }
    gateway.stop();
    eventually("every line is there", || {
        let lines = gateway.access_lines();
        let mine = lines.iter().filter(|line| line["route"] == "all");
        mine.count() == 50
    });
}
