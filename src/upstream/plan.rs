//! What a choice is made from: the members, the share of each, and a policy that draws.
//!
//! A plan is made when a member comes, goes or changes its state, and never changes itself.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backend::{Backend, State};
use super::balance::{Asked, Balancer, Candidates, Carried, Ring};
use super::known::Known;
use super::members::Members;
use super::sticky::{Held, Names, Sticky};
use super::weigh::{Rules, Standing, Weighed, weigh};
use super::wish::{Tried, Wish};
use crate::config::model;

/// Between two plans while a member gets its weight by and by, as a part of that time.
const STEPS_OF_RAMP: u32 = 50;
/// Between two plans for that reason at least.
const LEAST_STEP: Duration = Duration::from_millis(100);

/// What the requests of some time are given to.
pub(super) struct Plan {
    pub members: Arc<Members>,
    /// What the upstream's count of changes was before the members were looked at.
    pub changes: u64,
    /// When the next ejection ends, or the next step of a slow start is due.
    pub due: Option<Instant>,
    /// The priority group in use.
    pub priority: u8,
    /// Whether members are used though they are not up.
    pub panics: bool,
    seats: Box<[Seat]>,
    /// Those with a share.
    rotation: Box<[u16]>,
    balancer: Balancer,
    carried: Carried,
}

/// What a choice asks of a member, without a look at the member itself.
struct Seat {
    known: Arc<Known>,
    /// Its share of the traffic; 0 when it is out.
    share: u32,
    /// How many requests it is given at the same time.
    most: Option<NonZeroU32>,
}

/// What a plan is made from beside its members.
pub(super) struct Making<'a> {
    pub config: &'a model::Upstream,
    pub sticky: Option<&'a Sticky>,
    pub changes: u64,
    /// The priority group in use.
    pub active: u8,
    pub now: Instant,
}

impl Plan {
    /// Of these members as they are now.
    pub fn new(members: Arc<Members>, making: &Making<'_>, before: Option<&Self>) -> Self {
        let (config, now) = (making.config, making.now);
        let mut due = Due(None);
        let standings: Vec<Standing<'_>> = members
            .iter()
            .map(|backend| standing(backend, config, now, &mut due))
            .collect();
        let rules = Rules {
            panic_threshold: config.panic_threshold,
            failover: config.failover,
            zones: &config.zones,
        };
        let Weighed {
            shares,
            priority,
            panics,
        } = weigh(&standings, &rules, making.active);
        let carried = carry(&members, making, before);
        let weights = members.iter().map(|backend| backend.weight);
        let balancer = Balancer::new(&config.balance, &shares, weights, &carried);
        let rotation = (0u16..).zip(&shares).filter(|(_, share)| **share > 0);
        let seats = members.iter().zip(&shares).map(|(backend, share)| Seat {
            known: Arc::clone(&backend.known),
            share: *share,
            most: backend.most,
        });
        Self {
            rotation: rotation.map(|(member, _)| member).collect(),
            seats: seats.collect(),
            members,
            changes: making.changes,
            due: due.0,
            priority,
            panics,
            balancer,
            carried,
        }
    }

    /// How many members requests are spread over.
    pub fn in_use(&self) -> usize {
        self.rotation.len()
    }

    /// Chooses a member that accepts the request, one that was not tried before if there is one. Says
    /// whether it is the one that the client had before.
    pub fn choose(&self, wish: Wish, tried: &Tried, busy: usize) -> Option<(&Arc<Backend>, bool)> {
        if let Some(backend) = wish
            .sticky
            .and_then(|held| self.keep(held, wish.now, tried))
        {
            return Some((backend, true));
        }
        let mut choice = Choice {
            plan: self,
            now: wish.now,
            tried: Some(tried),
        };
        let asked = Asked {
            key: wish.key,
            is_retry: !tried.is_empty(),
            busy,
        };
        let drawn = self.balancer.draw(asked, &choice);
        let member = drawn
            .or_else(|| self.anybody(&choice))
            .or_else(|| self.spare(wish.now, tried))
            .or_else(|| {
                choice.tried = None;
                self.anybody(&choice)
            })?;
        Some((self.members.get(usize::from(member))?, false))
    }

    /// The member that the client had before, as long as that is well, whatever share it has: a client
    /// does not move because of zones, or because a better group is back.
    fn keep(&self, held: Held, now: Instant, tried: &Tried) -> Option<&Arc<Backend>> {
        let member = self.carried.names.as_ref()?.find(held)?;
        let backend = self.members.get(usize::from(member))?;
        (backend.accepts(now) && !tried.contains(backend.id())).then_some(backend)
    }

    /// For a request that has tried all that have a share: one of those that have none, because of
    /// their zone or group, the next group first.
    fn spare(&self, now: Instant, tried: &Tried) -> Option<u16> {
        if tried.is_empty() {
            return None;
        }
        let members = (0u16..).zip(self.members.iter());
        let new = members.filter(|(_, one)| !tried.contains(one.id()) && one.accepts(now));
        let best = new.min_by_key(|(_, one)| one.config.priority);
        best.map(|(member, _)| member)
    }

    /// Somebody who takes the request, wherever that is.
    fn anybody(&self, choice: &Choice<'_>) -> Option<u16> {
        if self.rotation.is_empty() {
            return None;
        }
        let start = fastrand::usize(..self.rotation.len());
        let (before, behind) = self.rotation.split_at(start);
        let mut all = behind.iter().chain(before).copied();
        all.find(|member| choice.takes(*member))
    }
}

/// One choice, as policies see the members.
struct Choice<'a> {
    plan: &'a Plan,
    now: Instant,
    /// Whom not to choose again.
    tried: Option<&'a Tried>,
}

impl Choice<'_> {
    fn seat(&self, member: u16) -> Option<&Seat> {
        self.plan.seats.get(usize::from(member))
    }
}

impl Candidates for Choice<'_> {
    fn takes(&self, member: u16) -> bool {
        let Some(seat) = self.seat(member).filter(|seat| seat.share > 0) else {
            return false;
        };
        let known = &seat.known;
        let may = match self.plan.panics {
            true => known.is_there(seat.most),
            // The plan may be older than what was learned meanwhile.
            false => known.accepts(seat.most, self.now),
        };
        may && !self.tried.is_some_and(|tried| tried.contains(known.id))
    }

    fn in_flight(&self, member: u16) -> usize {
        self.seat(member).map_or(0, |seat| seat.known.in_flight())
    }

    fn share(&self, member: u16) -> u32 {
        self.seat(member).map_or(0, |seat| seat.share)
    }

    fn latency(&self, member: u16, decay: Duration) -> f32 {
        self.seat(member)
            .map_or(0.0, |seat| seat.known.latency.estimate(decay, self.now))
    }
}

/// The earliest of some times.
struct Due(Option<Instant>);

impl Due {
    fn at(&mut self, time: Instant) {
        self.0 = Some(self.0.map_or(time, |due| due.min(time)));
    }
}

fn standing<'a>(
    backend: &'a Backend,
    config: &model::Upstream,
    now: Instant,
    due: &mut Due,
) -> Standing<'a> {
    let state = backend.state(now);
    // One that returns is given what it has room for.
    let is_up = matches!(state, State::Up | State::Returning);
    if let (State::Ejected, Some(until)) = (state, backend.known.outlier.ejected_until(now)) {
        due.at(until);
    }
    backend.metrics.set_up(state == State::Up);
    let is_going = matches!(state, State::Drained | State::Draining);
    backend.metrics.set_draining(is_going);
    backend.known.age.note(is_up, now);
    let ramp = config.slow_start.as_ref().map_or(1.0, |slow_start| {
        let ramp = backend.known.age.ramp(slow_start, now);
        if is_up && ramp < 1.0 {
            due.at(now + (slow_start.duration / STEPS_OF_RAMP).max(LEAST_STEP));
        }
        ramp
    });
    Standing {
        weight: backend.weight,
        is_draining: state == State::Draining,
        is_up,
        ramp,
        priority: backend.config.priority,
        zone: backend.config.zone.as_deref(),
    }
}

/// What goes on from the plan before, and what is made once for the same members.
fn carry(members: &Arc<Members>, making: &Making<'_>, before: Option<&Plan>) -> Carried {
    let of_same = before.filter(|before| Arc::ptr_eq(&before.members, members));
    if let Some(before) = of_same {
        return before.carried.clone();
    }
    let is_hash = matches!(making.config.balance, model::Balance::Hash(_));
    let all = members.iter().map(|one| (&*one.name, one.weight));
    let names = |sticky| Arc::new(Names::new(sticky, members));
    Carried {
        turn: before.map_or_else(Arc::default, |before| Arc::clone(&before.carried.turn)),
        ring: is_hash.then(|| Arc::new(Ring::new(all))),
        names: making.sticky.map(names),
    }
}
