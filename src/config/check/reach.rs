//! Which upstreams the requests of a route may come to.

use crate::config::model::{Action, Fallback, Route, Upstream};

/// Those that it names, and those that stand in for them. Who gets copies is not among them.
pub(super) fn upstreams(route: &Route, all: &[Upstream]) -> Vec<usize> {
    let Action::Proxy(branches) = &route.action else {
        return Vec::new();
    };
    let mut reached: Vec<usize> = branches.iter().map(|branch| branch.upstream).collect();
    let stand_in = |fallback: &Fallback| match fallback {
        Fallback::Upstream(other) => Some(*other),
        Fallback::Respond(_) => None,
    };
    match &route.fallback {
        Some(fallback) => reached.extend(stand_in(fallback)),
        // What the route says takes the place of what they say.
        None => {
            let own = reached.clone().into_iter().filter_map(|at| all.get(at));
            reached.extend(own.filter_map(|upstream| stand_in(upstream.fallback.as_ref()?)));
        }
    }
    reached
}
