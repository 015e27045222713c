//! Work beside the requests.

mod check;
pub mod probe;
