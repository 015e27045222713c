//! What limits cost a request on the good path: a place of an upstream's limit, fixed and adaptive, alone and
//! beside another thread; the limits of the process; and the seat of an idle connection.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use criterion::Criterion;
use edge_gateway::config::model::{Adaptive, Bounds, Priority, UpstreamConcurrency};
use edge_gateway::filter::concurrency::{Entered, Limit};
use edge_gateway::metrics::Metrics;
use edge_gateway::overload::Overload;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let adaptive = Adaptive {
        min: 4,
        max: 1000,
        slack: 0.5,
    };
    for (name, adaptive) in [("fixed", None), ("adaptive", Some(adaptive))] {
        place(&mut criterion, name, &limit(adaptive));
        beside_another(&mut criterion, name, &limit(adaptive));
    }
    process(&mut criterion);
    criterion.final_summary();
}

fn limit(adaptive: Option<Adaptive>) -> Limit {
    let config = UpstreamConcurrency {
        bounds: Bounds {
            limit: 1000,
            queue: 100,
            queue_timeout: Duration::from_secs(1),
        },
        per_backend: None,
        adaptive,
        top: Priority::Critical,
    };
    let metrics = Metrics::new("gateway");
    Limit::of_upstream(&config, "users", &metrics, Instant::now(), None)
}

/// One request: a place, what its answer says, and the place back.
fn request(limit: &Limit, now: Instant) {
    let entered = limit.enter(0, black_box(Priority::Normal));
    assert!(matches!(entered, Entered::In(_)), "there is room");
    limit.answered(200, Duration::from_millis(10), now);
    drop(black_box(entered));
}

fn place(criterion: &mut Criterion, name: &str, limit: &Limit) {
    let mut now = Instant::now();
    criterion.bench_function(&format!("place/{name}"), |bencher| {
        bencher.iter(|| {
            now += Duration::from_micros(1);
            request(limit, now);
        });
    });
}

fn beside_another(criterion: &mut Criterion, name: &str, limit: &Limit) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                request(limit, Instant::now());
                // About what a request takes otherwise.
                let begun = Instant::now();
                while begun.elapsed() < Duration::from_micros(20) {
                    std::hint::spin_loop();
                }
            }
        });
        let mut now = Instant::now();
        criterion.bench_function(&format!("place/{name}/beside_another"), |bencher| {
            bencher.iter(|| {
                now += Duration::from_micros(1);
                request(limit, now);
            });
        });
        done.store(true, Relaxed);
    });
}

fn process(criterion: &mut Criterion) {
    let overload = Overload::new(Arc::default());
    overload.measured(1 << 29, Some(1 << 30));
    criterion.bench_function("process/admits", |bencher| {
        bencher.iter(|| {
            overload.admits(
                black_box(Priority::Normal),
                Priority::High,
                black_box(100),
                100_000,
            )
        });
    });
    let others: Vec<_> = (0..10_000).map(|_| overload.idle.enter()).collect();
    let seat = overload.idle.enter();
    let now = Instant::now();
    criterion.bench_function("process/idle", |bencher| {
        bencher.iter(|| {
            seat.wait(black_box(now));
            seat.resume();
        });
    });
    drop(others);
}
