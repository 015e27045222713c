//! The gateway, in the order in which a request meets it.
//!
//! The library target exists for the binary, the fuzz targets and the benches; it is not an API for
//! others. `ARCHITECTURE.md` draws the map.

pub mod server;

pub mod drain;
pub mod supervise;
pub mod upgrade;

pub mod lifecycle;

pub mod listener;

pub mod gateway;

pub mod forward;

pub mod context;
pub mod message;
pub mod overload;
pub mod request_id;

pub mod route;

pub mod filter;

pub mod upstream;

pub mod tls;

pub mod grpc;
pub mod reply;

pub mod access_log;
pub mod metrics;

pub mod admin;
pub mod background;
pub mod config;
pub mod demo;
pub mod notify;
pub mod snapshot;
pub mod store;
pub mod telemetry;
