//! The gateway, in the order in which a request meets it.
//!
//! The library target exists for the binary, the fuzz targets and the benches; it is not an API for
//! others. `ARCHITECTURE.md` draws the map.

pub mod access_log;
pub mod config;
pub mod filter;
pub mod metrics;
pub mod route;
