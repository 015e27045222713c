//! Another attempt, another backend: when there is one, and when there must not be one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::client::{format_request, get, request};
use crate::support::gateway::NO_EJECTION;
use crate::support::{DeadPort, Gateway, Origin, Script};

#[test]
fn a_refused_connection_is_retried_on_the_other_backend() {
    let (dead, origin) = (DeadPort::refusing(), Origin::echo());
    let gateway = Gateway::with_upstream(
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
    assert!((5.0..=10.0).contains(&retries), "{retries}");
    let retried = |line: &serde_json::Value| line["retries"] == 1;
    gateway.wait_access(retried);
}

#[test]
fn nothing_but_dead_backends_is_502() {
    let (one, two) = (DeadPort::refusing(), DeadPort::refusing());
    let gateway = Gateway::with_upstream(&[one.address(), two.address()], NO_EJECTION);
    let mut client = gateway.connect();
    client.get("/").assert_refusal(502, "bad_gateway");
    client.get("/").assert_refusal(502, "bad_gateway");
}

#[test]
fn a_connection_that_is_never_established_is_502() {
    let dead = DeadPort::unanswering();
    let settings = format!("{NO_EJECTION}\n    timeouts: {{ connect: 200ms }}");
    let gateway = Gateway::with_upstream(&[dead.address()], &settings);
    let mut client = gateway.connect();
    client.get("/").assert_refusal(502, "bad_gateway");
    let counted = [("reason", "connect_timeout")];
    assert!(gateway.metric("gateway_backend_failures_total", &counted) > 0.0);
}

#[test]
fn a_connection_that_is_never_established_is_given_up_for_another() {
    let (dead, origin) = (DeadPort::unanswering(), Origin::echo());
    let gateway = Gateway::with_upstream(
        &[dead.address(), origin.address()],
        "    timeouts: { connect: 200ms }\n    retries: { budget: 100% }",
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
    let settings = format!("{NO_EJECTION}\n    retries: {{ budget: 100% }}");
    let gateway = Gateway::with_upstream(&[origin.address()], &settings);
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
    let gateway = Gateway::with_upstream(&[origin.address()], NO_EJECTION);
    for method in ["POST", "PATCH"] {
        let path = format!("/{method}");
        request(gateway.addr(), method, &path, &[], b"body").assert_refusal(502, "bad_gateway");
    }
    assert_eq!(origin.requests(), 2);
}

#[test]
fn retries_can_be_switched_off() {
    let origin = failing_first(Script::new().reset());
    let gateway = Gateway::with_upstream(
        &[origin.address()],
        "    outlier: { consecutive_failures: 0 }\n    retries: { attempts: 0 }",
    );
    get(gateway.addr(), "/").assert_refusal(502, "bad_gateway");
    assert_eq!(origin.requests(), 1);
}

#[test]
fn retries_stay_within_their_budget() {
    let origin = Origin::script(Script::new().reset());
    let gateway = Gateway::with_upstream(
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
    let gateway = Gateway::with_upstream(&[origin.address()], NO_EJECTION);
    let mut client = gateway.connect();
    for _ in 0..20 {
        assert_eq!(client.get("/").text(), "once");
    }
}

#[test]
fn a_killed_backend_costs_no_request() {
    let (mut killed, kept) = (Origin::named("killed"), Origin::named("kept"));
    let gateway = Gateway::with_upstream(&[killed.address(), kept.address()], "");
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
    let gateway = Gateway::with_upstream(
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
    let gateway = Gateway::with_upstream(
        &[checked.address()],
        "    health_check: { path: /healthz, interval: 100ms, timeout: 100ms, unhealthy_after: 2, healthy_after: 2 }",
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
