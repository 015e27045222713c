//! What a route means: which requests are its own, and what is done with them.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::{
    AuthPolicy, Concurrency, Cors, Fallback, IpAccess, Mirror, Priority, RouteLimit, RouteRetries,
};
use crate::config::pattern::{HostPattern, PathPattern, Template};

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name, the `route` of metrics and logs; unique.
    pub name: Arc<str>,
    /// Which requests are its own.
    pub matcher: Match,
    /// What is done with them.
    pub action: Action,
    /// Who may call it by address, of those who may call at all; `None`: everyone.
    pub ip_access: Option<IpAccess>,
    /// Which pages of other origins may call it; `None` leaves it to the backend.
    pub cors: Option<Cors>,
    /// Who may call it; `None`: everyone.
    pub auth: Option<AuthPolicy>,
    /// What it is limited by.
    pub limits: Vec<RouteLimit>,
    /// How important its requests are when there is not room for all.
    pub priority: Priority,
    /// How many may be in flight at the same time: those with a key first, at most
    /// [`MAX_CONCURRENCY_LIMITS`](super::MAX_CONCURRENCY_LIMITS).
    pub concurrency: Vec<Concurrency>,
    /// How the path is changed for the backend.
    pub rewrite: Option<Rewrite>,
    /// Changes to the header of the request that goes to the backend.
    pub request_headers: HeaderRules,
    /// Changes to the header of the response that goes to the client.
    pub response_headers: HeaderRules,
    /// Largest request body, in bytes; `None` is unlimited.
    pub max_body_bytes: Option<u64>,
    /// Overrides of the upstream's timeouts.
    pub timeouts: TimeoutOverrides,
    /// Overrides of the upstream's retries.
    pub retries: RouteRetries,
    /// What is done while its upstream cannot be used; `None`: what the upstream says.
    pub fallback: Option<Fallback>,
    /// Who gets copies of its requests.
    pub mirror: Option<Mirror>,
    /// Whether it is down for maintenance.
    pub maintenance: bool,
}

/// A route's own timeouts; `None` leaves the upstream's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimeoutOverrides {
    /// See [`Timeouts::connect`](super::Timeouts::connect).
    pub connect: Option<Duration>,
    /// See [`Timeouts::first_byte`](super::Timeouts::first_byte).
    pub first_byte: Option<Duration>,
    /// See [`Timeouts::read`](super::Timeouts::read).
    pub read: Option<Duration>,
    /// See [`Timeouts::write`](super::Timeouts::write).
    pub write: Option<Duration>,
    /// See [`Timeouts::request`](super::Timeouts::request).
    pub request: Option<Duration>,
}

/// Which requests are a route's own. A request must meet every condition.
#[derive(Clone, Debug)]
pub struct Match {
    /// Any of these hosts; empty matches every host.
    pub hosts: Vec<HostPattern>,
    /// Any of these paths; never empty (`/*` matches all).
    pub paths: Vec<PathPattern>,
    /// Any of these methods; empty matches every method.
    pub methods: Vec<Method>,
    /// Every one of these header conditions.
    pub headers: Vec<HeaderCondition>,
    /// Every one of these query conditions.
    pub query: Vec<QueryCondition>,
    /// Every one of these conditions on the client's certificate.
    pub client_cert: Vec<CertCondition>,
}

/// A condition on the client's certificate.
#[derive(Clone, Debug)]
pub enum CertCondition {
    /// One was shown.
    Present,
    /// None was shown.
    Absent,
    /// Its subject matches somewhere.
    Subject(regex::Regex),
    /// Its alternative names match somewhere.
    Names(regex::Regex),
}

/// A condition on a request header.
#[derive(Clone, Debug)]
pub struct HeaderCondition {
    /// The header's name.
    pub name: HeaderName,
    /// What its value must be.
    pub value: ValueMatch,
}

/// A condition on a query parameter (compared after percent-decoding).
#[derive(Clone, Debug)]
pub struct QueryCondition {
    /// The parameter's name.
    pub name: String,
    /// What its value must be.
    pub value: ValueMatch,
}

/// What a value must be.
#[derive(Clone, Debug)]
pub enum ValueMatch {
    /// There, with whatever value.
    Present,
    /// Not there.
    Absent,
    /// Exactly this.
    Exact(String),
    /// Matching this expression somewhere (anchor it to match all).
    Regex(regex::Regex),
}

/// What is done with a request.
#[derive(Clone, Debug)]
pub enum Action {
    /// Sent to one of these upstreams, by weight; never empty, weights not all zero.
    Proxy(Vec<WeightedUpstream>),
    /// Answered with a redirect.
    Redirect(Redirect),
    /// Answered with a fixed response.
    Respond(FixedResponse),
}

/// One branch of a weighted split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightedUpstream {
    /// Index into [`Config::upstreams`](super::Config::upstreams).
    pub upstream: usize,
    /// Its share.
    pub weight: u32,
}

/// A redirect. What is `None` is taken from the request.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// 301, 302, 307 or 308.
    pub status: StatusCode,
    /// The scheme, `https` above all.
    pub scheme: Option<String>,
    /// The host.
    pub host: Option<String>,
    /// The port; `None` leaves it out when scheme or host are changed.
    pub port: Option<u16>,
    /// The path (and query, if it has one), with variables; `None` keeps path and query.
    pub path: Option<Template>,
}

/// A fixed response.
#[derive(Clone, Debug, PartialEq)]
pub struct FixedResponse {
    /// Its status.
    pub status: StatusCode,
    /// Its content type.
    pub content_type: HeaderValue,
    /// Its body.
    pub body: bytes::Bytes,
}

/// How the path is changed for the backend; the query stays.
#[derive(Clone, Debug)]
pub enum Rewrite {
    /// Takes this prefix (whole segments) away; what remains begins with `/`.
    StripPrefix(String),
    /// Puts another prefix in the place of this one.
    ReplacePrefix {
        /// The prefix as it is in the request.
        from: String,
        /// What the backend gets instead.
        to: String,
    },
    /// Replaces the first match of the expression in the path; `$1` and `${name}` refer to groups.
    Regex {
        /// What is searched.
        pattern: regex::Regex,
        /// What is put in its place.
        replacement: String,
    },
}

/// Changes to a header: removals first, then sets, then adds.
#[derive(Clone, Debug, Default)]
pub struct HeaderRules {
    /// Taken away.
    pub remove: Vec<HeaderName>,
    /// Put in the place of whatever is there.
    pub set: Vec<(HeaderName, Template)>,
    /// Put beside whatever is there.
    pub add: Vec<(HeaderName, Template)>,
}
