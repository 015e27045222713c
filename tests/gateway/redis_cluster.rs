//! A Cluster: keys are where their slots are, also while and after these move, and when a master
//! fails.

use aws_lc_rs::digest::{SHA256, digest};

use crate::revocations::{TOKEN, in_sync, is_revoked, lift, revoke};
use crate::support::client::request;
use crate::support::redis::TLS_PORT;
use crate::support::redis_cluster::SPARE;
use crate::support::{Authority, Gateway, Redis, RedisCluster, eventually};

/// The stream of revocations.
const LOG: &str = "revocations:log";

fn start(cluster: &RedisCluster, seeds: &[usize]) -> Gateway {
    Gateway::start(&format!(
        "server: {{ threads: 1 }}\nadmin: {{ address: 127.0.0.1:0, token: {TOKEN} }}\n\
         redis: {{ {}, pool_size: 2 }}\nauth: {{ api_keys: {{ redis: true }} }}\n\
         routes: [{{ name: a, auth: none, respond: {{}} }}, \
         {{ name: k, match: {{ path: /k }}, auth: api_key, respond: {{}} }}]",
        cluster.setting(seeds)
    ))
}

/// Instances that know some of the servers each.
fn instances(cluster: &RedisCluster) -> [Gateway; 2] {
    let all = [start(cluster, &[0]), start(cluster, &[2, 1])];
    eventually("all are in sync", || all.iter().all(is_up));
    all
}

fn is_up(gateway: &Gateway) -> bool {
    gateway.status()["redis"]["state"] == "up" && in_sync(gateway)
}

fn body(jti: &str) -> String {
    format!("{{\"jti\": \"{jti}\", \"expires_in\": \"1h\"}}")
}

/// The key of the record of an API key.
fn record(key: &str) -> String {
    let hash = digest(&SHA256, key.as_bytes());
    let digits = hash.as_ref().iter().map(|byte| format!("{byte:02x}"));
    format!("apikey:{}", digits.collect::<String>())
}

fn is_let_in(gateway: &Gateway, key: &str) -> bool {
    let field = format!("X-API-Key: {key}");
    request(gateway.addr(), "GET", "/k", &[&field], b"").status == 200
}

/// Names whose keys of revocations are at a server, as many as are wanted.
fn names_at(cluster: &RedisCluster, node: usize, count: usize) -> Vec<String> {
    let names = (0..).map(|number| format!("t{number}"));
    let here = |name: &String| {
        let slot = cluster.slot(&format!("revoked:{name}"));
        RedisCluster::owner(slot) == node
    };
    names.filter(here).take(count).collect()
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

#[test]
fn every_key_is_where_its_slot_is() {
    let cluster = RedisCluster::start();
    // Set before anybody looks, one on each server.
    for node in 0..SPARE {
        let name = &names_at(&cluster, node, 1)[0];
        cluster.nodes[node].ask(&["SET", &format!("revoked:{name}"), "1"]);
    }
    let all = instances(&cluster);
    let status = all[0].status();
    assert_eq!(status["redis"]["mode"], "cluster");
    assert_eq!(status["redis"]["servers"].as_array().unwrap().len(), 3);
    assert_eq!(status["redis"]["unserved_slots"], 0);
    for node in 0..SPARE {
        let names = names_at(&cluster, node, 2);
        eventually("what a hand wrote is known", || {
            all.iter().all(|one| is_revoked(one, &names[0]))
        });
        store(&all[node % 2], &names[1]);
        assert!(has(&cluster.nodes[node], &names[1]));
        eventually("all know", || {
            all.iter().all(|one| is_revoked(one, &names[1]))
        });
        let answer = lift(&all[0], &format!("/{}", names[1]));
        assert_eq!(answer.status, 200, "{}", answer.text());
        eventually("it is taken back", || {
            all.iter().all(|one| !is_revoked(one, &names[1]))
        });
    }
    for key in ["key-1", "key-2", "key-3", "key-4"] {
        let record = record(key);
        let node = &cluster.nodes[RedisCluster::owner(cluster.slot(&record))];
        assert_eq!(node.ask(&["SET", &record, "{\"name\":\"a\"}"]), "OK");
        eventually("it is let in", || all.iter().all(|one| is_let_in(one, key)));
    }
}

#[test]
fn slots_that_move_are_followed() {
    let cluster = RedisCluster::start();
    let all = instances(&cluster);
    let spare = &cluster.nodes[SPARE];
    // A key of the slot stays, and one is written while the slot is on its way.
    let slot = cluster.slot("revoked:{moving}a");
    let owner = &cluster.nodes[RedisCluster::owner(slot)];
    store(&all[0], "{moving}a");
    assert!(slot == cluster.slot("revoked:{moving}b"));
    cluster.begin_move(slot, SPARE);
    store(&all[0], "{moving}b");
    assert!(has(owner, "{moving}a"));
    assert_eq!(
        owner.ask(&["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()]),
        "1"
    );
    assert_eq!(
        spare.ask(&["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()]),
        "1"
    );
    cluster.finish_move(slot, SPARE);
    store(&all[1], "{moving}c");
    assert!(has(spare, "{moving}a") && has(spare, "{moving}c"));
    eventually("it is one of the masters now", || {
        all.iter().all(|one| {
            let status = one.status();
            status["redis"]["servers"].as_array().unwrap().len() == 4 && is_up(one)
        })
    });
    // The stream moves, too.
    let log = cluster.slot(LOG);
    cluster.begin_move(log, SPARE);
    store(&all[0], "between");
    cluster.finish_move(log, SPARE);
    store(&all[1], "behind");
    assert!(spare.ask(&["XLEN", LOG]).parse::<u32>().unwrap() >= 4);
    for jti in ["{moving}a", "{moving}b", "{moving}c", "between", "behind"] {
        eventually(jti, || all.iter().all(|one| is_revoked(one, jti)));
    }
}

#[test]
fn a_master_that_fails_is_replaced() {
    let mut cluster = RedisCluster::with_node_timeout("1500");
    // The one with the stream.
    let failing = RedisCluster::owner(cluster.slot(LOG));
    cluster.make_replica(failing);
    let all = instances(&cluster);
    let names = names_at(&cluster, failing, 3);
    let key = (0..).map(|number| format!("key-{number}"));
    let is_there = |key: &String| RedisCluster::owner(cluster.slot(&record(key))) == failing;
    let keys: Vec<_> = key.filter(is_there).take(2).collect();
    for key in &keys {
        cluster.nodes[failing].ask(&["SET", &record(key), "{\"name\":\"a\"}"]);
    }
    store(&all[0], &names[0]);
    eventually("it is replicated", || {
        cluster.nodes[SPARE].ask(&["DBSIZE"]) == cluster.nodes[failing].ask(&["DBSIZE"])
    });
    eventually("it is let in", || is_let_in(&all[0], &keys[0]));

    cluster.nodes[failing].stop();
    eventually("it is noticed", || {
        all[0].status()["redis"]["state"] == "partial"
    });
    // Pending, unless the replica is quicker.
    revoke(&all[0], &body(&names[1]));
    eventually("the replica takes its place", || all.iter().all(is_up));
    eventually("it gets what was pending", || {
        has(&cluster.nodes[SPARE], &names[1])
    });
    store(&all[1], &names[2]);
    for name in &names {
        eventually(name, || all.iter().all(|one| is_revoked(one, name)));
    }
    eventually("it is let in", || is_let_in(&all[1], &keys[1]));
    // It comes back as a replica, and is asked for nothing.
    cluster.nodes[failing].start_again();
    eventually("it is a replica", || {
        cluster.nodes[failing].ask(&["ROLE"]).starts_with("slave")
    });
    store(&all[0], "last");
    eventually("last", || all.iter().all(|one| is_revoked(one, "last")));
}

#[test]
fn a_cluster_of_one_is_reached_by_tls_with_a_password() {
    let (ours, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name).display().to_string();
    ours.issue(&["127.0.0.1"]).write(folder.path(), "server");
    std::fs::write(path("ours.pem"), &ours.pem).unwrap();
    let redis = Redis::with(&[
        "--cluster-enabled",
        "yes",
        "--requirepass",
        "hunter2",
        // Without it, ports for plain connections are named.
        "--tls-cluster",
        "yes",
        "--tls-port",
        TLS_PORT,
        "--tls-auth-clients",
        "no",
        "--tls-cert-file",
        &path("server.crt"),
        "--tls-key-file",
        &path("server.key"),
        "--tls-ca-cert-file",
        &path("ours.pem"),
    ]);
    let port = redis.tls_port();
    let start = |password: &str| {
        Gateway::start(&format!(
            "admin: {{ address: 127.0.0.1:0, token: {TOKEN} }}\n\
             redis: {{ cluster: {{ nodes: ['127.0.0.1:{port}'] }}, tls: true, ca: '{}', password: {password} }}\n\
             routes: [{{ name: a, respond: {{}} }}]",
            path("ours.pem")
        ))
    };
    let (gateway, refused) = (start("hunter2"), start("wrong"));
    // It has no slot yet, and names no host of its own.
    eventually("slots are missing", || {
        let answer = revoke(&gateway, &body("early"));
        answer["redis"] == "pending"
    });
    let first_to_last = ["CLUSTER", "ADDSLOTSRANGE", "0", "16383"];
    assert_eq!(redis.ask(&first_to_last), "OK");
    eventually("it is up", || is_up(&gateway));
    eventually("it has what was pending", || has(&redis, "early"));
    let status = gateway.status();
    let server = &status["redis"]["servers"][0]["address"];
    assert_eq!(*server, format!("127.0.0.1:{port}"));
    eventually("a wrong password is told", || {
        refused.status()["redis"]["last_failure"]["kind"] == "auth"
    });
    assert!(!status.to_string().contains("hunter2"));
}

#[test]
fn a_server_without_a_cluster_is_told() {
    let redis = Redis::start();
    let gateway = Gateway::start(&format!(
        "redis: {{ cluster: {{ nodes: ['{}'] }} }}\nroutes: [{{ name: a, respond: {{}} }}]",
        redis.address()
    ));
    eventually("the status says so", || {
        let status = gateway.status();
        status["redis"]["last_failure"]["what"] == "it is no part of a Cluster"
    });
    assert_eq!(gateway.status()["redis"]["state"], "down");
}
