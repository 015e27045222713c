//! How one member is chosen of those that may be.

mod schedule;

pub use schedule::Schedule;
