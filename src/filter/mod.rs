//! What is decided about a request between its route and its backend.

#[cfg(test)]
pub(crate) mod fixture;
pub mod headers;
pub mod template;
