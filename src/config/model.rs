//! What a configuration means: addresses, durations and references that are known to be good.
//!
//! A [`Config`] exists only if every check passed, so nothing that is built from it needs a branch
//! for a malformed setting. Nothing here is read through serde.

mod auth;
mod balance;
mod circuit_breaker;
mod concurrency;
mod cors;
mod discovery;
mod health_check;
mod ip_access;
mod listener_tls;
mod mirror;
mod outlier;
mod priority;
mod ratelimit;
mod redis;
mod retries;
mod sticky;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use ipnet::IpNet;

pub use super::scalar::Secret;

use super::pattern::{HostPattern, PathPattern, Template};

pub use auth::*;
pub use balance::*;
pub use circuit_breaker::*;
pub use concurrency::*;
pub use cors::*;
pub use discovery::*;
pub use health_check::*;
pub use ip_access::*;
pub use listener_tls::{CertificateFiles, ClientAuth, ListenerTls, Tickets};
pub use mirror::*;
pub use outlier::*;
pub use priority::Priority;
pub use ratelimit::*;
pub use redis::{Login, Node, Redis, Sentinel, Servers};
pub use retries::*;
pub use sticky::*;

/// A checked configuration file.
#[derive(Clone, Debug)]
pub struct Config {
    /// The process itself.
    pub server: Server,
    /// Where traffic is accepted; never empty.
    pub listeners: Vec<Listener>,
    /// The operators' listener; `None` when switched off.
    pub admin: Option<Admin>,
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// What a client may send, and how slowly.
    pub limits: Limits,
    /// Who may call at all, by address; `None`: everyone.
    pub ip_access: Option<IpAccess>,
    /// Which pages of other origins may call what is no route's; `None`: nobody is told.
    pub cors: Option<Cors>,
    /// How the process ends.
    pub shutdown: Shutdown,
    /// Whether what goes to backends is down for maintenance.
    pub maintenance: Maintenance,
    /// The process log.
    pub log: Log,
    /// The access log; `None` when switched off.
    pub access_log: Option<AccessLog>,
    /// How metrics are named.
    pub metrics: Metrics,
    /// Where instances share what they know; `None`: nowhere.
    pub redis: Option<Redis>,
    /// Who may call.
    pub auth: Auth,
    /// How much.
    pub ratelimit: RateLimits,
    /// Named groups of backends, in order of name; routes refer to them by index.
    pub upstreams: Vec<Upstream>,
    /// The routes, in the order of the file (which decides nothing).
    pub routes: Vec<Route>,
    /// A 64-bit hash of the source text, for `gateway_config_info`.
    pub source_hash: u64,
}

/// Settings of the process that only a restart or an upgrade can change.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Worker threads; default: as many as there are cores.
    pub threads: NonZeroUsize,
    /// Whether a changed file is loaded by itself.
    pub watch: bool,
    /// Where a successor asks for the sockets; `None` for a path made from the file's.
    pub upgrade_socket: Option<PathBuf>,
    /// What a successor may take until it serves.
    pub upgrade_timeout: Duration,
}

/// One address that takes traffic.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Label in metrics and logs; default: the address.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether `/health`, `/ready`, `/_health/live` and `/_health/ready` are answered here.
    pub health: bool,
    /// Whether HTTP/2 is spoken here without TLS, to clients that begin with it.
    pub h2c: bool,
    /// Clients that may read `/metrics` here; empty means the path is an ordinary one.
    pub metrics_allow: Vec<IpNet>,
    /// TLS towards clients; `None` for a plain listener.
    pub tls: Option<ListenerTls>,
    /// The port that a plain listener sends its requests to by `https`.
    pub https_redirect: Option<u16>,
    /// Peers that begin every connection with a PROXY header.
    pub proxy_protocol: Vec<IpNet>,
}

/// The operators' listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// Where it listens.
    pub address: SocketAddr,
    /// What callers must show before they may change anything; `None`: nobody may.
    pub token: Option<Secret>,
}

/// Maintenance mode.
#[derive(Clone, Debug, PartialEq)]
pub struct Maintenance {
    /// Whether everything that goes to a backend is refused.
    pub enabled: bool,
    /// When clients are told to come back.
    pub retry_after: Duration,
    /// What they are told; `None` is the usual sentence.
    pub message: Option<String>,
}

/// Bounds on what a client sends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// From a connection to the end of its TLS handshake.
    pub handshake_timeout: Duration,
    /// From the first byte of a request header to its last.
    pub request_header_timeout: Duration,
    /// Bytes of request line and header fields together.
    pub request_header_bytes: usize,
    /// Number of header fields.
    pub request_header_fields: usize,
    /// Bytes of the request target.
    pub uri_bytes: usize,
    /// Between two reads of a request body.
    pub request_body_timeout: Duration,
    /// Bytes of a request body each second; 0 for no minimum.
    pub request_body_min_rate: u64,
    /// Between two writes of a response that the client does not read.
    pub response_write_timeout: Duration,
    /// An idle connection between two requests.
    pub keepalive_timeout: Duration,
    /// Open client connections in all.
    pub max_connections: usize,
    /// Requests in flight in all.
    pub max_requests: u32,
    /// Memory in use.
    pub max_memory: MaxMemory,
    /// Open connections of one client.
    pub max_connections_per_client: usize,
    /// Whether paths are refused that a backend may read in another way.
    pub strict_paths: bool,
}

/// How much memory may be in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxMemory {
    /// What the container has, or the machine.
    Auto,
    /// Any amount.
    Unlimited,
    /// So many bytes of the process.
    Bytes(u64),
}

/// How the process ends after SIGTERM.
#[derive(Clone, Debug, PartialEq)]
pub struct Shutdown {
    /// From readiness turning false to the listeners closing.
    pub delay: Duration,
    /// What requests in flight are given after that.
    pub drain_timeout: Duration,
    /// What an idle client is given of that for another request.
    pub keepalive_grace: Duration,
}

/// The process log.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// Least important level that is written.
    pub level: log::LevelFilter,
    /// Text for people or JSON for machines.
    pub format: LogFormat,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// One readable line.
    Text,
}

/// The access log.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLog {
    /// How lines are written.
    pub format: LogFormat,
    /// Where they go.
    pub output: LogOutput,
    /// Bytes that may wait for the writer before further lines are dropped and counted.
    pub buffer_bytes: usize,
}

/// Where access log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, appended to.
    File(PathBuf),
}

/// How metrics are named.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// The prefix of every metric of the gateway's own.
    pub namespace: String,
}

/// A named group of backends.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Its name, the `backend_service` of metrics and logs.
    pub name: Arc<str>,
    /// Its members that are written; never empty without a discovery.
    pub backends: Vec<Backend>,
    /// Where further members come from.
    pub discovery: Option<Discovery>,
    /// What is spoken with its members.
    pub protocol: Protocol,
    /// TLS towards its members, if there is any.
    pub tls: Option<UpstreamTls>,
    /// HTTP/2 towards its members.
    pub http2: Http2,
    /// How a member is chosen.
    pub balance: Balance,
    /// How a member begins that is new or back; `None`: with all of its weight.
    pub slow_start: Option<SlowStart>,
    /// Below this share of members that are up, all are used, 0.0 to 1.0; 0 turns it off.
    pub panic_threshold: f64,
    /// When another priority group is used.
    pub failover: Failover,
    /// Which zone is preferred.
    pub zones: Zones,
    /// Whether clients come back to their backend.
    pub sticky: Option<Sticky>,
    /// What an attempt may take.
    pub timeouts: Timeouts,
    /// How many requests may be in flight to it; `None`: any number.
    pub concurrency: Option<UpstreamConcurrency>,
    /// How connections are kept.
    pub pool: Pool,
    /// When a request is tried again.
    pub retries: Retries,
    /// Active probing, when configured.
    pub health_check: Option<HealthCheck>,
    /// Passive ejection of failing members.
    pub outlier: Outlier,
    /// When the circuit to it opens; `None`: never by itself.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// What is done while it cannot be used, where the route says nothing of it.
    pub fallback: Option<Fallback>,
}

/// One member of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// As written: `host:port`. Host names are resolved once, when the configuration is loaded.
    pub name: Arc<str>,
    /// Where it is dialled.
    pub address: SocketAddr,
    /// Its share of the traffic; 0 takes it out.
    pub weight: u32,
    /// Its priority group: the lowest that is well enough is used.
    pub priority: u8,
    /// Where it is.
    pub zone: Option<Arc<str>>,
    /// The name that its certificate must have: a host name or an IP address, never empty when its
    /// upstream has TLS.
    pub server_name: Arc<str>,
}

/// What is spoken with the members of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: agreed on by ALPN over TLS, at once without.
    Http2,
    /// By ALPN; HTTP/1.1 without TLS.
    Auto,
}

/// TLS towards the members of an upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamTls {
    /// The authorities that may vouch for a member. Empty only without `verify`.
    pub authorities: Arc<[Der]>,
    /// What the gateway shows when it is asked who it is.
    pub client: Option<ClientCertificate>,
    /// Whether a member must prove who it is.
    pub verify: bool,
}

/// A certificate as its file has it, without the armour.
pub type Der = Vec<u8>;

/// A certificate with its key, which match.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, then those that vouch for it; never empty.
    pub chain: Vec<Der>,
    /// Its private key.
    pub key: Der,
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientCertificate")
    }
}

/// HTTP/2 towards the members of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http2 {
    /// Requests at the same time on one connection.
    pub max_streams: usize,
    /// Bytes of a response that may come before they are asked for.
    pub stream_window: u32,
    /// Between two questions whether a connection is alive.
    pub ping_interval: Option<Duration>,
}

/// What an attempt may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Establishing a connection.
    pub connect: Duration,
    /// From the request sent to the first byte of the response.
    pub first_byte: Duration,
    /// Between two reads of the response body.
    pub read: Duration,
    /// Between two writes of the request.
    pub write: Duration,
    /// How long an upgraded connection (WebSocket) may be silent.
    pub upgraded_idle: Duration,
    /// From the first byte of the request to the last one of the response; `None`: no end.
    pub request: Option<Duration>,
    /// Tells backends how many milliseconds are left.
    pub deadline_header: Option<HeaderName>,
}

/// How connections to backends are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// How long an unused connection is kept; below the backends' own keep-alive.
    pub idle_timeout: Duration,
}

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
    /// [`MAX_CONCURRENCY_LIMITS`].
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
    /// See [`Timeouts::connect`].
    pub connect: Option<Duration>,
    /// See [`Timeouts::first_byte`].
    pub first_byte: Option<Duration>,
    /// See [`Timeouts::read`].
    pub read: Option<Duration>,
    /// See [`Timeouts::write`].
    pub write: Option<Duration>,
    /// See [`Timeouts::request`].
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
    /// Index into [`Config::upstreams`].
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
