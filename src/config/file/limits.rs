//! What is written below `limits`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::scalar::{Duration, Limit, Size};
use super::secs;

/// See [`File::limits`](super::File::limits).
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// How long a TLS handshake may take, from the connection to its end; then the connection is
    /// closed.
    pub handshake_timeout: Duration,
    /// How long a request header may take from its first byte to its last; then 408. A new
    /// connection that sends nothing is closed after the same time.
    pub request_header_timeout: Duration,
    // The greatest values of these three are what Pingora's own parser can take.
    /// The largest request line and header fields together; beyond it 431.
    #[schemars(extend("x-min" = "1KiB", "x-max" = "512KiB"))]
    pub request_header_size: Size,
    /// The largest number of header fields; beyond it 431.
    #[schemars(range(min = 10, max = 256))]
    pub request_header_count: u32,
    /// The longest request target (path and query); beyond it 414.
    #[schemars(extend("x-min" = "256", "x-max" = "60KiB"))]
    pub uri_size: Size,
    /// The largest request body that goes to an upstream; beyond it 413. A route may say otherwise.
    pub max_body_size: Limit,
    /// How long a client may pause inside a request body; then 408.
    pub request_body_timeout: Duration,
    /// How much of a request body must come each second; `0` for no minimum. The first five
    /// seconds are free, only waiting for the client counts, and what comes ahead of time pays for a
    /// pause of up to `request_body_timeout`. A slower body ends with 408. WebSocket has no minimum.
    #[schemars(extend("x-min" = "0", "x-max" = "1GiB"))]
    pub request_body_min_rate: Size,
    /// How long a client may leave a response unread; then the connection is closed.
    pub response_write_timeout: Duration,
    /// How long a client connection may be idle between two requests; then it is closed.
    pub keepalive_timeout: Duration,
    /// The largest number of open client connections over all listeners. For a further one, a
    /// connection is closed that waits for a request; where there is none, it is closed at once.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_connections: u32,
    /// The largest number of requests in flight over all listeners; further ones get 503, those of
    /// less important routes first.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_requests: u32,
    /// How much memory the process may use before it refuses requests, those of less important routes
    /// first. When left out, 90% of what the container may use, or else of what the
    /// machine has. `unlimited` for no bound.
    #[schemars(extend("x-min" = "16MiB", "examples" = ["800MiB", "unlimited"]))]
    pub max_memory: Option<Limit>,
    /// The largest number of open connections of one client address (for IPv6 of one /64) over all
    /// listeners; further ones are closed at once and counted. `trusted_proxies` are exempt.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_connections_per_client: u32,
    /// Whether paths are refused that a backend may read in another way than the gateway: a
    /// backslash, also encoded, a dot segment beside an encoded slash or with a parameter
    /// (`/..%2F`, `/..;/`), an overlong encoding of ASCII.
    pub strict_paths: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake_timeout: secs(10),
            request_header_timeout: secs(10),
            request_header_size: Size(32 << 10),
            request_header_count: 100,
            uri_size: Size(8 << 10),
            max_body_size: Limit(Some(10 << 20)),
            request_body_timeout: secs(30),
            request_body_min_rate: Size(1 << 10),
            response_write_timeout: secs(60),
            keepalive_timeout: secs(75),
            max_connections: 50_000,
            max_requests: 100_000,
            max_memory: None,
            max_connections_per_client: 1_000,
            strict_paths: true,
        }
    }
}
