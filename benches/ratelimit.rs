//! What it takes to ask the limiter of one instance: hot keys, many keys, a flood of new ones, several
//! windows; and beside it the sketch of `pingora-limits`, on the same keys.

use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use edge_gateway::config::model::Window;
use edge_gateway::filter::ratelimit::rate::{Nanos, Rate};
use edge_gateway::filter::ratelimit::table::Table;

/// Between two requests: a million a second.
const STEP: Nanos = 1000;
/// The default of `max_keys`.
const MAX_KEYS: usize = 100_000;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for (keys, windows) in [(1, 1), (10_000, 1), (1_000_000, 1), (1, 4), (10_000, 4)] {
        table(&mut criterion, keys, windows, 1);
    }
    // Far within their limit: none is live when its next request comes.
    table(&mut criterion, 10_000, 1, 10_000_000);
    flood(&mut criterion);
    for keys in [1, 10_000, 1_000_000] {
        sketch(&mut criterion, keys);
    }
    criterion.final_summary();
}

/// So many a second, with more at once than a bench takes: a key that was asked for once is live to its end.
fn rates(windows: usize, limit: u64) -> Vec<Rate> {
    let window = |index: usize| {
        Rate::new(Window {
            limit,
            period: Duration::from_secs(1 << index),
            burst: 1_000_000_000,
        })
    };
    (0..windows).map(window).collect()
}

/// The hash of a key: keys are hashed before the table is asked.
fn hash(number: u64) -> u64 {
    let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

fn table(criterion: &mut Criterion, keys: u64, windows: usize, limit: u64) {
    let table = Table::new((keys as usize).max(MAX_KEYS), windows);
    let rates = rates(windows, limit);
    let mut number = 0;
    let name = format!("take/{keys} keys, {windows} windows, {limit}/s");
    criterion.bench_function(&name, |bencher| {
        bencher.iter(|| {
            number += 1;
            let key = hash(number % keys);
            black_box(table.take(key, &rates, 1, number * STEP))
        });
    });
}

/// Each key is new and lives for an hour, so that soon every set is full.
fn flood(criterion: &mut Criterion) {
    let table = Table::new(MAX_KEYS, 1);
    let rates = [Rate::new(Window {
        limit: 1,
        period: Duration::from_secs(3600),
        burst: 1000,
    })];
    let mut number = 0;
    criterion.bench_function("take/each key new, the table full", |bencher| {
        bencher.iter(|| {
            number += 1;
            black_box(table.take(hash(number), &rates, 1, number * STEP))
        });
    });
}

fn sketch(criterion: &mut Criterion, keys: u64) {
    let sketch = pingora_limits::rate::Rate::new(Duration::from_secs(1));
    let mut number = 0;
    criterion.bench_function(&format!("pingora-limits observe/{keys} keys"), |bencher| {
        bencher.iter(|| {
            number += 1;
            black_box(sketch.observe(&hash(number % keys), 1))
        });
    });
}
