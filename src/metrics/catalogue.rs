//! The names, kinds and help texts of all metrics. They are public interface: see the changelog
//! rules before a name or a label changes.

use prometheus::proto::MetricType;

/// One metric, without the namespace.
pub(super) struct Definition {
    pub name: &'static str,
    pub kind: MetricType,
    pub help: &'static str,
}

const fn counter(name: &'static str, help: &'static str) -> Definition {
    let kind = MetricType::COUNTER;
    Definition { name, kind, help }
}

const fn gauge(name: &'static str, help: &'static str) -> Definition {
    let kind = MetricType::GAUGE;
    Definition { name, kind, help }
}

const fn histogram(name: &'static str, help: &'static str) -> Definition {
    let kind = MetricType::HISTOGRAM;
    Definition { name, kind, help }
}

pub(super) const REQUESTS: Definition = counter(
    "http_requests_total",
    "Requests answered, by route, method and status sent to the client.",
);
pub(super) const REQUEST_DURATION: Definition = histogram(
    "http_request_duration_seconds",
    "From the first byte of the request to the last byte of the response sent.",
);
pub(super) const REQUEST_SIZE: Definition = histogram(
    "http_request_size_bytes",
    "Body bytes read from the client.",
);
pub(super) const RESPONSE_SIZE: Definition =
    histogram("http_response_size_bytes", "Body bytes sent to the client.");
pub(super) const REFUSALS: Definition = counter(
    "http_refusals_total",
    "Requests that the gateway refused by itself, by reason.",
);

pub(super) const AUTH_ATTEMPTS: Definition = counter(
    "auth_attempts_total",
    "Clients that had to prove who they are, by method, result and what was wrong.",
);
pub(super) const AUTH_CACHE: Definition = counter(
    "auth_cache_requests_total",
    "Credentials looked for among those found good before, by result.",
);

pub(super) const RATELIMIT_DECISIONS: Definition = counter(
    "ratelimit_decisions_total",
    "Requests that a policy of rate limits decided about, by result and who decided.",
);
pub(super) const RATELIMIT_ERRORS: Definition = counter(
    "ratelimit_errors_total",
    "Requests that Redis should have decided about and could not.",
);
pub(super) const RATELIMIT_CHECK_DURATION: Definition = histogram(
    "ratelimit_check_duration_seconds",
    "What requests waited for Redis to decide about them.",
);

pub(super) const MIRROR_REQUESTS: Definition = counter(
    "mirror_requests_total",
    "Copies of requests that were due, by what became of them.",
);

pub(super) const CONCURRENCY_IN_FLIGHT: Definition = gauge(
    "concurrency_in_flight",
    "Requests that have a place of a limit on requests at the same time.",
);
pub(super) const CONCURRENCY_LIMIT: Definition = gauge(
    "concurrency_limit",
    "Requests that may have a place of such a limit, of each key if it has one.",
);
pub(super) const CONCURRENCY_QUEUED: Definition = gauge(
    "concurrency_queued",
    "Requests that wait for a place of such a limit.",
);
pub(super) const CONCURRENCY_REJECTED: Definition = counter(
    "concurrency_rejected_total",
    "Requests that were refused because a limit had no place for them.",
);

pub(super) const OVERLOAD_SHED: Definition = counter(
    "overload_shed_total",
    "Requests that were refused for the sake of the process.",
);
pub(super) const MEMORY_USED: Definition = gauge(
    "memory_used_bytes",
    "Memory in use, as it is held against the limit.",
);
pub(super) const MEMORY_LIMIT: Definition = gauge(
    "memory_limit_bytes",
    "Memory that may be in use; 0 when that is not bounded.",
);
pub(super) const DISCOVERY_BACKENDS: Definition = gauge(
    "discovery_backends",
    "Backends of an upstream that has a discovery.",
);
pub(super) const DISCOVERY_ANSWER_AGE: Definition = gauge(
    "discovery_answer_age_seconds",
    "Since the source of an upstream's backends last had a good answer; absent before the first one.",
);
pub(super) const DISCOVERY_UPDATES: Definition = counter(
    "discovery_updates_total",
    "Answers of the source of an upstream's backends, by result.",
);

pub(super) const JWKS_FETCHES: Definition = counter(
    "jwks_fetches_total",
    "Fetches of a provider's key set, by result.",
);
pub(super) const JWKS_KEYS: Definition = gauge(
    "jwks_keys",
    "Keys of a provider that tokens are verified with.",
);
pub(super) const JWKS_FETCHED: Definition = gauge(
    "jwks_fetched_timestamp_seconds",
    "When a provider's keys were last fetched, or found unchanged.",
);
pub(super) const JWKS_WAITS: Definition = counter(
    "jwks_unknown_key_waits_total",
    "Requests that waited for a fetch because their token's key was not known.",
);

pub(super) const REQUESTS_IN_FLIGHT: Definition =
    gauge("http_requests_in_flight", "Requests being handled.");
pub(super) const CONNECTIONS_ACTIVE: Definition =
    gauge("connections_active", "Client connections open.");
pub(super) const CONNECTIONS: Definition =
    counter("connections_total", "Client connections accepted.");
pub(super) const CONNECTIONS_CLOSED: Definition = counter(
    "connections_closed_total",
    "Client connections closed by the gateway's own decision, by reason.",
);

pub(super) const TLS_HANDSHAKES: Definition = counter(
    "tls_handshakes_total",
    "TLS handshakes that were completed, by version and kind.",
);
pub(super) const TLS_HANDSHAKE_FAILURES: Definition = counter(
    "tls_handshake_failures_total",
    "TLS handshakes that were not completed, by cause.",
);
pub(super) const TLS_CERTIFICATE_RELOADS: Definition = counter(
    "tls_certificate_reloads_total",
    "Times that changed certificate files were read again, by result.",
);
pub(super) const TLS_CERTIFICATE_EXPIRY: Definition = gauge(
    "tls_certificate_expiry_timestamp_seconds",
    "When the certificate for a server name expires.",
);

pub(super) const HTTP2_CONNECTIONS_ACTIVE: Definition = gauge(
    "http2_connections_active",
    "Client connections open on which HTTP/2 is spoken.",
);
pub(super) const HTTP2_STREAMS: Definition = counter(
    "http2_streams_total",
    "Requests that came as HTTP/2 streams, refused ones included.",
);

pub(super) const BACKEND_REQUESTS: Definition = counter(
    "backend_requests_total",
    "Attempts on backends, by the status they ended with; an attempt without an answer counts as \
     the status that stands for it.",
);
pub(super) const BACKEND_DURATION: Definition = histogram(
    "backend_duration_seconds",
    "From an attempt's start to the last byte of the backend's answer.",
);
pub(super) const BACKEND_FAILURES: Definition = counter(
    "backend_failures_total",
    "Attempts that ended without a complete answer, by reason.",
);
pub(super) const BACKEND_RETRIES: Definition = counter(
    "backend_retries_total",
    "Attempts after the first, by what made them necessary.",
);
pub(super) const BACKEND_RETRIES_SKIPPED: Definition = counter(
    "backend_retries_skipped_total",
    "Attempts that were called for and could not be made, by what stood against them.",
);
pub(super) const BACKEND_HEDGES: Definition = counter(
    "backend_hedges_total",
    "Second attempts that began before the first had ended, by result.",
);
pub(super) const UPSTREAM_GRPC_ERRORS: Definition = counter(
    "upstream_grpc_errors_total",
    "gRPC calls that a backend ended with a code other than OK.",
);
pub(super) const UPSTREAM_PRIORITY: Definition = gauge(
    "upstream_active_priority",
    "The priority group whose backends are given requests.",
);
pub(super) const UPSTREAM_PANIC: Definition = gauge(
    "upstream_panic",
    "Whether backends are used though they are not up, as too few are: 1 yes, 0 no.",
);
pub(super) const POOL_IN_USE: Definition = gauge(
    "connection_pool_in_use",
    "Connections to backends that carry a request.",
);
pub(super) const POOL_IDLE: Definition = gauge(
    "connection_pool_idle",
    "Connections to backends that are kept for a further request.",
);
pub(super) const POOL_REUSED: Definition = counter(
    "connection_pool_reused_total",
    "Attempts that went over a kept connection.",
);
pub(super) const POOL_CREATED: Definition = counter(
    "connection_pool_created_total",
    "Attempts that went over a connection of their own making.",
);

pub(super) const BACKEND_UP: Definition = gauge(
    "backend_up",
    "1 while a backend is up; 0 while it is down, ejected, returning, draining or drained.",
);
pub(super) const BACKEND_DRAINING: Definition = gauge(
    "backend_draining",
    "Whether a backend finishes what it has and is given no further request: 1 yes, 0 no.",
);
pub(super) const BACKEND_EJECTIONS: Definition = counter(
    "backend_ejections_total",
    "Times a backend was left out for failing requests, or being slow, by reason.",
);
pub(super) const BACKEND_PROBES: Definition = counter(
    "backend_probes_total",
    "Health checks of a backend, by result.",
);

pub(super) const CIRCUIT_STATE: Definition = gauge(
    "circuit_breaker_state",
    "The circuit to an upstream: 0 closed, 1 half open, 2 open.",
);
pub(super) const CIRCUIT_REJECTED: Definition = counter(
    "circuit_breaker_rejected_total",
    "Requests that were not let through because the circuit was open.",
);
pub(super) const CIRCUIT_TRANSITIONS: Definition = counter(
    "circuit_breaker_transitions_total",
    "Changes of the circuit to an upstream, by the state that it changed to.",
);

pub(super) const CONFIG_RELOADS: Definition =
    counter("config_reloads_total", "Configuration reloads, by result.");
pub(super) const CONFIG_INFO: Definition = gauge(
    "config_info",
    "Always 1; the labels say which configuration runs.",
);
pub(super) const MAINTENANCE: Definition = gauge(
    "maintenance_mode",
    "Whether everything that goes to a backend is down for maintenance: 1 yes, 0 no.",
);
pub(super) const MAINTENANCE_ROUTES: Definition = gauge(
    "maintenance_routes",
    "Routes that are down for maintenance by themselves.",
);
pub(super) const ADMIN_CALLS: Definition = counter(
    "admin_calls_total",
    "Calls on the admin listener that would change something, by result.",
);
pub(super) const BUILD_INFO: Definition = gauge(
    "build_info",
    "Always 1; the labels say what the binary was built from.",
);
pub(super) const ACCESS_LOG_DROPPED: Definition = counter(
    "access_log_dropped_total",
    "Access log lines lost because the writer was behind or could not write.",
);
pub(super) const PANICS: Definition =
    counter("panics_total", "Panics, each of which ended one task.");

pub(super) const REDIS_ERRORS: Definition = counter(
    "redis_errors_total",
    "Connections to Redis and commands that failed, by kind.",
);
pub(super) const REDIS_COMMAND_DURATION: Definition = histogram(
    "redis_command_duration_seconds",
    "From a command to Redis to its answer, by kind of command.",
);
pub(super) const REDIS_CONNECTIONS: Definition = gauge(
    "redis_connections",
    "Connections to Redis that can be used.",
);

pub(super) const REVOCATIONS: Definition = gauge(
    "revocations",
    "Revocations in force on this instance, by kind.",
);
pub(super) const REVOCATIONS_RECEIVED: Definition = counter(
    "revocations_received_total",
    "Revocations that this instance learned from Redis.",
);
pub(super) const REVOCATIONS_PUSHED: Definition = counter(
    "revocations_pushed_total",
    "Revocations that this instance wrote to Redis.",
);
pub(super) const REVOCATIONS_SYNC_AGE: Definition = gauge(
    "revocations_sync_age_seconds",
    "Since the list was last known to be that of Redis.",
);
