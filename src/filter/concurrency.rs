//! How many requests are in flight at the same time: places in a limited number, and a queue of those
//! who wait for one.
//!
//! The places of a limit are shared by all workers and generations. With a key there are so many for
//! each (`keyed`), otherwise for all together (`line`), where the limit may follow what the backends
//! can do (`adaptive`). A [`Place`] is given back when it is dropped, and then goes to whoever is next.

mod adaptive;
mod gradient;
mod keyed;
mod line;
mod queue;

use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use self::adaptive::Adaptive;
use self::keyed::Gate;
use self::line::Line;
use super::ratelimit::key::{self, Caller};
use crate::config::model::{
    Bounds, Concurrency, KeyPart, MAX_CONCURRENCY_LIMITS, Priority, UpstreamConcurrency,
};
use crate::metrics::{ConcurrencyRefusal, Metrics};

/// One limit of a generation, over places that all generations share.
pub struct Limit {
    /// How many, and how many more.
    pub bounds: Bounds,
    key: Vec<KeyPart>,
    top: Priority,
    places: Shared,
    adaptive: Option<Arc<Adaptive>>,
    per_backend: Option<NonZeroU32>,
    /// Tells it from others over the same places; never 0.
    number: u64,
}

/// How many limits there were.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

fn next_number() -> u64 {
    NUMBERS.fetch_add(1, Ordering::Relaxed) + 1
}

/// How a limit stands.
pub struct Standing {
    /// How many may have a place.
    pub limit: u32,
    /// How many have one.
    pub in_flight: u32,
    /// How many wait for one.
    pub queued: u32,
    /// What answers take without load, where the limit follows that.
    pub base: Option<Duration>,
}

/// The places of a limit.
#[derive(Clone)]
enum Shared {
    /// So many for each key.
    Keyed(Arc<Gate>),
    /// So many for all.
    Line(Arc<Line>),
}

impl Limit {
    /// The limits of a route, with the places of those that count by the same as before.
    pub fn of_route(
        config: &[Concurrency],
        route: &str,
        priority: Priority,
        metrics: &Metrics,
        previous: &[Self],
    ) -> Box<[Self]> {
        let compile = |config: &Concurrency| {
            let before = previous.iter().find(|before| before.key == config.key);
            let places = before.map(|before| before.places.clone());
            Self {
                bounds: config.bounds,
                places: places.unwrap_or_else(|| {
                    let measured = metrics.concurrency(route, "", &config.label);
                    match config.key.is_empty() {
                        true => Shared::Line(Line::new(&config.bounds, priority, measured)),
                        false => {
                            measured.set_limit(config.bounds.limit);
                            Shared::Keyed(Gate::new(measured))
                        }
                    }
                }),
                key: config.key.clone(),
                top: priority,
                adaptive: None,
                per_backend: None,
                number: next_number(),
            }
        };
        config.iter().map(compile).collect()
    }

    /// The limit of an upstream, with the places of the one before, and what that has learned.
    pub fn of_upstream(
        config: &UpstreamConcurrency,
        upstream: &str,
        metrics: &Metrics,
        now: Instant,
        previous: Option<&Self>,
    ) -> Self {
        let places = previous.map(|previous| previous.places.clone());
        let places = places.unwrap_or_else(|| {
            let measured = metrics.concurrency("", upstream, "all");
            Shared::Line(Line::new(&config.bounds, config.top, measured))
        });
        let before = previous.and_then(|previous| previous.adaptive.as_ref());
        let adaptive = config
            .adaptive
            .map(|settings| Adaptive::compile(settings, &config.bounds, before, now));
        let limit = Self {
            bounds: config.bounds,
            key: Vec::new(),
            top: config.top,
            places,
            adaptive,
            per_backend: config.per_backend,
            number: next_number(),
        };
        if previous.is_none() {
            limit.put_into_force(now);
        }
        limit
    }

    /// Puts the limit into force, also for those who wait already.
    pub fn put_into_force(&self, now: Instant) {
        match &self.places {
            Shared::Keyed(gate) => gate.set_limit(self.bounds.limit),
            Shared::Line(line) => {
                line.adopt(self.number, &self.bounds, self.top);
                line.follow(self.adaptive.as_ref().map_or(0, |adaptive| adaptive.number));
                let found = self.adaptive.as_ref().map(|adaptive| adaptive.limit());
                line.set_limit(found.unwrap_or(self.bounds.limit), now);
            }
        }
    }

    /// So many backends are in use: all of them together are given what each may be given.
    pub fn fit(&self, backends: usize, now: Instant) {
        if let Shared::Line(line) = &self.places {
            let cap = self.per_backend.map_or(u32::MAX, |most| {
                let backends = u32::try_from(backends.max(1)).unwrap_or(u32::MAX);
                most.get().saturating_mul(backends)
            });
            line.set_cap(self.number, cap, now);
        }
    }

    /// Whether each key has places of its own.
    pub fn is_keyed(&self) -> bool {
        !self.key.is_empty()
    }

    /// Whether a tunnel gives its place back: what the backend does in it says nothing of what it can do
    /// beside it. Where each backend has places, the tunnel has one of those.
    pub fn frees_tunnels(&self) -> bool {
        self.adaptive.is_some() && self.per_backend.is_none()
    }

    /// How a limit without a key stands.
    pub fn standing(&self) -> Option<Standing> {
        match &self.places {
            Shared::Keyed(_) => None,
            Shared::Line(line) => Some(Standing {
                limit: line.limit(),
                in_flight: line.taken(),
                queued: line.waiting(),
                base: self.adaptive.as_ref().map(|adaptive| adaptive.base()),
            }),
        }
    }

    /// The number of a request's key.
    pub fn key_of(&self, caller: &Caller<'_>) -> u64 {
        match &self.places {
            Shared::Keyed(gate) => key::hash(&self.key, caller, gate.numbers),
            Shared::Line(_) => 0,
        }
    }

    /// Asks for a place of this key, for a request of this class.
    pub fn enter(&self, key: u64, class: Priority) -> Entered {
        match &self.places {
            Shared::Keyed(gate) => gate.enter(key, &self.bounds),
            Shared::Line(line) => match line.try_enter(class) {
                Some(place) => Entered::In(place),
                None => line.enter(class, &self.bounds, Instant::now()),
            },
        }
    }

    /// Counts somebody who waited in vain.
    pub fn timed_out(&self) {
        let metrics = match &self.places {
            Shared::Keyed(gate) => &gate.metrics,
            Shared::Line(line) => &line.metrics,
        };
        metrics.refused(ConcurrencyRefusal::Timeout);
    }

    /// A backend answered with this status, after so long.
    pub fn answered(&self, status: u16, latency: Duration, now: Instant) {
        if let (Some(adaptive), Shared::Line(line)) = (&self.adaptive, &self.places) {
            adaptive.answered(status, latency, line, now);
        }
    }

    /// A backend did not answer in time.
    pub fn unanswered(&self, now: Instant) {
        if let (Some(adaptive), Shared::Line(line)) = (&self.adaptive, &self.places) {
            adaptive.unanswered(line, now);
        }
    }
}

/// The places of one request: one of each limit of its route, and one of its upstream's.
#[derive(Default)]
pub struct Places {
    of_route: [Option<Place>; MAX_CONCURRENCY_LIMITS],
    of_upstream: Option<Place>,
}

impl Places {
    /// Keeps one of the route until the request is over.
    pub fn keep(&mut self, place: Place) {
        let free = self.of_route.iter_mut().find(|kept| kept.is_none());
        // There is one for each limit that a route can have.
        if let Some(free) = free {
            *free = Some(place);
        }
    }

    /// Keeps the upstream's, in the place of that of another upstream.
    pub fn keep_upstream(&mut self, place: Place) {
        self.of_upstream = Some(place);
    }

    /// Gives the upstream's back before the request is over.
    pub fn leave_upstream(&mut self) {
        self.of_upstream = None;
    }
}

/// What becomes of a request that wants a place.
pub enum Entered {
    /// It has one.
    In(Place),
    /// It has to wait for one.
    Queued(Waiting),
    /// Too many wait already.
    Full,
}

/// Where a place belongs, or a wait.
enum Of {
    Gate(Arc<Gate>, u64),
    Line(Arc<Line>),
}

/// A place, until it is dropped.
pub struct Place(Option<Of>);

impl Place {
    fn at_gate(gate: Arc<Gate>, key: u64) -> Self {
        Self(Some(Of::Gate(gate, key)))
    }

    fn in_line(line: Arc<Line>) -> Self {
        Self(Some(Of::Line(line)))
    }

    /// Gives nothing back: it was never counted.
    fn forget(mut self) {
        match self.0.take() {
            Some(Of::Gate(gate, _)) => gate.metrics.in_flight(-1),
            Some(Of::Line(line)) => line.metrics.in_flight(-1),
            None => {}
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match self.0.take() {
            Some(Of::Gate(gate, key)) => gate.leave(key),
            Some(Of::Line(line)) => line.leave(Instant::now),
            None => {}
        }
    }
}

/// A wait for a place. Whoever drops it leaves the queue.
pub struct Waiting {
    at: Of,
    class: Priority,
    number: u64,
    /// Holds the place from when it is given until it is taken, and gives it back if nobody takes it.
    place: oneshot::Receiver<Place>,
}

impl Waiting {
    fn at_gate(gate: Arc<Gate>, key: u64, number: u64, place: oneshot::Receiver<Place>) -> Self {
        Self {
            at: Of::Gate(gate, key),
            class: Priority::default(),
            number,
            place,
        }
    }

    fn in_line(
        line: Arc<Line>,
        class: Priority,
        number: u64,
        place: oneshot::Receiver<Place>,
    ) -> Self {
        Self {
            at: Of::Line(line),
            class,
            number,
            place,
        }
    }

    /// Ready with a place when it is this one's turn; without one when it had to give way.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Place>> {
        Poll::Ready(ready!(Pin::new(&mut self.place).poll(context)).ok())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        match &self.at {
            Of::Gate(gate, key) => gate.give_up(*key, self.number),
            Of::Line(line) => line.give_up(self.class, self.number),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests;
