//! How many instances there are. Who is not seen for a moment still counts, so that nobody's share grows
//! because the store forgot the others.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// So many counts in a row, one a second, have to agree on fewer instances.
const REMEMBERED: usize = 3;

/// The number, and the last counts.
#[derive(Default)]
pub struct Instances {
    number: AtomicU32,
    last: [AtomicU32; REMEMBERED],
    turn: AtomicU32,
}

impl Instances {
    /// How many there are, this one included; 0 before they were counted.
    pub fn number(&self) -> u32 {
        self.number.load(Relaxed)
    }

    /// The store counted so many.
    pub fn counted(&self, count: u32) {
        let turn = self.turn.fetch_add(1, Relaxed) as usize;
        if let Some(place) = self.last.get(turn % REMEMBERED) {
            place.store(count, Relaxed);
        }
        let most = self.last.iter().map(|last| last.load(Relaxed)).max();
        self.number.store(most.unwrap_or(1).max(1), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_count_at_once_and_fewer_after_a_while() {
        let instances = Instances::default();
        assert_eq!(instances.number(), 0);
        let counts = [3, 1, 3, 2, 2, 2, 0, 0, 0];
        let numbers = counts.map(|count| {
            instances.counted(count);
            instances.number()
        });
        assert_eq!(numbers, [3, 3, 3, 3, 3, 2, 2, 2, 1]);
    }
}
