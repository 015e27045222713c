//! How much: limits on the rate of requests.

pub mod rate;
pub mod shared;
