//! What it takes to choose a backend, with each policy, among 10 and 1 000 of different weights: when all
//! are up, when some are down and some ejected, while some begin slowly; and to plan anew. The figures
//! belong into `docs/balancing.md`.

#![allow(clippy::unwrap_used, reason = "a bench may fail by panicking")]

use std::collections::HashSet;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use edge_gateway::config::{FixedEnv, parse};
use edge_gateway::metrics::{FailureReason, Metrics};
use edge_gateway::upstream::{Admitted, Tried, Upstream, Wish};

const POLICIES: [(&str, &str); 5] = [
    ("round_robin", "round_robin"),
    ("least_requests", "least_requests"),
    ("peak_ewma", "peak_ewma"),
    ("hash", "{ policy: hash, key: path }"),
    ("random", "random"),
];
/// Choices in one turn: few enough to be over before the system gives the core to somebody else.
const CHOICES: u32 = 500;
const TURNS: u32 = 2000;
const PLANS: u32 = 200;
/// How many requests are in flight meanwhile, for each backend.
const BUSY: usize = 2;

fn main() {
    println!("ns for a choice, with its end; the last column is us for a plan");
    println!(
        "{:<16}{:>9}{:>9}{:>9}{:>9}{:>9}",
        "", "members", "all up", "some out", "slow", "plan"
    );
    for (name, policy) in POLICIES {
        for members in [10, 1000] {
            let now = Instant::now();
            let upstream = upstream(policy, members, now);
            let calm = choose(&upstream, now);
            take_some_out(&upstream, now);
            let some_out = choose(&upstream, now);
            let slow = begin_slowly(&upstream, now);
            let plan = plan(&upstream, now);
            println!("{name:<16}{members:>9}{calm:>9.0}{some_out:>9.0}{slow:>9.0}{plan:>9.1}");
        }
    }
}

fn upstream(policy: &str, members: u16, now: Instant) -> Upstream {
    let backends: Vec<String> = (0..members)
        .map(|at| {
            let (high, low) = (at / 250, at % 250 + 1);
            format!(
                "{{ address: '10.0.{high}.{low}:80', weight: {} }}",
                at % 10 + 1
            )
        })
        .collect();
    let text = format!(
        "upstreams: {{ u: {{ backends: [{}], balance: {policy}, slow_start: {{ duration: 1h }} }} }}\n\
         routes: [{{ upstream: u }}]",
        backends.join(", ")
    );
    let config = parse(&text, "bench", Path::new("."), &FixedEnv::default());
    let config = config.unwrap().config;
    Upstream::compile(&config.upstreams[0], &Metrics::new("gateway"), now, None)
}

/// A tenth is down, and another one ejected, for failing every request that it got.
fn take_some_out(upstream: &Upstream, now: Instant) {
    let members = upstream.members();
    for (at, backend) in members.iter().enumerate() {
        if at % 10 == 3 {
            upstream.probed(backend, false, None, now);
        }
    }
    let failing: HashSet<u32> = members
        .iter()
        .skip(6)
        .step_by(10)
        .map(|one| one.id())
        .collect();
    for key in 0..members.len() as u64 * 50 {
        let mut admitted = select(upstream, key, now);
        if failing.contains(&admitted.backend().id()) {
            upstream.failed(&mut admitted, FailureReason::Reset, now);
        }
    }
}

/// Those that were down are up again, and have a tenth of their weight.
fn begin_slowly(upstream: &Upstream, now: Instant) -> f64 {
    for backend in upstream.members().iter() {
        upstream.probed(backend, true, None, now);
    }
    choose(upstream, now)
}

fn select(upstream: &Upstream, key: u64, now: Instant) -> Admitted {
    let wish = Wish {
        key: Some(key),
        ..Wish::at(now)
    };
    upstream.select(wish, &mut Tried::default()).unwrap()
}

fn choose(upstream: &Upstream, now: Instant) -> f64 {
    let busy = 0..upstream.members().len() * BUSY;
    let mut busy: Vec<_> = busy.map(|key| select(upstream, key as u64, now)).collect();
    for (at, admitted) in busy.iter_mut().enumerate() {
        let latency = Duration::from_micros(500 + at as u64 % 700);
        upstream.answered(admitted, 200, latency, now);
    }
    let turns = (0..TURNS).map(|turn| {
        let started = Instant::now();
        for key in 0..CHOICES {
            black_box(select(upstream, u64::from(turn * CHOICES + key), now));
        }
        started.elapsed()
    });
    let nanos = median(turns) / f64::from(CHOICES);
    drop(busy);
    nanos
}

/// In nanoseconds. The median, since on a machine that does other things as well some turns measure
/// those.
fn median(turns: impl Iterator<Item = Duration>) -> f64 {
    let mut turns: Vec<Duration> = turns.collect();
    turns.sort_unstable();
    turns[turns.len() / 2].as_nanos() as f64
}

fn plan(upstream: &Upstream, now: Instant) -> f64 {
    let backend = upstream.members()[0].clone();
    let turns = (0..PLANS).map(|turn| {
        let started = Instant::now();
        upstream.probed(&backend, turn % 2 == 1, None, now);
        started.elapsed()
    });
    median(turns) / 1e3
}
