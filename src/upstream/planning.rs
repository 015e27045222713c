//! When an upstream's plan is made anew, and by whom.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use super::plan::{Making, Plan};
use super::{Members, Upstream};

impl Upstream {
    /// Whether a member changed its state since the plan was made.
    pub(super) fn is_stale(&self, plan: &Plan, now: Instant) -> bool {
        self.changes.load(Ordering::Relaxed) != plan.changes
            || plan.due.is_some_and(|due| now >= due)
    }

    /// A member changed its state: every generation shall look again. To be called by whatever decides
    /// on that.
    pub(super) fn changed(&self, now: Instant) {
        self.note_change();
        let _one_at_a_time = self.plan_alone();
        self.plan_locked(self.members(), now);
    }

    /// The same, for whoever makes the plan anew at once.
    pub(super) fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Held while a plan is made.
    pub(super) fn plan_alone(&self) -> MutexGuard<'_, ()> {
        let guard = self.planning.lock();
        guard.unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the plan anew, unless somebody else does so already: until that is done, the one before
    /// will do, since each candidate is asked whether it accepts.
    pub(super) fn try_plan(&self, now: Instant) -> bool {
        let _one_at_a_time = match self.planning.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(guard)) => guard.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        self.plan_locked(self.members(), now);
        true
    }

    /// Makes the plan of these members. Needs `planning`.
    pub(super) fn plan_locked(&self, members: Arc<Members>, now: Instant) {
        // Read before the members are looked at: what changes meanwhile makes the plan anew.
        let changes = self.changes.load(Ordering::Relaxed);
        let making = Making {
            config: &self.config,
            sticky: self.sticky.as_ref(),
            changes,
            active: self.active.load(Ordering::Relaxed),
            now,
        };
        let before = self.plan.load_full();
        let plan = Plan::new(members, &making, Some(&before));
        let plan = Arc::new(plan);
        // In force before it is told.
        self.plan.store(Arc::clone(&plan));
        self.announce(&before, &plan);
        self.fit_concurrency(now);
    }

    /// Says what is different for all members together.
    fn announce(&self, before: &Plan, plan: &Plan) {
        let left = self.active.swap(plan.priority, Ordering::Relaxed);
        if left != plan.priority {
            log::warn!(
                "upstream={} priority group {} is used in the place of {left}",
                self.name,
                plan.priority
            );
        }
        match (before.panics, plan.panics) {
            (false, true) => log::warn!(
                "upstream={} panics: too few of its backends are up, so all are used",
                self.name
            ),
            (true, false) => log::info!("upstream={} panics no more", self.name),
            _ => {}
        }
        self.metrics.set_selection(plan.priority, plan.panics);
    }
}
