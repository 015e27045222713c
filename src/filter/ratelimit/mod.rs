//! How much: limits on the rate of requests.
//!
//! A policy counts requests by a key, here (`table`) or together with other instances (`shared`). A route
//! has those that can decide at once, and those that have to know who calls first: the former stand
//! before authentication, so that nobody burns processors with signatures.

mod fields;
mod key;
mod policy;
pub mod rate;
pub mod table;
