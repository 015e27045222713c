//! Has lists of networks say whether a client may call, first for all requests, then for a route.

use super::Context;
use crate::reply::Rejection;
use crate::route::Route;

/// Refuses a client that may not call at all.
pub(super) fn judge(context: &Context) -> Result<(), Rejection> {
    match &context.snapshot.ip_access {
        Some(access) => access.judge(context.client_ip),
        None => Ok(()),
    }
}

/// Refuses a client that may not call this route.
pub(super) fn judge_route(context: &Context, route: &Route) -> Result<(), Rejection> {
    match &route.ip_access {
        Some(access) => access.judge(context.client_ip),
        None => Ok(()),
    }
}
