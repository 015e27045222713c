//! Leases, with a model in the place of the store and time passed in.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod bound;
mod bucket;

use std::task::{Context, Waker};
use std::time::Duration;

use self::bucket::Bucket;
use super::account::Account;
use super::slots::Slot;
use super::*;
use crate::config::model::Window;
use crate::filter::ratelimit::shared::Server;

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
    rates: Arc<[Rate]>,
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
            rates: rates.into(),
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

    /// As for a request that waits and is answered.
    fn wait_for_an_order(&mut self, cost: u64) {
        drop(self.entry(|entry| entry.wait(cost)));
        self.leases.call(self.leases.shard(KEY), KEY, Need::Now);
        self.exchange();
        self.entry(|entry| entry.leave(cost));
    }

    fn give_back(&self, cost: u64) {
        let (rates, name) = (&self.rates, Some("ratelimit:a:b"));
        self.leases.give_back(KEY, name, rates, cost, self.now);
    }

    fn entry<T>(&self, look: impl FnOnce(&mut Entry) -> T) -> T {
        look(self.leases.shard(KEY).entries.get_mut(KEY).unwrap())
    }

    /// By two hundred requests, so that tokens are leased ahead.
    fn use_for_a_second(&mut self) {
        for _ in 0..200 {
            assert!(self.admits(1));
            self.pass(5 * MS);
            self.exchange();
        }
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
    let rates: Arc<[Rate]> = [rate(100, 1, 1000)].into();
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
fn tokens_are_spent_until_some_have_to_be_ordered() {
    let mut setup = Setup::new(&[rate(1000, 1, 1000)]);
    let spend = |setup: &Setup| setup.leases.spend(KEY, &setup.rates, 1, setup.now);
    assert!(!spend(&setup), "nothing is known of the key");
    while !spend(&setup) {
        assert!(setup.admits(1));
        setup.pass(5 * MS);
        setup.exchange();
    }
    // What is spent is told the store in the end, as what was taken.
    let spent = 1 + (0..1000).take_while(|_| spend(&setup)).count();
    assert!(setup.order().is_none(), "nobody was called");
    assert!(
        setup.admits(1),
        "the quarter that is kept for the way to the store"
    );
    let order = setup.order().unwrap();
    assert_eq!(order.keep, order.held - spent as u64 - 1);
    setup.pass(LIFE);
    assert!(!spend(&setup), "they have lapsed");
}

#[test]
fn other_limits_hold_for_tokens_in_use_and_a_cost_of_nothing_uses_none() {
    let mut setup = Setup::new(&[rate(1000, 1, 1000)]);
    setup.use_for_a_second();
    let spend = |setup: &Setup, cost| setup.leases.spend(KEY, &setup.rates, cost, setup.now);
    assert!(spend(&setup, 1) && !spend(&setup, 0));
    // A reload, and then tier by tier.
    setup.rates = [rate(10, 1, 10)].into();
    assert!(!spend(&setup, 1));
    assert!(setup.admits(1));
    assert!(spend(&setup, 1));
    setup.pass(Duration::from_millis(1500));
    setup.sweep();
    assert_eq!(setup.order().unwrap().rates, setup.rates);
}

#[test]
fn only_a_request_that_waits_calls_for_whoever_sends_orders() {
    let mut setup = Setup::new(&[rate(1000, 1, 1000)]);
    let hurries = |setup: &Setup| is_ready(setup.shared.hurried());
    assert!(hurries(&setup), "there are leases");
    let credit = 1000 / 25;
    assert!((0..credit).all(|_| setup.admits(1)) && !hurries(&setup));
    assert_eq!(setup.take(1), Taken::Wait);
    setup.wait_for_an_order(1);
    assert!(hurries(&setup));
    setup
        .leases
        .charge(KEY, String::new, &setup.rates, 1, setup.now);
    assert!(!hurries(&setup));
    setup.order().unwrap();
}

#[test]
fn orders_of_a_flood_do_not_wait_for_the_next_round() {
    let setup = Setup::new(&[rate(1000, 1, 1000)]);
    let hurries = || is_ready(setup.shared.hurried());
    assert!(hurries(), "there are leases");
    for shard in 0..MANY as u64 {
        assert!(!hurries());
        let (key, name) = (shard << (u64::BITS - SHARD_BITS), || shard.to_string());
        setup.leases.take(key, name, &setup.rates, 1, setup.now);
    }
    assert!(hurries());
}

#[test]
fn a_key_that_owes_more_than_its_burst_is_remembered_until_that_is_back() {
    let mut setup = Setup::new(&[rate(100, 3600, 100)]);
    let name = || "ratelimit:a:b".to_owned();
    setup.leases.charge(KEY, name, &setup.rates, 101, setup.now);
    setup.exchange();
    setup.pass(Duration::from_secs(5));
    setup.sweep();
    assert!(matches!(setup.take(1), Taken::Decided(verdict) if !verdict.admitted));
    setup.pass(Duration::from_secs(120));
    setup.sweep();
    assert!(setup.leases.is_empty());
}

fn is_ready(future: impl Future<Output = ()>) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    std::pin::pin!(future).poll(&mut context).is_ready()
}

#[test]
fn other_limits_end_a_refusal_and_hold_with_the_next_order() {
    let mut setup = Setup::new(&[rate(1, 3600, 1)]);
    assert_eq!(setup.take(1), Taken::Wait);
    setup.wait_for_an_order(1);
    assert!(setup.admits(1));
    assert_eq!(setup.take(1), Taken::Wait);
    setup.wait_for_an_order(1);
    assert!(matches!(setup.take(1), Taken::Decided(_)), "refused");
    // After a reload that changes nothing of them.
    setup.rates = [rate(1, 3600, 1)].into();
    assert!(matches!(setup.take(1), Taken::Decided(_)), "refused");
    setup.rates = [rate(100, 1, 20)].into();
    assert_eq!(setup.take(1), Taken::Wait);
    setup.leases.call(setup.leases.shard(KEY), KEY, Need::Now);
    assert_eq!(setup.order().unwrap().rates, setup.rates);
}

#[test]
fn when_nothing_is_left_requests_are_refused_here_until_something_is() {
    let mut setup = Setup::new(&[rate(10, 1, 10)]);
    let (mut waited, mut admitted) = (0, 0);
    for _ in 0..100 {
        match setup.take(1) {
            Taken::Decided(verdict) => admitted += u32::from(verdict.admitted),
            Taken::Wait => {
                waited += 1;
                setup.wait_for_an_order(1);
            }
            Taken::Unanswered(why) => panic!("{why:?}"),
        }
    }
    assert!(waited > 0);
    assert_eq!(admitted, 10);
    let Taken::Decided(refused) = setup.take(1) else {
        panic!("asks the store");
    };
    assert!(!refused.admitted && refused.retry_after() <= 100 * MS);
    assert_eq!(refused.remaining(), 0);
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
    setup.use_for_a_second();
    let held = loop {
        assert!(setup.admits(1));
        if let Some(order) = setup.order() {
            setup.leases.settle(&order, None, setup.now);
            break order.keep;
        }
    };
    let mut admitted = 0;
    while setup.entry(|entry| entry.has_tokens()) {
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
    let now = setup.leases.nanos(setup.now);
    assert!(!setup.entry(|entry| entry.has_tokens_at(now)));
}

#[test]
fn without_an_answer_tokens_are_used_up_and_then_nobody_can_say() {
    let mut setup = Setup::new(&[rate(1000, 1, 1000)]);
    setup.use_for_a_second();
    for _ in 0..3 {
        setup.shared.failed(Server::ONLY, RedisError::Io, setup.now);
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
    setup.give_back(4);
    assert!(setup.admits(4), "the credit is there again");
}

#[test]
fn what_was_paid_and_not_needed_comes_back_from_the_store() {
    let mut setup = Setup::new(&[rate(1, 1, 1000)]);
    let debt = |setup: &Setup| {
        let owed = setup.bucket.debts[0] / setup.rates[0].interval;
        owed - setup.bucket.held()
    };
    assert!(setup.admits(10));
    setup.exchange();
    assert_eq!(debt(&setup), 10);
    setup.give_back(9);
    setup.exchange();
    assert_eq!(debt(&setup), 1);
    // Given back while it is on its way.
    assert!(setup.admits(10));
    let order = setup.order().unwrap();
    setup.give_back(9);
    let loan = setup.bucket.lend(&order, 1, 0);
    setup.leases.settle(&order, Some(loan), setup.now);
    assert_eq!(debt(&setup), 11);
    setup.exchange();
    assert_eq!(debt(&setup), 2);
    // Long after the key was forgotten.
    assert!(setup.admits(10));
    setup.exchange();
    assert_eq!(debt(&setup), 12);
    for _ in 0..3 {
        setup.pass(Duration::from_secs(1));
        setup.sweep();
        setup.exchange();
    }
    assert!(setup.leases.is_empty());
    setup.give_back(4);
    setup.exchange();
    assert_eq!(debt(&setup), 5, "three have come back by themselves");
    assert!(setup.order().is_none(), "nothing is given back twice");
}

#[test]
fn there_is_no_credit_while_the_store_does_not_answer() {
    let setup = Setup::new(&[rate(1000, 1, 1000)]);
    for _ in 0..3 {
        setup.shared.failed(Server::ONLY, RedisError::Io, setup.now);
    }
    assert_eq!(setup.take(1), Taken::Unanswered(Unanswered::Down));
}

#[test]
fn the_table_is_bounded_and_those_in_debt_stay() {
    let shared = Arc::new(Shared::default());
    shared.counted(1);
    let leases = Leases::new(&shared, SHARDS);
    let rates: Arc<[Rate]> = [rate(100, 1, 100)].into();
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
    assert!(!setup.entry(|entry| entry.is_waited_for()));
}

#[test]
fn who_waits_for_an_order_that_fails_does_not_order_again() {
    let setup = Setup::new(&[rate(10, 1, 10)]);
    assert_eq!(setup.take(1), Taken::Wait);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().unwrap().block_on(async {
        let until = Instant::now() + Duration::from_secs(60);
        let waits = setup.leases.wait(KEY, 1, until);
        let fails = async {
            loop {
                setup.shared.hurried().await;
                if let Some(order) = setup.order() {
                    break setup.leases.settle(&order, None, Instant::now());
                }
            }
        };
        let (answer, ()) = tokio::join!(waits, fails);
        assert_eq!(answer, Err(Unanswered::Failed));
    });
    assert!(setup.order().is_none());
}

#[test]
fn who_comes_while_an_order_is_on_its_way_does_not_fail_with_it() {
    let setup = Setup::new(&[rate(100, 1, 100)]);
    assert!(setup.admits(4));
    let first = setup.order().unwrap();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().unwrap().block_on(async {
        let until = Instant::now() + Duration::from_secs(60);
        let waits = setup.leases.wait(KEY, 1, until);
        let answers = async {
            setup.shared.hurried().await;
            setup.leases.settle(&first, None, Instant::now());
            let second = loop {
                setup.shared.hurried().await;
                if let Some(order) = setup.order() {
                    break order;
                }
            };
            let loan = setup.bucket.clone().lend(&second, 1, 0);
            setup.leases.settle(&second, Some(loan), Instant::now());
        };
        let (answer, ()) = tokio::join!(waits, answers);
        assert!(
            matches!(answer, Ok(verdict) if verdict.admitted),
            "{answer:?}"
        );
    });
}

#[test]
fn a_request_that_finds_tokens_reads_one_line_of_the_cache() {
    assert_eq!(size_of::<Slot<Entry>>(), 64);
    assert_eq!(align_of::<Slot<Entry>>(), 64);
    assert_eq!((size_of::<Locked>(), align_of::<Locked>()), (64, 64));
}

/// The reference says 400 bytes of a key with `mode: fast`: four slots for three keys, an account, and its name.
#[test]
fn a_key_takes_what_the_reference_says() {
    assert!(size_of::<Slot<Entry>>() * 4 / 3 + size_of::<Account>() < 256);
}
