//! Memory stays flat, whatever passes.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::steps::fill;
use crate::support::tls::{Authority, TlsClient};
use crate::support::wire::Framing;
use crate::support::{Client, Finally, Gateway, Origin, Script};

const GIB: u64 = 1 << 30;
const ALLOWED_KIB: u64 = 32 * 1024;

/// Runs this, and returns the most that the gateway grew meanwhile.
fn growth_during(gateway: &Gateway, work: impl FnOnce()) -> u64 {
    let before = gateway.rss_kib();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut most = before;
            while !done.load(Ordering::SeqCst) {
                most = most.max(gateway.rss_kib());
                std::thread::sleep(Duration::from_millis(10));
            }
            most
        });
        {
            let _end = Finally(|| done.store(true, Ordering::SeqCst));
            work();
        }
        sampler.join().unwrap() - before
    })
}

/// One GiB in each direction. The one test that may take longer than a few seconds.
#[test]
fn a_gibibyte_up_and_down_leaves_it_flat() {
    let origin = Origin::answering(|request| match request.target.as_str() {
        "/down" => Script::new()
            .send(format!("HTTP/1.1 200 OK\r\nContent-Length: {GIB}\r\n\r\n"))
            .fill(GIB),
        _ => Script::answer("received"),
    });
    let gateway = Gateway::start(&format!(
        "routes: [{{ name: all, upstream: 'http://{}', max_body_size: unlimited }}]",
        origin.address()
    ));
    assert_eq!(gateway.connect().get("/warm").text(), "received");
    let down = growth_during(&gateway, || download(gateway.connect()));
    assert!(down < ALLOWED_KIB, "{down} KiB while sending to the client");
    let up = growth_during(&gateway, || upload(gateway.connect()));
    assert!(up < ALLOWED_KIB, "{up} KiB while receiving from the client");
    let lengths: Vec<_> = origin.seen().iter().map(|seen| seen.body_length).collect();
    assert!(lengths.contains(&Some(GIB)), "{lengths:?}");
}

fn download(mut client: Client) {
    client.send("GET /down HTTP/1.1\r\nHost: test\r\n\r\n");
    let head = client.read_head();
    assert_eq!(head.framing(), Some(Framing::Length(GIB)));
    let mut length = 0;
    let count = &mut |piece: &[u8]| length += piece.len() as u64;
    client
        .wire()
        .body(Framing::Length(GIB), count)
        .expect("the whole body");
    assert_eq!(length, GIB);
}

fn upload(mut client: Client) {
    client.send(format!(
        "POST /up HTTP/1.1\r\nHost: test\r\nContent-Length: {GIB}\r\n\r\n"
    ));
    fill(&client.writer(), GIB).expect("the whole body is taken");
    assert_eq!(client.read_response().text(), "received");
}

#[test]
fn a_client_that_does_not_read_slows_the_backend_down() {
    let origin = Origin::script(
        Script::new()
            .send("HTTP/1.1 200 OK\r\nContent-Length: 268435456\r\n\r\n")
            .fill(256 << 20),
    );
    let gateway = Gateway::in_front_of(&origin);
    assert_eq!(gateway.metric("gateway_panics_total", &[]), 0.0);
    let grown = growth_during(&gateway, || {
        let mut silent: Vec<Client> = (0..4).map(|_| gateway.connect()).collect();
        for client in &mut silent {
            client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
            client.read_head();
        }
        // Long enough for anything that reads without bounds to take all of it.
        std::thread::sleep(Duration::from_secs(1));
    });
    assert!(grown < ALLOWED_KIB, "{grown} KiB");
}

#[test]
fn many_requests_leave_it_flat() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let burst = || {
        let mut client = gateway.connect();
        for n in 0..2_000 {
            assert_eq!(client.get(&format!("/{n}?q={n}")).status, 200);
        }
    };
    burst();
    let grown = growth_during(&gateway, burst);
    assert!(grown < 8 * 1024, "{grown} KiB");
}

#[test]
fn half_sent_headers_are_held_in_bounded_memory() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    let grown = growth_during(&gateway, || {
        let mut clients: Vec<Client> = (0..200).map(|_| gateway.connect()).collect();
        for client in &mut clients {
            client.send("GET / HTTP/1.1\r\nHost: test\r\nX: ");
            // Below the limit, so that it is held and not refused.
            client.writer().write_all(&[b'v'; 20_000]).unwrap();
        }
        let mut client = gateway.connect();
        assert_eq!(client.get("/").status, 200);
    });
    assert!(grown < ALLOWED_KIB, "{grown} KiB");
}

#[test]
fn an_idle_tls_connection_is_small() {
    const COUNT: u64 = 400;
    let (authority, origin) = (Authority::new(), Origin::echo());
    authority.store("a", &["a.test"]);
    let gateway = Gateway::start(&authority.config(&["a"], "", origin.address()));
    let config = authority.client().config();
    let open = || {
        let mut client = TlsClient::connect(gateway.addr(), "a.test", &config).unwrap();
        assert_eq!(client.get("a.test", "/").status, 200);
        client
    };
    drop((0..50).map(|_| open()).collect::<Vec<_>>());
    let mut held = Vec::new();
    let grown = growth_during(&gateway, || held.extend((0..COUNT).map(|_| open())));
    assert!(grown < COUNT * 25, "{grown} KiB for {COUNT} connections");
}
