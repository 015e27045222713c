//! Another attempt, another backend: when there is one, and when there must not be one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::client::{format_request, get, request};
use crate::support::gateway::NO_EJECTION;
use crate::support::h2::{self, H2};
use crate::support::{DeadPort, Finally, Gateway, Origin, Script};

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
        &format!("{NO_EJECTION}\n    retries: {{ attempts: 1, budget: 20%, min_per_second: 1 }}"),
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
        let _end = Finally(|| stop.store(true, Ordering::SeqCst));
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
    assert!(retries < 10.0, "ejected after two failures, not {retries}");
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
        "    health_check: { path: /healthz, interval: 2s, fast_interval: 50ms, timeout: 2s, unhealthy_after: 2, healthy_after: 2 }",
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

/// An answer with this status.
fn failing(status: u16, fields: &str) -> Script {
    Script::new().read_body().send(format!(
        "HTTP/1.1 {status} Oh\r\n{fields}Content-Length: 4\r\n\r\nbusy"
    ))
}

/// Retries without pauses and without bounds, for these causes.
fn retrying(on: &str, more: &str) -> String {
    format!(
        "{NO_EJECTION}\n    retries: {{ on: [{on}], budget: 100%, min_per_second: 1000, \
         backoff: {{ base: 1ms, max: 1ms }}, {more} }}"
    )
}

#[test]
fn a_status_that_is_listed_is_asked_for_again_elsewhere() {
    let (ill, well) = (
        Origin::script(failing(503, "")),
        Origin::script(Script::answer("well")),
    );
    let settings = retrying("503", "");
    let gateway = Gateway::with_upstream(&[ill.address(), well.address()], &settings);
    let mut client = gateway.connect();
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "well");
    }
    // Half of them, but for the turns that retries do not take.
    assert!(ill.requests() >= 3, "{}", ill.requests());
    // The response that nobody wanted was read, and its connection used again.
    assert_eq!(ill.connections(), 1);
    let counted = [("backend_service", "u"), ("reason", "status")];
    let retries = gateway.metric("gateway_backend_retries_total", &counted);
    assert_eq!(retries as usize, ill.requests());
    let attempts = [("backend_service", "u"), ("status_code", "503")];
    gateway.wait_metric("gateway_backend_requests_total", &attempts, retries);
}

#[test]
fn a_status_that_is_not_listed_is_the_answer() {
    let origin = Origin::script(failing(503, ""));
    let settings = retrying("500, 502-504, 429", "");
    let gateway = Gateway::with_upstream(&[origin.address()], &settings);
    assert_eq!(get(gateway.addr(), "/").text(), "busy");
    assert_eq!(origin.requests(), 2, "503 is between them");
    let gateway = Gateway::with_upstream(&[origin.address()], NO_EJECTION);
    let response = get(gateway.addr(), "/");
    assert_eq!((response.status, response.text().as_str()), (503, "busy"));
    assert_eq!(origin.requests(), 3);
}

#[test]
fn when_attempts_are_used_up_the_last_answer_is_passed_on() {
    let origin =
        Origin::answering(|request| failing(503, &format!("X-Turn: {}\r\n", request.ordinal)));
    let settings = retrying("503", "attempts: 2");
    let gateway = Gateway::with_upstream(&[origin.address()], &settings);
    let response = get(gateway.addr(), "/");
    assert_eq!((response.status, response.text().as_str()), (503, "busy"));
    assert_eq!(response.header("x-turn"), Some("2"));
    let skipped = [("backend_service", "u"), ("reason", "attempts")];
    gateway.wait_metric("gateway_backend_retries_skipped_total", &skipped, 1.0);
    let line = gateway.wait_access(|line| line["retries"] == 2);
    assert_eq!(line["retry_skipped"], "attempts");
}

#[test]
fn a_long_answer_that_nobody_wants_costs_its_connection_and_no_time() {
    let ill = Origin::answering(|request| match request.ordinal {
        0 => Script::new()
            .send("HTTP/1.1 500 Oh\r\nContent-Length: 1000000\r\n\r\nx")
            .hold(),
        _ => Script::answer("well"),
    });
    let gateway = Gateway::with_upstream(&[ill.address()], &retrying("500", ""));
    assert_eq!(get(gateway.addr(), "/").text(), "well");
    assert_eq!(ill.connections(), 2);
}

#[test]
fn a_body_is_sent_again_from_its_beginning_or_not_at_all() {
    let origin = Origin::answering(|request| match request.ordinal % 2 {
        0 => failing(503, ""),
        _ => Script::answer("well"),
    });
    let settings = retrying("503", "max_body: 1KiB");
    let gateway = Gateway::with_upstream(&[origin.address()], &settings);
    let small = request(gateway.addr(), "PUT", "/", &[], &[b'x'; 1024]);
    assert_eq!(small.text(), "well");
    assert_eq!(origin.seen()[1].body, [b'x'; 1024]);
    let large = request(gateway.addr(), "PUT", "/", &[], &[b'x'; 1025]);
    assert_eq!(large.text(), "busy");
    let skipped = [("backend_service", "u"), ("reason", "body_too_large")];
    gateway.wait_metric("gateway_backend_retries_skipped_total", &skipped, 1.0);
    gateway.wait_access(|line| line["retry_skipped"] == "body_too_large");
}

#[test]
fn what_is_not_idempotent_is_sent_again_where_that_is_wanted() {
    let origin = failing_first(failing(503, ""));
    let gateway = Gateway::start(&format!(
        "upstreams: {{ u: {{ backends: ['{}'], outlier: {{ consecutive_failures: 0 }}, \
         retries: {{ on: [503], budget: 100%, min_per_second: 1000 }} }} }}\nroutes:\n\
         \x20 - {{ match: {{ path: /no }}, upstream: u }}\n\
         \x20 - {{ match: {{ path: /yes }}, upstream: u, retries: {{ non_idempotent: true }} }}\n\
         \x20 - {{ match: {{ path: /key }}, upstream: u, retries: {{ idempotency_key: true }} }}\n\
         \x20 - {{ match: {{ path: /nokey }}, upstream: u, retries: {{ idempotency_key: true }} }}\n",
        origin.address()
    ));
    let key = ["Idempotency-Key: \"a1\""];
    for (path, headers, answer) in [
        ("/no", &key[..], "busy"),
        ("/yes", &[], "second"),
        ("/key", &key[..], "second"),
        ("/nokey", &[], "busy"),
    ] {
        let response = request(gateway.addr(), "POST", path, headers, b"body");
        assert_eq!(response.text(), answer, "{path}");
    }
    let skipped = [("backend_service", "u"), ("reason", "not_idempotent")];
    gateway.wait_metric("gateway_backend_retries_skipped_total", &skipped, 2.0);
}

#[test]
fn a_slow_backend_is_given_up_for_another_where_that_is_wanted() {
    let (slow, well) = (
        Origin::script(Script::new().hold()),
        Origin::script(Script::answer("well")),
    );
    let settings = format!(
        "{}\n    timeouts: {{ first_byte: 2s }}",
        retrying("timeout", "")
    );
    let gateway = Gateway::with_upstream(&[slow.address(), well.address()], &settings);
    let mut client = gateway.connect();
    for _ in 0..4 {
        assert_eq!(client.get("/").text(), "well");
    }
    let counted = [("backend_service", "u"), ("reason", "timeout")];
    assert!(gateway.metric("gateway_backend_retries_total", &counted) >= 1.0);
}

#[test]
fn a_backend_that_wants_to_be_left_alone_is() {
    let origin = failing_first(failing(503, "Retry-After: 1\r\n"));
    let settings = "    retries: { on: [503], backoff: { base: 10ms, max: 100ms } }";
    let gateway = Gateway::with_upstream(&[origin.address()], settings);
    let response = get(gateway.addr(), "/");
    assert_eq!(response.text(), "busy");
    assert_eq!(response.header("retry-after"), Some("1"));
    let skipped = [("backend_service", "u"), ("reason", "retry_after")];
    gateway.wait_metric("gateway_backend_retries_skipped_total", &skipped, 1.0);
    let patient = "    retries: { on: [503], backoff: { base: 10ms, max: 1s } }";
    let gateway = Gateway::with_upstream(&[origin.address()], patient);
    let asked = std::time::Instant::now();
    assert_eq!(get(gateway.addr(), "/patient").text(), "second");
    assert!(asked.elapsed() >= std::time::Duration::from_secs(1));
}

#[test]
fn a_client_that_leaves_is_not_waited_for() {
    let origin = failing_first(failing(503, "Retry-After: 60\r\n"));
    let settings = "    retries: { on: [503], backoff: { base: 1m, max: 1m } }";
    let gateway = Gateway::with_upstream(&[origin.address()], settings);
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let counted = [("backend_service", "u"), ("reason", "status")];
    gateway.wait_metric("gateway_backend_retries_total", &counted, 1.0);
    drop(client);
    gateway.wait_access(|line| line["error_type"] == "client_closed");
    assert_eq!(origin.requests(), 1);
}

/// What backends are asked in a full outage, beside what clients ask.
fn attempts_in_an_outage(outage: &Script, on: &str) -> (usize, usize) {
    let backends = [
        Origin::script(outage.clone()),
        Origin::script(outage.clone()),
    ];
    let addresses = backends.each_ref().map(Origin::address);
    let settings = format!(
        "{NO_EJECTION}\n    retries: {{ attempts: 3, on: [{on}], min_per_second: 0, \
         backoff: {{ base: 1ms, max: 1ms }} }}"
    );
    let gateway = Gateway::with_upstream(&addresses, &settings);
    let asked = 500;
    let mut client = gateway.connect();
    for _ in 0..asked {
        assert!(client.get("/").status >= 500);
    }
    (asked, backends.iter().map(Origin::requests).sum())
}

#[test]
fn a_full_outage_is_not_made_worse_by_retries() {
    let bad = failing(503, "");
    let closing = Script::new().reset();
    for (outage, on) in [(&bad, "502-504"), (&closing, "reset")] {
        let (asked, attempts) = attempts_in_an_outage(outage, on);
        assert!(attempts > asked, "some are tried again: {attempts}");
        assert!(attempts <= asked + asked / 5, "{on}: {attempts}");
    }
}

#[test]
fn a_client_that_was_told_to_go_on_is_not_told_again() {
    // Reading the body begins with 100.
    let origin = failing_first(Script::new().read_body().reset());
    let gateway = Gateway::with_upstream(&[origin.address()], &retrying("reset", ""));
    let mut client = gateway.connect();
    client
        .send("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody");
    let response = client.read_response();
    assert_eq!(response.interim, [100]);
    assert_eq!(response.text(), "second");
    assert!(origin.seen()[0].header("expect").is_some());
    assert_eq!(origin.seen()[1].header("expect"), None);
    assert_eq!(origin.seen()[1].body, b"body");
}

#[test]
fn a_call_is_made_again_for_the_statuses_that_are_listed() {
    let ended = |status: u8| {
        Script::new().read_body().send(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nGrpc-Status: {status}\r\n\
             Content-Length: 0\r\n\r\n"
        ))
    };
    for (status, again) in [(14, true), (8, true), (13, false)] {
        let origin = failing_first(ended(status));
        let on = "grpc_unavailable, grpc_resource_exhausted";
        let gateway = Gateway::start(&format!(
            "listeners: [{{ name: main, address: 127.0.0.1:0, h2c: true }}]\n\
             upstreams:\n  u:\n    backends: ['{}']\n{}\nroutes: [{{ name: all, upstream: u }}]",
            origin.address(),
            retrying(on, "")
        ));
        let call = h2::request("POST", "/a.B/C").header("content-type", "application/grpc");
        let answer = H2::connect(gateway.addr()).send(call, "x");
        let counted = [("backend_service", "u"), ("reason", "grpc_status")];
        let retries = gateway.metric("gateway_backend_retries_total", &counted);
        if again {
            assert_eq!((answer.text().as_str(), retries), ("second", 1.0));
            assert_eq!(origin.seen()[1].body, b"x");
        } else {
            assert_eq!((answer.header("grpc-status"), retries), ("13", 0.0));
        }
    }
}

#[test]
fn a_budget_that_is_used_up_is_told() {
    let origin = Origin::script(failing(503, ""));
    let settings =
        format!("{NO_EJECTION}\n    retries: {{ on: [503], budget: 0%, min_per_second: 0 }}");
    let gateway = Gateway::with_upstream(&[origin.address()], &settings);
    assert_eq!(get(gateway.addr(), "/").text(), "busy");
    assert_eq!(origin.requests(), 1);
    let skipped = [("backend_service", "u"), ("reason", "budget")];
    assert_eq!(
        gateway.metric("gateway_backend_retries_skipped_total", &skipped),
        1.0
    );
    gateway.wait_access(|line| line["retry_skipped"] == "budget");
}

#[test]
fn a_route_has_attempts_and_causes_of_its_own() {
    let origin = Origin::answering(|request| match request.target.as_str() {
        "/ill" => failing(500, ""),
        _ => failing(503, ""),
    });
    let gateway = Gateway::start(&format!(
        "upstreams:\n  u:\n    backends: ['{}']\n{}\nroutes:\n\
         \x20 - {{ match: {{ path: /never }}, upstream: u, retries: {{ attempts: 0 }} }}\n\
         \x20 - {{ match: {{ path: /ill }}, upstream: u, retries: {{ attempts: 3, on: [500] }} }}\n\
         \x20 - {{ match: {{ path: /other }}, upstream: u, retries: {{ on: [500] }} }}\n\
         \x20 - {{ upstream: u }}\n",
        origin.address(),
        retrying("503", "attempts: 1")
    ));
    for (path, times) in [("/", 2), ("/never", 1), ("/ill", 4), ("/other", 1)] {
        let before = origin.requests();
        assert_eq!(get(gateway.addr(), path).text(), "busy");
        assert_eq!(origin.requests() - before, times, "{path}");
    }
}
