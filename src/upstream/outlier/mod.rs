//! Passive ejection: a backend that fails real requests is left out for a while.
//!
//! An ejection is the open circuit of one backend. Its time doubles with each further one, and is halved
//! again for each stretch of being well. When it is over the backend is half-open: a few requests find out
//! whether it is well, before it gets its share.

pub mod judge;
pub mod tally;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::breaker::{Gate, Pass, State, Why, jittered};
use crate::config::model;
use crate::metrics::EjectionReason;
use tally::Tally;

/// Requests at the same time that find out whether a backend is well again.
const PROBES: u32 = 1;
/// How many of them must succeed.
const GOOD_PROBES: u32 = 2;

/// Why a backend is ejected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ejection {
    /// So many attempts in a row were not answered, or broken off.
    Failures(u32),
    /// So many answers in a row had a status from 500 on.
    ServerErrors(u32),
    /// It was tried again, and failed again.
    Probe,
    /// A share of its attempts failed, and a smaller one of those at the others.
    FailureRate(f64, f64),
    /// Its answers come so late, those of the others so soon.
    Slow(Duration, Duration),
    /// It answers nothing, while others do.
    Stalled,
}

impl Ejection {
    /// The word for it in metrics.
    pub fn reason(self) -> EjectionReason {
        match self {
            Self::Failures(_) => EjectionReason::ConsecutiveFailures,
            Self::ServerErrors(_) => EjectionReason::ConsecutiveServerErrors,
            Self::Probe => EjectionReason::Probe,
            Self::FailureRate(..) => EjectionReason::FailureRate,
            Self::Slow(..) | Self::Stalled => EjectionReason::Slow,
        }
    }
}

impl fmt::Display for Ejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failures(count) => write!(f, "{count} attempts failed in a row"),
            Self::ServerErrors(count) => write!(f, "{count} answers in a row were 5xx"),
            Self::Probe => f.write_str("it failed again"),
            Self::FailureRate(own, others) => write!(
                f,
                "{:.0}% of its attempts failed, {:.0}% at the others",
                own * 100.0,
                others * 100.0
            ),
            Self::Slow(own, others) => write!(
                f,
                "half of its answers have a latency of {}ms and more, {}ms at the others",
                own.as_millis(),
                others.as_millis()
            ),
            Self::Stalled => {
                f.write_str("its latency has no end: it answers nothing while others do")
            }
        }
    }
}

/// What is known of one backend from the requests it was given. What a choice reads comes first.
#[derive(Debug)]
#[repr(C)]
pub struct Outlier {
    gate: Gate,
    /// Attempts in a row that were not answered.
    unanswered: AtomicU32,
    /// Answers in a row that were broken off.
    broken: AtomicU32,
    /// Answers in a row with a status from 500 on.
    server_errors: AtomicU32,
    /// What it is compared with the others by.
    pub tally: Tally,
    growth: Mutex<Growth>,
    /// It was ejected because it keeps requests waiting.
    hangs: AtomicBool,
    /// Requests that it was given although it is ejected.
    guests: AtomicU32,
    /// It has come back, and its upstream has yet to take that in.
    is_back: AtomicBool,
}

/// How long the next ejection lasts.
#[derive(Debug, Default)]
struct Growth {
    times: u32,
    /// When the last one ends.
    ends: Option<Instant>,
}

impl Outlier {
    /// Where in it ends what a choice reads.
    #[cfg(test)]
    pub const ASKED: usize = std::mem::offset_of!(Self, gate) + size_of::<Gate>();

    /// A backend nothing is known of.
    pub fn new(now: Instant) -> Self {
        Self {
            // Its upstream tells of changes, with names.
            gate: Gate::new(now, Box::new(|_| {})),
            unanswered: AtomicU32::new(0),
            broken: AtomicU32::new(0),
            server_errors: AtomicU32::new(0),
            tally: Tally::default(),
            growth: Mutex::default(),
            hangs: AtomicBool::new(false),
            guests: AtomicU32::new(0),
            is_back: AtomicBool::new(false),
        }
    }

    /// Closed: it is in. Open: it is ejected. Half-open: its ejection is over, and it has to show that it
    /// is well.
    pub fn state(&self, now: Instant) -> State {
        self.gate.state_at(now)
    }

    /// Whether it may be given a request.
    pub fn has_room(&self, now: Instant) -> bool {
        match self.state(now) {
            State::Closed => true,
            State::HalfOpen => self.gate.has_room(PROBES, now),
            State::Open => false,
        }
    }

    /// Whether it may be given a request although it is ejected: one at a time, and none if it hangs, since
    /// whoever has been failed by another backend shall not wait for this one.
    pub fn takes_guests(&self) -> bool {
        !self.hangs.load(Relaxed) && self.guests.load(Relaxed) == 0
    }

    /// A guest comes, or goes.
    pub fn count_guest(&self, comes: bool) {
        match comes {
            true => self.guests.fetch_add(1, Relaxed),
            false => self.guests.fetch_sub(1, Relaxed),
        };
    }

    /// Lets a request in, if there is room.
    pub fn admit(&self, now: Instant) -> Option<Pass> {
        let returns = self.gate.state() == State::HalfOpen;
        let pass = self.gate.admit(PROBES, now).ok();
        if returns && matches!(pass, Some(Pass::Ordinary(_))) {
            // Answers that go on and on have brought it back.
            self.forget();
            self.is_back.store(true, Relaxed);
        }
        pass
    }

    /// Whether it has come back since this was last asked, without an answer that came to its end.
    pub fn has_come_back(&self) -> bool {
        self.is_back.load(Relaxed) && self.is_back.swap(false, Relaxed)
    }

    /// Records that an answer has begun. Says what follows. Of a backend that is ejected, or returns,
    /// nothing does: it has to come to an end with it.
    pub fn answered(
        &self,
        policy: &model::Outlier,
        pass: Option<&Pass>,
        is_server_error: bool,
    ) -> Learned {
        match pass {
            Some(Pass::Ordinary(generation)) if self.gate.is_closed_in(*generation) => {
                // Loads first: on the good path nothing is written, and no cache line changes hands.
                reset(&self.unanswered);
                self.count_server_error(policy, is_server_error)
            }
            Some(Pass::Probe(probe)) if self.gate.is_probed_by(probe) => {
                if is_server_error && policy.consecutive_5xx > 0 {
                    return Learned::Bad(Ejection::Probe);
                }
                self.gate.begun(probe, GOOD_PROBES);
                Learned::Nothing
            }
            _ => Learned::Nothing,
        }
    }

    fn count_server_error(&self, policy: &model::Outlier, is_server_error: bool) -> Learned {
        if !is_server_error {
            reset(&self.server_errors);
            return Learned::Nothing;
        }
        let errors = self.server_errors.fetch_add(1, Relaxed) + 1;
        match policy.consecutive_5xx > 0 && errors >= policy.consecutive_5xx {
            true => Learned::Bad(Ejection::ServerErrors(errors)),
            false => Learned::Nothing,
        }
    }

    /// Records that an answer, which was no server error, came to its end.
    pub fn completed(&self, pass: Option<Pass>, now: Instant) -> Learned {
        match pass {
            Some(Pass::Ordinary(_)) => reset(&self.broken),
            Some(Pass::Probe(probe)) => {
                if self.gate.succeeded(&probe, GOOD_PROBES, now) {
                    self.forget();
                    return Learned::Well;
                }
            }
            None => {
                let why = Why::ProbesSucceeded;
                if self.gate.half_open_early(Duration::ZERO, why, now) {
                    return Learned::Returns;
                }
            }
        }
        Learned::Nothing
    }

    /// Records an attempt that failed.
    pub fn failed(&self, policy: &model::Outlier, failed: Failed) -> Learned {
        let row = match failed {
            Failed::Unanswered(Some(Pass::Ordinary(generation))) => {
                if !self.gate.is_closed_in(generation) {
                    return Learned::Nothing;
                }
                &self.unanswered
            }
            Failed::Unanswered(Some(Pass::Probe(probe)))
            | Failed::BrokenOff(Some(Pass::Probe(probe))) => {
                // One of an earlier generation decides nothing any more.
                return match self.gate.is_probed_by(&probe) {
                    true => Learned::Bad(Ejection::Probe),
                    false => Learned::Nothing,
                };
            }
            // It is ejected, and stays so.
            Failed::Unanswered(None) | Failed::BrokenOff(None) => return Learned::Nothing,
            Failed::BrokenOff(Some(Pass::Ordinary(_))) => &self.broken,
        };
        let failures = row.fetch_add(1, Relaxed) + 1;
        let is_off = policy.consecutive_failures == 0;
        match !is_off && failures >= policy.consecutive_failures {
            true => Learned::Bad(Ejection::Failures(failures)),
            false => Learned::Nothing,
        }
    }

    /// Ejects it from now on and says for how long, unless it is out already. `hangs` when it keeps
    /// requests waiting.
    pub fn eject(&self, policy: &model::Outlier, hangs: bool, now: Instant) -> Option<Duration> {
        let mut growth = self.growth.lock().unwrap_or_else(PoisonError::into_inner);
        let well = growth
            .ends
            .map(|ends| now.saturating_duration_since(ends))
            .unwrap_or_default();
        let base = policy.base_ejection.as_millis().max(1);
        let steps = u32::try_from(well.as_millis() / base).unwrap_or(u32::MAX);
        let times = growth.times.saturating_sub(steps);
        let time = policy
            .base_ejection
            .saturating_mul(1 << times.min(16))
            .min(policy.max_ejection);
        let time = jittered(time);
        if !self
            .gate
            .open_now(time, Why::Failures(policy.consecutive_failures), now)
        {
            return None;
        }
        self.hangs.store(hangs, Relaxed);
        *growth = Growth {
            times: times + 1,
            ends: Some(now + time),
        };
        self.forget();
        Some(time)
    }

    /// When its ejection ends, if it is ejected at `now`.
    pub fn ejected_until(&self, now: Instant) -> Option<Instant> {
        self.gate.open_until().filter(|until| *until > now)
    }

    fn forget(&self) {
        for row in [&self.unanswered, &self.broken, &self.server_errors] {
            reset(row);
        }
    }
}

/// An attempt that failed.
#[derive(Debug)]
pub enum Failed {
    /// Without an answer.
    Unanswered(Option<Pass>),
    /// Inside its answer.
    BrokenOff(Option<Pass>),
}

/// What follows from what became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Learned {
    /// Nothing.
    Nothing,
    /// The backend should be ejected.
    Bad(Ejection),
    /// Its ejection ends before its time.
    Returns,
    /// It is well again.
    Well,
}

fn reset(row: &AtomicU32) {
    if row.load(Relaxed) != 0 {
        row.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests;
