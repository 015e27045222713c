//! Limits that instances count together, with a real Redis between several instances of what counts.

mod fast;
mod instance;
mod outages;
mod precise;
mod servers;
