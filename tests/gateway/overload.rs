//! More than there is room for: the less important is refused first, and the limit of an upstream follows
//! what its backends can do.

use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::support::client::get;
use crate::support::wait::until;
use crate::support::{Client, Finally, Gate, Gateway, Origin, Script};

/// A backend with so many workers, each of which needs this long for an answer. Others wait.
struct Workers {
    free: Mutex<usize>,
    freed: Condvar,
}

fn bounded(workers: usize, service: Duration) -> Origin {
    let pool = Arc::new(Workers {
        free: Mutex::new(workers),
        freed: Condvar::new(),
    });
    Origin::answering(move |_| {
        let mut free = pool.free.lock().unwrap();
        while *free == 0 {
            free = pool.freed.wait(free).unwrap();
        }
        *free -= 1;
        drop(free);
        std::thread::sleep(service);
        *pool.free.lock().unwrap() += 1;
        pool.freed.notify_one();
        Script::answer("done")
    })
}

/// One upstream with this limit, and a route for each of two classes.
fn config(origin: &Origin, concurrency: &str) -> String {
    format!(
        "server: {{ threads: 2, watch: false }}
admin: {{ address: 127.0.0.1:0, token: key }}
upstreams: {{ u: {{ backends: ['{}'], concurrency: {concurrency} }} }}
routes:
  - {{ name: critical, match: {{ path: /critical }}, priority: critical, upstream: u }}
  - {{ name: rest, priority: low, upstream: u }}",
        origin.address()
    )
}

fn begin(gateway: &Gateway, path: &str) -> Client {
    let mut client = gateway.connect();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    client
}

#[track_caller]
fn wait_counts(gateway: &Gateway, in_flight: f64, queued: f64) {
    gateway.wait_metric("gateway_concurrency_in_flight", &[], in_flight);
    gateway.wait_metric("gateway_concurrency_queued", &[], queued);
}

fn held(gate: &Gate) -> Origin {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    Origin::script(Script::new().read_body().wait(gate).send(answer))
}

#[test]
fn in_a_full_queue_the_less_important_gives_way_and_the_important_comes_first() {
    let gate = Gate::new();
    let origin = held(&gate);
    let limit = "{ limit: 1, queue: 2, queue_timeout: 5m }";
    let gateway = Gateway::start(&config(&origin, limit));
    let mut first = begin(&gateway, "/1");
    wait_counts(&gateway, 1.0, 0.0);
    let mut second = begin(&gateway, "/2");
    wait_counts(&gateway, 1.0, 1.0);
    let mut third = begin(&gateway, "/3");
    wait_counts(&gateway, 1.0, 2.0);
    get(gateway.addr(), "/4").assert_refusal(503, "overloaded");
    let mut critical = begin(&gateway, "/critical");
    let refused = third.read_response();
    refused.assert_refusal(503, "overloaded");
    assert_eq!(refused.header("retry-after"), Some("1"));
    wait_counts(&gateway, 1.0, 2.0);
    gate.open();
    for client in [&mut first, &mut second, &mut critical] {
        assert_eq!(client.read_response().status, 200);
    }
    assert_eq!(third.get("/5").status, 200, "the connection stays");
    let order: Vec<_> = origin.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(order, ["/1", "/critical", "/2", "/5"]);
    let displaced = [("reason", "displaced"), ("backend_service", "u")];
    let rejected = "gateway_concurrency_rejected_total";
    assert_eq!(gateway.metric(rejected, &displaced), 1.0);
    wait_counts(&gateway, 0.0, 0.0);
}

#[test]
fn near_the_limit_only_the_important_are_let_in() {
    let gate = Gate::new();
    let origin = held(&gate);
    let gateway = Gateway::start(&config(&origin, "{ limit: 10 }"));
    let mut clients: Vec<_> = (0..7).map(|_| begin(&gateway, "/")).collect();
    wait_counts(&gateway, 7.0, 0.0);
    get(gateway.addr(), "/").assert_refusal(503, "overloaded");
    clients.extend((0..3).map(|_| begin(&gateway, "/critical")));
    wait_counts(&gateway, 10.0, 0.0);
    get(gateway.addr(), "/critical").assert_refusal(503, "overloaded");
    gate.open();
    for client in &mut clients {
        assert_eq!(client.read_response().status, 200);
    }
    wait_counts(&gateway, 0.0, 0.0);
}

#[test]
fn a_reload_with_a_higher_limit_reaches_those_who_wait() {
    let gate = Gate::new();
    let origin = held(&gate);
    let text = |limit: u32| {
        let limit = format!("{{ limit: {limit}, queue: 5, queue_timeout: 5m }}");
        config(&origin, &limit)
    };
    let gateway = Gateway::start(&text(1));
    let mut clients = [begin(&gateway, "/critical"), begin(&gateway, "/critical")];
    wait_counts(&gateway, 1.0, 1.0);
    gateway.rewrite(&text(2));
    assert_eq!(
        gateway.call("/reload", "key", "").json()["result"],
        "reloaded"
    );
    wait_counts(&gateway, 2.0, 0.0);
    gateway.wait_metric("gateway_concurrency_limit", &[], 2.0);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.read_response().status, 200);
    }
}

#[test]
fn a_client_that_leaves_with_its_body_unread_leaves_the_queue() {
    let gate = Gate::new();
    let origin = held(&gate);
    let limit = "{ limit: 1, queue: 5, queue_timeout: 5m }";
    let gateway = Gateway::start(&config(&origin, limit));
    let mut first = begin(&gateway, "/");
    wait_counts(&gateway, 1.0, 0.0);
    for body in [
        "Content-Length: 4\r\n\r\nbody",
        "Content-Length: 4\r\n\r\nbo",
        "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n4\r\nbo",
    ] {
        let mut client = gateway.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{body}"));
        wait_counts(&gateway, 1.0, 1.0);
        drop(client);
        wait_counts(&gateway, 1.0, 0.0);
    }
    // What follows is another request: this client has only said that there is no third one.
    let mut pipelined = gateway.connect();
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    pipelined.send(format!("{post}{post}"));
    pipelined.writer().shutdown(Shutdown::Write).unwrap();
    wait_counts(&gateway, 1.0, 1.0);
    gate.open();
    assert_eq!(first.read_response().status, 200);
    assert_eq!(pipelined.read_response().status, 200);
    assert_eq!(pipelined.read_response().status, 200);
}

#[test]
fn an_adaptive_limit_finds_the_workers_and_spares_the_important() {
    let origin = bounded(4, Duration::from_millis(20));
    let limit = "{ adaptive: {}, queue: 20 }";
    let gateway = Gateway::start(&config(&origin, limit));
    assert_eq!(gateway.metric("gateway_concurrency_limit", &[]), 50.0);
    // What there is to do in a quiet time shows how long an answer takes.
    let mut client = gateway.connect();
    for _ in 0..60 {
        assert_eq!(client.get("/").status, 200);
    }
    let done = AtomicBool::new(false);
    let spared = AtomicUsize::new(0);
    let (served, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _end = Finally(|| done.store(true, SeqCst));
        let load = |path: &'static str| {
            let (gateway, done, served) = (&gateway, &done, &served);
            let refused = if path == "/critical" {
                &spared
            } else {
                &refused
            };
            move || {
                let mut client = gateway.connect();
                while !done.load(SeqCst) {
                    match client.get(path).status {
                        200 if path == "/critical" => _ = served.fetch_add(1, SeqCst),
                        200 => {}
                        503 => {
                            refused.fetch_add(1, SeqCst);
                            std::thread::sleep(Duration::from_millis(50));
                        }
                        status => panic!("{status}"),
                    }
                }
            }
        };
        for _ in 0..2 {
            scope.spawn(load("/critical"));
        }
        for _ in 0..100 {
            scope.spawn(load("/"));
        }
        let found = until(|| {
            let limit = gateway.metric("gateway_concurrency_limit", &[]);
            (limit <= 20.0 && served.load(SeqCst) > 100).then_some(())
        });
        assert!(found.is_some(), "{}", gateway.status());
    });
    assert!(refused.load(SeqCst) > 0);
    // A machine that stalls fills the queue with what is critical, too.
    let (spared, served) = (spared.load(SeqCst), served.load(SeqCst));
    assert!(spared <= served / 50, "{spared} refused, {served} served");
    wait_counts(&gateway, 0.0, 0.0);
    let status = gateway.status();
    let limit = &status["upstreams"][0]["concurrency"];
    assert!(limit["limit"].as_u64() >= Some(1), "{limit}");
    assert!(limit["base_latency_ms"].as_f64() > Some(0.0), "{limit}");
    // What is ordinary again is not refused.
    for _ in 0..50 {
        assert_eq!(client.get("/").status, 200);
    }
}

#[test]
fn an_adaptive_limit_does_not_count_what_goes_on_in_a_tunnel() {
    let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                    Upgrade: websocket\r\n\r\n";
    let origin = Origin::script(Script::new().send(switched).hold());
    let gateway = Gateway::start(&config(
        &origin,
        "{ adaptive: { min: 1, max: 1 }, queue: 0 }",
    ));
    let mut tunnels = Vec::new();
    for _ in 0..3 {
        let mut client = gateway.connect();
        client.send(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        assert!(client.read_head().first.contains(" 101 "));
        wait_counts(&gateway, 0.0, 0.0);
        tunnels.push(client);
    }
}
