//! The fields that tell clients of their limits: `RateLimit` and `RateLimit-Policy` of
//! draft-ietf-httpapi-ratelimit-headers-11, and the older trio `X-RateLimit-*`.
//!
//! A window is a policy of the draft: it has the name of the policy here, and behind that, where there
//! are several, its period. Times are whole seconds, rounded up, so that nobody comes back too early.
//!
//! `t` is the draft's effective window: the time for which what is left has to do. It is what that takes to come back,
//! so that clients who divide the one by the other find the limit, and not a multiple of it (section 8.5).

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::Charge;
use super::rate::Verdict;
use crate::config::model::{RateHeaders, Told, Window};

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const X_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// What can be said of a set of windows before there is a request.
#[derive(Clone, Debug)]
pub struct Announced {
    /// The item of `RateLimit-Policy`: all windows.
    policy: HeaderValue,
    /// What each window is called, in quotes, and `;r=`.
    names: Box<[Box<str>]>,
    /// The limit of each.
    limits: Box<[u64]>,
}

impl Announced {
    /// Of a policy's windows.
    pub fn new(policy: &str, windows: &[Window]) -> Self {
        let name = |window: &Window| {
            let seconds = window.period.as_secs();
            let of_period = windows.iter().filter(|other| other.period == window.period);
            match (windows, of_period.count()) {
                ([_], _) => format!("\"{policy}\""),
                (_, 1) => format!("\"{policy}:{seconds}\""),
                _ => format!("\"{policy}:{seconds}:{}\"", window.limit),
            }
        };
        let items: Vec<String> = windows
            .iter()
            .map(|window| {
                let seconds = window.period.as_secs();
                format!("{};q={};w={seconds}", name(window), window.limit)
            })
            .collect();
        let policy = HeaderValue::from_str(&items.join(", "));
        Self {
            // Names of policies have nothing that a field may not hold.
            policy: policy.unwrap_or(HeaderValue::from_static("")),
            names: windows
                .iter()
                .map(|window| format!("{};r=", name(window)).into())
                .collect(),
            limits: windows.iter().map(|window| window.limit).collect(),
        }
    }

    /// Appends an item of `RateLimit`: what is left, and for how long that has to do.
    fn say(&self, verdict: &Verdict, out: &mut String) {
        let name = self.names.get(verdict.window);
        let left = self.left(verdict);
        let window = match verdict.admitted {
            true => verdict.lasts(left),
            false => verdict.retry_after(),
        };
        let mut digits = itoa::Buffer::new();
        out.push_str(name.map_or("", |name| name));
        out.push_str(digits.format(left));
        out.push_str(";t=");
        out.push_str(digits.format(seconds(window)));
    }

    /// What is left, never more than the limit: a burst is a favour, and no promise.
    fn left(&self, verdict: &Verdict) -> u64 {
        verdict.remaining().min(self.limit(verdict))
    }

    fn limit(&self, verdict: &Verdict) -> u64 {
        self.limits.get(verdict.window).copied().unwrap_or(0)
    }
}

/// Tells a client of the policies that its request was held against.
pub fn tell(charges: &[Charge], which: RateHeaders, headers: &mut HeaderMap) {
    let told = || charges.iter().filter(|charge| charge.is_told());
    // The one that refuses stands alone.
    let is_refused = || told().any(|charge| !charge.verdict().admitted);
    let is_told = |which| match which {
        Told::Always => told().next().is_some(),
        Told::Refusals => is_refused(),
        Told::Never => false,
    };
    if is_told(which.standard) {
        let mut said = String::with_capacity(48 * charges.len());
        for (index, charge) in told().enumerate() {
            let policy = charge.announced().policy.clone();
            // What a backend says of limits of its own would be taken for ours.
            if index == 0 {
                headers.insert(RATELIMIT_POLICY, policy);
            } else {
                said.push_str(", ");
                headers.append(RATELIMIT_POLICY, policy);
            }
            charge.announced().say(charge.verdict(), &mut said);
        }
        if let Ok(said) = HeaderValue::try_from(said) {
            headers.insert(RATELIMIT, said);
        }
    }
    if is_told(which.x_ratelimit)
        && let Some(charge) = tightest(told())
    {
        let (announced, verdict) = (charge.announced(), charge.verdict());
        headers.insert(X_LIMIT, announced.limit(verdict).into());
        headers.insert(X_REMAINING, announced.left(verdict).into());
        let reset = match verdict.admitted {
            true => verdict.reset(),
            false => verdict.retry_after(),
        };
        headers.insert(X_RESET, seconds(reset).into());
    }
}

/// The one that refuses, or else the one with the least left.
fn tightest<'a>(charges: impl Iterator<Item = &'a Charge>) -> Option<&'a Charge> {
    charges.min_by_key(|charge| (charge.verdict().admitted, charge.verdict().remaining()))
}

/// Whole seconds, rounded up.
pub fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
