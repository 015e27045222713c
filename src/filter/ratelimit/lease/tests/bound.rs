//! The bound on what instances let through together, whatever comes when and whatever gets lost.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// How long an order takes at most, there and back, in milliseconds: longer than any request waits.
const LONGEST: u64 = 240;

#[derive(Clone, Debug)]
struct Plan {
    instances: usize,
    limit: u64,
    burst: u64,
    loses: bool,
    /// Whether responses say that some requests cost nothing.
    gives_back: bool,
    /// Milliseconds until the next step, who acts, how many requests of what cost, and what becomes of
    /// orders.
    steps: Vec<(u64, usize, u64, u64, u8)>,
}

fn plan() -> impl Strategy<Value = Plan> {
    // Pauses in which buckets fill while tokens are held, and crowds behind them.
    let wait = prop_oneof![20 => 0_u64..60, 1 => 300_u64..1500];
    let count = prop_oneof![20 => 0_u64..40, 1 => 100_u64..800];
    let step = (wait, 0_usize..3, count, 1_u64..3, any::<u8>());
    let steps = prop::collection::vec(step, 100..400);
    let numbers = (1_usize..4, 20_u64..500, 20_u64..600);
    (numbers, any::<bool>(), any::<bool>(), steps).prop_map(
        |((instances, limit, burst), loses, gives_back, steps)| Plan {
            instances,
            limit,
            burst,
            loses,
            gives_back,
            steps,
        },
    )
}

/// An order on its way, when it arrives, when its answer does, and that answer.
struct Sent {
    order: Order,
    from: usize,
    arrives: u64,
    returns: u64,
    loan: Option<Loan>,
    is_lost: bool,
}

/// What was let through, as an exact bucket would count it.
struct Exact {
    debt: u64,
    at: u64,
    most: u64,
    admitted: u64,
}

impl Exact {
    fn admit(&mut self, cost: u64, interval: u64, now: u64) {
        self.pass_to(now);
        self.debt += cost * interval;
        self.most = self.most.max(self.debt);
        self.admitted += cost;
    }

    fn give_back(&mut self, cost: u64, interval: u64, now: u64) {
        self.pass_to(now);
        self.debt = self.debt.saturating_sub(cost * interval);
        self.admitted -= cost;
    }

    fn pass_to(&mut self, now: u64) {
        self.debt = self.debt.saturating_sub(now - self.at);
        self.at = now;
    }
}

struct World {
    start: Instant,
    now: u64,
    all: Vec<(Arc<Shared>, Arc<Leases>)>,
    bucket: Bucket,
    sent: VecDeque<Sent>,
    rates: Arc<[Rate]>,
}

impl World {
    fn time(&self) -> Instant {
        self.start + Duration::from_nanos(self.now)
    }

    /// Everything that happens until then, in its order.
    fn run_to(&mut self, then: u64) {
        loop {
            let next = self.sent.iter().map(|sent| match sent.loan {
                None => sent.arrives,
                Some(_) => sent.returns,
            });
            let Some((index, time)) = next.enumerate().min_by_key(|(_, time)| *time) else {
                break;
            };
            if time > then {
                break;
            }
            self.now = self.now.max(time);
            let now = self.time();
            let sent = &mut self.sent[index];
            match sent.loan {
                None => {
                    let instances = self.all.len() as u64;
                    sent.loan = Some(self.bucket.lend(&sent.order, instances, self.now));
                }
                Some(loan) => {
                    let loan = (!sent.is_lost).then_some(loan);
                    self.all[sent.from].1.settle(&sent.order, loan, now);
                    self.sent.remove(index);
                }
            }
        }
        self.now = then;
    }

    fn send(&mut self, from: usize, fate: u8, loses: bool) {
        let mut orders = Vec::new();
        self.all[from].1.orders(self.time(), &mut orders);
        for order in orders {
            let ms = |part: u8| u64::from(part) % (LONGEST / 2) * 1_000_000;
            let arrives = self.now + ms(fate);
            self.sent.push_back(Sent {
                order,
                from,
                arrives,
                returns: arrives + ms(fate.rotate_left(4)),
                loan: None,
                is_lost: loses && fate.is_multiple_of(5),
            });
        }
    }
}

/// Plays a plan; the greatest debt of an exact bucket, and what was let through in which time.
fn play(plan: &Plan) -> (Exact, u64) {
    let rates: Arc<[Rate]> = [rate(plan.limit, 1, plan.burst)].into();
    let all = (0..plan.instances).map(|_| {
        let shared = Arc::new(Shared::default());
        shared.counted(plan.instances as u32);
        let leases = Leases::new(&shared, 1000);
        (shared, leases)
    });
    let mut world = World {
        start: Instant::now(),
        now: 0,
        all: all.collect(),
        bucket: Bucket::default(),
        sent: VecDeque::new(),
        rates: Arc::clone(&rates),
    };
    let mut exact = Exact {
        debt: 0,
        at: 0,
        most: 0,
        admitted: 0,
    };
    let mut admitted = Vec::new();
    for (wait, who, count, cost, fate) in &plan.steps {
        world.run_to(world.now + wait * 1_000_000);
        let who = who % plan.instances;
        if plan.gives_back && fate.is_multiple_of(4) {
            // A third of what was let through, by whichever instance.
            for cost in admitted.drain(..admitted.len() / 3) {
                let (leases, now) = (&world.all[who].1, world.time());
                leases.give_back(KEY, Some(""), &world.rates, cost, now);
                exact.give_back(cost, rates[0].interval, world.now);
            }
            admitted.clear();
        }
        for _ in 0..*count {
            let leases = Arc::clone(&world.all[who].1);
            if leases.spend(KEY, &world.rates, *cost, world.time()) {
                exact.admit(*cost, rates[0].interval, world.now);
                admitted.push(*cost);
                continue;
            }
            let taken = leases.take(KEY, String::new, &world.rates, *cost, world.time());
            match taken {
                Taken::Decided(verdict) if verdict.admitted => {
                    exact.admit(*cost, rates[0].interval, world.now);
                    admitted.push(*cost);
                }
                Taken::Wait => {
                    // As one who waits and gives up when the order is on its way.
                    let mut shard = leases.shard(KEY);
                    let entry = shard.entries.get_mut(KEY).unwrap();
                    drop(entry.wait(*cost));
                    leases.call(shard, KEY, Need::Now);
                    world.send(who, *fate, plan.loses);
                    let mut shard = leases.shard(KEY);
                    shard.entries.get_mut(KEY).unwrap().leave(*cost);
                }
                _ => {}
            }
        }
        for _ in 0..SHARDS {
            world.all[who].1.sweep(world.time());
        }
        // In rounds, of which each instance has its own.
        for from in 0..plan.instances {
            let fate = fate.wrapping_add(from as u8);
            if !fate.is_multiple_of(3) {
                world.send(from, fate, plan.loses);
            }
        }
    }
    (exact, world.now)
}

fn credit(plan: &Plan) -> u64 {
    let instances = plan.instances as u64;
    plan.burst / 25 / instances * instances
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn together_they_stay_within_the_bound(plan in plan()) {
        let (exact, _) = play(&plan);
        let rate = rate(plan.limit, 1, plan.burst);
        let bound = rate.depth + credit(&plan) * rate.interval;
        prop_assert!(exact.most <= bound, "{} of {bound}: {plan:?}", exact.most);
    }
}

#[test]
fn under_load_they_let_through_nearly_all_that_they_may() {
    for instances in [1, 2, 3] {
        let steps = (0..4000).map(|turn| (5, turn % instances, 20, 1, (turn % 7) as u8));
        let plan = Plan {
            instances,
            limit: 500,
            burst: 500,
            loses: false,
            gives_back: false,
            steps: steps.collect(),
        };
        let (exact, time) = play(&plan);
        let allowed = 500.0 + 500.0 * time as f64 / 1e9;
        let part = exact.admitted as f64 / allowed;
        assert!((0.95..=1.05).contains(&part), "{part} with {instances}");
    }
}
