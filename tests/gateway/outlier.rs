//! Backends that fail or are slow while the others are not: left out, and back by way of a few requests.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::client::{format_request, get};
use crate::support::command::{binary, finish};
use crate::support::{Client, Gateway, Origin, Script, eventually};

const EJECTIONS: &str = "gateway_backend_ejections_total";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Three backends that are well and this one.
fn among_three(odd: &Origin, outlier: &str) -> (Gateway, Vec<Origin>) {
    let well: Vec<_> = (0..3)
        .map(|_| Origin::script(Script::new().read_body().send(OK)))
        .collect();
    let mut addresses: Vec<_> = well.iter().map(Origin::address).collect();
    addresses.push(odd.address());
    let settings = format!("    outlier: {{ base_ejection: 1h, max_ejection: 1h, {outlier} }}");
    (Gateway::with_upstream(&addresses, &settings), well)
}

/// Sends requests until the odd one is ejected for this reason, which no other one is.
#[track_caller]
fn wait_ejected(gateway: &Gateway, odd: &Origin, reason: &str) {
    let backend = odd.address().to_string();
    let labels = [("backend", &*backend), ("reason", reason)];
    eventually("it is ejected", || {
        let mut client = gateway.connect();
        (0..40).for_each(|_| drop(client.get("/")));
        gateway.metric(EJECTIONS, &labels) == 1.0
    });
    assert_eq!(gateway.metric(EJECTIONS, &[]), 1.0, "and nobody else");
    let seen = odd.requests();
    for _ in 0..20 {
        assert_eq!(get(gateway.addr(), "/").status, 200);
    }
    assert_eq!(odd.requests(), seen);
}

#[test]
fn a_backend_that_fails_more_than_the_others_is_left_out() {
    let odd = Origin::answering(|request| match request.ordinal % 3 {
        0 => Script::new()
            .read_body()
            .send("HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n"),
        _ => Script::new().read_body().send(OK),
    });
    let (gateway, _well) = among_three(&odd, "");
    wait_ejected(&gateway, &odd, "failure_rate");
    gateway.wait_log(&["of its attempts failed, 0% at the others"]);
}

#[test]
fn what_fails_everywhere_ejects_nobody() {
    let bad = |_: usize| {
        Origin::script(
            Script::new()
                .read_body()
                .send("HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n"),
        )
    };
    let origins: Vec<_> = (0..3).map(bad).collect();
    let addresses: Vec<_> = origins.iter().map(Origin::address).collect();
    let gateway = Gateway::with_upstream(&addresses, "");
    let mut client = gateway.connect();
    let began = Instant::now();
    // Long enough for backends to be compared.
    eventually("there were many requests", || {
        (0..20).for_each(|_| assert_eq!(client.get("/").status, 500));
        std::thread::sleep(Duration::from_millis(20));
        let many = origins.iter().all(|origin| origin.requests() > 100);
        many && began.elapsed() > Duration::from_millis(1500)
    });
    assert_eq!(gateway.metric(EJECTIONS, &[]), 0.0);
}

#[test]
fn a_slow_backend_is_left_out() {
    let slow = Script::new()
        .read_body()
        .delay(Duration::from_millis(100))
        .send(OK);
    let odd = Origin::script(slow);
    // Far above what a loaded machine makes of the others.
    let outlier = "slow_at_least: 80ms, slow_factor: 3, minimum_requests: 5";
    let (gateway, _well) = among_three(&odd, outlier);
    wait_ejected(&gateway, &odd, "slow");
}

#[test]
fn a_backend_that_hangs_is_left_out_before_it_times_out() {
    let odd = Origin::script(Script::new().hold());
    let (gateway, _well) = among_three(&odd, "slow_factor: 2, minimum_requests: 5");
    let backend = odd.address().to_string();
    let labels = [("backend", &*backend), ("reason", "slow")];
    let mut waiting: Vec<Client> = Vec::new();
    eventually("it is ejected", || {
        // Whoever is given to it waits; the others do not keep it waiting.
        for _ in 0..10 {
            let mut client = gateway.connect();
            client.send(format_request("GET", "/", &[], b""));
            waiting.push(client);
        }
        std::thread::sleep(Duration::from_millis(250));
        gateway.metric(EJECTIONS, &labels) == 1.0
    });
    assert_eq!(gateway.metric("gateway_backend_failures_total", &[]), 0.0);
}

#[test]
fn answers_that_break_off_in_a_row_eject() {
    let broken = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok";
    let odd = Origin::script(Script::new().read_body().send(broken).close());
    let well = Origin::echo();
    let outlier = "    outlier: { base_ejection: 1h, max_ejection: 1h }";
    let gateway = Gateway::with_upstream(&[odd.address(), well.address()], outlier);
    let backend = odd.address().to_string();
    let labels = [("backend", &*backend), ("reason", "consecutive_failures")];
    eventually("it is ejected", || {
        let mut client = gateway.connect();
        client.send(format_request("GET", "/", &[], b""));
        drop(client.try_response(true));
        gateway.metric(EJECTIONS, &labels) == 1.0
    });
    for _ in 0..10 {
        assert_eq!(get(gateway.addr(), "/").status, 200);
    }
}

#[test]
fn server_errors_in_a_row_eject_if_wanted() {
    let error = "HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n";
    let odd = Origin::script(Script::new().read_body().send(error));
    let (gateway, _well) = among_three(&odd, "consecutive_5xx: 3, failure_rate: 0");
    wait_ejected(&gateway, &odd, "consecutive_5xx");
}

#[test]
fn a_backend_that_is_back_shows_that_it_is_well() {
    let mut odd = Origin::named("odd");
    let well = Origin::named("well");
    let settings =
        "    outlier: { consecutive_failures: 2, base_ejection: 200ms, max_ejection: 400ms }";
    let gateway = Gateway::with_upstream(&[odd.address(), well.address()], settings);
    let backend = odd.address().to_string();
    let up = [("backend", &*backend)];
    odd.stop();
    let again = [("backend", &*backend), ("reason", "probe")];
    eventually("it fails, returns, and fails again", || {
        assert_eq!(
            get(gateway.addr(), "/").status,
            200,
            "the other one answers"
        );
        gateway.metric(EJECTIONS, &again) >= 2.0
    });
    odd.restart();
    eventually("it is back", || {
        assert_eq!(get(gateway.addr(), "/").status, 200);
        gateway.metric("gateway_backend_up", &up) == 1.0
    });
    gateway.wait_log(&["is back: it answers again"]);
    eventually("both have their share", || {
        let answers = (0..4).map(|_| get(gateway.addr(), "/"));
        let odd = answers.filter(|answer| answer.header("x-origin") == Some("odd"));
        odd.count() == 2
    });
}

#[test]
fn ejections_that_cannot_be_meant_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    let text = "upstreams:
  a: { backends: ['127.0.0.1:1'], outlier: { base_ejection: 1m, max_ejection: 1s } }
  b: { backends: ['127.0.0.1:1'], outlier: { failure_rate: 120% } }
routes:
  - { upstream: a }";
    fs::write(&file, text).unwrap();
    let run = finish(binary().arg("-t").arg("-c").arg(&file));
    assert_eq!(run.code, Some(1));
    for expected in [
        ":2: upstreams.a.outlier.max_ejection: is shorter than `base_ejection`",
        ":3: upstreams.b.outlier.failure_rate: ",
    ] {
        assert!(run.stderr.contains(expected), "{expected}\n{}", run.stderr);
    }
}
