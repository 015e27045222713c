//! Which backends of an upstream operators drain, by name: that holds also while one is gone.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::{Backend, Members, Upstream};

/// How many names are kept; beyond that those are dropped that are no members, as discovered backends
/// that were drained may never come back.
const MOST: usize = 1000;

/// The names, shared by the generations of an upstream.
#[derive(Debug, Default)]
pub(super) struct Drained(Mutex<BTreeSet<String>>);

impl Drained {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a backend of this name is drained.
    pub fn contains(&self, name: &str) -> bool {
        self.lock().contains(name)
    }

    fn set(&self, name: &str, draining: bool, members: &Members) -> bool {
        let mut names = self.lock();
        if !draining {
            return names.remove(name);
        }
        if names.len() >= MOST {
            names.retain(|name| members.iter().any(|one| *one.name == **name));
        }
        names.insert(name.to_owned())
    }
}

impl Upstream {
    /// Lets the member of this name finish the requests that it has and gives it no other, or takes it
    /// back in; until then, whatever is reloaded, and also when it goes and comes back. Says whether that
    /// is a change.
    pub fn drain(&self, name: &str, draining: bool, now: Instant) -> bool {
        let is_change = {
            // A member that is made meanwhile would not know.
            let _alone = self.plan_alone();
            let members = self.members();
            let is_new = self.drained.set(name, draining, &members);
            let own = members.iter().filter(|one| *one.name == *name);
            let switched = own.filter(|one| one.known.set_draining(draining)).count();
            is_new || switched > 0
        };
        if is_change {
            self.changed(now);
        }
        is_change
    }

    /// The names of those that are drained, also of those that are no members now.
    pub fn drained(&self) -> BTreeSet<String> {
        self.drained.lock().clone()
    }

    /// Whether a backend of this name is drained, or will be when it is a member.
    pub fn is_drained(&self, name: &str) -> bool {
        self.drained.contains(name)
    }

    /// Drains these and no others.
    pub fn set_drained(&self, names: &BTreeSet<String>, now: Instant) {
        let switched = {
            let _alone = self.plan_alone();
            self.drained.lock().clone_from(names);
            let members = self.members();
            let switch = |one: &Backend| one.known.set_draining(names.contains(&*one.name));
            members.iter().filter(|one| switch(one)).count()
        };
        if switched > 0 {
            self.changed(now);
        }
    }
}
