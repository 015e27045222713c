//! A master that sentinels know: it is found, a failover is followed, and whoever was the master
//! before is not written to.

use crate::revocations::{TOKEN, in_sync, is_revoked, revoke};
use crate::support::sentinel::MASTER;
use crate::support::{DeadPort, FakeSentinel, Gateway, Redis, Sentinel, eventually};

const ROUTES: &str = "routes: [{ name: a, respond: {} }]";

fn start(settings: &str) -> Gateway {
    Gateway::start(&format!(
        "server: {{ threads: 1 }}\nadmin: {{ address: 127.0.0.1:0, token: {TOKEN} }}\n\
         redis: {{ {settings}, pool_size: 2 }}\n{ROUTES}"
    ))
}

fn with_fakes(sentinels: &[&FakeSentinel]) -> Gateway {
    let nodes = sentinels.iter().map(|one| format!("'{}'", one.address()));
    let nodes: Vec<_> = nodes.collect();
    start(&format!(
        "sentinel: {{ master: {MASTER}, nodes: [{}] }}",
        nodes.join(", ")
    ))
}

fn server(gateway: &Gateway) -> String {
    let status = gateway.status();
    let server = status["redis"]["servers"][0]["address"].as_str();
    server.unwrap_or_default().to_owned()
}

fn is_at(gateway: &Gateway, redis: &Redis) -> bool {
    server(gateway) == redis.address().to_string()
        && gateway.status()["redis"]["state"] == "up"
        && in_sync(gateway)
}

/// Revokes, and waits until a server has it.
#[track_caller]
fn store(gateway: &Gateway, jti: &str) {
    eventually("it is stored", || {
        revoke(gateway, &body(jti))["redis"] == "stored"
    });
}

fn has(redis: &Redis, jti: &str) -> bool {
    redis.ask(&["EXISTS", &format!("revoked:{jti}")]) == "1"
}

fn body(jti: &str) -> String {
    format!("{{\"jti\": \"{jti}\", \"expires_in\": \"1h\"}}")
}

#[test]
fn a_failover_is_followed_with_every_revocation() {
    let mut master = Redis::with(&["--requirepass", "data", "--masterauth", "data"]);
    let port = master.address().port().to_string();
    let replica = Redis::with(&[
        "--requirepass",
        "data",
        "--masterauth",
        "data",
        "--repl-diskless-sync-delay",
        "0",
        "--replicaof",
        &format!("127.0.0.1 {port}"),
    ]);
    eventually("the replica is in step", || {
        let state = replica.ask(&["INFO", "replication"]);
        state.contains("master_link_status:up")
    });
    let sentinel = Sentinel::of(
        &master,
        &format!("sentinel auth-pass {MASTER} data\nrequirepass watch"),
    );
    let away = DeadPort::refusing();
    let settings = format!(
        "sentinel: {{ master: {MASTER}, nodes: ['{}', '{}'], password: watch }}, password: data",
        away.address(),
        sentinel.address()
    );
    let all = [start(&settings), start(&settings)];
    eventually("all are in sync", || {
        all.iter().all(|one| is_at(one, &master))
    });
    let status = all[0].status();
    assert_eq!(status["redis"]["mode"], "sentinel");
    assert_eq!(status["redis"]["address"], MASTER);
    let sentinels = status["redis"]["sentinels"].as_array().unwrap();
    assert!(sentinels[0]["master"].is_null(), "{status}");
    assert_eq!(sentinels[1]["master"], master.address().to_string());
    store(&all[0], "before");
    eventually("it is replicated", || has(&replica, "before"));
    eventually("the sentinel knows the replica", || {
        let known = sentinel.ask("watch", &["SENTINEL", "REPLICAS", MASTER]);
        known.contains(&replica.address().port().to_string())
    });

    master.stop();
    eventually("it is noticed", || {
        all[1].status()["redis"]["state"] == "down"
    });
    // Pending, unless the replica is quicker.
    revoke(&all[1], &body("meanwhile"));
    eventually("the replica is the master", || {
        all.iter().all(|one| is_at(one, &replica))
    });
    eventually("it gets what was pending", || has(&replica, "meanwhile"));
    store(&all[0], "after");
    for jti in ["before", "meanwhile", "after"] {
        eventually(jti, || all.iter().all(|one| is_revoked(one, jti)));
    }
    for gateway in &all {
        let told = gateway.log_lines().join("\n") + &gateway.status().to_string();
        assert!(!told.contains("watch\""), "{told}");
    }
}

#[test]
fn the_sentinel_that_knows_of_the_latest_failover_is_believed() {
    let (first, second) = (Redis::start(), Redis::start());
    let sentinels = [
        FakeSentinel::naming(first.address(), 1),
        FakeSentinel::naming(first.address(), 1),
    ];
    let gateway = with_fakes(&[&sentinels[0], &sentinels[1]]);
    eventually("it is found", || is_at(&gateway, &first));
    store(&gateway, "a");
    assert!(has(&first, "a"));
    // The first is cut off from one sentinel and goes on; the other has not heard of it.
    sentinels[1].name(second.address(), 2);
    eventually("it is left", || is_at(&gateway, &second));
    eventually("what it was told is told to the other", || {
        has(&second, "a")
    });
    store(&gateway, "b");
    assert!(has(&second, "b") && !has(&first, "b"));
    let clients = |redis: &Redis| redis.ask(&["CLIENT", "LIST"]).lines().count();
    eventually("no connection to the first is left", || {
        clients(&first) == 1
    });
}

#[test]
fn a_replica_is_not_taken_for_a_master() {
    let master = Redis::start();
    let port = master.address().port().to_string();
    let replica = Redis::with(&["--replicaof", &format!("127.0.0.1 {port}")]);
    let sentinel = FakeSentinel::naming(replica.address(), 1);
    let gateway = with_fakes(&[&sentinel]);
    let refused = || gateway.metric("gateway_redis_errors_total", &[("kind", "readonly")]) > 0.0;
    eventually("it is refused", refused);
    assert_eq!(gateway.status()["redis"]["state"], "down");
    sentinel.name(master.address(), 1);
    eventually("the master is found", || is_at(&gateway, &master));
}

#[test]
fn sentinels_that_are_away_take_nothing_away() {
    let redis = Redis::start();
    let away = DeadPort::refusing();
    let gateway = start(&format!(
        "sentinel: {{ master: {MASTER}, nodes: ['{}'] }}",
        away.address()
    ));
    let last =
        |gateway: &Gateway, what: &str| gateway.status()["redis"]["last_failure"]["what"] == what;
    eventually("it is told", || {
        last(&gateway, "no sentinel names a master")
    });
    assert_eq!(gateway.status()["redis"]["state"], "down");
    let plain = start(&format!(
        "sentinel: {{ master: {MASTER}, nodes: ['{}'] }}",
        redis.address()
    ));
    eventually("a server is no sentinel", || {
        let what = "no sentinel, or one that does not know the master";
        last(&plain, what)
    });
}
