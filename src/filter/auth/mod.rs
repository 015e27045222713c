//! Who calls, and whether they may.

pub mod revocation;
mod shards;
