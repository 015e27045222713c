//! Every behaviour of the binary, on real sockets.
//!
//! Each test starts its own gateway and its own backends on free ports of the loopback interface,
//! so the tests run in any order and beside each other.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "in a test, a broken assumption is a failure and should stop it at once"
)]

mod support;

mod access_log;
mod actions;
mod api_keys;
mod architecture;
mod auth;
mod balancing;
mod basic_auth;
mod circuit_breaker;
mod client_limit;
mod concurrency;
mod config_cli;
mod control;
mod cors;
mod demo;
mod diff;
mod discovery;
mod documents;
mod drain;
mod faults;
mod forwarding;
mod grpc;
mod grpc_backends;
mod handover;
mod health;
mod health_checks;
mod hedging;
mod http2;
mod http2_floods;
mod http2_limits;
mod ip_access;
mod jwks;
mod maintenance;
mod memory;
mod metrics;
mod mirroring;
mod no_loss;
mod nominations;
mod open_ends;
mod outlier;
mod overload;
mod process;
mod process_limits;
mod proxy_protocol;
mod proxying;
mod ratelimit;
mod ratelimit_shared;
mod redis;
mod redis_cluster;
mod redis_sentinel;
mod refusals;
mod reload;
mod reload_state;
mod responses;
mod retries;
mod revocations;
mod rotation;
mod routing;
mod self_test;
mod shared_limits;
mod slow_clients;
mod smuggling;
mod status;
mod sticky;
mod strict_paths;
mod supervise;
mod timeouts;
mod tls;
mod tls_clients;
mod tls_files;
mod upgrade;
mod upstream_http2;
mod upstream_tls;
