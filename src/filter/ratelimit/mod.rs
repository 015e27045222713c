//! How much: limits on the rate of requests.

pub mod lease;
pub mod rate;
pub mod shared;
