//! Whether the store is worth asking: a circuit breaker that knows no clock and no socket.
//!
//! Up, everybody asks. After some failures in a row it is down, and nobody asks or waits: a probe beside
//! the requests finds out when it answers again, at first soon, then after pauses that grow. After that a
//! few may ask at once, one more with each answer, until it is clear that the store bears it.
//!
//! The store may be several servers, each with keys of its own. As long as one of them answered when it was asked
//! last, it is up: those who ask the others are told of their failures, and nobody else is.

use std::time::{Duration, Instant};

use crate::metrics::RedisError;

/// So many failures in a row, and the store is down.
const FAILURES: u32 = 3;

/// Answers that were late count only if the first and the last were so far apart: a moment in which
/// this process or the store had no processor makes many of them at once.
const LATE_FOR: Duration = Duration::from_millis(20);

/// Before the first probe: an outage may have been a moment.
const FIRST_PROBE: Duration = Duration::from_millis(20);

/// Between later probes: at first, and at last. Chance makes each shorter, by a half at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// How many may ask at once after an outage.
const FEW: u32 = 16;

/// The store bears it when so many may ask, or when so much time has passed.
const MANY: u32 = 512;
const LONG: Duration = Duration::from_secs(1);

/// One of the servers that are the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// Which.
    pub number: usize,
    /// How many there are. Beyond them stands what nobody has, which never counts as answered.
    pub of: usize,
}

impl Server {
    /// There is no other.
    pub const ONLY: Self = Self { number: 0, of: 1 };
}

/// What is known of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    /// Until a probe, due then, is answered.
    Down {
        since: Instant,
        probe: Instant,
    },
    /// A probe was answered then.
    Recovering {
        since: Instant,
        answered: Instant,
        allowed: u32,
    },
}

/// What is worth a line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is down, for this reason.
    Down(RedisError),
    /// It is up again, after this time.
    Up(Duration),
}

/// The state, and what led to it.
#[derive(Debug)]
pub struct Health {
    state: State,
    failures: u32,
    /// The first of the failures in a row that were late answers.
    late: Option<Instant>,
    pause: Duration,
    /// Which servers answered when they were asked last.
    well: Vec<bool>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            state: State::Up,
            failures: 0,
            late: None,
            pause: FIRST_PROBE,
            well: Vec::new(),
        }
    }
}

impl Health {
    /// How many may ask at once.
    pub fn allowed(&self) -> u32 {
        match self.state {
            State::Up => u32::MAX,
            State::Down { .. } => 0,
            State::Recovering { allowed, .. } => allowed,
        }
    }

    /// When a probe is due, while it is down.
    pub fn probe(&self) -> Option<Instant> {
        match self.state {
            State::Down { probe, .. } => Some(probe),
            _ => None,
        }
    }

    /// A server has answered so many questions in time.
    pub fn answered(&mut self, server: Server, count: u32, now: Instant) -> Option<Change> {
        self.hear(server, true);
        self.failures = 0;
        self.late = None;
        let State::Recovering {
            since,
            answered,
            allowed,
        } = &mut self.state
        else {
            return None;
        };
        *allowed = allowed.saturating_add(count);
        if *allowed < MANY && now < *answered + LONG {
            return None;
        }
        let outage = now.saturating_duration_since(*since);
        *self = Self {
            well: std::mem::take(&mut self.well),
            ..Self::default()
        };
        Some(Change::Up(outage))
    }

    /// A server has not answered a question, or not in time. `chance` is a number of 0 to 1.
    pub fn failed(
        &mut self,
        server: Server,
        why: RedisError,
        chance: f64,
        now: Instant,
    ) -> Option<Change> {
        self.hear(server, false);
        if self.well.contains(&true) {
            return None;
        }
        let since = match self.state {
            State::Down { .. } => return None,
            State::Recovering { since, .. } => since,
            State::Up => {
                self.failures = self.failures.saturating_add(1);
                if !self.is_enough(why, now) {
                    return None;
                }
                now
            }
        };
        let is_news = self.state == State::Up;
        self.fall(since, chance, now);
        is_news.then_some(Change::Down(why))
    }

    fn is_enough(&mut self, why: RedisError, now: Instant) -> bool {
        let late = match why {
            RedisError::Timeout => *self.late.get_or_insert(now),
            _ => return self.failures >= FAILURES,
        };
        self.failures >= FAILURES && now >= late + LATE_FOR
    }

    /// A server has answered a probe in time, or it has not.
    pub fn probed(&mut self, server: Server, is_well: bool, chance: f64, now: Instant) {
        self.hear(server, is_well);
        let State::Down { since, .. } = self.state else {
            return;
        };
        match is_well {
            true => {
                self.state = State::Recovering {
                    since,
                    answered: now,
                    allowed: FEW,
                }
            }
            false => self.fall(since, chance, now),
        }
    }

    fn hear(&mut self, server: Server, is_well: bool) {
        // Fewer servers than there were: what is known of the last of them is forgotten.
        self.well.resize(server.of, false);
        if let Some(known) = self.well.get_mut(server.number) {
            *known = is_well;
        }
    }

    fn fall(&mut self, since: Instant, chance: f64, now: Instant) {
        let wait = self.pause.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 2.0);
        self.pause = (self.pause * 2).clamp(PAUSES.0, PAUSES.1);
        self.failures = 0;
        self.late = None;
        self.state = State::Down {
            since,
            probe: now + wait,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const ONE: Server = Server::ONLY;

    fn down(now: Instant) -> Health {
        let mut health = Health::default();
        for _ in 0..FAILURES - 1 {
            assert_eq!(health.failed(ONE, RedisError::ReadOnly, 0.0, now), None);
            assert_eq!(health.allowed(), u32::MAX);
        }
        let change = health.failed(ONE, RedisError::ReadOnly, 0.0, now);
        assert_eq!(change, Some(Change::Down(RedisError::ReadOnly)));
        assert_eq!(health.allowed(), 0);
        health
    }

    #[test]
    fn failures_in_a_row_are_an_outage_and_single_ones_are_not() {
        let now = Instant::now();
        let mut health = Health::default();
        for _ in 0..10 {
            health.failed(ONE, RedisError::Io, 0.0, now);
            health.failed(ONE, RedisError::Io, 0.0, now);
            assert_eq!(health.answered(ONE, 1, now), None);
        }
        assert_eq!(health.allowed(), u32::MAX);
        down(now);
    }

    #[test]
    fn answers_that_are_late_at_the_same_time_are_no_outage() {
        let now = Instant::now();
        let mut health = Health::default();
        for _ in 0..1000 {
            assert_eq!(health.failed(ONE, RedisError::Timeout, 0.0, now), None);
        }
        assert_eq!(
            health.failed(ONE, RedisError::Timeout, 0.0, now + 19 * MS),
            None
        );
        health.answered(ONE, 1, now + 19 * MS);
        assert_eq!(
            health.failed(ONE, RedisError::Timeout, 0.0, now + 30 * MS),
            None
        );
        assert_eq!(
            health.failed(ONE, RedisError::Timeout, 0.0, now + 40 * MS),
            None
        );
        let change = health.failed(ONE, RedisError::Timeout, 0.0, now + 50 * MS);
        assert_eq!(change, Some(Change::Down(RedisError::Timeout)));
    }

    #[test]
    fn probes_come_soon_and_then_seldom() {
        let mut now = Instant::now();
        let mut health = down(now);
        let mut waits = Vec::new();
        for _ in 0..7 {
            let probe = health.probe().unwrap_or(now);
            waits.push((probe - now).as_millis());
            now = probe;
            health.probed(ONE, false, 0.0, now);
            assert_eq!(health.allowed(), 0);
        }
        assert_eq!(waits, [20, 100, 200, 400, 800, 1000, 1000]);
        health.probed(ONE, false, 1.0, now);
        assert_eq!(health.probe(), Some(now + 500 * MS));
    }

    #[test]
    fn after_an_outage_those_who_may_ask_grow_with_the_answers() {
        let start = Instant::now();
        let mut health = down(start);
        health.probed(ONE, true, 0.0, start + 20 * MS);
        assert_eq!((health.allowed(), health.probe()), (FEW, None));
        assert_eq!(health.answered(ONE, 10, start + 21 * MS), None);
        assert_eq!(health.allowed(), FEW + 10);
        // One failure is enough now, and no news.
        let now = start + 22 * MS;
        assert_eq!(health.failed(ONE, RedisError::Timeout, 0.0, now), None);
        assert_eq!(
            (health.allowed(), health.probe()),
            (0, Some(now + 100 * MS))
        );
        let now = start + 200 * MS;
        health.probed(ONE, true, 0.0, now);
        let change = health.answered(ONE, MANY, now);
        assert_eq!(change, Some(Change::Up(200 * MS)));
        assert_eq!(health.allowed(), u32::MAX);
        // The next outage begins anew.
        assert_eq!(down(now).probe(), Some(now + FIRST_PROBE));
    }

    #[test]
    fn little_traffic_does_not_make_an_outage_long() {
        let now = Instant::now();
        let mut health = down(now);
        health.probed(ONE, true, 0.0, now);
        assert_eq!(health.answered(ONE, 1, now + 999 * MS), None);
        let change = health.answered(ONE, 1, now + LONG);
        assert_eq!(change, Some(Change::Up(LONG)));
    }

    fn of_three(number: usize) -> Server {
        Server { number, of: 3 }
    }

    #[test]
    fn one_server_of_several_that_fails_is_no_outage() {
        let now = Instant::now();
        let mut health = Health::default();
        health.answered(of_three(1), 1, now);
        health.answered(of_three(2), 1, now);
        for server in [0, 1, 0, 3] {
            for _ in 0..10 {
                let change = health.failed(of_three(server), RedisError::Connect, 0.0, now);
                assert_eq!(change, None, "{server}");
            }
        }
        let last = of_three(2);
        health.failed(last, RedisError::Connect, 0.0, now);
        health.failed(last, RedisError::Connect, 0.0, now);
        let change = health.failed(last, RedisError::Connect, 0.0, now);
        assert_eq!(change, Some(Change::Down(RedisError::Connect)));
        // One that is back is enough, whatever the others do.
        health.probed(of_three(1), true, 0.0, now);
        health.failed(last, RedisError::Connect, 0.0, now);
        assert_eq!(health.allowed(), FEW);
        let change = health.answered(of_three(1), MANY, now);
        assert_eq!(change, Some(Change::Up(Duration::ZERO)));
        for _ in 0..10 {
            assert_eq!(health.failed(last, RedisError::Connect, 0.0, now), None);
        }
    }

    #[test]
    fn a_server_that_there_is_no_more_does_not_count_as_well() {
        let now = Instant::now();
        let mut health = Health::default();
        health.answered(of_three(2), 1, now);
        health.failed(ONE, RedisError::Io, 0.0, now);
        health.failed(ONE, RedisError::Io, 0.0, now);
        let change = health.failed(ONE, RedisError::Io, 0.0, now);
        assert_eq!(change, Some(Change::Down(RedisError::Io)));
    }
}
