//! How one member is chosen of those that have a share: one policy a file, none of which locks,
//! allocates or looks at more than a few members.

mod alias;
pub mod peak_ewma;
mod ring;
mod schedule;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use alias::Alias;
pub use ring::Ring;
pub use schedule::Schedule;

use super::sticky::Names;
use crate::config::model::{self, HashBalance};

/// How often two are drawn before somebody who may be given a request is looked for one by one.
const DRAWS: usize = 4;
/// How many slots of a schedule, or points of a ring, are looked at before that.
const STEPS: usize = 128;
/// What a member may have in flight by hashing in any case: with little traffic a share is less than
/// one request, and keys would move without need.
const FEW: f64 = 4.0;
/// What a member is expected to take that is busy with its first request, in microseconds.
const UNKNOWN: f64 = 1e6;

/// What a policy asks of members, and whether one may be given this request.
pub(super) trait Candidates {
    /// Whether it may.
    fn takes(&self, member: u16) -> bool;
    /// Its requests in flight.
    fn in_flight(&self, member: u16) -> usize;
    /// Its share of the traffic.
    fn share(&self, member: u16) -> u32;
    /// In what time it is expected to answer, in microseconds.
    fn latency(&self, member: u16, decay: Duration) -> f32;
}

/// What a policy regards of a request.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    /// What goes together with others that have the same.
    pub key: Option<u64>,
    /// Whether this is a further attempt.
    pub is_retry: bool,
    /// How many requests the upstream has in flight in all, where the policy regards that.
    pub busy: usize,
}

/// What carries on from one plan to the next.
#[derive(Clone, Default)]
pub(super) struct Carried {
    /// Whose turn it is.
    pub turn: Arc<AtomicUsize>,
    /// The members on a ring, as long as they are the same.
    pub ring: Option<Arc<Ring>>,
    /// What cookies call the members, as long as they are the same.
    pub names: Option<Arc<Names>>,
}

/// A policy, with what it draws from.
pub(super) enum Balancer {
    RoundRobin(Schedule),
    Random(Alias),
    LeastRequests(Alias),
    PeakEwma(Alias, Duration),
    Hash(Hash),
}

/// Consistent hashing with bounded load.
pub(super) struct Hash {
    ring: Arc<Ring>,
    load_factor: f64,
    /// The sum of all shares.
    total: f64,
    /// How much of its keys each member keeps, of 65535, while it has less than its weight.
    keeps: Box<[u16]>,
    fallback: Box<Balancer>,
}

impl Balancer {
    /// Over the shares of all members, in their order. `weights` are what the shares were made of.
    pub fn new(
        policy: &model::Balance,
        shares: &[u32],
        weights: impl Iterator<Item = u32>,
        carried: &Carried,
    ) -> Self {
        let choices = || -> Vec<(u16, u32)> { (0u16..).zip(shares.iter().copied()).collect() };
        match policy {
            model::Balance::RoundRobin => {
                Self::RoundRobin(Schedule::at(&choices(), Arc::clone(&carried.turn)))
            }
            model::Balance::Random => Self::Random(Alias::new(&choices())),
            model::Balance::LeastRequests => Self::LeastRequests(Alias::new(&choices())),
            model::Balance::PeakEwma { decay } => Self::PeakEwma(Alias::new(&choices()), *decay),
            model::Balance::Hash(hash) => Self::Hash(Hash::new(hash, shares, weights, carried)),
        }
    }

    /// Chooses one. `None`: nobody was found at once, which does not mean that there is nobody.
    pub fn draw(&self, asked: Asked, candidates: &impl Candidates) -> Option<u16> {
        match self {
            Self::RoundRobin(schedule) => {
                let next = || schedule.next().filter(|member| candidates.takes(*member));
                let first = if asked.is_retry { None } else { next() };
                let mut others = schedule.others().take(STEPS);
                first.or_else(|| others.find(|member| candidates.takes(*member)))
            }
            Self::Random(alias) => (0..DRAWS)
                .filter_map(|_| alias.draw())
                .find(|member| candidates.takes(*member)),
            Self::LeastRequests(alias) => better(alias, candidates, |member| {
                // Without the request that is to come: of two that are idle the first one that was
                // drawn is taken, so that requests follow the weights when there are few.
                candidates.in_flight(member) as f64 / f64::from(candidates.share(member))
            }),
            Self::PeakEwma(alias, decay) => better(alias, candidates, |member| {
                let queue = candidates.in_flight(member) as f64;
                let latency = match candidates.latency(member, *decay) {
                    // One that has not answered yet gets one request to begin with.
                    latency if latency == 0.0 && queue > 0.0 => UNKNOWN,
                    latency => f64::from(latency),
                };
                latency * (queue + 1.0) / f64::from(candidates.share(member))
            }),
            Self::Hash(hash) => hash.draw(asked, candidates),
        }
    }
}

/// The better one of two that are drawn by weight (Mitzenmacher 2001).
fn better(alias: &Alias, candidates: &impl Candidates, cost: impl Fn(u16) -> f64) -> Option<u16> {
    for _ in 0..DRAWS {
        let (first, second) = alias.draw_two()?;
        match (candidates.takes(first), candidates.takes(second)) {
            (true, true) if cost(second) < cost(first) => return Some(second),
            (true, _) => return Some(first),
            (false, true) => return Some(second),
            (false, false) => {}
        }
    }
    None
}

impl Hash {
    fn new(
        policy: &HashBalance,
        shares: &[u32],
        weights: impl Iterator<Item = u32>,
        carried: &Carried,
    ) -> Self {
        let ratio = |(share, weight): (&u32, u32)| f64::from(*share) / f64::from(weight.max(1));
        let ratios: Vec<f64> = shares.iter().zip(weights).map(ratio).collect();
        let most = ratios.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let keeps = ratios.iter().map(|ratio| (ratio / most * 65535.0) as u16);
        let none = std::iter::empty();
        Self {
            ring: carried.ring.clone().unwrap_or_default(),
            load_factor: policy.load_factor,
            total: shares.iter().map(|share| f64::from(*share)).sum(),
            keeps: keeps.collect(),
            fallback: Box::new(Balancer::new(&policy.fallback, shares, none, carried)),
        }
    }

    fn draw(&self, asked: Asked, candidates: &impl Candidates) -> Option<u16> {
        let fallback = || self.fallback.draw(asked, candidates);
        let Some(key) = asked.key else {
            return fallback();
        };
        let all = (asked.busy + 1) as f64 * self.load_factor / self.total;
        let has_room = |member: u16| {
            let bound = (f64::from(candidates.share(member)) * all).ceil().max(FEW);
            (candidates.in_flight(member) as f64) < bound
        };
        let keeps = |member: u16| match self.keeps.get(usize::from(member)) {
            Some(&u16::MAX) => true,
            Some(&kept) => self.ring.lot(member, key) < kept,
            None => false,
        };
        let mut walk = self.ring.walk(key).take(STEPS);
        walk.find(|member| keeps(*member) && candidates.takes(*member) && has_room(*member))
            .or_else(fallback)
    }
}

#[cfg(test)]
mod tests;
