//! What is written in a configuration file: its shape, its defaults and its documentation.
//!
//! The doc comments of keys become the schema's descriptions and the reference for operators.
//! Single values are typed here; what they mean together is the business of `check`.

mod auth;
mod balance;
mod circuit_breaker;
mod concurrency;
mod cors;
mod discovery;
mod health_check;
mod ip_access;
mod limits;
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

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration as StdDuration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::scalar::{Address, Duration, List, Network, Secret, Size};

pub use auth::*;
pub use balance::*;
pub use circuit_breaker::*;
pub use concurrency::*;
pub use cors::*;
pub use discovery::*;
pub use health_check::*;
pub use ip_access::*;
pub use limits::*;
pub use listener_tls::*;
pub use mirror::*;
pub use outlier::*;
pub use priority::Priority;
pub use ratelimit::*;
pub use redis::*;
pub use retries::*;
pub use route::*;
pub use sticky::*;
pub use upstream::*;

/// The configuration of the gateway.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// The process itself. A change takes effect with the next start or upgrade, that of `watch` at
    /// once.
    pub server: Server,
    /// Where traffic is accepted. When left out, one listener on `0.0.0.0:8080`.
    pub listeners: Option<List<Listener>>,
    /// The operators' listener: metrics and status.
    pub admin: Admin,
    /// Peers that are believed about who the client is, such as the load balancer in front. The
    /// client is the last address in `X-Forwarded-For` that is not one of them. Their `Forwarded`,
    /// other `X-Forwarded-*` and `X-Request-Id` headers are kept, too; those of anybody else are
    /// replaced. When empty, nobody is believed, and the client is the peer itself.
    #[schemars(extend("examples" = [["10.0.0.0/8", "192.0.2.1"]]))]
    pub trusted_proxies: List<Network>,
    /// What a client may send, and how slowly.
    pub limits: Limits,
    /// Who may call by the client's address, before a route is looked for; a route's own lists hold in
    /// addition. `deny` wins over `allow`. Health and metrics endpoints are exempt.
    #[schemars(extend("examples" = [{ "deny": ["203.0.113.0/24"], "deny_file": "blocked.txt" }]))]
    pub ip_access: Option<IpAccess>,
    /// Cross-origin resource sharing for routes that say nothing themselves: which web pages of other
    /// origins may call. When left out, the gateway leaves it to backends.
    #[schemars(extend("examples" = [{ "allow_origins": ["https://app.example.com"] }]))]
    pub cors: Option<Cors>,
    /// How the process ends after SIGTERM or SIGINT, or when a successor has taken over.
    pub shutdown: Shutdown,
    /// Maintenance: every route with an `upstream` answers 503 with `Retry-After`. Health, metrics and
    /// the admin listener go on, and so do redirects and fixed responses. It can be switched at run
    /// time on the admin listener.
    pub maintenance: Maintenance,
    /// The process log, on standard error: start, stop, backends, faults.
    pub log: Log,
    /// The access log: one line for each request.
    pub access_log: AccessLog,
    /// How metrics are named.
    pub metrics: Metrics,
    /// Redis or Valkey, where instances share what one of them alone cannot know, such as which tokens
    /// are revoked. When left out, all of that is each instance's own. It may be away: then each goes
    /// on with what it knows.
    pub redis: Option<Redis>,
    /// Who may call: schemes by which clients prove who they are, and what routes ask for that say
    /// nothing themselves.
    pub auth: Auth,
    /// How much: policies that limit the rate of requests, which routes name.
    pub ratelimit: RateLimits,
    /// Named groups of backends. Names have letters, digits, `_`, `-` and `.`.
    pub upstreams: BTreeMap<String, Upstream>,
    /// What is done with which requests; at least one. Each route has exactly one of `upstream`,
    /// `redirect` and `respond`. The most specific route wins, whatever the order.
    pub routes: List<Route>,
}

/// See [`File::server`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Worker threads. When left out, as many as there are cores.
    #[schemars(range(min = 1, max = 1024))]
    pub threads: Option<u32>,
    /// Whether a change of this file, or of a file that it refers to with `file:` or as an upstream's
    /// certificate, key or authorities, is loaded within two seconds or so. Without, a reload has to be
    /// asked for.
    pub watch: bool,
    /// The Unix socket through which a successor takes over. A relative path begins at the
    /// configuration's folder. When left out, one that is named after the file, in a private folder.
    #[schemars(extend("examples" = ["/run/gateway/upgrade.sock"]))]
    pub upgrade_socket: Option<String>,
    /// How long a successor may take until it serves; then it is given up, and this process goes on.
    #[schemars(extend("x-min" = "1s", "x-max" = "1h"))]
    pub upgrade_timeout: Duration,
    /// The zone in which this instance runs, such as that of its machine. Backends of the same `zone`
    /// are preferred. A reload is enough for a change.
    #[schemars(extend("examples" = ["eu-central-1a"]))]
    pub zone: Option<String>,
}

/// See [`File::listeners`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// The IP address and port to listen on.
    #[schemars(extend("examples" = ["0.0.0.0:8080", "[::]:8080"]))]
    pub address: Address,
    /// The `listener` label in metrics. When left out, the address.
    pub name: Option<String>,
    /// Whether the gateway itself answers `/health`, `/ready`, `/_health/live` and
    /// `/_health/ready` here, before routing.
    #[serde(default = "enabled")]
    pub health: bool,
    /// Whether HTTP/2 is spoken here without TLS to clients that begin with it ("prior knowledge"),
    /// beside HTTP/1.
    #[serde(default)]
    pub h2c: bool,
    /// Whether this listener shows metrics as well as the admin listener does.
    #[serde(default)]
    pub metrics: ListenerMetrics,
    /// TLS towards clients. When left out, the listener is plain.
    pub tls: Option<ListenerTls>,
    /// Whether every request is answered with a redirect to `https`: `true`, or the port to go to.
    /// The health endpoints are still answered. Only on plain listeners.
    #[serde(default)]
    #[schemars(extend("examples" = [true, { "port": 8443 }]))]
    pub https_redirect: HttpsRedirect,
    /// Load balancers in front of this listener that say by the PROXY protocol who their client is.
    /// When left out, nobody is expected to, and such a header is refused as bad HTTP or TLS.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// See [`Listener::proxy_protocol`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocol {
    /// Peers that begin every connection with a PROXY header, version 1 or 2; without one they are
    /// closed. The address in it takes the peer's place everywhere, in `trusted_proxies`, too.
    #[schemars(extend("examples" = [["10.0.0.0/8"]]))]
    pub trusted: List<Network>,
}

/// See [`Listener::metrics`].
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerMetrics {
    /// Clients that may read `/metrics` here. For all others it is a path like any other.
    #[schemars(extend("examples" = [["10.0.0.0/8"]]))]
    pub allow: List<Network>,
}

/// See [`File::admin`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Whether there is an admin listener.
    pub enabled: bool,
    /// The IP address and port to listen on.
    pub address: Address,
    /// What callers show as `Authorization: Bearer …` before they may change anything: visible
    /// ASCII characters. Best a reference, such as `${ADMIN_TOKEN}` or `file:admin.token`. Without
    /// it nothing can be changed there.
    #[schemars(extend("examples" = ["${ADMIN_TOKEN}"]))]
    pub token: Option<Secret>,
}

/// See [`File::maintenance`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Maintenance {
    /// Whether it is on. The variable `MAINTENANCE_MODE` overrides it.
    pub enabled: bool,
    /// When clients are told to come back.
    #[schemars(extend("x-min" = "1s", "x-max" = "30d"))]
    pub retry_after: Duration,
    /// What they are told, in the place of the usual sentence.
    pub message: Option<String>,
}

/// See [`File::shutdown`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// How long the listeners stay open after `/ready` begins to fail. Make it longer than load
    /// balancers take to notice.
    #[schemars(extend("x-min" = "0s", "x-max" = "1h"))]
    pub delay: Duration,
    /// How long requests in flight are waited for after that, before they are cut off.
    #[schemars(extend("x-min" = "0s", "x-max" = "1d"))]
    pub drain_timeout: Duration,
    /// How long a client that keeps its connection open is given after that to send another
    /// request, which is answered as the last one; never longer than `drain_timeout`.
    #[schemars(extend("x-min" = "0s", "x-max" = "1h"))]
    pub keepalive_grace: Duration,
}

/// See [`File::log`].
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// How much is written: lines of this level and of those above it. `RUST_LOG` overrides it.
    pub level: Level,
    /// How lines are written.
    pub format: LogFormat,
}

/// See [`Log::level`].
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Nothing.
    Off,
    /// Faults.
    Error,
    /// Also what may become one, such as a backend taken out.
    Warn,
    /// Also start, stop and other changes.
    #[default]
    Info,
    /// Also details for finding a fault.
    Debug,
    /// Everything.
    Trace,
}

/// See [`Log::format`].
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One readable line.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// See [`File::access_log`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AccessLog {
    /// Whether there is an access log.
    pub enabled: bool,
    /// How lines are written.
    pub format: LogFormat,
    /// Where lines go: `stdout`, `stderr` or the path of a file, which is appended to. A relative
    /// path begins at the configuration's folder.
    #[schemars(extend("examples" = ["stdout", "/var/log/gateway/access.log"]))]
    pub output: String,
    /// How much may wait to be written; lines beyond that are dropped and counted.
    #[schemars(extend("x-min" = "64KiB", "x-max" = "1GiB"))]
    pub buffer: Size,
}

/// See [`File::metrics`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// What the names of the gateway's own metrics begin with: letters, digits and `_`.
    pub namespace: String,
}

fn enabled() -> bool {
    true
}

fn millis(millis: u64) -> Duration {
    Duration(StdDuration::from_millis(millis))
}

fn secs(seconds: u64) -> Duration {
    Duration(StdDuration::from_secs(seconds))
}

impl Default for Server {
    fn default() -> Self {
        Self {
            threads: None,
            watch: true,
            upgrade_socket: None,
            upgrade_timeout: secs(60),
            zone: None,
        }
    }
}

impl Default for Listener {
    fn default() -> Self {
        let address = Address(SocketAddr::from(([0, 0, 0, 0], 8080)));
        Self {
            address,
            name: None,
            health: true,
            h2c: false,
            metrics: ListenerMetrics::default(),
            tls: None,
            https_redirect: HttpsRedirect::default(),
            proxy_protocol: None,
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            enabled: true,
            address: Address(SocketAddr::from(([127, 0, 0, 1], 9090))),
            token: None,
        }
    }
}

impl Default for Maintenance {
    fn default() -> Self {
        Self {
            enabled: false,
            retry_after: secs(60),
            message: None,
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            delay: secs(0),
            drain_timeout: secs(30),
            keepalive_grace: secs(5),
        }
    }
}

impl Default for AccessLog {
    fn default() -> Self {
        let output = "stdout".to_owned();
        Self {
            enabled: true,
            format: LogFormat::Json,
            output,
            buffer: Size(4 << 20),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            namespace: "gateway".to_owned(),
        }
    }
}
