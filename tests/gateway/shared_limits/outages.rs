//! Redis that is away, slow, full or a replica: requests are told so within their deadline, then at once,
//! and everything goes on when it is back.

use std::time::{Duration, Instant};

use edge_gateway::filter::ratelimit::shared::Unanswered;

use super::instance::{Instance, rate};
use crate::support::{Redis, eventually};

const KEY: &str = "ratelimit:per-user:bob";

/// Ample for an answer on a busy machine, and short beside the outages here.
const PATIENCE: Duration = Duration::from_millis(300);

/// An instance that has had an answer.
fn asking(redis: &Redis) -> Instance {
    let instance = Instance::start(redis, PATIENCE);
    eventually("an answer", || asks(&instance) == Ok(true));
    instance
}

/// Of a limit that nobody reaches.
fn asks(instance: &Instance) -> Result<bool, Unanswered> {
    instance.asks(KEY, &[rate(1_000_000, 1, 1_000_000)], PATIENCE)
}

/// Asks until the outage is known; then nobody waits.
#[track_caller]
fn falls(instance: &Instance) {
    eventually("the outage is known", || {
        let asked = Instant::now();
        let answer = asks(instance);
        // Nobody waited for much longer than the deadline, even on a busy machine.
        assert!(asked.elapsed() < PATIENCE + Duration::from_secs(5));
        answer == Err(Unanswered::Down)
    });
    assert!(!instance.shared.is_answering());
    let asked = Instant::now();
    for _ in 0..1000 {
        assert_eq!(asks(instance), Err(Unanswered::Down));
    }
    // A thousand deadlines would be five minutes.
    assert!(asked.elapsed() < Duration::from_secs(20));
}

#[track_caller]
fn recovers(instance: &Instance) {
    eventually("it answers again", || asks(instance) == Ok(true));
}

#[test]
fn killed_and_started_again_empty() {
    let mut redis = Redis::start();
    let instance = asking(&redis);
    redis.stop();
    falls(&instance);
    redis.start_again();
    recovers(&instance);
}

#[test]
fn paused() {
    let redis = Redis::start();
    let instance = asking(&redis);
    redis.pause();
    falls(&instance);
    redis.go_on();
    recovers(&instance);
}

#[test]
fn a_replica_that_takes_no_writes() {
    let redis = Redis::start();
    let master = Redis::start();
    let instance = asking(&redis);
    let port = master.address().port().to_string();
    redis.ask(&["REPLICAOF", "127.0.0.1", &port]);
    eventually("the outage is known", || {
        asks(&instance) == Err(Unanswered::Down)
    });
    redis.ask(&["REPLICAOF", "NO", "ONE"]);
    recovers(&instance);
}

#[test]
fn out_of_memory() {
    let redis = Redis::start();
    let instance = asking(&redis);
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    falls(&instance);
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    recovers(&instance);
}

#[test]
fn flushed() {
    let redis = Redis::start();
    let instance = asking(&redis);
    redis.ask(&["FLUSHALL"]);
    eventually("it answers", || {
        asks(&instance) == Ok(true) && instance.shared.is_answering()
    });
}

#[test]
fn an_outage_does_not_forget_how_many_there_are() {
    let mut redis = Redis::start();
    let instances = Instance::several(&redis, 3);
    redis.stop();
    falls(&instances[0]);
    assert_eq!(instances[0].shared.instances(), 3);
    redis.start_again();
    recovers(&instances[0]);
    eventually("all are counted", || instances[0].shared.instances() == 3);
}
