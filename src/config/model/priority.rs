//! How important a route's requests are when there is not room for all.

/// A class of requests; the less important is the smaller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Refused first.
    Low,
    /// Refused before `High`.
    #[default]
    Normal,
    /// Refused before `Critical`.
    High,
    /// Refused last.
    Critical,
}

impl Priority {
    /// All of them, the least important first.
    pub const ALL: [Self; 4] = [Self::Low, Self::Normal, Self::High, Self::Critical];

    /// Its place in [`Self::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}
