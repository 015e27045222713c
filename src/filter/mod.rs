//! What is decided about a request between its route and its backend.

pub mod headers;
