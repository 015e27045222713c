//! What is written below `ratelimit`, and below the `ratelimit` of a route.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::scalar::{Duration, List, Network, Rate};
use super::{Texts, enabled};

/// See [`File::ratelimit`](super::File::ratelimit).
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimits {
    /// Whether anything is limited at all.
    pub enabled: bool,
    /// What happens with policies of `scope: shared` when Redis cannot answer.
    pub failure_mode: FailureMode,
    /// How long a request may wait for Redis, with all its policies together.
    #[schemars(extend("x-min" = "1ms", "x-max" = "1s"))]
    pub timeout: Duration,
    /// Whether `/ready` fails while Redis cannot answer.
    pub required: bool,
    /// The policies of routes that have no `ratelimit` of their own.
    #[schemars(extend("examples" = [["per-client"]]))]
    pub default: List<RouteLimit>,
    /// Which fields tell clients of their limits.
    pub headers: RateHeaders,
    /// The policies. Names have letters, digits, `_`, `-` and `.`.
    pub policies: BTreeMap<String, RatePolicy>,
}

/// See [`RateLimits::headers`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RateHeaders {
    /// Which responses have `RateLimit` and `RateLimit-Policy`, as the draft
    /// draft-ietf-httpapi-ratelimit-headers-11 has them.
    pub ratelimit: Told,
    /// Which responses have `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`, of
    /// the policy that has the least left.
    pub x_ratelimit: Told,
}

/// See [`RateHeaders::ratelimit`].
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// All of limited routes. It takes about a microsecond for each.
    Always,
    /// Those with 429.
    Refusals,
    /// None.
    Never,
}

/// One policy.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RatePolicy {
    /// What requests are counted by: `client_ip`, `subject` (who proved to call), `api_key` (its name),
    /// `header:NAME`, `cookie:NAME`, `path:PARAMETER`, `claim:PATH`, `route`, or a list of them for each
    /// combination; `global` counts all of them as one. Where a request has no such thing, its client's
    /// address takes its place.
    #[serde(default = "client_ip")]
    #[schemars(extend("examples" = ["client_ip", "subject", "header:x-tenant", ["claim:tenant", "route"]]))]
    pub key: Texts,
    /// How much: `100/s`, `1000/min`, `50000/day`, `30/10s`; or a list of several limits that all
    /// hold.
    #[schemars(extend("examples" = ["100/s", ["100/s", { "limit": "50000/day", "burst": 1000 }]]))]
    pub limit: Windows,
    /// How many at once, after a time without any. When left out, as many as the limit has. In any span
    /// of time there is at most this number and what the limit has for that span.
    #[schemars(range(min = 1, max = 1_000_000_000_000u64))]
    pub burst: Option<u64>,
    /// Who counts.
    #[serde(default)]
    pub scope: Scope,
    /// How instances count together. Only with `scope: shared`.
    pub mode: Option<Mode>,
    /// What a request costs. A route may say otherwise.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub cost: u32,
    /// A header of the response that says what the request cost in all. It is not passed on. What it
    /// says beyond `cost` is taken afterwards, even if no more is left, and what it says below is given
    /// back.
    #[schemars(extend("examples" = ["x-request-cost"]))]
    pub cost_header: Option<String>,
    /// Other limits by a claim of the token.
    pub tiers: Option<Tiers>,
    /// In the place of `ratelimit.failure_mode`. Only with `scope: shared`.
    pub failure_mode: Option<FailureMode>,
    /// Whether it only counts, and refuses nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Who is not limited.
    #[serde(default)]
    pub exempt: Exempt,
    /// How much of an IPv6 address tells clients apart.
    #[serde(default = "ipv6_prefix")]
    #[schemars(range(min = 16, max = 128))]
    pub ipv6_prefix: u8,
    /// How many keys are known at the same time, for each limit. One of them takes 24 bytes, with
    /// `mode: fast` about 400 bytes more. Beyond it, keys share what the least busy of them has left: some
    /// get less than their limit, none gets more.
    #[serde(default = "max_keys")]
    #[schemars(range(min = 1024, max = 100_000_000))]
    pub max_keys: u32,
}

/// See [`RatePolicy::limit`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Windows {
    /// One.
    One(Rate),
    /// Several.
    Many(List<Window>),
}

/// One limit: `100/s`, or with a burst of its own.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Window {
    /// Without.
    Rate(Rate),
    /// With.
    Burst(WindowWithBurst),
}

/// See [`Window::Burst`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WindowWithBurst {
    /// How much.
    pub limit: Rate,
    /// How many at once.
    #[schemars(range(min = 1, max = 1_000_000_000_000u64))]
    pub burst: Option<u64>,
}

/// See [`RatePolicy::tiers`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tiers {
    /// The claim; dots lead into objects.
    pub claim: String,
    /// The limits by the claim's value, each written as `limit` is, with as many as that has. Any other
    /// value, and none, has the policy's own.
    #[schemars(extend("examples" = [{ "gold": "1000/s", "free": "10/s" }]))]
    pub limits: BTreeMap<String, Windows>,
}

/// See [`RatePolicy::scope`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Each instance by itself.
    #[default]
    Node,
    /// All instances together, in Redis.
    Shared,
}

/// See [`RatePolicy::mode`].
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Redis is asked for each request: the limit is never exceeded.
    #[default]
    Precise,
    /// Instances lease portions of a key's budget, so that requests seldom wait: the limit may be
    /// exceeded by 4 % of the burst.
    Fast,
}

/// See [`RateLimits::failure_mode`].
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
pub enum FailureMode {
    /// Each instance counts by itself, with its share of the limit.
    #[default]
    #[serde(rename = "fail_local")]
    Local,
    /// Everything is let through.
    #[serde(rename = "fail_open")]
    Open,
    /// Everything is refused with 503 and `Retry-After`.
    #[serde(rename = "fail_closed")]
    Closed,
}

/// See [`RatePolicy::exempt`].
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Exempt {
    /// Clients in these networks.
    #[schemars(extend("examples" = [["10.0.0.0/8"]]))]
    pub networks: List<Network>,
    /// Values of the whole `key`, as requests have them: an address, `SCHEME:SUBJECT` for `subject` and
    /// `api_key`, the value of a header. With `|` between those of several parts.
    #[schemars(extend("examples" = [["192.0.2.7"], ["main:monitoring"], ["acme|reports"]]))]
    pub keys: List<String>,
}

/// What a route is limited by: `none`, the name of a policy, or a list of policies.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RouteLimits {
    /// `none`, or a policy.
    Name(String),
    /// Policies, all of which hold.
    Many(List<RouteLimit>),
}

/// The name of a policy, or a policy with a cost of the route's own.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RouteLimit {
    /// A policy.
    Name(String),
    /// With a cost.
    Cost(RouteLimitWithCost),
}

/// See [`RouteLimit::Cost`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteLimitWithCost {
    /// The policy.
    pub policy: String,
    /// What a request of this route costs.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub cost: u32,
}

fn client_ip() -> Texts {
    Texts::One("client_ip".to_owned())
}

fn one() -> u32 {
    1
}

fn ipv6_prefix() -> u8 {
    64
}

fn max_keys() -> u32 {
    100_000
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            enabled: enabled(),
            failure_mode: FailureMode::default(),
            timeout: Duration(std::time::Duration::from_millis(5)),
            required: false,
            default: List::default(),
            headers: RateHeaders::default(),
            policies: BTreeMap::new(),
        }
    }
}

impl Default for RateHeaders {
    fn default() -> Self {
        Self {
            ratelimit: Told::Refusals,
            x_ratelimit: Told::Never,
        }
    }
}
