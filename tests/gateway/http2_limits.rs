//! HTTP/2 towards clients: how much of one connection runs and waits at once, and slow readers.

use std::time::Duration;

use crate::support::h2::{self, Frames, H2, get, request};
use crate::support::{Gate, Gateway, Origin, Script, eventually};

const LISTENER: &str = "listeners: [{ name: main, address: 127.0.0.1:0, h2c: true }]\n";
/// Time between two frames of a slow reader; what the gateway and the system hold for it takes
/// longer than the gateway waits at the end of a connection.
const PAUSE: Duration = Duration::from_millis(300);
const LARGE: usize = 400_000;

#[track_caller]
fn start(origin: &Origin, settings: &str) -> Gateway {
    Gateway::start(&format!(
        "{LISTENER}{settings}\nroutes: [{{ name: all, upstream: 'http://{}' }}]",
        origin.address()
    ))
}

/// Asks for a large response with windows for all of it, in one piece: the time between pieces counts.
fn ask_for_large(gateway: &Gateway) -> Frames {
    let mut frames = Frames::narrow(gateway.addr());
    let greeting = h2::greeting(&[(4, 10_000_000)]);
    let update = h2::frame(h2::WINDOW_UPDATE, 0, 0, &10_000_000u32.to_be_bytes());
    frames.send([greeting, update, h2::get_frame(1, "/large")].concat());
    frames
}

/// Asks for a large response and reads it slowly; `meanwhile` is called once the first frame is there.
/// Expects every byte.
#[track_caller]
fn read_slowly(gateway: &Gateway, meanwhile: impl FnOnce()) -> Frames {
    let mut meanwhile = Some(meanwhile);
    let mut frames = ask_for_large(gateway);
    let mut received = 0;
    loop {
        let frame = frames.next_of(h2::DATA).expect("more of the body");
        received += frame.payload.len();
        if let Some(meanwhile) = meanwhile.take() {
            meanwhile();
        }
        if frame.flags & h2::END_STREAM != 0 {
            break;
        }
        std::thread::sleep(PAUSE);
        // Whoever has closed its end answers this with a reset, which takes away what is under way.
        let update = h2::frame(h2::WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes());
        drop(frames.try_send(update));
    }
    assert_eq!(received, LARGE);
    frames
}

fn large() -> Origin {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
    Origin::script(Script::new().send(head).fill(LARGE as u64))
}

#[test]
fn a_slow_reader_is_not_idle_before_it_has_everything() {
    let origin = large();
    let gateway = start(&origin, "limits: { keepalive_timeout: 200ms }");
    let mut frames = read_slowly(&gateway, || {});
    assert_eq!(frames.end(), Some(0));
}

#[test]
fn a_slow_reader_gets_everything_when_the_process_ends() {
    let origin = large();
    let mut gateway = start(&origin, "shutdown: { delay: 0s, drain_timeout: 60s }");
    drop(read_slowly(&gateway, || gateway.signal("TERM")));
    assert!(gateway.wait_exit().success());
}

#[test]
fn a_reader_that_stops_is_not_waited_for() {
    let origin = large();
    let gateway = start(
        &origin,
        "limits: { response_write_timeout: 500ms, keepalive_timeout: 200ms }",
    );
    let _frames = ask_for_large(&gateway);
    let active = "gateway_http2_connections_active";
    eventually("the backend has it", || origin.requests() == 1);
    gateway.wait_metric(active, &[("listener", "main")], 0.0);
    let labels = [("listener", "main"), ("reason", "write_timeout")];
    gateway.wait_metric("gateway_connections_closed_total", &labels, 1.0);
}

#[test]
fn as_many_requests_run_as_there_may_be_streams() {
    let gate = Gate::new();
    let slow = gate.clone();
    let script = Script::new().wait(&slow).and(&Script::answer("slow"));
    let origin = Origin::script(script);
    let gateway = start(&origin, "");
    let mut client = H2::connect(gateway.addr());
    let begun: Vec<_> = (0..90)
        .map(|_| client.begin(get("/slow"), true).expect("a stream").0)
        .collect();
    eventually("all of them run", || origin.requests() == 90);
    gate.open();
    for response in begun {
        assert_eq!(client.answer(response).expect("an answer").text(), "slow");
    }
}

#[test]
fn interim_responses_are_bounded() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n".repeat(40);
    let origin = Origin::script(Script::new().send(hints).and(&Script::answer("end")));
    let gateway = start(&origin, "");
    let mut frames = Frames::connect(gateway.addr(), &[]);
    frames.send(h2::get_frame(1, "/"));
    let mut headers = 0;
    loop {
        let frame = frames.next().expect("more frames");
        headers += usize::from(frame.kind == h2::HEADERS);
        if frame.kind == h2::DATA {
            assert_eq!(frame.payload, b"end");
            break;
        }
    }
    assert_eq!(headers, 16 + 1);
}

#[test]
fn a_body_that_the_backend_has_yet_to_ask_for_is_not_late() {
    let script = Script::new()
        .delay(Duration::from_millis(2500))
        .send("HTTP/1.1 100 Continue\r\n\r\n")
        .and(&Script::answer("end"));
    let origin = Origin::script(script);
    let gateway = start(&origin, "limits: { request_body_timeout: 2s }");
    let mut frames = Frames::connect(gateway.addr(), &[]);
    let mut fields = h2::fields("POST", "/");
    fields.extend([("expect", "100-continue"), ("content-length", "4")]);
    let block = h2::block(&fields);
    frames.send(h2::frame(h2::HEADERS, h2::END_HEADERS, 1, &block));
    let interim = frames.next_of(h2::HEADERS).expect("an interim response");
    assert_eq!(interim.flags & h2::END_STREAM, 0);
    frames.send(h2::frame(h2::DATA, h2::END_STREAM, 1, b"body"));
    assert_eq!(frames.next_of(h2::DATA).expect("a body").payload, b"end");
    assert_eq!(origin.only_request().body, b"body");
}

#[test]
fn a_host_field_is_as_good_as_an_authority() {
    let origin = Origin::echo();
    let gateway = start(&origin, "");
    let mut frames = Frames::connect(gateway.addr(), &[]);
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/there"),
        ("host", "named.example"),
    ];
    let flags = h2::END_HEADERS | h2::END_STREAM;
    frames.send(h2::frame(h2::HEADERS, flags, 1, &h2::block(&fields)));
    assert!(frames.next_of(h2::HEADERS).is_some());
    eventually("the backend has it", || origin.requests() == 1);
    let seen = origin.only_request();
    assert_eq!(seen.header("host"), Some("named.example"));
}

#[test]
fn refusals_are_told_in_the_log() {
    let origin = Origin::echo();
    let gateway = start(&origin, "");
    let mut client = H2::connect(gateway.addr());
    client
        .exchange(request("GET", "/%00"))
        .assert_refusal(400, "bad_request");
    let refused = "refused: bad_request part=\"request target\"";
    gateway.wait_log(&["client::refused", refused]);
}
