//! Work beside the requests.

pub mod probe;
