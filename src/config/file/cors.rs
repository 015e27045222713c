//! What is written below `cors`, at the top and in a route.

use std::time::Duration as StdDuration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::scalar::{Duration, List};

/// Which web pages of other origins may call, and what they see.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Cors {
    /// The origins whose pages may: `https://app.example.com`, with one or more labels in front
    /// (`https://*.example.com`), with any port (`http://localhost:*`), an expression for all of the
    /// origin in lower case (`{ regex: … }`), `null`, or `*` for every one.
    #[schemars(extend("examples" = [[
        "https://app.example.com",
        "https://*.example.com",
        { "regex": "https://pr-[0-9]+\\.preview\\.example" },
    ]]))]
    pub allow_origins: List<AllowedOrigin>,
    /// The methods that they may ask for; `GET` includes `HEAD`, `*` is every one. When left out, those
    /// of the route.
    #[schemars(extend("examples" = [["GET", "PUT", "DELETE"]]))]
    pub allow_methods: List<String>,
    /// The request headers that they may send beside those that need no permission; `*` is every one.
    #[schemars(extend("examples" = [["authorization", "content-type"]]))]
    pub allow_headers: List<String>,
    /// The response headers that they may read beside those that need no permission; `*` is every one.
    #[schemars(extend("examples" = [["x-request-id"]]))]
    pub expose_headers: List<String>,
    /// Whether they may call with cookies, client certificates and what the browser has for
    /// `Authorization`. Not with `*` in `allow_origins`.
    pub allow_credentials: bool,
    /// Whether pages of a public network may call, though this is a private one.
    pub allow_private_network: bool,
    /// How long a browser may remember what it was allowed. Browsers have bounds of their own.
    #[schemars(extend("x-min" = "0s", "x-max" = "1d"))]
    pub max_age: Duration,
}

/// One of `allow_origins`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum AllowedOrigin {
    /// An origin, a pattern, `null` or `*`.
    Text(String),
    /// An expression.
    Expression(OriginExpression),
}

/// See [`AllowedOrigin::Expression`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OriginExpression {
    /// A regular expression that must match the whole origin, which is in lower case and without a
    /// default port.
    pub regex: String,
}

/// The `cors` of a route: `none`, or a policy.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RouteCors {
    /// `none`.
    Word(String),
    /// A policy.
    Policy(Box<Cors>),
}

impl Default for Cors {
    fn default() -> Self {
        Self {
            allow_origins: List::default(),
            allow_methods: List::default(),
            allow_headers: List::default(),
            expose_headers: List::default(),
            allow_credentials: false,
            allow_private_network: false,
            max_age: Duration(StdDuration::from_secs(600)),
        }
    }
}
