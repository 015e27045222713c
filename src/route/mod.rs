//! Which route a request belongs to, and what the route makes of its target.

mod condition;
pub mod host;
mod params;
mod paths;
pub mod redirect;
pub mod rewrite;
mod router;
pub mod split;

pub use params::Params;
pub use router::{Found, Lookup, Router};
