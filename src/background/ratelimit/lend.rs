//! Sends orders of leased tokens, those of many keys together: at once where a request waits, and else in rounds.

use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::{MissedTickBehavior, interval};

use super::debts;
use super::lanes::Lanes;
use crate::filter::ratelimit::lease::{LIFE, Leases, Loan, Order};
use crate::filter::ratelimit::shared::{Shared, Step};
use crate::metrics::RedisCommand;
use crate::store::{Call, Line, Script, Store, Told};

/// Between two rounds, in which orders go out that do not hurry, and some keys are looked at that nobody asks about:
/// to send some orders costs as much as a dozen of them. Short beside the third of a second for which tokens are
/// left then.
const ROUND: Duration = Duration::from_millis(40);

/// So many in a round, and all are looked at in a third of a second: leases are settled long before they lapse.
const SHARDS: usize = 8;

/// Places for so many keys are looked at in a tenth of a millisecond or so, which requests may wait for.
const SWEPT: usize = 4096;

static LEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lease.lua")));

/// Goes on for as long as there is a store.
pub(super) async fn keep(shared: Arc<Shared>, store: Weak<Store>) {
    let asking = Arc::clone(&shared);
    // There is one order of each key at most.
    let mut lanes = Lanes::new(Semaphore::MAX_PERMITS, move |orders| {
        lend(store.clone(), Arc::clone(&asking), orders)
    });
    let mut rounds = interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut has_leases = false;
    loop {
        let shards = tokio::select! {
            () = shared.hurried() => 0,
            _ = rounds.tick(), if has_leases => SHARDS,
        };
        let tables = shared.leases();
        has_leases = !tables.is_empty();
        let mut swept = 0;
        for leases in tables {
            for _ in 0..shards {
                swept += leases.sweep(Instant::now());
                if swept > SWEPT {
                    // Requests wait for what else this thread does.
                    yield_now().await;
                    swept = 0;
                }
            }
            let mut orders = Vec::new();
            leases.orders(Instant::now(), &mut orders);
            for order in orders {
                let server = shared.server(&order.name);
                let put = lanes.put(server.number, (Arc::clone(&leases), order));
                if let Err((leases, order)) = put {
                    leases.settle(&order, None, Instant::now());
                }
            }
        }
    }
}

/// Sends orders to one server.
async fn lend(store: Weak<Store>, shared: Arc<Shared>, orders: Vec<(Arc<Leases>, Order)>) {
    let (Some(store), Some((_, first))) = (store.upgrade(), orders.first()) else {
        return;
    };
    let server = shared.server(&first.name);
    let instances = shared.instances();
    let calls = orders.iter().map(|(_, order)| Call {
        key: &order.name,
        line: Ordered { order, instances },
    });
    let calls: Vec<_> = calls.collect();
    let asked = Instant::now();
    let answers = store
        .run(RedisCommand::RateLimit, &LEASE, &calls, read)
        .await;
    let now = Instant::now();
    let is_late = now.saturating_duration_since(asked) > shared.patience();
    let (mut answered, mut why) = (0, None);
    for ((leases, order), answer) in orders.iter().zip(answers) {
        let loan = match answer {
            Ok(loan) => Some(loan),
            Err(failure) => {
                why = why.or(Some(failure.kind));
                None
            }
        };
        answered += u32::from(loan.is_some());
        leases.settle(order, loan, now);
    }
    match why {
        // Whoever waited for it has said so (`Leases::wait`), and the others have lost nothing.
        _ if answered > 0 && is_late => {}
        _ if answered > 0 => shared.answered(server, answered, now),
        Some(why) => shared.failed(server, why, now),
        None => {}
    }
}

fn read(line: &str) -> Option<Loan> {
    let mut numbers = line.split(' ').map(str::parse);
    Some(Loan {
        lent: numbers.next()?.ok()?,
        slot: numbers.next()?.ok()?,
        debts: debts(numbers)?,
    })
}

/// An order as the script is told it.
struct Ordered<'a> {
    order: &'a Order,
    instances: u32,
}

impl Told for Ordered<'_> {
    fn tell(&self, line: &mut Line) {
        let order = self.order;
        for number in [
            LIFE.as_secs() * 1_000_000,
            order.slot,
            order.held,
            order.back,
            order.keep,
            order.pay,
            order.least,
            order.needed,
            order.wanted,
            u64::from(self.instances),
        ] {
            line.number(number);
        }
        for rate in order.rates.iter() {
            Step::new(rate, 1).tell(line);
        }
    }
}
