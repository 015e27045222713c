//! gRPC calls through the gateway: refusals in their own form, and deadlines.

use crate::support::h2::{Answer, H2, request};
use crate::support::{DeadPort, Gateway, Origin, Script, eventually};

const LISTENER: &str = "listeners: [{ name: main, address: 127.0.0.1:0, h2c: true }]\n";

fn call(path: &str) -> http::request::Builder {
    request("POST", path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

/// Expects a response of trailers alone with this code.
#[track_caller]
fn assert_code(answer: &Answer, code: &str) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("grpc-status"), code, "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/grpc");
    assert_ne!(answer.header("grpc-message"), "");
    assert_ne!(answer.header("x-request-id"), "");
    assert!(answer.body.is_empty() && answer.trailers.is_none());
}

#[test]
fn refusals_are_trailers_alone() {
    let port = DeadPort::refusing();
    let gateway = Gateway::start(&format!(
        "{LISTENER}routes:\n\
         - {{ name: dead, match: {{ path: /dead/* }}, upstream: 'http://{}' }}\n\
         - {{ name: small, match: {{ path: /small }}, max_body_size: 1KiB, respond: {{ status: 200 }} }}",
        port.address()
    ));
    let mut client = H2::connect(gateway.addr());
    assert_code(&client.send(call("/none"), "x"), "12");
    assert_code(&client.send(call("/dead/a"), "x"), "14");
    assert_code(&client.send(call("/%00"), "x"), "13");
    let large = call("/small").header("content-length", "5000");
    assert_code(&client.send(large, vec![b'x'; 5000]), "8");
    let malformed = call("/dead/a").header("grpc-timeout", "soon");
    assert_code(&client.send(malformed, "x"), "13");
    let line = gateway.wait_access(|line| line["path"] == "/none");
    assert_eq!(line["error_type"], "not_found");
    // gRPC-Web is ordinary HTTP.
    let web = request("POST", "/none").header("content-type", "application/grpc-web");
    client.send(web, "x").assert_refusal(404, "not_found");
}

#[test]
fn a_deadline_ends_the_call_everywhere() {
    let origin = Origin::script(Script::new().hold());
    let gateway = Gateway::start(&format!(
        "{LISTENER}routes: [{{ name: all, upstream: 'http://{}' }}]",
        origin.address()
    ));
    let mut client = H2::connect(gateway.addr());
    let answer = client.send(call("/slow").header("grpc-timeout", "2S"), "x");
    assert_code(&answer, "4");
    eventually("the backend has it", || origin.requests() == 1);
    let asked = origin.only_request();
    let left = asked.header("grpc-timeout").unwrap().strip_suffix('m');
    let left: u64 = left.unwrap().parse().unwrap();
    assert!((1..=2000).contains(&left), "{left}");
    let line = gateway.wait_access(|line| line["path"] == "/slow");
    assert_eq!(line["error_type"], "deadline_exceeded");
    let labels = [("reason", "deadline_exceeded")];
    gateway.wait_metric("gateway_http_refusals_total", &labels, 1.0);
}

#[test]
fn a_deadline_behind_the_header_is_told_in_trailers() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n";
    let origin = Origin::script(Script::new().read_body().send(head).hold());
    let gateway = Gateway::start(&format!(
        "{LISTENER}routes: [{{ name: all, upstream: 'http://{}' }}]",
        origin.address()
    ));
    let mut client = H2::connect(gateway.addr());
    let answer = client.send(call("/stream").header("grpc-timeout", "2S"), "x");
    assert_eq!(answer.text(), "some");
    let trailers = answer.trailers.expect("trailers");
    assert_eq!(trailers["grpc-status"], "4");
}

/// Its content type alone frees no body from its limits: a backend by HTTP/1 takes no calls.
#[test]
fn a_call_to_an_http_1_backend_has_the_limits_of_a_request() {
    let origin = Origin::script(Script::answer("late"));
    let gateway = Gateway::start(&format!(
        "{LISTENER}limits: {{ request_body_timeout: 200ms }}\n\
         routes: [{{ name: all, upstream: 'http://{}' }}]",
        origin.address()
    ));
    let mut client = H2::connect(gateway.addr());
    let (response, mut stream) = client.begin(call("/stream"), false).expect("a stream");
    stream.send_data("one".into(), false).expect("data");
    assert_code(&client.answer(response).expect("an answer"), "14");
    let line = gateway.wait_access(|line| line["path"] == "/stream");
    assert_eq!(line["error_type"], "request_timeout");
}

#[test]
fn failures_that_backends_report_are_counted() {
    let failing = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nGrpc-Status: 14\r\n\
                   Content-Length: 0\r\n\r\n";
    let origin = Origin::script(Script::new().read_body().send(failing));
    let gateway = Gateway::start(&format!(
        "{LISTENER}upstreams: {{ u: {{ backends: ['{}'] }} }}\n\
         routes: [{{ name: all, upstream: u }}]",
        origin.address()
    ));
    let mut client = H2::connect(gateway.addr());
    assert_eq!(client.send(call("/a"), "x").header("grpc-status"), "14");
    let labels = [("backend_service", "u"), ("grpc_code", "UNAVAILABLE")];
    gateway.wait_metric("gateway_upstream_grpc_errors_total", &labels, 1.0);
}
