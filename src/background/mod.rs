//! Work beside the requests.

pub mod certificates;
mod check;
pub mod discovery;
pub mod jwks;
pub mod pressure;
pub mod probe;
pub mod ratelimit;
pub mod reload;
pub mod revocations;
pub mod shared_keys;
mod streak;
pub mod upkeep;
pub mod watch;
