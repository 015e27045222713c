//! How much: limits on the rate of requests.

pub mod key;
pub mod rate;
