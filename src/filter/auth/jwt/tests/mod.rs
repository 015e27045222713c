//! Tokens of the RFCs, of another implementation, and of our own, good and bad.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod cached;
mod claiming;
mod confusion;
mod keys;
mod maker;
mod mutations;
mod vectors;
