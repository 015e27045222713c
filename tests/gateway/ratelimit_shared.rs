//! Limits that gateways count together: exact among three of them, and what each failure mode does
//! while Redis is away, slow, full, a replica, or has forgotten everything.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::get;
use crate::support::{Gateway, Redis, eventually};

/// The longest there is.
const PATIENT: &str = "1s";
/// Longer than Redis needs when all is well, and shorter than it is slow in these tests.
const SHORT: &str = "250ms";
const PATIENCE: Duration = Duration::from_millis(250);

/// One route and one policy, with these keys.
fn text(redis: SocketAddr, timeout: &str, policy: &str) -> String {
    format!(
        "server: {{ threads: 1 }}\nadmin: {{ address: 127.0.0.1:0 }}\n\
         redis: {{ url: 'redis://{redis}', pool_size: 2 }}\n\
         ratelimit:\n  timeout: {timeout}\n  policies:\n    p: {{ scope: shared, {policy} }}\n\
         routes: [{{ name: a, respond: {{ body: ok }}, ratelimit: p }}]\n"
    )
}

fn gateway(redis: SocketAddr, timeout: &str, policy: &str) -> Gateway {
    Gateway::start(&text(redis, timeout, policy))
}

fn decisions(gateway: &Gateway, result: &str, source: &str) -> f64 {
    let labels = [("policy", "p"), ("result", result), ("source", source)];
    gateway.metric("gateway_ratelimit_decisions_total", &labels)
}

/// Waits until requests are decided by Redis, and not by the failure mode.
#[track_caller]
fn decided_by_redis(gateway: &Gateway) {
    let by_redis =
        || decisions(gateway, "allowed", "redis") + decisions(gateway, "limited", "redis");
    let before = by_redis();
    eventually("redis decides", || {
        get(gateway.addr(), "/");
        by_redis() > before
    });
}

/// Does an experiment again when some answer of Redis came too late for it, as a machine that stalls has it.
fn undisturbed<T>(experiment: impl Fn() -> (Vec<Gateway>, T)) -> (Vec<Gateway>, T) {
    for _ in 0..5 {
        let (all, outcome) = experiment();
        let errors = |one: &Gateway| one.metric("gateway_ratelimit_errors_total", &[]);
        if all.iter().map(errors).sum::<f64>() == 0.0 {
            return (all, outcome);
        }
    }
    panic!("Redis was late again and again");
}

/// Three gateways, each of which knows of the others.
fn three(redis: &Redis, policy: &str) -> Vec<Gateway> {
    let all: Vec<_> = (0..3)
        .map(|_| gateway(redis.address(), PATIENT, policy))
        .collect();
    eventually("all are counted", || {
        redis.ask(&["ZCARD", "ratelimit:instances"]) == "3"
    });
    all
}

/// What three gateways let through of `count` requests each, at the same time.
fn let_through(all: &[Gateway], count: usize) -> usize {
    thread::scope(|scope| {
        let threads = all.iter().map(|gateway| {
            scope.spawn(|| {
                let mut client = gateway.connect();
                let statuses = (0..count).map(|_| client.get("/").status);
                let statuses: Vec<u16> = statuses.collect();
                assert!(statuses.iter().all(|status| matches!(status, 200 | 429)));
                statuses.iter().filter(|status| **status == 200).count()
            })
        });
        let threads: Vec<_> = threads.collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    })
}

#[test]
fn three_gateways_let_through_the_limit_and_not_one_request_more() {
    let redis = Redis::start();
    let (all, passed) = undisturbed(|| {
        redis.ask(&["FLUSHALL"]);
        let all = three(&redis, "limit: 50/day");
        let passed = let_through(&all, 40);
        (all, passed)
    });
    assert_eq!(passed, 50);
    let refused = get(all[0].addr(), "/");
    refused.assert_refusal(429, "rate_limited");
    assert!(refused.header("retry-after").is_some());
    let value = redis.ask(&["GET", "ratelimit:p:127.0.0.1"]);
    assert_eq!(value.split(' ').count(), 2, "{value}");
    redis.ask(&["DEL", "ratelimit:p:127.0.0.1"]);
    assert_eq!(get(all[1].addr(), "/").status, 200);
}

#[test]
fn three_gateways_with_leases_stay_within_the_bound() {
    let redis = Redis::start();
    let (_all, passed) = undisturbed(|| {
        redis.ask(&["FLUSHALL"]);
        let all = three(&redis, "mode: fast, limit: 300/day");
        // Each knows of the others a second after they are there.
        for gateway in &all {
            decided_by_redis(gateway);
        }
        thread::sleep(Duration::from_secs(3));
        let before: f64 = all
            .iter()
            .map(|one| decisions(one, "allowed", "redis"))
            .sum();
        let passed = let_through(&all, 300) as f64 + before;
        (all, passed)
    });
    assert!((240.0..=315.0).contains(&passed), "{passed}");
}

#[test]
fn fail_open_lets_through_and_says_so() {
    let mut redis = Redis::start();
    let gateway = gateway(
        redis.address(),
        PATIENT,
        "limit: 1/day, failure_mode: fail_open",
    );
    decided_by_redis(&gateway);
    assert_eq!(get(gateway.addr(), "/").status, 429);
    redis.stop();
    eventually("lets through", || get(gateway.addr(), "/").status == 200);
    let answer = get(gateway.addr(), "/");
    assert_eq!(answer.header("ratelimit"), None, "nobody knows");
    assert!(decisions(&gateway, "allowed", "fallback") >= 2.0);
    let errors = gateway.metric("gateway_ratelimit_errors_total", &[("policy", "p")]);
    assert!(errors >= 2.0);
    told(&gateway, "ratelimit error: redis does not answer (");
    redis.start_again();
    decided_by_redis(&gateway);
    told(&gateway, "ratelimit: redis answers again, after ");
}

/// A line of the process log begins like this, behind its time.
fn told(gateway: &Gateway, what: &str) {
    eventually(what, || {
        get(gateway.addr(), "/");
        gateway.log_lines().iter().any(|line| line.contains(what))
    });
}

#[test]
fn fail_closed_refuses_and_says_when_to_come_back() {
    let mut redis = Redis::start();
    let policy = "limit: 1000000/day, failure_mode: fail_closed";
    let gateway = gateway(redis.address(), PATIENT, policy);
    decided_by_redis(&gateway);
    redis.stop();
    eventually("refuses", || get(gateway.addr(), "/").status == 503);
    let refused = get(gateway.addr(), "/");
    refused.assert_refusal(503, "rate_limit_unavailable");
    assert_eq!(refused.header("retry-after"), Some("1"));
    redis.start_again();
    eventually("lets through", || get(gateway.addr(), "/").status == 200);
}

#[test]
fn fail_local_has_its_share_of_the_limit() {
    for mode in ["precise", "fast"] {
        let mut redis = Redis::start();
        let (all, ()) = undisturbed(|| {
            redis.ask(&["FLUSHALL"]);
            let all = three(&redis, &format!("mode: {mode}, limit: 30/day"));
            for gateway in &all {
                decided_by_redis(gateway);
            }
            // Each has heard of the others.
            thread::sleep(Duration::from_secs(3));
            (all, ())
        });
        redis.stop();
        eventually("redis is not asked any more", || {
            get(all[0].addr(), "/");
            decisions(&all[0], "limited", "fallback") > 0.0
        });
        // A third of thirty.
        assert_eq!(decisions(&all[0], "allowed", "fallback"), 10.0, "{mode}");
        redis.start_again();
        decided_by_redis(&all[0]);
    }
}

/// Runs a gateway that refuses without Redis into an outage and out of it, and sees that no request has
/// another answer than these two.
fn outage(redis: SocketAddr, begin: impl FnOnce(), end: impl FnOnce()) {
    let policy = "limit: 1000000/s, failure_mode: fail_closed";
    let gateway = gateway(redis, SHORT, policy);
    let status = || {
        let status = get(gateway.addr(), "/").status;
        assert!(matches!(status, 200 | 503), "{status}");
        status
    };
    eventually("lets through", || status() == 200);
    begin();
    eventually("refuses", || status() == 503);
    let mut slow = 0;
    for _ in 0..100 {
        let began = Instant::now();
        if status() == 200 {
            break;
        }
        slow += usize::from(began.elapsed() >= PATIENCE);
    }
    // Whoever asks again and again whether it is back waits; the others do not.
    assert!(slow < 30, "{slow} of 100 have waited");
    end();
    eventually("lets through again", || status() == 200);
}

#[test]
fn a_pause_is_an_outage_and_passes() {
    let redis = Redis::start();
    outage(redis.address(), || redis.pause(), || redis.go_on());
}

#[test]
fn a_replica_is_an_outage_until_it_is_the_primary_again() {
    let (redis, primary) = (Redis::start(), Redis::start());
    let port = primary.address().port().to_string();
    outage(
        redis.address(),
        || drop(redis.ask(&["REPLICAOF", "127.0.0.1", &port])),
        || drop(redis.ask(&["REPLICAOF", "NO", "ONE"])),
    );
}

#[test]
fn a_server_without_memory_is_an_outage() {
    let redis = Redis::start();
    outage(
        redis.address(),
        || drop(redis.ask(&["CONFIG", "SET", "maxmemory", "1"])),
        || drop(redis.ask(&["CONFIG", "SET", "maxmemory", "0"])),
    );
}

#[test]
fn a_slow_server_is_an_outage() {
    let redis = Redis::start();
    let slow = Arc::new(AtomicBool::new(false));
    let between = delayed(redis.address(), 2 * PATIENCE, Arc::clone(&slow));
    outage(
        between,
        || slow.store(true, Relaxed),
        || slow.store(false, Relaxed),
    );
}

#[test]
fn leases_bear_a_slow_server() {
    let redis = Redis::start();
    undisturbed(|| {
        redis.ask(&["FLUSHALL"]);
        let slow = Arc::new(AtomicBool::new(false));
        let late = Duration::from_millis(100);
        let between = delayed(redis.address(), late, Arc::clone(&slow));
        // Too few at once for credit: whoever finds no token has to wait.
        let one = gateway(between, "50ms", "mode: fast, limit: 24/s");
        let mut client = one.connect();
        // Ten a second: how many are leased depends on the time that requests take.
        for turn in 0..50 {
            slow.store(turn >= 20, Relaxed);
            assert_eq!(client.get("/").status, 200);
            thread::sleep(late);
        }
        (vec![one], ())
    });
}

#[test]
fn a_flush_fills_the_buckets_and_nothing_else() {
    let redis = Redis::start();
    let gateway = gateway(
        redis.address(),
        PATIENT,
        "limit: 2/day, failure_mode: fail_closed",
    );
    eventually("lets through", || get(gateway.addr(), "/").status == 200);
    let mut statuses = [0; 3];
    eventually("Redis answers in time", || {
        redis.ask(&["FLUSHALL"]);
        statuses = statuses.map(|_| get(gateway.addr(), "/").status);
        !statuses.contains(&503)
    });
    assert_eq!(statuses, [200, 200, 429]);
}

/// Passes bytes on to a server; those of its answers so late, while it is told to.
fn delayed(server: SocketAddr, late: Duration, slow: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(backend) = TcpStream::connect(server) else {
                continue;
            };
            let copies = (client.try_clone().unwrap(), backend.try_clone().unwrap());
            let never = Arc::new(AtomicBool::new(false));
            thread::spawn(move || pass(client, backend, late, &never));
            let slow = Arc::clone(&slow);
            thread::spawn(move || pass(copies.1, copies.0, late, &slow));
        }
    });
    address
}

fn pass(mut from: TcpStream, mut to: TcpStream, late: Duration, slow: &AtomicBool) {
    let mut bytes = [0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if slow.load(Relaxed) {
            thread::sleep(late);
        }
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
}
