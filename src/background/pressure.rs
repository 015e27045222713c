//! Measures memory beside the requests, and has idle connections go when it is tight.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;

use crate::config::model::{MaxMemory, Priority};
use crate::overload::Overload;
use crate::overload::memory::{self, Bound};
use crate::snapshot::Live;

/// Between two looks: at 1 GB/s of new buffers, 100 MB come in between.
const INTERVAL: Duration = Duration::from_millis(100);
/// The limit of a container can be changed while it runs.
const LIMIT_INTERVAL: Duration = Duration::from_secs(10);
/// What of the connections may go in one interval, and how many in any case.
const GOING: usize = 50;
const FEWEST_GOING: usize = 16;

/// Watches the memory of the process.
pub struct Pressure {
    live: Arc<Live>,
    overload: Arc<Overload>,
}

impl Pressure {
    /// Of this process.
    pub fn new(live: Arc<Live>, overload: Arc<Overload>) -> Self {
        Self { live, overload }
    }
}

#[async_trait]
impl BackgroundService for Pressure {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut around = Around::default();
        let mut told = Told::default();
        loop {
            tokio::select! {
                _ = shutdown.wait_for(|ending| *ending) => return,
                _ = ticks.tick() => {}
            }
            let now = Instant::now();
            measure(
                &self.overload,
                self.live.limits().max_memory,
                around.get(now),
            );
            if self.overload.is_tight() {
                make_room(&self.overload);
            }
            told.tell(&self.overload, self.live.load().top, now);
        }
    }
}

/// What the process runs in, looked at now and then.
#[derive(Default)]
struct Around {
    found: Option<Bound>,
    due: Option<Instant>,
}

impl Around {
    fn get(&mut self, now: Instant) -> Option<&Bound> {
        if self.due.is_none_or(|due| now >= due) {
            self.found = Bound::find();
            self.due = Some(now + LIMIT_INTERVAL);
        }
        self.found.as_ref()
    }
}

fn measure(overload: &Overload, configured: MaxMemory, around: Option<&Bound>) {
    let own = |most| match memory::resident() {
        Some(used) => overload.measured(used, most),
        // Nobody can say; then nobody is refused for it.
        None => overload.measured(0, None),
    };
    match (configured, around) {
        (MaxMemory::Bytes(most), _) => own(Some(most)),
        (MaxMemory::Auto, Some(bound)) => match bound.used() {
            Some(used) => overload.measured(used, Some(bound.most())),
            None => own(None),
        },
        (MaxMemory::Auto, None) | (MaxMemory::Unlimited, _) => own(None),
    }
}

/// Has some of the connections go that have waited longest for a request.
fn make_room(overload: &Overload) {
    let going = (overload.idle.len() / GOING).max(FEWEST_GOING);
    for _ in 0..going {
        if !overload.idle.evict() {
            return;
        }
    }
}

/// What the log was told last.
#[derive(Default)]
struct Told {
    shedding: Option<Priority>,
    at: Option<Instant>,
}

/// Between two lines, so that a load at the edge does not fill the log.
const PAUSE: Duration = Duration::from_secs(10);

impl Told {
    fn tell(&mut self, overload: &Overload, top: Priority, now: Instant) {
        let shedding = overload.shedding(top);
        let soon = self.at.is_some_and(|at| now < at + PAUSE);
        if shedding == self.shedding || soon {
            return;
        }
        (self.shedding, self.at) = (shedding, Some(now));
        let (used, available) = overload.memory();
        let (used, available) = (used >> 20, available >> 20);
        match shedding {
            Some(class) => log::warn!(
                "overload: memory is tight, {used} of {available} MiB: requests of routes with \
                 priority {} and below are refused",
                class.as_str()
            ),
            None => log::info!("overload: memory is no longer tight, {used} of {available} MiB"),
        }
    }
}
