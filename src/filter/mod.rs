//! What is decided about a request between its route and its backend.

pub mod auth;
pub mod concurrency;
pub mod cors;
#[cfg(test)]
pub(crate) mod fixture;
pub mod forwarding;
pub mod framing;
pub mod headers;
pub mod hop_by_hop;
pub mod ip_access;
pub mod maintenance;
pub mod priority;
pub mod ratelimit;
pub mod template;
