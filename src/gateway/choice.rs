//! What a request says about the backend that it is to go to.

use std::time::{Instant, SystemTime};

use super::{Context, breaker};
use crate::config::model::{Balance, HashKey};
use crate::filter::auth::credential;
use crate::filter::ratelimit::key::{Seed, number};
use crate::listener::exchange::Exchange;
use crate::message::Response;
use crate::upstream::sticky::{Held, Sticky};
use crate::upstream::{Upstream, Wish};
use http::HeaderMap;
use http::header::SET_COOKIE;

/// The kind of a path, beside those of other parts of keys.
const PATH: u8 = 5;

/// What the choice of a backend regards of the request.
pub(super) fn wish(
    exchange: &Exchange,
    context: &Context,
    upstream: &Upstream,
    now: Instant,
) -> Wish {
    let sticky = upstream.sticky.as_ref();
    let sticky =
        sticky.and_then(|sticky| sticky.read(&exchange.request.headers, SystemTime::now()));
    Wish {
        key: key(exchange, context, upstream),
        sticky,
        ..Wish::at(now).probing(breaker::is_probe(&context.circuit))
    }
}

/// What goes together with other requests, where the upstream hashes.
pub(super) fn key(exchange: &Exchange, context: &Context, upstream: &Upstream) -> Option<u64> {
    match &upstream.config.balance {
        Balance::Hash(hash) => hash_of(&hash.key, exchange, context),
        Balance::RoundRobin
        | Balance::LeastRequests
        | Balance::PeakEwma { .. }
        | Balance::Random => None,
    }
}

/// Takes away from the backend's request what only the gateway reads.
pub(super) fn conceal(context: &Context, headers: &mut HeaderMap) {
    if let Some(sticky) = of(context) {
        credential::strip_cookie(headers, sticky.name());
    }
}

/// Tells the client which backend it has, unless it knows.
pub(super) fn tell(context: &Context, response: &mut Response) {
    let (Some(sticky), Some(attempt)) = (of(context), &context.attempt) else {
        return;
    };
    let admitted = &attempt.admitted;
    if admitted.is_kept() && context.sticky.is_some_and(Held::is_fresh) {
        return;
    }
    let is_secure = context.scheme == "https";
    let field = sticky.give(&admitted.backend().name, is_secure, SystemTime::now());
    if let Some(field) = field {
        response.headers.append(SET_COOKIE, field);
    }
}

fn of(context: &Context) -> Option<&Sticky> {
    context.upstream.as_ref()?.sticky.as_ref()
}

/// The number of what goes together; `None`: the request lacks a part of it. The same on every
/// instance, so that all of them send a client to the same backend.
fn hash_of(parts: &[HashKey], exchange: &Exchange, context: &Context) -> Option<u64> {
    let path = exchange.origin.head.target.path();
    let path_param = |name: &str| context.params.get(name, path);
    let caller = context.caller(&exchange.request.headers, &path_param);
    parts.iter().try_fold(0, |before, part| match part {
        HashKey::Part(part) => number(part, &caller, Seed::SHARED, before),
        HashKey::Path => Some(Seed::SHARED.hash(before, PATH, path.as_bytes())),
    })
}
