//! HTTP/2 clients that attack: each loses its connection within a bound, while another client goes on.

use crate::support::h2::{self, Frames, H2, get};
use crate::support::{Gateway, Origin, Script, eventually};

const CALM: Option<u32> = Some(11);

/// A gateway, its backend, and a client that is served before, during and after an attack.
struct Scene {
    gateway: Gateway,
    origin: Origin,
    bystander: H2,
}

impl Scene {
    #[track_caller]
    fn new(origin: Origin, settings: &str) -> Self {
        let gateway = Gateway::start(&format!(
            "listeners: [{{ name: main, address: 127.0.0.1:0, h2c: true }}]\n{settings}\n\
             routes: [{{ name: all, upstream: 'http://{}' }}]",
            origin.address()
        ));
        let mut bystander = H2::connect(gateway.addr());
        assert_eq!(bystander.exchange(get("/health")).status, 200);
        Self {
            gateway,
            origin,
            bystander,
        }
    }

    fn attacker(&self) -> Frames {
        Frames::connect(self.gateway.addr(), &[])
    }

    /// Expects that the attack was ended for one of these reasons and has hurt nobody.
    #[track_caller]
    fn assert_ended(&mut self, reasons: &[&str]) {
        let closed = "gateway_connections_closed_total";
        let count = |reason: &&str| self.gateway.metric(closed, &[("reason", *reason)]);
        eventually("the end of the connection is counted", || {
            reasons.iter().map(count).sum::<f64>() == 1.0
        });
        assert_eq!(self.bystander.exchange(get("/health")).status, 200);
        let panics = self.gateway.metric("gateway_panics_total", &[]);
        assert_eq!(panics, 0.0);
    }
}

/// Sends this frame ten thousand times and expects ENHANCE_YOUR_CALM.
#[track_caller]
fn assert_flood(reason: &str, frame: impl FnMut(u32) -> Vec<u8>) {
    let mut scene = Scene::new(Origin::echo(), "");
    let mut attacker = scene.attacker();
    assert_eq!(attacker.flood(10_000, frame), CALM, "{reason}");
    scene.assert_ended(&[reason]);
}

#[test]
fn pings() {
    assert_flood("ping_flood", |_| h2::frame(h2::PING, 0, 0, &[0; 8]));
}

#[test]
fn settings() {
    assert_flood("settings_flood", |_| h2::frame(h2::SETTINGS, 0, 0, &[]));
}

#[test]
fn priorities() {
    let payload = [0, 0, 0, 0, 16];
    assert_flood("priority_flood", |_| {
        h2::frame(h2::PRIORITY, 0, 1, &payload)
    });
}

#[test]
fn window_updates() {
    assert_flood("window_update_flood", |_| {
        h2::frame(h2::WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes())
    });
}

#[test]
fn frames_of_unknown_types() {
    assert_flood("unknown_frame_flood", |_| h2::frame(0x55, 0, 0, b"x"));
}

#[test]
fn empty_data() {
    let block = h2::block(&h2::fields("POST", "/"));
    assert_flood("empty_frame_flood", |index| match index {
        0 => h2::frame(h2::HEADERS, h2::END_HEADERS, 1, &block),
        _ => h2::frame(h2::DATA, 0, 1, &[]),
    });
}

#[test]
fn empty_continuations() {
    let block = h2::block(&h2::fields("GET", "/"));
    let mut scene = Scene::new(Origin::echo(), "");
    let mut attacker = scene.attacker();
    let code = attacker.flood(10_000, |index| match index {
        0 => h2::frame(h2::HEADERS, h2::END_STREAM, 1, &block),
        _ => h2::frame(h2::CONTINUATION, 0, 1, &[]),
    });
    assert_eq!(code, CALM);
    // Either the meter or the library is first, according to how the bytes come.
    scene.assert_ended(&["empty_frame_flood", "http2_excess"]);
}

#[test]
fn continuations_without_end() {
    let block = h2::block(&h2::fields("GET", "/"));
    let more = h2::block(&[("x-filling", &"a".repeat(1000))]);
    let mut scene = Scene::new(Origin::echo(), "");
    let mut attacker = scene.attacker();
    let code = attacker.flood(10_000, |index| match index {
        0 => h2::frame(h2::HEADERS, h2::END_STREAM, 1, &block),
        _ => h2::frame(h2::CONTINUATION, 0, 1, &more),
    });
    assert_eq!(code, CALM);
    scene.assert_ended(&["http2_excess"]);
    assert!(scene.gateway.rss_kib() < 200 * 1024);
}

#[test]
fn rapid_reset() {
    let mut scene = Scene::new(Origin::script(Script::new().hold()), "");
    let mut attacker = scene.attacker();
    let code = attacker.flood(10_000, |index| {
        let stream = 2 * index + 1;
        let mut bytes = h2::get_frame(stream, "/held");
        bytes.extend(h2::frame(h2::RESET, 0, stream, &8u32.to_be_bytes()));
        bytes
    });
    assert_eq!(code, CALM);
    // The library counts those that nobody has looked at yet.
    scene.assert_ended(&["reset_flood", "http2_excess"]);
    let reached = scene.origin.requests();
    assert!(reached <= 600, "{reached}");
}

#[test]
fn resets_that_the_gateway_is_made_to_send() {
    // A window that grows beyond its bound is an error of its stream (RFC 9113 section 6.9.1).
    let mut scene = Scene::new(Origin::script(Script::new().hold()), "");
    let mut attacker = scene.attacker();
    let code = attacker.flood(10_000, |index| {
        let stream = 2 * index + 1;
        let mut bytes = h2::get_frame(stream, "/held");
        let overflow = 0x7fff_ffff_u32.to_be_bytes();
        bytes.extend(h2::frame(h2::WINDOW_UPDATE, 0, stream, &overflow));
        bytes
    });
    assert_eq!(code, CALM);
    scene.assert_ended(&["provoked_reset_flood", "http2_excess"]);
    let reached = scene.origin.requests();
    assert!(reached <= 600, "{reached}");
}

#[test]
fn a_small_block_that_unfolds_into_a_large_header() {
    // One large field goes into the table, and one byte each repeats it.
    let mut block = vec![0x40, 1, b'x', 127, 0x81, 0x1e];
    block.extend(vec![b'a'; 127 + 1 + 30 * 128]);
    let mut bomb = h2::block(&h2::fields("GET", "/"));
    bomb.extend(&block);
    bomb.extend(vec![0x80 | 62; 10_000]);
    let mut scene = Scene::new(Origin::echo(), "");
    let mut attacker = scene.attacker();
    let flags = h2::END_STREAM | h2::END_HEADERS;
    attacker.send(h2::frame(h2::HEADERS, flags, 1, &bomb));
    // 431, or the end of the connection: the library stops unfolding at some point.
    let answer = attacker.next_of(h2::HEADERS);
    assert!(answer.is_none_or(|answer| answer.stream == 1));
    assert_eq!(scene.origin.requests(), 0);
    assert!(scene.gateway.rss_kib() < 200 * 1024);
    assert_eq!(scene.bystander.exchange(get("/health")).status, 200);
}

#[test]
fn a_client_that_takes_nothing_from_its_socket() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n";
    let script = Script::new().send(head).endless(vec![b'x'; 65536]);
    let mut scene = Scene::new(
        Origin::script(script),
        "limits: { response_write_timeout: 500ms }",
    );
    let window = 0x7fff_ffff;
    let mut attacker = Frames::connect(scene.gateway.addr(), &[(4, window)]);
    attacker.send(h2::frame(
        h2::WINDOW_UPDATE,
        0,
        0,
        &(window - 65_535).to_be_bytes(),
    ));
    for stream in 0..10 {
        attacker.send(h2::get_frame(2 * stream + 1, "/large"));
    }
    scene.assert_ended(&["write_timeout"]);
}
