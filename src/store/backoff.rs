//! How long to wait before another attempt to connect.

use std::time::Duration;

/// How long to wait before another attempt: up to twice as long after each failure, and each time a
/// random part of that, so that many instances do not come together.
#[derive(Debug)]
pub struct Backoff {
    limit: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    /// Short, since a revocation has to be everywhere within a second of the store's return.
    const LONGEST: Duration = Duration::from_millis(400);

    /// The wait before the next attempt, `share` of 0 to 1 being what chance gives.
    pub fn next(&mut self, share: f64) -> Duration {
        let limit = self.limit;
        self.limit = (limit * 2).min(Self::LONGEST);
        limit.mul_f64(share.clamp(0.0, 1.0))
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { limit: Self::FIRST }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_grows_to_its_limit_and_is_a_random_part_of_it() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..6).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 400, 400, 400]);
        assert_eq!(backoff.next(0.0), Duration::ZERO);
        assert_eq!(backoff.next(0.25), Duration::from_millis(100));
    }
}
