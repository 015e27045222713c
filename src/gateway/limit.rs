//! Holds a request against the limits of its route, and learns from responses what they cost.

use std::time::Instant;

use http::HeaderMap;

use super::Context;
use crate::filter::ratelimit::{self, Limits, Refused, Step};
use crate::listener::exchange::Exchange;
use crate::message::Response;
use crate::reply::{LimitRefusal, Rejection};

/// Lets the request through, or says why not. It counts from now, and not from when it began to arrive: requests
/// that are sent slowly and finished together would be let through together.
pub(super) async fn admit(
    exchange: &Exchange,
    context: &mut Context,
    limits: &Limits,
) -> Result<(), Rejection> {
    let mut ledger = std::mem::take(&mut context.ledger);
    let patience = context.snapshot.rate_limits.timeout;
    let path = exchange.origin.head.target.path();
    let taken = {
        let path_param = |name: &str| context.params.get(name, path);
        let caller = context.caller(&exchange.request.headers, &path_param);
        match limits.start(&caller, Instant::now(), &mut ledger) {
            Step::Over(result) => result,
            // On the heap, so that requests that do not wait do not make room for it.
            step => Box::pin(limits.finish(step, patience, &mut ledger)).await,
        }
    };
    context.ledger = ledger;
    taken.map_err(|refused| match refused {
        Refused::Limited(charge) => {
            let refusal = LimitRefusal {
                policy: charge.policy().clone(),
                retry_after: ratelimit::retry_after(&charge),
            };
            // Of the others nothing was taken in the end.
            context.ledger.charges = vec![charge];
            Rejection::RateLimited(refusal)
        }
        Refused::Unavailable => {
            context.ledger.charges.clear();
            Rejection::RateLimitUnavailable
        }
    })
}

/// Tells the client of its limits.
pub(super) fn tell(context: &Context, headers: &mut HeaderMap) {
    let which = context.snapshot.rate_limits.headers;
    ratelimit::tell(&context.ledger.charges, which, headers);
}

/// Learns from a backend's response what the request cost.
pub(super) fn settle(response: &mut Response, context: &mut Context) {
    if let Some(route) = &context.route {
        let charges = &mut context.ledger.charges;
        route.limits.settle(charges, &mut response.headers);
    }
}
