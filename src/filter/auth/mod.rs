//! Who calls, and whether they may.

pub mod jwt;
pub mod revocation;
mod shards;
pub mod watch;
