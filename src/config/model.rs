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
mod route;
mod sticky;
mod upstream;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

pub use super::scalar::Secret;

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
pub use route::*;
pub use sticky::*;
pub use upstream::*;

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
