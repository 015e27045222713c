//! Refuses a request that the process as a whole has no room for.

use super::failure::Failure;
use super::{Context, Gateway};
use crate::reply::Rejection;
use crate::route::Route;

impl Gateway {
    /// Whether there is room for another request of this route. Asked as soon as the route is known, so
    /// that a refusal costs next to nothing; what has no route, and the gateway's own endpoints, cost
    /// no more.
    pub(super) fn bear(&self, context: &Context, route: &Route) -> Result<(), Failure> {
        let (class, snapshot) = (route.priority, &context.snapshot);
        let most = snapshot.most_requests[class.index()];
        let in_flight = self.lifecycle.in_flight();
        match self.overload.admits(class, snapshot.top, in_flight, most) {
            true => Ok(()),
            false => Err(Failure::Refused(Rejection::Overloaded)),
        }
    }
}
