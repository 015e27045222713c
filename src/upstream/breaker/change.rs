//! What a circuit can be, and why it changes: the words of logs, metrics and `/status`.

use std::fmt;
use std::time::Duration;

/// The states of a circuit, as the metric counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Requests go through.
    Closed,
    /// A few requests go through, to find out.
    HalfOpen,
    /// No request goes through.
    Open,
}

impl State {
    /// The word for it in logs, metrics and `/status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// Why a circuit changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// So many failed in a row.
    Failures(u32),
    /// So many of so many failed.
    ErrorRate(u32, u32),
    /// A probe failed.
    ProbeFailed,
    /// Its time is over.
    TimeOver,
    /// A probe's answer has begun well, and goes on for so long that it counts as good.
    ProbeGoesOn,
    /// Health checks find a backend well again.
    HealthCheck,
    /// Enough probes succeeded.
    ProbesSucceeded,
    /// An operator wants it so.
    Forced,
    /// An operator leaves it to itself.
    Released,
    /// It is not configured any more.
    SwitchedOff,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failures(count) => write!(f, "{count} requests failed in a row"),
            Self::ErrorRate(failed, total) => write!(f, "{failed} of {total} requests failed"),
            Self::ProbeFailed => f.write_str("a probing request failed"),
            Self::TimeOver => f.write_str("its time is over"),
            Self::ProbeGoesOn => f.write_str("the answer to a probing request goes on"),
            Self::HealthCheck => f.write_str("a health check succeeded"),
            Self::ProbesSucceeded => f.write_str("probing requests succeeded"),
            Self::Forced => f.write_str("forced by an operator"),
            Self::Released => f.write_str("left to itself by an operator"),
            Self::SwitchedOff => f.write_str("its breaker is switched off"),
        }
    }
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// What it is now.
    pub to: State,
    /// Why.
    pub why: Why,
    /// How long it stays open; `None`: until something else happens.
    pub lasts: Option<Duration>,
}
