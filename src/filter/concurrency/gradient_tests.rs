//! The limit in front of a model of backends: so many workers, each of which takes a random time for an
//! answer, and a queue of their own in front of them, as it is in real ones.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::*;

const SETTINGS: Adaptive = Adaptive {
    min: 4,
    max: 1000,
    slack: 0.5,
};

/// A part of a run.
#[derive(Clone, Copy)]
struct Phase {
    seconds: f64,
    /// Requests a second, which come whether or not others are answered.
    load: f64,
    /// What an answer takes, in seconds.
    service: f64,
}

/// What became of the requests of a phase in its second half, when the limit has had time to settle.
#[derive(Debug, Default)]
struct Outcome {
    answered: usize,
    refused: usize,
    /// In seconds.
    latencies: Vec<f64>,
    /// The limit at each window.
    limits: Vec<f64>,
}

impl Outcome {
    fn mean_latency(&self) -> f64 {
        self.latencies.iter().sum::<f64>() / self.latencies.len() as f64
    }

    fn mean_limit(&self) -> f64 {
        self.limits.iter().sum::<f64>() / self.limits.len() as f64
    }
}

/// Time in nanoseconds, so that it has an order.
type Nanos = u64;

struct Model {
    workers: usize,
    random: fastrand::Rng,
    gradient: Gradient,
    /// When an answer is ready, and when its request came.
    busy: BinaryHeap<Reverse<(Nanos, Nanos)>>,
    waiting: VecDeque<Nanos>,
    since: Nanos,
    answers: u32,
    sum: Nanos,
    peak: usize,
    binding: bool,
}

fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / 1e9
}

impl Model {
    fn new(workers: usize, seed: u64) -> Self {
        Self {
            workers,
            random: fastrand::Rng::with_seed(seed),
            gradient: Gradient::new(50),
            busy: BinaryHeap::new(),
            waiting: VecDeque::new(),
            since: 0,
            answers: 0,
            sum: 0,
            peak: 0,
            binding: false,
        }
    }

    fn random(&mut self, mean: f64) -> Nanos {
        (-self.random.f64().max(1e-12).ln() * mean * 1e9) as Nanos
    }

    fn in_flight(&self) -> usize {
        self.busy.len() + self.waiting.len()
    }

    fn work(&mut self, now: Nanos, service: f64) {
        while self.busy.len() < self.workers {
            let Some(came) = self.waiting.pop_front() else {
                return;
            };
            let ready = now + self.random(service);
            self.busy.push(Reverse((ready, came)));
        }
    }

    /// The same rule as that of the limit that gathers for real.
    fn observe(&mut self, now: Nanos, latency: Nanos) -> bool {
        self.answers += 1;
        self.sum += latency;
        let mean = self.sum / Nanos::from(self.answers);
        let shortest = mean.clamp(100_000_000, 2_000_000_000);
        let needed = match self.answers >= 20 {
            true => shortest,
            false => (2 * shortest).max(1_000_000_000),
        };
        if now - self.since < needed {
            return false;
        }
        let window = Window {
            time: Duration::from_nanos(now - self.since),
            answers: self.answers,
            latency: Duration::from_nanos(mean),
            lost: 0,
            peak: self.peak as u32,
            binding: std::mem::take(&mut self.binding),
        };
        self.gradient.update(&SETTINGS, &window);
        (self.since, self.answers, self.sum, self.peak) = (now, 0, 0, self.in_flight());
        true
    }

    fn run(&mut self, phases: &[Phase]) -> Vec<Outcome> {
        let (mut outcomes, mut now) = (Vec::new(), 0);
        for phase in phases {
            let begun = now;
            let settled = begun + (phase.seconds * 0.5e9) as Nanos;
            let end = begun + (phase.seconds * 1e9) as Nanos;
            let mut outcome = Outcome::default();
            let mut next = now + self.random(1.0 / phase.load);
            while now < end {
                let ready = self.busy.peek().map(|Reverse((ready, _))| *ready);
                if let Some(ready) = ready.filter(|ready| *ready <= next) {
                    now = ready;
                    let Some(Reverse((_, came))) = self.busy.pop() else {
                        break;
                    };
                    self.work(now, phase.service);
                    let concluded = self.observe(now, now - came);
                    if now >= settled {
                        outcome.answered += 1;
                        outcome.latencies.push(seconds(now - came));
                        if concluded {
                            outcome.limits.push(self.gradient.limit);
                        }
                    }
                    continue;
                }
                now = next;
                next = now + self.random(1.0 / phase.load);
                if self.in_flight() < self.gradient.limit(&SETTINGS) as usize {
                    self.waiting.push_back(now);
                    self.work(now, phase.service);
                    self.peak = self.peak.max(self.in_flight());
                } else {
                    self.binding = true;
                    outcome.refused += usize::from(now >= settled);
                }
            }
            outcomes.push(outcome);
        }
        outcomes
    }
}

fn phase(seconds: f64, load: f64, service: f64) -> Phase {
    Phase {
        seconds,
        load,
        service,
    }
}

/// In an overload of many times what the backends can do.
#[track_caller]
fn assert_settled(outcome: &Outcome, workers: usize, seconds: f64, service: f64) {
    let capacity = workers as f64 / service;
    let goodput = outcome.answered as f64 / (seconds / 2.0);
    assert!(goodput >= 0.9 * capacity, "{goodput} of {capacity}");
    let latency = outcome.mean_latency();
    assert!(latency < 3.0 * service, "{latency} for {service}");
    let (limit, workers) = (outcome.mean_limit(), workers as f64);
    assert!(
        (0.9 * workers..3.5 * workers).contains(&limit),
        "{limit} for {workers}"
    );
}

#[test]
fn an_overload_finds_what_the_backends_can_do() {
    for (workers, seed) in [(4, 1), (4, 2), (16, 3), (50, 4), (50, 5), (200, 6)] {
        let capacity = workers as f64 / 0.02;
        let phases = [
            phase(10.0, 0.3 * capacity, 0.02),
            phase(20.0, 3.0 * capacity, 0.02),
        ];
        let outcomes = Model::new(workers, seed).run(&phases);
        assert_eq!(outcomes[0].refused, 0, "with {workers} workers");
        assert_settled(&outcomes[1], workers, 20.0, 0.02);
    }
}

#[test]
fn it_does_so_without_ever_having_seen_them_unloaded() {
    for (workers, seed) in [(4, 1), (50, 2), (200, 3)] {
        let capacity = workers as f64 / 0.02;
        let outcomes = Model::new(workers, seed).run(&[phase(40.0, 3.0 * capacity, 0.02)]);
        assert_settled(&outcomes[0], workers, 40.0, 0.02);
    }
}

#[test]
fn a_long_overload_does_not_raise_the_limit_for_ever() {
    let phases = [phase(10.0, 500.0, 0.02), phase(300.0, 3000.0, 0.02)];
    let outcomes = Model::new(20, 7).run(&phases);
    assert_settled(&outcomes[1], 20, 300.0, 0.02);
    let most = outcomes[1].limits.iter().copied().fold(0.0, f64::max);
    assert!(most < 100.0, "{most} for 20");
}

#[test]
fn backends_that_become_slow_and_quick_again_are_used_in_full() {
    let (workers, load) = (50, 7500.0);
    let phases = [
        phase(10.0, 1000.0, 0.02),
        phase(15.0, load, 0.02),
        phase(40.0, load, 0.2),
        phase(30.0, load, 0.02),
        phase(10.0, 1000.0, 0.02),
    ];
    for seed in 1..4 {
        let outcomes = Model::new(workers, seed).run(&phases);
        assert_settled(&outcomes[1], workers, 15.0, 0.02);
        assert_settled(&outcomes[2], workers, 40.0, 0.2);
        assert_settled(&outcomes[3], workers, 30.0, 0.02);
        assert_eq!(outcomes[4].refused, 0);
    }
}

#[test]
fn ordinary_load_is_never_refused() {
    // Up to nine tenths of what 200 workers can do, after a start from 50.
    let phases = [
        phase(10.0, 3000.0, 0.02),
        phase(10.0, 9000.0, 0.02),
        phase(10.0, 200.0, 0.02),
        phase(10.0, 9000.0, 0.02),
    ];
    for seed in 1..4 {
        for outcome in Model::new(200, seed).run(&phases) {
            assert_eq!(outcome.refused, 0);
        }
    }
}

/// A full window of answers that take 10 ms, of which this share was lost.
fn losing(gradient: &Gradient, share: f64) -> Window {
    let peak = gradient.limit(&SETTINGS);
    let all = 10 * peak;
    let lost = (f64::from(all) * share) as u32;
    let latency = match lost == all {
        true => Duration::ZERO,
        false => Duration::from_millis(10),
    };
    Window {
        time: Duration::from_millis(100),
        answers: all - lost,
        latency,
        lost,
        peak,
        binding: true,
    }
}

#[test]
fn what_is_lost_lowers_the_limit_as_long_as_that_makes_it_less() {
    let mut gradient = Gradient::new(100);
    gradient.update(&SETTINGS, &losing(&gradient, 0.0));
    // The backends turn away what is above 60, though what they answer is quick.
    for _ in 0..100 {
        let share = (1.0 - 60.0 / gradient.limit).max(0.0);
        gradient.update(&SETTINGS, &losing(&gradient, share));
        assert!(gradient.limit > 40.0, "{gradient:?}");
    }
    assert!(gradient.limit < 90.0, "{gradient:?}");
}

#[test]
fn a_broken_backend_does_not_sink_the_limit_of_the_others() {
    // One of six that turns away all, and one that is all there is.
    for share in [0.17, 1.0] {
        let mut gradient = Gradient::new(100);
        gradient.update(&SETTINGS, &losing(&gradient, 0.0));
        for _ in 0..10_000 {
            gradient.update(&SETTINGS, &losing(&gradient, share));
            assert!(gradient.limit > 65.0, "{gradient:?}");
        }
    }
}

#[test]
fn it_stays_within_its_bounds_whatever_is_observed() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut gradient = Gradient::new(50);
    for _ in 0..100_000 {
        let answers = random.u32(0..3) * random.u32(0..1000);
        let window = Window {
            time: Duration::from_micros(random.u64(0..2_000_000)),
            answers,
            latency: Duration::from_micros(random.u64(0..3) * random.u64(0..60_000_000)),
            lost: random.u32(0..3) * random.u32(0..100),
            peak: random.u32(0..2000),
            binding: random.bool(),
        };
        gradient.update(&SETTINGS, &window);
        assert!((4..=1000).contains(&gradient.limit(&SETTINGS)));
        assert!(gradient.limit.is_finite() && gradient.base.is_finite());
    }
}
