//! What is written below `routes`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::scalar::{Duration, Limit, List};
use super::auth::{OneOrMany, RouteAuth};
use super::circuit_breaker::Fallback;
use super::concurrency::Concurrency;
use super::cors::RouteCors;
use super::ip_access::IpAccess;
use super::mirror::Mirror;
use super::priority::Priority;
use super::ratelimit::RouteLimits;
use super::retries::RouteRetries;
use super::upstream::one;

/// One route. It has one of `upstream`, `redirect` and `respond`.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Route {
    /// The `route` label in metrics and logs; unique. When left out, it is made of the first host
    /// and path, or of the upstream when the route matches everything.
    pub name: Option<String>,
    /// Which requests are its own. A request must meet every condition; without any, all are.
    #[serde(rename = "match")]
    pub matcher: Match,
    /// Where requests are sent: the name of an upstream, a URL such as `http://127.0.0.1:3000`, or
    /// a list of them with weights.
    #[schemars(extend("examples" = [
        "users",
        "http://127.0.0.1:3000",
        [{ "upstream": "users", "weight": 95 }, { "upstream": "users-next", "weight": 5 }],
    ]))]
    pub upstream: Option<Target>,
    /// Answers with a redirect. What is left out is taken from the request.
    pub redirect: Option<Redirect>,
    /// Answers with a fixed response.
    pub respond: Option<Respond>,
    /// Who may call it by the client's address, in addition to what `ip_access` says at the top.
    #[schemars(extend("examples" = [{ "allow": ["10.0.0.0/8"] }]))]
    pub ip_access: Option<IpAccess>,
    /// Which web pages of other origins may call it: a policy in the place of the one at the top, or
    /// `none` to leave it to the backend.
    #[schemars(extend("examples" = ["none", { "allow_origins": ["https://app.example.com"] }]))]
    pub cors: Option<RouteCors>,
    /// Who may call it: `none` for everyone, the name of a scheme, or a policy. When left out, what
    /// `auth.default` says.
    #[schemars(extend("examples" = [
        "none",
        "main",
        { "any_of": ["main", "partners"], "scopes": ["users.read"] },
    ]))]
    pub auth: Option<RouteAuth>,
    /// What it is limited by: `none`, the name of a policy of `ratelimit.policies`, or a list of them.
    /// When left out, what `ratelimit.default` says.
    #[schemars(extend("examples" = [
        "none",
        ["per-client", { "policy": "per-user", "cost": 5 }],
    ]))]
    pub ratelimit: Option<RouteLimits>,
    /// How important its requests are when there is not room for all: at the limit of its upstream, and
    /// at the limits of the process.
    pub priority: Priority,
    /// How many of its requests may be in flight at the same time: one limit, or a list of up to three
    /// with different keys, which all hold. Each instance counts by itself.
    #[schemars(extend("examples" = [
        { "limit": 100, "queue": 50, "queue_timeout": "1s" },
        [{ "limit": 100 }, { "limit": 5, "key": "client_ip" }],
    ]))]
    pub concurrency: Option<OneOrMany<Concurrency>>,
    /// How the path is changed for the backend, in one of three ways; the query stays. Only with
    /// `upstream`.
    pub rewrite: Option<Rewrite>,
    /// Changes to headers: removals first, then `set`, then `add`.
    pub headers: Headers,
    /// The largest request body that goes to an upstream; beyond it 413. When left out, what
    /// `limits.max_body_size` says.
    pub max_body_size: Option<Limit>,
    /// The route's own timeouts in the place of its upstream's. Only with `upstream`.
    pub timeouts: RouteTimeouts,
    /// The route's own retries in the place of its upstream's. Only with `upstream`.
    pub retries: RouteRetries,
    /// The route's own fallback in the place of its upstream's. Only with `upstream`.
    #[schemars(extend("examples" = [{ "respond": { "status": 200, "body": "[]" } }]))]
    pub fallback: Option<Fallback>,
    /// Copies of the requests for another upstream, whose responses are thrown away. Clients notice
    /// nothing of it. Only with `upstream`.
    #[schemars(extend("examples" = [{ "upstream": "users-next", "share": "10%" }]))]
    pub mirror: Option<Mirror>,
    /// Whether the route is down for maintenance: it answers 503, whatever it does otherwise. See
    /// the key `maintenance` at the top.
    pub maintenance: bool,
}

/// See [`Route::matcher`].
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// The host, without port: exact, or `*.example.com` for one or more labels in front.
    #[schemars(extend("examples" = ["api.example.com", "*.example.com"]))]
    pub host: Option<String>,
    /// Any of several hosts, in the place of `host`.
    pub hosts: List<String>,
    /// The path: exact (`/a`), with parameters (`/users/:id`), with everything below
    /// (`/static/*`), or the same with a name for what is below (`/files/*rest`).
    #[schemars(extend("examples" = ["/users/:id", "/static/*", "/files/*rest"]))]
    pub path: Option<String>,
    /// Any of several paths, in the place of `path`.
    pub paths: List<String>,
    /// A regular expression that must match the whole path, in the place of `path`.
    #[schemars(extend("examples" = ["/v[0-9]+/items"]))]
    pub path_regex: Option<String>,
    /// The method. `GET` includes `HEAD`.
    #[schemars(extend("examples" = ["GET"]))]
    pub method: Option<String>,
    /// Any of several methods, in the place of `method`.
    pub methods: List<String>,
    /// Conditions on request headers: every one must hold.
    #[schemars(extend("examples" = [{
        "x-canary": "yes",
        "authorization": { "present": true },
        "user-agent": { "regex": "^curl/" },
    }]))]
    pub headers: BTreeMap<String, Condition>,
    /// Conditions on query parameters: every one must hold. Compared after percent-decoding.
    #[schemars(extend("examples" = [{ "version": "2" }]))]
    pub query: BTreeMap<String, Condition>,
    /// Conditions on the client's certificate: every one must hold. Only the listener's
    /// `client_auth` makes clients show one.
    #[schemars(extend("examples" = [{ "subject": "(^|,)OU=payments(,|$)" }]))]
    pub client_cert: ClientCertMatch,
}

/// See [`Match::client_cert`].
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClientCertMatch {
    /// `true`: one was shown. `false`: none was.
    pub present: Option<bool>,
    /// A regular expression that matches somewhere in the subject, such as
    /// `CN=app,OU=payments,O=Example`.
    pub subject: Option<String>,
    /// A regular expression that matches somewhere in the alternative names, such as
    /// `DNS:app.example.com,URI:spiffe://example.com/app`.
    pub names: Option<String>,
}

/// What a value must be: exactly this text, or what the mapping says.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Condition {
    /// Exactly this text.
    Exact(String),
    /// One of the ways below.
    Other(OtherCondition),
}

/// See [`Condition::Other`]. It has one of these keys.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OtherCondition {
    /// `true`: there, with whatever value. `false`: not there.
    pub present: Option<bool>,
    /// A regular expression that matches somewhere in the value; anchor it to match all.
    pub regex: Option<String>,
}

/// See [`Route::upstream`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Target {
    /// A name or a URL.
    One(String),
    /// A weighted split.
    Split(List<Branch>),
}

/// One branch of a weighted split.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Branch {
    /// The name of an upstream, or a URL.
    pub upstream: String,
    /// Its share of the requests; 0 sends none.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub weight: u32,
}

/// See [`Route::redirect`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Redirect {
    /// The status: 301, 302, 307 or 308. With 307 and 308 clients keep the method.
    #[schemars(range(min = 301, max = 308))]
    pub status: u16,
    /// The scheme to go to: `https` or `http`.
    #[schemars(extend("examples" = ["https"]))]
    pub scheme: Option<String>,
    /// The host to go to.
    pub host: Option<String>,
    /// The port to go to. When left out, the request's is kept, unless the scheme changes or
    /// `host` is given.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<u16>,
    /// The path to go to, with variables. If it has a query, that takes the place of the request's.
    /// When left out, path and query are the request's.
    #[schemars(extend("examples" = ["/new/{path.id}"]))]
    pub path: Option<String>,
}

/// See [`Route::respond`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Respond {
    /// The status of the response.
    #[schemars(range(min = 200, max = 599))]
    pub status: u16,
    /// The content type of the response.
    pub content_type: String,
    /// The body of the response; `file:PATH` takes it from a file.
    pub body: String,
}

/// See [`Route::rewrite`]. It has one of these keys.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rewrite {
    /// A prefix of whole segments to take away.
    #[schemars(extend("examples" = ["/api"]))]
    pub strip_prefix: Option<String>,
    /// A prefix of whole segments to replace.
    pub replace_prefix: Option<ReplacePrefix>,
    /// A replacement by regular expression.
    pub regex: Option<RegexRewrite>,
}

/// See [`Rewrite::replace_prefix`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplacePrefix {
    /// The prefix as it is in the request.
    pub from: String,
    /// What the backend gets instead.
    pub to: String,
}

/// See [`Rewrite::regex`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegexRewrite {
    /// What is looked for; its first match in the path is replaced.
    #[schemars(extend("examples" = ["^/v(\\d+)/(?<rest>.*)$"]))]
    pub pattern: String,
    /// What is put in its place; `$1` and `${name}` refer to groups.
    #[schemars(extend("examples" = ["/${rest}"]))]
    pub replacement: String,
}

/// See [`Route::headers`].
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Headers {
    /// On the request to the backend. Only with `upstream`.
    pub request: HeaderRules,
    /// On the response to the client.
    pub response: HeaderRules,
}

/// Changes to one header. Values may hold variables.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HeaderRules {
    /// Headers that are added beside any of the same name. Values may hold variables.
    #[schemars(extend("examples" = [{ "x-served-by": "{route}" }]))]
    pub add: BTreeMap<String, String>,
    /// Headers that take the place of any of the same name. Values may hold variables.
    #[schemars(extend("examples" = [{ "x-user": "{path.id}" }]))]
    pub set: BTreeMap<String, String>,
    /// Names of headers that are taken away.
    #[schemars(extend("examples" = [["x-internal"]]))]
    pub remove: List<String>,
}

/// See [`Route::timeouts`].
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouteTimeouts {
    /// How long establishing a connection may take, with the TLS handshake.
    #[schemars(extend("x-max" = "5s"))]
    pub connect: Option<Duration>,
    /// How long the response header may take once the whole request is sent; then 504.
    pub first_byte: Option<Duration>,
    /// How long the backend may pause inside its response; then the response is cut off.
    pub read: Option<Duration>,
    /// How long the backend may leave the request unread; then 504.
    pub write: Option<Duration>,
    /// How long a request may take as a whole.
    #[schemars(extend("examples" = ["30s"]))]
    pub request: Option<Duration>,
}

impl Default for Redirect {
    fn default() -> Self {
        Self {
            status: 302,
            scheme: None,
            host: None,
            port: None,
            path: None,
        }
    }
}

impl Default for Respond {
    fn default() -> Self {
        let content_type = "text/plain; charset=utf-8".to_owned();
        Self {
            status: 200,
            content_type,
            body: String::new(),
        }
    }
}
