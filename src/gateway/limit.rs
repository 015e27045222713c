//! Holds a request against the limits of its route, and learns from responses what they cost.

use std::time::Instant;

use http::HeaderMap;

use super::Context;
use crate::filter::ratelimit::{self, Limits, Refused};
use crate::listener::exchange::Exchange;
use crate::message::Response;
use crate::reply::{LimitRefusal, Rejection};

/// Lets the request through, or says why not.
pub(super) async fn admit(
    exchange: &Exchange,
    context: &mut Context,
    limits: &Limits,
) -> Result<(), Rejection> {
    if limits.is_empty() {
        return Ok(());
    }
    let started = Instant::now();
    let mut charges = std::mem::take(&mut context.charges);
    let before = context.limited_for.unwrap_or_default();
    // One for all policies, before authentication and behind it.
    let timeout = context.snapshot.rate_limits.timeout.saturating_sub(before);
    let path = exchange.origin.head.target.path();
    let taken = {
        let path_param = |name: &str| context.params.get(name, path);
        let caller = context.caller(&exchange.request.headers, &path_param);
        limits.take(&caller, started, timeout, &mut charges).await
    };
    context.limited_for = Some(before + started.elapsed());
    context.charges = charges;
    taken.map_err(|refused| match refused {
        Refused::Limited(charge) => {
            let refusal = LimitRefusal {
                policy: charge.policy().clone(),
                retry_after: ratelimit::retry_after(&charge),
            };
            // Of the others nothing was taken in the end.
            context.charges = vec![charge];
            Rejection::RateLimited(refusal)
        }
        Refused::Unavailable => {
            context.charges.clear();
            Rejection::RateLimitUnavailable
        }
    })
}

/// Tells the client of its limits.
pub(super) fn tell(context: &Context, headers: &mut HeaderMap) {
    let which = context.snapshot.rate_limits.headers;
    ratelimit::tell(&context.charges, which, headers);
}

/// Learns from a backend's response what the request cost.
pub(super) fn settle(response: &mut Response, context: &Context) {
    if let Some(route) = &context.route {
        route.limits.settle(&context.charges, &mut response.headers);
    }
}
