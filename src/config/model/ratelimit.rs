//! What `ratelimit` means: policies, their keys and windows, and what happens without Redis.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

/// Limits on the rate of requests.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimits {
    /// The policies; routes refer to them by index. Empty when rate limiting is switched off.
    pub policies: Vec<RatePolicy>,
    /// Which fields tell clients of their limits.
    pub headers: RateHeaders,
    /// How long a request waits for Redis, with all its policies together.
    pub timeout: Duration,
    /// Whether readiness fails while Redis cannot answer.
    pub required: bool,
}

/// Which fields tell clients of their limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateHeaders {
    /// `RateLimit` and `RateLimit-Policy`.
    pub standard: Told,
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset`.
    pub x_ratelimit: Told,
}

/// Which responses have fields about limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// All of a limited route.
    Always,
    /// Those with 429.
    Refusals,
    /// None.
    Never,
}

/// One policy.
#[derive(Clone, Debug, PartialEq)]
pub struct RatePolicy {
    /// Its name, the `policy` of metrics, of fields and of keys in Redis; unique.
    pub name: Arc<str>,
    /// What requests are counted by, together; empty counts all of them as one.
    pub key: Vec<KeyPart>,
    /// The limits, all of which hold; never empty, at most [`MAX_WINDOWS`].
    pub windows: Arc<[Window]>,
    /// Other limits for those whose claim has one of these values.
    pub tiers: Option<Tiers>,
    /// Who counts.
    pub scope: Scope,
    /// What a request costs.
    pub cost: Cost,
    /// What happens when Redis cannot answer.
    pub failure_mode: FailureMode,
    /// Whether it only counts, and lets everything through.
    pub dry_run: bool,
    /// Who is not limited.
    pub exempt: Exempt,
    /// Keys that are known at the same time, for each window.
    pub max_keys: usize,
}

/// The most windows of one policy.
pub const MAX_WINDOWS: usize = 4;

/// So many in so long: a bucket that holds `burst` and is filled at `limit` for each `period`. In any
/// span of time `t` it lets through `burst + limit × t / period` at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Requests, or what they cost; at least 1.
    pub limit: u64,
    /// In this time; at least a second.
    pub period: Duration,
    /// At once; at least 1.
    pub burst: u64,
}

/// What requests are counted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPart {
    /// What it is the value of.
    pub of: KeyOf,
    /// So many bits of an address tell clients of IPv6 apart, at most 128. An address also stands in for what a
    /// request has not.
    pub ipv6_prefix: u8,
}

/// What a part of a key is the value of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyOf {
    /// The client's address.
    ClientIp,
    /// Who proved to call: the subject, and the scheme that accepted it.
    Identity,
    /// The name of the API key.
    ApiKey,
    /// The value of a header.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(String),
    /// A parameter of the path.
    PathParam(String),
    /// The route's name.
    Route,
    /// A claim of the token; dots lead into objects.
    Claim(String),
}

impl KeyPart {
    /// Whether it is known only behind authentication.
    pub fn needs_identity(&self) -> bool {
        matches!(self.of, KeyOf::Identity | KeyOf::ApiKey | KeyOf::Claim(_))
    }
}

/// Limits by the value of a claim.
#[derive(Clone, Debug, PartialEq)]
pub struct Tiers {
    /// The claim; dots lead into objects.
    pub claim: String,
    /// Values and their limits, with as many windows each as the policy has.
    pub limits: Vec<(String, Arc<[Window]>)>,
}

/// Who counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// This instance by itself.
    Node,
    /// All instances together, in Redis.
    Shared(Mode),
}

/// How instances count together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Redis is asked for each request.
    Precise,
    /// Portions of a key's budget are leased, off the way of requests.
    Fast,
}

/// What a request costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Before its response is known; at least 1 where a response says the cost.
    pub request: u64,
    /// A header of the response that says what it costs in all, and is not passed on.
    pub response_header: Option<HeaderName>,
}

/// What happens when Redis cannot answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureMode {
    /// This instance counts by itself, with its share of the limit.
    Local,
    /// Everything is let through.
    Open,
    /// Everything is refused with 503.
    Closed,
}

/// Who is not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exempt {
    /// Clients in these networks.
    pub networks: Vec<IpNet>,
    /// Values of the whole key, one for each of its parts.
    pub keys: Vec<Vec<KeyValue>>,
}

/// What a part of a key is for one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyValue {
    /// The client's address, or one of its network.
    Client(IpAddr),
    /// The scheme, and the subject that it knows who calls by.
    Subject(String, String),
    /// Any other.
    Text(String),
}

/// A policy on a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteLimit {
    /// Index into [`RateLimits::policies`].
    pub policy: usize,
    /// What a request of this route costs, in the place of the policy's own.
    pub cost: Option<u64>,
}
