//! Leased tokens, among instances that count with one real Redis: what they let through together stays
//! within the stated bound, and most requests ask nobody.

use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_gateway::filter::ratelimit::lease::{Leases, Taken};
use edge_gateway::filter::ratelimit::rate::Rate;
use edge_gateway::filter::ratelimit::shared::Unanswered;

use super::instance::{Instance, PATIENT, calls, rate, run};
use crate::support::{Redis, eventually};

const NAME: &str = "ratelimit:fast:alice";
const KEY: u64 = 0x1234_5678_9abc_def0;

struct Lessee {
    instance: Instance,
    leases: Arc<Leases>,
}

impl Lessee {
    fn new(instance: Instance) -> Self {
        let leases = Leases::new(&instance.shared, 10_000);
        Self { instance, leases }
    }

    fn several(redis: &Redis, count: u32) -> Vec<Self> {
        let instances = Instance::several(redis, count).into_iter();
        instances.map(Self::new).collect()
    }

    fn take(&self, rates: &Arc<[Rate]>, cost: u64) -> Taken {
        let name = || NAME.to_owned();
        self.leases.take(KEY, name, rates, cost, Instant::now())
    }

    /// As a request does, which waits if it has to.
    async fn asks(&self, rates: &Arc<[Rate]>, cost: u64) -> Result<bool, Unanswered> {
        if self.leases.spend(KEY, rates, cost, Instant::now()) {
            return Ok(true);
        }
        let verdict = match self.take(rates, cost) {
            Taken::Decided(verdict) => Ok(verdict),
            Taken::Wait => self.leases.wait(KEY, cost, Instant::now() + PATIENT).await,
            Taken::Unanswered(why) => Err(why),
        };
        verdict.map(|verdict| verdict.admitted)
    }
}

/// So many may be let through in a time, and by how much that may be exceeded: the stated bound.
fn allowed(rate: &Rate, time: Duration) -> (f64, f64) {
    let window = rate.window;
    let flow = window.limit as f64 * time.as_secs_f64() / window.period.as_secs_f64();
    (window.burst as f64 + flow, window.burst as f64 * 0.04)
}

#[test]
fn three_instances_under_overload_stay_within_the_bound_and_use_what_there_is() {
    let redis = Redis::start();
    let all = Lessee::several(&redis, 3);
    // A machine that stalls lets less through, and no more.
    let used = (0..5).any(|_| overload(&all));
    assert!(used, "less than it may be, again and again");
}

/// Asks for three seconds for more than is let through; whether most of what is allowed was.
fn overload(all: &[Lessee]) -> bool {
    let rates = Arc::from([rate(400, 1, 400)]);
    let began = Instant::now();
    let counts: Vec<u64> = std::thread::scope(|scope| {
        let threads = all.iter().map(|lessee| {
            scope.spawn(|| {
                let mut admitted = 0;
                while began.elapsed() < Duration::from_secs(3) {
                    let answer = run(lessee.asks(&rates, 1)).expect("an answer");
                    admitted += u64::from(answer);
                    // Some fifteen times what is allowed.
                    std::thread::sleep(Duration::from_micros(500));
                }
                admitted
            })
        });
        let threads: Vec<_> = threads.collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let (allowed, more) = allowed(&rates[0], began.elapsed());
    let admitted: u64 = counts.iter().sum();
    assert!(
        (admitted as f64) <= allowed + more,
        "{admitted} of {allowed}: {counts:?}"
    );
    admitted as f64 >= allowed * 0.8
}

#[test]
fn a_burst_that_comes_to_all_at_once_is_not_let_through_three_times() {
    let redis = Redis::start();
    let all = Lessee::several(&redis, 3);
    // Nothing flows back meanwhile.
    let rates = Arc::from([rate(1, 1000, 300)]);
    let mut admitted = 0;
    for _ in 0..400 {
        for lessee in &all {
            admitted += u64::from(run(lessee.asks(&rates, 1)).unwrap());
        }
    }
    assert!((250..=312).contains(&admitted), "{admitted}");
    eventually("what was on credit is paid", || {
        let value = redis.ask(&["GET", NAME]);
        let debt = value
            .split([' ', ';'])
            .nth(1)
            .and_then(|word| word.parse::<u64>().ok());
        debt.is_some_and(|debt| debt + 1_000_000_000_000 > admitted * 1_000_000_000_000)
    });
}

#[test]
fn steady_use_seldom_asks_and_everything_comes_back() {
    let redis = Redis::start();
    let lessee = Lessee::several(&redis, 1).remove(0);
    let rates = Arc::from([rate(100_000, 1, 100_000), rate(6_000_000, 60, 6_000_000)]);
    let (mut waited, mut asked) = (0, 0);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        if lessee.take(&rates, 2) == Taken::Wait {
            waited += 1;
            assert_eq!(run(lessee.asks(&rates, 2)), Ok(true));
        }
        asked += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(waited * 10 < asked, "{waited} of {asked} waited");
    eventually("given back and forgotten", || lessee.leases.is_empty());
    eventually("the bucket is full again", || {
        redis.ask(&["EXISTS", NAME]) == "0"
    });
}

#[test]
fn what_was_leased_is_used_while_redis_is_away_and_all_goes_on_afterwards() {
    let mut redis = Redis::start();
    let lessee = Lessee::several(&redis, 1).remove(0);
    let rates = Arc::from([rate(10_000, 1, 10_000)]);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(700) {
        assert_eq!(run(lessee.asks(&rates, 1)), Ok(true));
        std::thread::sleep(Duration::from_millis(2));
    }
    redis.stop();
    eventually("nobody can say", || {
        matches!(lessee.take(&rates, 10), Taken::Unanswered(Unanswered::Down))
    });
    redis.start_again();
    eventually("it goes on", || run(lessee.asks(&rates, 10)) == Ok(true));
    eventually("it is known in Redis", || {
        redis.ask(&["EXISTS", NAME]) == "1"
    });
    redis.ask(&["FLUSHALL"]);
    for _ in 0..100 {
        assert_eq!(run(lessee.asks(&rates, 1)), Ok(true));
    }
    eventually("it is known in Redis", || {
        lessee.take(&rates, 1);
        redis.ask(&["EXISTS", NAME]) == "1"
    });
    assert!(lessee.instance.shared.is_answering());
}

#[test]
fn one_command_orders_for_many_keys() {
    let redis = Redis::start();
    let lessee = Lessee::several(&redis, 1).remove(0);
    let rates = Arc::from([rate(100, 1, 100)]);
    for key in 0..500_u64 {
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let name = || format!("ratelimit:fast:{key}");
        let taken = lessee.leases.take(hash, name, &rates, 1, Instant::now());
        assert!(matches!(taken, Taken::Decided(verdict) if verdict.admitted));
    }
    eventually("all are paid", || {
        redis.ask(&["DBSIZE"]).parse::<u64>().unwrap() > 500
    });
    // The stats of commands tell signs of life, too.
    assert!(calls(&redis, "evalsha") < 100);
    eventually("all are forgotten", || lessee.leases.is_empty());
}
