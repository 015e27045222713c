//! Active health checks: what they ask, what they take for an answer, and what is told of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::client::get;
use crate::support::{Act, DeadPort, Gateway, ModernOrigin, Origin, Request, Script, eventually};

/// The first probe is sent at once, and decides.
const DECIDES: &str = "unhealthy_after: 1, healthy_after: 1";
const IN_TIME: &str = "no answer in time";
const UP: &str = "gateway_backend_up";
const PROBES: &str = "gateway_backend_probes_total";

fn check(settings: &str) -> String {
    format!("    health_check: {{ {settings}, interval: 5s, timeout: 5s, {DECIDES} }}")
}

/// The same, of a backend that does not answer in time.
fn impatient(settings: &str) -> String {
    format!("    health_check: {{ {settings}, interval: 300ms, timeout: 300ms, {DECIDES} }}")
}

/// Waits until the only backend is down, and says why it is.
fn why_down(gateway: &Gateway) -> String {
    gateway.wait_metric(UP, &[], 0.0);
    get(gateway.addr(), "/").assert_refusal(503, "no_healthy_backend");
    let found = &gateway.status()["upstreams"][0]["backends"][0]["health_check"];
    assert_eq!(found["good"], false);
    assert!(found["last"].is_string() && found["last_error"]["time"].is_string());
    let why = found["last_error"]["what"].as_str().expect("a reason");
    gateway.wait_log(&["is down", why]);
    why.to_owned()
}

fn answer(status: &str, body: &str) -> Script {
    let length = body.len();
    Script::new().read_body().send(format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}"
    ))
}

#[test]
fn a_probe_asks_as_it_is_told() {
    let well = |request: &Request| {
        request.method == "POST"
            && request.target == "/health?deep=1"
            && request.header("host") == Some("users.internal")
            && request.header("x-probe") == Some("gateway")
            && request.header("user-agent") == Some("gateway-health-check")
    };
    let origin = Origin::answering(move |request| match well(request) {
        true => answer("201 Created", "a long text that says: all is well"),
        false => answer("500 No", ""),
    });
    let settings = "path: '/health?deep=1', method: POST, host: users.internal, \
                    headers: { x-probe: gateway }, expected_statuses: [201], \
                    expected_body: 'all is well', initial: unhealthy";
    let gateway = Gateway::with_upstream(&[origin.address()], &check(settings));
    gateway.wait_metric(UP, &[], 1.0);
    let found = &gateway.status()["upstreams"][0]["backends"][0]["health_check"];
    assert_eq!(found["good"], true);
    assert!(found["last_error"].is_null());
}

#[test]
fn what_is_no_good_answer_takes_a_backend_out_and_is_told() {
    let cases = [
        (answer("500 Ill", ""), "status 500"),
        (answer("200 OK", "all is ill"), "expected text"),
        (Script::new().send("no HTTP at all\r\n\r\n"), "understood"),
        (Script::new().close(), "closed"),
        (Script::new().hold(), IN_TIME),
        (
            Script::new()
                .send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nall")
                .close(),
            "closed",
        ),
    ];
    for (script, expected) in cases {
        let origin = Origin::script(script);
        let check = if expected == IN_TIME {
            impatient
        } else {
            check
        };
        let settings = check("path: /health, expected_body: well");
        let gateway = Gateway::with_upstream(&[origin.address()], &settings);
        let why = why_down(&gateway);
        assert!(why.contains(expected), "{why}, expected {expected}");
    }
}

#[test]
fn without_a_path_a_connection_is_enough() {
    let silent = Origin::script(Script::new().hold());
    let gateway = Gateway::with_upstream(&[silent.address()], &check("initial: unhealthy"));
    gateway.wait_metric(UP, &[], 1.0);
    let refusing = DeadPort::refusing();
    let gateway = Gateway::with_upstream(&[refusing.address()], &check("initial: healthy"));
    assert_eq!(why_down(&gateway), "connection refused");
    let unanswering = DeadPort::unanswering();
    let gateway = Gateway::with_upstream(&[unanswering.address()], &impatient("initial: healthy"));
    assert_eq!(why_down(&gateway), IN_TIME);
}

#[test]
fn a_grpc_backend_is_asked_by_its_own_protocol() {
    let message = |state: u8| vec![0, 0, 0, 0, 2, 8, state];
    let start = |act: Act, settings: &str| {
        let answer = act.clone();
        let origin = ModernOrigin::h2c(move |asked| match asked.target.as_str() {
            target if target.ends_with("/grpc.health.v1.Health/Check") => answer.clone(),
            _ => Act::Describe,
        });
        let check = match act {
            Act::Hang => impatient(settings),
            _ => check(settings),
        };
        let settings = format!("    protocol: http2\n{check}");
        let gateway = Gateway::with_upstream(&[origin.address()], &settings);
        (origin, gateway)
    };
    let asks = "grpc: { service: users.v1.Users }";
    let waits = format!("{asks}, initial: unhealthy");
    let (origin, gateway) = start(Act::Call(message(1), 0), &waits);
    gateway.wait_metric(UP, &[], 1.0);
    let asked = &origin.seen()[0];
    assert_eq!(
        (&*asked.method, &asked.headers["te"]),
        ("POST", &"trailers".parse().unwrap())
    );
    assert_eq!(asked.headers["content-type"], "application/grpc");

    let lenient = "grpc: { accept_unimplemented: true }, initial: unhealthy";
    let (_origin, gateway) = start(Act::Call(Vec::new(), 12), lenient);
    gateway.wait_metric(UP, &[], 1.0);
    for (act, expected) in [
        (Act::Call(message(2), 0), "NOT_SERVING"),
        (Act::Call(message(3), 0), "SERVICE_UNKNOWN"),
        (Act::Call(Vec::new(), 12), "grpc-status 12"),
        (Act::Call(vec![1, 2, 3], 0), "understood"),
        (Act::TrailersOnly, "grpc-status 5"),
        (Act::Status(503), "status 503"),
        (Act::Bytes(100_000), "understood"),
        (Act::Hang, IN_TIME),
    ] {
        let (_origin, gateway) = start(act.clone(), asks);
        let why = why_down(&gateway);
        assert!(why.contains(expected), "{act:?}: {why}");
    }
}

#[test]
fn another_port_may_be_asked() {
    let origin = Origin::answering(|request| match request.target.as_str() {
        "/health" => answer("404 Not Found", ""),
        _ => Script::answer("served"),
    });
    let beside = Origin::script(answer("200 OK", ""));
    let port = beside.address().port();
    let settings = format!("path: /health, port: {port}, initial: unhealthy");
    let gateway = Gateway::with_upstream(&[origin.address()], &check(&settings));
    gateway.wait_metric(UP, &[], 1.0);
    assert_eq!(get(gateway.addr(), "/").text(), "served");
    assert!(origin.seen().iter().all(|request| request.target == "/"));
}

#[test]
fn a_backend_may_have_to_prove_itself_first_and_one_good_probe_is_enough() {
    let well = Arc::new(AtomicBool::new(false));
    let state = Arc::clone(&well);
    let origin = Origin::answering(move |request| {
        match (request.target.as_str(), state.load(Ordering::SeqCst)) {
            ("/health", false) => answer("503 Not Yet", ""),
            _ => Script::answer("served"),
        }
    });
    let settings = "    health_check: { path: /health, interval: 200ms, timeout: 200ms, \
                    unhealthy_after: 100, healthy_after: 100, initial: unhealthy }";
    // It is ready once the first probe has said something, whatever that was.
    let gateway = Gateway::with_upstream(&[origin.address()], settings);
    assert!(gateway.metric(PROBES, &[("result", "failure")]) >= 1.0);
    get(gateway.addr(), "/").assert_refusal(503, "no_healthy_backend");
    well.store(true, Ordering::SeqCst);
    eventually("a good probe brings it in", || {
        get(gateway.addr(), "/").status == 200
    });
}

#[test]
fn upstreams_that_ask_the_same_of_a_backend_share_its_probes() {
    let origin = Origin::script(answer("200 OK", ""));
    let backend = origin.address();
    let check = "health_check: { path: /h, interval: 100ms, timeout: 100ms }";
    let gateway = Gateway::start(&format!(
        "upstreams:
  a: {{ backends: ['{backend}'], {check} }}
  b: {{ backends: ['{backend}'], {check} }}
routes:
  - {{ name: a, match: {{ path: /a }}, upstream: a }}
  - {{ name: b, match: {{ path: /b }}, upstream: b }}"
    ));
    let probes = |upstream: &str| gateway.metric(PROBES, &[("backend_service", upstream)]);
    eventually("some probes", || probes("a") >= 5.0 && probes("b") >= 5.0);
    // What is sent after this is told in vain.
    let seen = origin.requests() as f64;
    let told = probes("a") + probes("b");
    assert!(seen <= told / 2.0 + 2.0, "{seen} probes for {told} results");
}
