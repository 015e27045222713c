//! What a choice is made from: the members, and those of them that are in, ready to be drawn.
//!
//! A plan is made when a member comes, goes or changes its state, and never changes itself.

use std::sync::Arc;
use std::time::Instant;

use super::backend::{Backend, State};
use super::balance::Schedule;
use super::members::Members;
use super::wish::{Tried, Wish};

/// What the requests of some time are given to.
pub(super) struct Plan {
    pub members: Arc<Members>,
    /// What the upstream's count of changes was before the members were looked at.
    pub changes: u64,
    /// When the next ejection ends.
    pub due: Option<Instant>,
    /// The members that are up, by weight.
    schedule: Schedule,
}

impl Plan {
    /// Of these members as they are now.
    pub fn new(members: Arc<Members>, changes: u64, now: Instant) -> Self {
        let mut choices = Vec::with_capacity(members.len());
        let mut due: Option<Instant> = None;
        for (member, backend) in (0u16..).zip(members.iter()) {
            let state = backend.state(now);
            let is_up = state == State::Up;
            if is_up || state == State::Returning {
                choices.push((member, backend.weight));
            } else if let Some(until) = backend.known.outlier.ejected_until(now) {
                due = Some(due.map_or(until, |due| due.min(until)));
            }
            backend.metrics.set_up(is_up);
        }
        Self {
            members,
            changes,
            due,
            schedule: Schedule::new(&choices),
        }
    }

    /// Chooses a member that accepts the request, one that was not tried before if there is one.
    pub fn choose(&self, wish: Wish, tried: &Tried) -> Option<&Arc<Backend>> {
        let accepts = |member: &u16| {
            let backend = self.members.get(usize::from(*member));
            backend.is_some_and(|backend| backend.accepts(wish.now))
        };
        let is_new = |member: &u16| {
            let backend = self.members.get(usize::from(*member));
            backend.is_some_and(|backend| !tried.contains(backend.id()))
        };
        let first = match tried.is_empty() {
            true => self.schedule.next().filter(accepts),
            false => None,
        };
        let member = first
            .or_else(|| {
                self.schedule
                    .other(|other| is_new(&other) && accepts(&other))
            })
            .or_else(|| self.schedule.other(|other| accepts(&other)))?;
        self.members.get(usize::from(member))
    }
}
