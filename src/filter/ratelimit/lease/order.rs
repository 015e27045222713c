//! What is asked of the store about leased tokens, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use crate::config::model::MAX_WINDOWS;
use crate::filter::ratelimit::rate::{Nanos, Rate};

/// How long leased tokens may be used; and what the store divides its time into, to know when it may forget
/// them.
pub const LIFE: Duration = Duration::from_secs(2);

/// What is settled and asked for, of one key. All of it tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// The key's hash.
    pub(super) key: u64,
    /// The key, as it is called in the store.
    pub name: Arc<str>,
    /// Its windows.
    pub rates: Arc<[Rate]>,
    /// In which slot of the store's time the tokens were leased that were held.
    pub slot: u64,
    /// Those that the store believes to be held.
    pub held: u64,
    /// What is given back: of these, and of what was settled.
    pub back: u64,
    /// Those of them that go on being held.
    pub keep: u64,
    /// What was let through on credit and is paid now.
    pub pay: u64,
    /// Less than that is of no use.
    pub least: u64,
    /// What requests wait for.
    pub needed: u64,
    /// What is asked for, with that.
    pub wanted: u64,
    /// When this was put together. What is lent is good for [`LIFE`] from then on.
    pub(super) at: Nanos,
}

/// What the store answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loan {
    /// Tokens.
    pub lent: u64,
    /// The slot of time that they, and those that were kept, are accounted in.
    pub slot: u64,
    /// What each bucket takes to fill.
    pub debts: [Nanos; MAX_WINDOWS],
}
