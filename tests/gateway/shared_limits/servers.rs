//! Several servers in the place of one: those of a Cluster, each with keys of its own, and a primary that is replaced.

use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_gateway::filter::ratelimit::lease::{Leases, Taken};
use edge_gateway::filter::ratelimit::rate::Verdict;
use edge_gateway::filter::ratelimit::shared::Unanswered;
use futures_util::future::join_all;

use super::instance::{Instance, PATIENT, rate, run};
use crate::support::redis_cluster::SPARE;
use crate::support::sentinel::MASTER;
use crate::support::{Redis, RedisCluster, Sentinel, eventually};

const KEYS: usize = 90;

fn name(key: usize) -> String {
    format!("ratelimit:per-user:{key}")
}

/// Asks for some keys at once.
fn take(instance: &Instance, keys: &[usize], cost: u64) -> Vec<Result<Verdict, Unanswered>> {
    let rates = [rate(1, 100_000, 10)];
    let names: Vec<_> = keys.iter().map(|key| name(*key)).collect();
    let asked = names.iter().map(|name| instance.take(name, &rates, cost));
    run(join_all(asked))
}

/// Waits until there are answers for all keys, and says how much is left of each.
#[track_caller]
fn left(instance: &Instance, keys: &[usize], cost: u64) -> Vec<u64> {
    eventually("each key has an answer", || {
        take(instance, keys, 0).iter().all(Result::is_ok)
    });
    let verdicts = take(instance, keys, cost).into_iter();
    verdicts
        .map(|verdict| verdict.expect("an answer").remaining())
        .collect()
}

/// Uses one unit of each key on credit, which is to be paid.
fn lend(instance: &Instance, keys: &[usize]) -> Arc<Leases> {
    eventually("it is counted", || instance.shared.known_instances() > 0);
    let leases = Leases::new(&instance.shared, 1000);
    let rates = Arc::from([rate(1, 100_000, 100)]);
    for key in keys {
        let hash = (*key as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let taken = leases.take(hash, || name(*key), &rates, 1, Instant::now());
        assert!(matches!(taken, Taken::Decided(verdict) if verdict.admitted));
    }
    leases
}

#[test]
fn in_a_cluster_every_key_counts_where_its_slot_is() {
    let cluster = RedisCluster::start();
    let all = [0, 1].map(|seed| Instance::at(&cluster.setting(&[seed]), PATIENT));
    let keys: Vec<_> = (0..KEYS).collect();
    assert_eq!(left(&all[0], &keys, 3), [7; KEYS]);
    assert_eq!(left(&all[1], &keys, 3), [4; KEYS]);
    for key in &keys {
        let owner = RedisCluster::owner(cluster.slot(&name(*key)));
        assert_eq!(cluster.nodes[owner].ask(&["EXISTS", &name(*key)]), "1");
        cluster.nodes[owner].ask(&["DEL", &name(*key)]);
    }
    let leases = lend(&all[0], &keys);
    eventually("all have paid", || left(&all[1], &keys, 0) == [9; KEYS]);
    eventually("all are forgotten", || leases.is_empty());
}

#[test]
fn a_master_of_a_cluster_that_fails_hinders_nobody_elses_keys_and_is_replaced() {
    let mut cluster = RedisCluster::with_node_timeout("1500");
    let keys: Vec<_> = (0..KEYS).collect();
    let owner = |key: &usize| RedisCluster::owner(cluster.slot(&name(*key)));
    let failing = owner(&0);
    let (lost, kept): (Vec<_>, Vec<_>) = keys.iter().partition(|key| owner(key) == failing);
    cluster.make_replica(failing);
    let instance = Instance::at(&cluster.setting(&[0, 1, 2]), PATIENT);
    assert_eq!(left(&instance, &keys, 3), [7; KEYS]);
    eventually("it is replicated", || {
        cluster.nodes[SPARE].ask(&["DBSIZE"]) == cluster.nodes[failing].ask(&["DBSIZE"])
    });
    cluster.nodes[failing].stop();
    eventually("its keys have no answer, and the others have", || {
        let kept = take(&instance, &kept, 0);
        kept.iter().all(Result::is_ok) && take(&instance, &lost, 0).iter().all(Result::is_err)
    });
    assert_eq!(left(&instance, &keys, 3), [4; KEYS], "by the replica");
}

/// Nobody is taken for dead by the others while a test runs.
const NEVER: &str = "600000";

/// Keys by whether the server that signs of life go to has them, and that server.
fn apart(cluster: &RedisCluster) -> (Vec<usize>, Vec<usize>, usize) {
    let owner = |key: &str| RedisCluster::owner(cluster.slot(key));
    let one = owner("ratelimit:instances");
    let (its, others) = (0..KEYS).partition(|key| owner(&name(*key)) == one);
    (its, others, one)
}

#[test]
fn a_master_of_a_cluster_that_is_away_is_no_outage_of_the_others() {
    let mut cluster = RedisCluster::with_node_timeout(NEVER);
    let (lost, kept, failing) = apart(&cluster);
    let instance = Instance::at(&cluster.setting(&[0, 1, 2]), PATIENT);
    let keys: Vec<_> = (0..KEYS).collect();
    assert_eq!(left(&instance, &keys, 3), [7; KEYS]);
    cluster.nodes[failing].stop();
    let failed = [Err(Unanswered::Failed)];
    eventually("nobody waits for it", || {
        take(&instance, &lost[..1], 0) == failed
    });
    let leases = Leases::new(&instance.shared, 1000);
    let rates = Arc::from([rate(1, 100_000, 10)]);
    for key in &lost {
        assert_eq!(take(&instance, &[*key], 0), failed);
        let (hash, now) = (*key as u64, Instant::now());
        let taken = leases.take(hash, || name(*key), &rates, 1, now);
        assert_eq!(taken, Taken::Wait);
        let ordered = run(leases.wait(hash, 1, now + PATIENT));
        assert_eq!(ordered, Err(Unanswered::Failed));
    }
    assert!(instance.shared.is_answering());
    assert!(take(&instance, &kept, 0).iter().all(Result::is_ok));
}

#[test]
fn a_master_of_a_cluster_that_hangs_makes_nobody_else_wait() {
    let cluster = RedisCluster::with_node_timeout(NEVER);
    let (lost, kept, hanging) = apart(&cluster);
    let patience = Duration::from_secs(2);
    // Nothing is given up before the test is over.
    let settings = format!("{}, command_timeout: 60s", cluster.setting(&[0, 1, 2]));
    let instance = Instance::at(&settings, patience);
    let keys: Vec<_> = (0..KEYS).collect();
    assert_eq!(left(&instance, &keys, 3), [7; KEYS]);
    let take = |keys: &[usize], patience: Duration| {
        let rates = [rate(1, 100_000, 10)];
        let names: Vec<_> = keys.iter().map(|key| name(*key)).collect();
        let until = Instant::now() + patience;
        let shared = &instance.shared;
        let asked = names.iter().map(|name| shared.take(name, &rates, 0, until));
        run(join_all(asked))
    };
    cluster.nodes[hanging].pause();
    let all = take(&keys, patience);
    for (key, answer) in keys.iter().zip(all) {
        assert_eq!(answer.is_ok(), kept.contains(key), "{key}");
    }
    // More lots than are on their way to one server at a time.
    for key in &lost {
        take(&[*key], Duration::from_millis(20));
    }
    assert!(instance.shared.is_answering());
    assert!(take(&kept, patience).iter().all(Result::is_ok));
    // When the others hang, too, it is an outage, which is over when they go on.
    let others = (0..SPARE).filter(|node| *node != hanging);
    let others: Vec<_> = others.map(|node| &cluster.nodes[node]).collect();
    others.iter().for_each(|node| node.pause());
    eventually("the outage is known", || {
        take(&kept, Duration::from_millis(20));
        !instance.shared.is_answering()
    });
    others.iter().for_each(|node| node.go_on());
    eventually("they have answers", || {
        take(&kept, patience).iter().all(Result::is_ok)
    });
}

#[test]
fn a_failover_by_sentinels_keeps_what_was_counted() {
    let mut primary = Redis::start();
    let of = format!("127.0.0.1 {}", primary.address().port());
    let replica = Redis::with(&["--repl-diskless-sync-delay", "0", "--replicaof", &of]);
    let sentinel = Sentinel::of(&primary, "requirepass watch");
    eventually("the sentinel knows the replica", || {
        let known = sentinel.ask("watch", &["SENTINEL", "REPLICAS", MASTER]);
        known.contains(&replica.address().port().to_string())
    });
    let at = sentinel.address();
    let settings = format!("sentinel: {{ master: {MASTER}, nodes: ['{at}'], password: watch }}");
    let instance = Instance::at(&settings, PATIENT);
    let keys: Vec<_> = (0..KEYS).collect();
    assert_eq!(left(&instance, &keys, 3), [7; KEYS]);
    eventually("it is replicated", || {
        replica.ask(&["DBSIZE"]) == primary.ask(&["DBSIZE"])
    });
    primary.stop();
    eventually("there is no answer", || {
        take(&instance, &[0], 0)[0].is_err()
    });
    assert_eq!(left(&instance, &keys, 3), [4; KEYS], "by the replica");
    let _leases = lend(&instance, &[KEYS]);
    eventually("leases are paid there", || {
        replica.ask(&["EXISTS", &name(KEYS)]) == "1"
    });
}

#[test]
fn a_primary_that_became_a_replica_is_left_by_all_connections_at_once() {
    let redis = Redis::start();
    let settings = format!("url: '{}', pool_size: 8", redis.url());
    let instance = Instance::at(&settings, PATIENT);
    // Nobody asks but this test.
    instance.shared.set_used(false);
    let connections = || {
        let clients = redis.ask(&["CLIENT", "LIST"]);
        let names = clients.lines().filter_map(|line| line.split(' ').next());
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    let mut before = Vec::new();
    eventually("all are connected", || {
        before = connections();
        take(&instance, &[0], 1)[0].is_ok() && before.len() == 9
    });
    let nobody = Redis::free_port().to_string();
    redis.ask(&["REPLICAOF", "127.0.0.1", &nobody]);
    assert_eq!(take(&instance, &[0], 1), [Err(Unanswered::Failed)]);
    eventually("none of them is left", || {
        let now = connections();
        before.iter().all(|name| !now.contains(name)) && now.len() == 9
    });
}

#[test]
fn a_server_with_all_slots_takes_the_keys_one_by_one() {
    let redis = Redis::with(&["--cluster-enabled", "yes"]);
    let first_to_last = ["CLUSTER", "ADDSLOTSRANGE", "0", "16383"];
    assert_eq!(redis.ask(&first_to_last), "OK");
    eventually("it is well", || RedisCluster::is_well(&redis));
    let instance = Instance::start(&redis, PATIENT);
    let keys: Vec<_> = (0..KEYS).collect();
    for left in [9, 8] {
        for verdict in take(&instance, &keys, 1) {
            assert_eq!(verdict.map(|verdict| verdict.remaining()), Ok(left));
        }
    }
    assert!(instance.shared.is_answering());
}
