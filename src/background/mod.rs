//! Work beside the requests.

pub mod probe;
pub mod reload;
pub mod watch;
