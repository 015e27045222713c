//! Work beside the requests.

pub mod certificates;
pub mod probe;
