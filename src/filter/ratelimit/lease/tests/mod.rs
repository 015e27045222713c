//! Leases, with a model in the place of the store and time passed in.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod bound;
mod bucket;

use std::time::Duration;

use self::bucket::Bucket;
use super::*;
use crate::config::model::Window;

const MS: Duration = Duration::from_millis(1);
const KEY: u64 = 7;

fn rate(limit: u64, seconds: u64, burst: u64) -> Rate {
    let period = Duration::from_secs(seconds);
    Rate::new(Window {
        limit,
        period,
        burst,
    })
}

/// An instance, and the store that it has for itself.
struct Setup {
    shared: Arc<Shared>,
    leases: Arc<Leases>,
    bucket: Bucket,
    start: Instant,
    now: Instant,
    rates: Vec<Rate>,
}

impl Setup {
    fn new(rates: &[Rate]) -> Self {
        let shared = Arc::new(Shared::default());
        shared.counted(1);
        let now = Instant::now();
        Self {
            leases: Leases::new(&shared, 1000),
            shared,
            bucket: Bucket::default(),
            start: now,
            now,
            rates: rates.to_vec(),
        }
    }

    fn take(&self, cost: u64) -> Taken {
        let name = || "ratelimit:a:b".to_owned();
        self.leases.take(KEY, name, &self.rates, cost, self.now)
    }

    fn admits(&self, cost: u64) -> bool {
        matches!(self.take(cost), Taken::Decided(verdict) if verdict.admitted)
    }

    fn order(&self) -> Option<Order> {
        let mut orders = Vec::new();
        self.leases.orders(self.now, &mut orders);
        assert!(orders.len() <= 1);
        orders.pop()
    }

    /// Whatever is due is ordered and answered at once.
    fn exchange(&mut self) -> Option<Loan> {
        let order = self.order()?;
        let time = (self.now - self.start).as_nanos() as u64;
        let loan = self.bucket.lend(&order, 1, time);
        self.leases.settle(&order, Some(loan), self.now);
        Some(loan)
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn sweep(&self) {
        for _ in 0..SHARDS {
            self.leases.sweep(self.now);
        }
    }
}

#[test]
fn a_new_key_has_some_credit_which_is_paid_first() {
    let mut setup = Setup::new(&[rate(100, 1, 100)]);
    // A twenty-fifth of the burst.
    for _ in 0..4 {
        assert!(setup.admits(1));
    }
    assert_eq!(setup.take(1), Taken::Wait);
    let order = setup.order().unwrap();
    assert_eq!((order.pay, order.held, order.keep), (4, 0, 0));
    let loan = setup.bucket.lend(&order, 1, 0);
    setup.leases.settle(&order, Some(loan), setup.now);
    assert_eq!(setup.bucket.debts, [40_000_000]);
    assert!(setup.admits(1), "paid, there is credit again");
}

#[test]
fn there_is_no_credit_while_nobody_knows_how_many_share_it() {
    let shared = Arc::new(Shared::default());
    let leases = Leases::new(&shared, 1000);
    let rates = [rate(100, 1, 1000)];
    let now = Instant::now();
    let taken = leases.take(KEY, String::new, &rates, 1, now);
    assert_eq!(taken, Taken::Wait);
    shared.counted(3);
    let admitted = (0..100).filter(|_| {
        let taken = leases.take(KEY, String::new, &rates, 1, now);
        matches!(taken, Taken::Decided(verdict) if verdict.admitted)
    });
    assert_eq!(admitted.count(), 13);
}

#[test]
fn a_key_in_use_is_leased_for_ahead_and_settled() {
    let mut setup = Setup::new(&[rate(1000, 1, 1000)]);
    let mut orders = 0;
    for turn in 0..5000 {
        // A hundred a second.
        if turn % 10 == 0 {
            assert!(setup.admits(1), "{turn}");
        }
        setup.pass(MS);
        if turn % 10 == 5 {
            orders += usize::from(setup.exchange().is_some());
        }
        setup.sweep();
    }
    assert!((4..=16).contains(&orders), "{orders} orders in 5 s");
    // Nothing is held for long that nobody uses.
    setup.pass(Duration::from_secs(1));
    setup.sweep();
    let order = setup.order().unwrap();
    assert!(order.back > 0 && order.keep == 0 && order.wanted == 0);
    let time = (setup.now - setup.start).as_nanos() as u64;
    let loan = setup.bucket.lend(&order, 1, time);
    setup.leases.settle(&order, Some(loan), setup.now);
    assert_eq!(setup.bucket.held(), 0);
    setup.sweep();
    assert_eq!(setup.leases.keys(), 0);
}

#[test]
fn when_nothing_is_left_requests_are_refused_here_until_something_is() {
    let mut setup = Setup::new(&[rate(10, 1, 10)]);
    let mut waiting = None;
    let mut admitted = 0;
    for _ in 0..100 {
        match setup.take(1) {
            Taken::Decided(verdict) => admitted += u32::from(verdict.admitted),
            Taken::Wait => {
                let mut shard = setup.leases.shard(KEY);
                let entry = shard.entries.get_mut(&KEY).unwrap();
                waiting = Some(entry.wait(1));
                setup.leases.call(shard, KEY, Need::Now);
                setup.exchange();
                let mut shard = setup.leases.shard(KEY);
                shard.entries.get_mut(&KEY).unwrap().leave(1);
            }
            Taken::Unanswered(why) => panic!("{why:?}"),
        }
    }
    assert!(waiting.is_some());
    assert_eq!(admitted, 10);
    let Taken::Decided(refused) = setup.take(1) else {
        panic!("asks the store");
    };
    assert!(!refused.admitted && refused.retry_after <= 100 * MS);
    assert_eq!(refused.remaining, 0);
    assert!(setup.order().is_none(), "the store is not asked");
    setup.pass(101 * MS);
    assert_eq!(setup.take(1), Taken::Wait);
}

#[test]
fn a_cost_that_no_bucket_holds_is_refused_at_once_and_no_cost_is_free() {
    let setup = Setup::new(&[rate(10, 1, 10), rate(10, 1, 5)]);
    assert!(setup.admits(0));
    let Taken::Decided(refused) = setup.take(6) else {
        panic!("asks the store");
    };
    assert_eq!((refused.admitted, refused.window), (false, 1));
    assert_eq!(setup.take(5), Taken::Wait);
}

#[test]
fn an_answer_that_got_lost_leaves_what_is_held_and_no_more() {
    let mut setup = Setup::new(&[rate(1000, 1, 1000)]);
    for _ in 0..200 {
        assert!(setup.admits(1));
        setup.pass(5 * MS);
        setup.exchange();
    }
    let held = loop {
        assert!(setup.admits(1));
        if let Some(order) = setup.order() {
            setup.leases.settle(&order, None, setup.now);
            break order.keep;
        }
    };
    let mut admitted = 0;
    while setup.leases.shard(KEY).entries[&KEY].has_tokens() {
        assert!(setup.admits(1));
        admitted += 1;
    }
    assert_eq!(admitted, held);
    let order = setup.order().unwrap();
    assert_eq!((order.held, order.keep, order.back), (0, 0, 0));
    let loan = setup.bucket.lend(&order, 1, 2_000_000_000);
    setup.leases.settle(&order, Some(loan), setup.now);
    // What it does not know of cannot be used longer than it is remembered.
    setup.pass(LIFE);
    assert!(!setup.leases.shard(KEY).entries[&KEY].has_tokens_at(setup.now));
}

#[test]
fn without_an_answer_tokens_are_used_up_and_then_nobody_can_say() {
    let mut setup = Setup::new(&[rate(1000, 1, 1000)]);
    for _ in 0..200 {
        assert!(setup.admits(1));
        setup.pass(5 * MS);
        setup.exchange();
    }
    for _ in 0..3 {
        setup.shared.failed(RedisError::Io, setup.now);
    }
    let admitted = (0..1000).filter(|_| setup.admits(1)).count();
    assert!((50..1000).contains(&admitted), "{admitted}");
    assert_eq!(setup.take(1), Taken::Unanswered(Unanswered::Down));
    assert!(setup.order().is_none());
}

#[test]
fn costs_of_responses_are_charged_and_what_was_not_needed_comes_back() {
    let mut setup = Setup::new(&[rate(10, 1, 100)]);
    let name = || "a".to_owned();
    setup.leases.charge(KEY, name, &setup.rates, 500, setup.now);
    setup.exchange();
    // A debt of one more bucket at most.
    assert_eq!(setup.bucket.debts, [20_000_000_000]);
    assert!(!setup.admits(1), "overdrawn");
    assert!(setup.order().is_none());
    let setup = Setup::new(&[rate(10, 1, 100)]);
    assert!(setup.admits(4));
    setup.leases.give_back(KEY, 4);
    assert!(setup.admits(4), "the credit is there again");
}

#[test]
fn the_table_is_bounded_and_those_in_debt_stay() {
    let shared = Arc::new(Shared::default());
    shared.counted(1);
    let leases = Leases::new(&shared, SHARDS);
    let rates = [rate(100, 1, 100)];
    let now = Instant::now();
    let take = |key: u64, cost| leases.take(key, String::new, &rates, cost, now);
    assert!(matches!(take(1, 1), Taken::Decided(_)));
    assert_eq!(
        take(2, 1),
        Taken::Unanswered(Unanswered::Busy),
        "same shard"
    );
    let other = 1 << 58;
    assert!(matches!(take(other, 0), Taken::Decided(_)));
    assert!(matches!(take(other + 1, 0), Taken::Decided(_)), "makes way");
    assert_eq!(leases.keys(), 2);
}

#[test]
fn who_waits_gets_the_tokens_or_gives_up_in_time() {
    let setup = Setup::new(&[rate(10, 1, 10)]);
    let run = |patience: Duration, answers: bool| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().build().unwrap().block_on(async {
            let waits = setup.leases.wait(KEY, 1, Instant::now() + patience);
            let lends = async {
                setup.shared.hurried().await;
                let Some(order) = setup.order() else { return };
                if answers {
                    let loan = setup.bucket.clone().lend(&order, 1, 0);
                    setup.leases.settle(&order, Some(loan), Instant::now());
                }
            };
            tokio::join!(waits, lends).0
        })
    };
    assert_eq!(
        run(Duration::ZERO, false),
        Err(Unanswered::Failed),
        "no such key"
    );
    setup.shared.hurry();
    assert_eq!(setup.take(1), Taken::Wait);
    let verdict = run(Duration::from_secs(60), true).unwrap();
    assert!(verdict.admitted);
    assert_eq!(run(MS, false), Err(Unanswered::Late));
    let shard = setup.leases.shard(KEY);
    assert!(!shard.entries[&KEY].is_waited_for());
}
