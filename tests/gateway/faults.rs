//! Backends that fail, in every way and at every byte.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::client::{format_request, get, request};
use crate::support::origin::DeadPort;
use crate::support::{Gate, Gateway, Origin, Script};

/// One upstream `u` of these backends, with these further settings.
fn upstream(backends: &[std::net::SocketAddr], settings: &str) -> Gateway {
    let list: Vec<String> = backends
        .iter()
        .map(|address| format!("'{address}'"))
        .collect();
    Gateway::start(&format!(
        "upstreams:
  u:
    backends: [{}]
{settings}
routes: [{{ name: all, upstream: u }}]",
        list.join(", ")
    ))
}

const NO_EJECTION: &str = "    outlier: { consecutive_failures: 0 }";

/// One request to a backend that does this; the refusal, and a client that can go on.
#[track_caller]
fn assert_fault(script: Script, status: u16, error: &str) {
    let origin = Origin::answering(move |request| match request.target.as_str() {
        "/well" => Script::answer("well"),
        _ => script.clone(),
    });
    let settings = format!("{NO_EJECTION}\n    timeouts: {{ first_byte: 500ms }}");
    let gateway = upstream(&[origin.address()], &settings);
    let mut client = gateway.connect();
    // A POST, so that nothing is hidden by a retry.
    client.send(format_request("POST", "/ill", &[], b"body"));
    let id = client.read_response().assert_refusal(status, error);
    assert_eq!(client.get("/well").text(), "well", "the connection goes on");
    assert_eq!(origin.requests(), 2);
    let line = gateway.wait_access(|line| line["request_id"] == id.as_str());
    assert_eq!(line["status_code"], status);
    assert_eq!(line["error_type"], error);
    let failed = gateway.metric(
        "gateway_backend_failures_total",
        &[("backend_service", "u")],
    );
    assert_eq!(failed, 1.0);
}

#[test]
fn a_close_before_the_answer_is_502() {
    assert_fault(Script::new().read_body().close(), 502, "bad_gateway");
}

#[test]
fn a_reset_before_the_answer_is_502() {
    assert_fault(Script::new().read_body().reset(), 502, "bad_gateway");
}

#[test]
fn a_reset_inside_the_header_is_502() {
    let begun = "HTTP/1.1 200 OK\r\nContent-Le";
    assert_fault(
        Script::new().read_body().send(begun).reset(),
        502,
        "bad_gateway",
    );
}

#[test]
fn a_close_inside_the_status_line_is_502() {
    assert_fault(
        Script::new().read_body().send("HTTP/1.").close(),
        502,
        "bad_gateway",
    );
}

#[test]
fn garbage_is_502() {
    let garbage = b"\x00\x01\x02 this is not HTTP\r\n\r\n";
    assert_fault(
        Script::new().read_body().send(*garbage).close(),
        502,
        "bad_gateway",
    );
}

#[test]
fn a_status_line_of_nonsense_is_502() {
    let nonsense = "HTTP/1.1 abc OK\r\n\r\n";
    assert_fault(
        Script::new().read_body().send(nonsense).close(),
        502,
        "bad_gateway",
    );
}

#[test]
fn an_ambiguous_length_of_the_backend_is_502() {
    let two = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc";
    assert_fault(
        Script::new().read_body().send(two).close(),
        502,
        "bad_gateway",
    );
}

#[test]
fn an_answer_that_never_comes_is_504() {
    assert_fault(Script::new().read_body().hold(), 504, "gateway_timeout");
}

#[test]
fn an_answer_that_stops_inside_its_header_is_504() {
    let begun = "HTTP/1.1 200 OK\r\nX: ";
    assert_fault(
        Script::new().read_body().send(begun).hold(),
        504,
        "gateway_timeout",
    );
}

#[test]
fn an_endless_header_is_502_in_bounded_memory() {
    let origin = Origin::script(
        Script::new()
            .read_body()
            .send("HTTP/1.1 200 OK\r\n")
            .endless("X-Endless: vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv\r\n"),
    );
    let gateway = upstream(&[origin.address()], NO_EJECTION);
    let before = gateway.rss_kib();
    for _ in 0..3 {
        let response = request(gateway.addr(), "POST", "/", &[], b"x");
        response.assert_refusal(502, "bad_gateway");
    }
    let grown = gateway.rss_kib().saturating_sub(before);
    assert!(grown < 32 * 1024, "{grown} KiB");
}

#[test]
fn a_truncated_body_is_never_a_complete_one() {
    for (head, ending) in [
        ("Content-Length: 10", Script::new().close()),
        ("Content-Length: 10", Script::new().reset()),
        ("Transfer-Encoding: chunked", Script::new().close()),
        ("Transfer-Encoding: chunked", Script::new().reset()),
    ] {
        let piece = if head.contains("chunked") {
            "5\r\nshort\r\n"
        } else {
            "short"
        };
        let mut script = Script::new()
            .read_body()
            .send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{piece}"));
        script.0.extend(ending.0);
        let origin = Origin::script(script);
        let gateway = upstream(&[origin.address()], NO_EJECTION);
        let mut client = gateway.connect();
        client.send(format_request("GET", "/cut", &[], b""));
        let error = client.try_response(true).expect_err("a truncated body");
        let cut = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
        assert!(cut.contains(&error.kind()), "{head}: {error}");
        assert_eq!(
            origin.requests(),
            1,
            "a response that has begun is not retried"
        );
        let line = gateway.wait_access(|line| line["path"] == "/cut");
        assert!(line["error_type"].is_string(), "{line}");
    }
}

#[test]
fn a_body_that_stops_is_cut_after_the_read_timeout() {
    let origin = Origin::script(
        Script::new()
            .send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")
            .hold(),
    );
    let gateway = upstream(&[origin.address()], "    timeouts: { read: 500ms }");
    let mut client = gateway.connect();
    client.send(format_request("GET", "/", &[], b""));
    assert!(client.try_response(true).is_err());
}

#[test]
fn a_body_that_is_too_long_does_not_become_the_next_answer() {
    let origin = Origin::answering(|request| {
        match request.target.as_str() {
        "/long" => Script::new().send(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        ),
        _ => Script::answer("good"),
    }
    });
    let gateway = upstream(&[origin.address()], NO_EJECTION);
    let mut client = gateway.connect();
    assert_eq!(client.get("/long").text(), "ok");
    for _ in 0..3 {
        assert_eq!(client.get("/next").text(), "good");
    }
}

#[test]
fn a_refused_connection_is_retried_on_the_other_backend() {
    let (dead, origin) = (DeadPort::refusing(), Origin::echo());
    let gateway = upstream(
        &[dead.address(), origin.address()],
        "    outlier: { consecutive_failures: 0 }\n    retries: { attempts: 1, budget: 100% }",
    );
    let mut client = gateway.connect();
    for _ in 0..10 {
        // Nothing was sent, so even a POST may be tried again.
        let response = client.exchange(format_request("POST", "/", &[], b"body"));
        assert_eq!(response.json()["body_length"], 4);
    }
    assert_eq!(origin.requests(), 10);
    let retries = gateway.metric("gateway_backend_retries_total", &[("backend_service", "u")]);
    assert_eq!(retries, 5.0);
    let retried = |line: &serde_json::Value| line["retries"] == 1;
    gateway.wait_access(retried);
}

#[test]
fn nothing_but_dead_backends_is_502() {
    let (one, two) = (DeadPort::refusing(), DeadPort::refusing());
    let gateway = upstream(&[one.address(), two.address()], NO_EJECTION);
    let mut client = gateway.connect();
    client.get("/").assert_refusal(502, "bad_gateway");
    client.get("/").assert_refusal(502, "bad_gateway");
}

#[test]
fn a_connection_that_is_never_established_is_given_up() {
    let (dead, origin) = (DeadPort::unanswering(), Origin::echo());
    let gateway = upstream(
        &[dead.address(), origin.address()],
        "    timeouts: { connect: 200ms }",
    );
    let mut client = gateway.connect();
    for _ in 0..4 {
        assert_eq!(client.get("/").status, 200);
    }
}

/// What the first attempt of each request meets; the second one is answered.
fn failing_first(failure: Script) -> Origin {
    let failed = Mutex::new(std::collections::HashSet::new());
    Origin::answering(move |request| {
        let first = failed.lock().unwrap().insert(request.target.clone());
        if first {
            failure.clone()
        } else {
            Script::answer("second")
        }
    })
}

#[test]
fn an_idempotent_request_is_retried_after_a_reset() {
    let origin = failing_first(Script::new().reset());
    let gateway = upstream(&[origin.address()], NO_EJECTION);
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let path = format!("/{method}");
        let response = request(gateway.addr(), method, &path, &[], b"");
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, "second"),
            "{method}"
        );
    }
}

#[test]
fn a_request_that_is_not_idempotent_is_sent_once() {
    let origin = failing_first(Script::new().read_body().reset());
    let gateway = upstream(&[origin.address()], NO_EJECTION);
    for method in ["POST", "PATCH"] {
        let path = format!("/{method}");
        request(gateway.addr(), method, &path, &[], b"body").assert_refusal(502, "bad_gateway");
    }
    assert_eq!(origin.requests(), 2);
}

#[test]
fn retries_can_be_switched_off() {
    let origin = failing_first(Script::new().reset());
    let gateway = upstream(
        &[origin.address()],
        "    outlier: { consecutive_failures: 0 }\n    retries: { attempts: 0 }",
    );
    get(gateway.addr(), "/").assert_refusal(502, "bad_gateway");
    assert_eq!(origin.requests(), 1);
}

#[test]
fn retries_stay_within_their_budget() {
    let origin = Origin::script(Script::new().reset());
    let gateway = upstream(
        &[origin.address()],
        "    outlier: { consecutive_failures: 0 }\n    retries: { attempts: 1, budget: 20%, min_per_second: 1 }",
    );
    let mut client = gateway.connect();
    for _ in 0..100 {
        client.get("/").assert_refusal(502, "bad_gateway");
    }
    // A fifth, and one for each second that this may have taken, generously counted.
    let attempts = origin.requests();
    assert!((100..150).contains(&attempts), "{attempts} attempts");
}

#[test]
fn a_stale_kept_connection_costs_no_request() {
    // Answers, then closes: the gateway finds the closed connection in its pool.
    let origin = Origin::script(Script::answer("once").close());
    let gateway = upstream(&[origin.address()], NO_EJECTION);
    let mut client = gateway.connect();
    for _ in 0..20 {
        assert_eq!(client.get("/").text(), "once");
    }
}

#[test]
fn a_killed_backend_costs_no_request() {
    let (mut killed, kept) = (Origin::named("killed"), Origin::named("kept"));
    let gateway = upstream(&[killed.address(), kept.address()], "");
    let stop = AtomicBool::new(false);
    let served = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = gateway.connect();
                    let mut served = 0;
                    while !stop.load(Ordering::SeqCst) {
                        let response = client.get("/");
                        assert_eq!(response.status, 200, "{}", response.text());
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        crate::support::eventually("both serve", || {
            killed.requests() > 50 && kept.requests() > 50
        });
        killed.stop();
        let before = kept.requests();
        crate::support::eventually("the other one goes on", || kept.requests() > before + 200);
        stop.store(true, Ordering::SeqCst);
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .sum::<usize>()
    });
    assert!(served > 300);
}

#[test]
fn a_failing_backend_is_left_out_and_comes_back() {
    let (mut failing, kept) = (Origin::named("failing"), Origin::named("kept"));
    let gateway = upstream(
        &[failing.address(), kept.address()],
        "    outlier: { consecutive_failures: 2, base_ejection: 1s }",
    );
    failing.stop();
    let mut client = gateway.connect();
    for _ in 0..20 {
        assert_eq!(client.get("/").header("x-origin"), Some("kept"));
    }
    let retries = gateway.metric("gateway_backend_retries_total", &[]);
    assert!(retries < 5.0, "ejected after two failures, not {retries}");
    failing.restart();
    crate::support::eventually("it is used again", || {
        client.get("/").header("x-origin") == Some("failing")
    });
}

#[test]
fn a_health_check_takes_a_backend_out_and_back() {
    let healthy = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&healthy);
    let checked = Origin::answering(move |request| {
        match (request.target.as_str(), state.load(Ordering::SeqCst)) {
            ("/healthz", false) => {
                Script::new().send("HTTP/1.1 500 Ill\r\nContent-Length: 0\r\n\r\n")
            }
            _ => Script::answer("checked"),
        }
    });
    let gateway = upstream(
        &[checked.address()],
        "    health_check: { path: /healthz, interval: 100ms, timeout: 1s, unhealthy_after: 2, healthy_after: 2 }",
    );
    let labels = [("backend_service", "u")];
    gateway.wait_metric("gateway_backend_up", &labels, 1.0);
    assert_eq!(get(gateway.addr(), "/").text(), "checked");
    healthy.store(false, Ordering::SeqCst);
    gateway.wait_metric("gateway_backend_up", &labels, 0.0);
    get(gateway.addr(), "/").assert_refusal(503, "no_healthy_backend");
    healthy.store(true, Ordering::SeqCst);
    gateway.wait_metric("gateway_backend_up", &labels, 1.0);
    assert_eq!(get(gateway.addr(), "/").text(), "checked");
}

#[test]
fn a_client_that_leaves_does_not_disturb_the_others() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::answering(move |request| match request.target.as_str() {
        "/held" => Script::new()
            .wait(&held)
            .send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        _ => Script::answer("well"),
    });
    let gateway = upstream(&[origin.address()], "");
    let mut leaving = gateway.connect();
    leaving.send(format_request("GET", "/held", &[], b""));
    crate::support::eventually("it arrives", || origin.requests() == 1);
    drop(leaving);
    gateway.wait_access(|line| line["path"] == "/held");
    gate.open();
    for _ in 0..5 {
        assert_eq!(get(gateway.addr(), "/").text(), "well");
    }
    // A client's leaving is not the backend's failure.
    assert_eq!(gateway.metric("gateway_backend_failures_total", &[]), 0.0);
}

#[test]
fn a_slow_backend_within_its_time_is_waited_for() {
    let origin = Origin::script(
        Script::new()
            .delay(Duration::from_millis(300))
            .send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow"),
    );
    let gateway = upstream(&[origin.address()], "    timeouts: { first_byte: 10s }");
    assert_eq!(get(gateway.addr(), "/").text(), "slow");
}
