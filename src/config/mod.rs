//! From what was written to what it means: `File` → `Config`. Imports nothing of the crate.

pub mod conflict;
pub mod model;
pub mod pattern;

pub use model::Config;
