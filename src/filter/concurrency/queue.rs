//! Who waits for a place, and who is next.
//!
//! The more important classes come first. Within a class it is who came first, as long as the queue
//! empties now and then. Where it stands, serving the oldest would give every place to somebody who has
//! waited nearly too long, and has perhaps given up: then who came last comes first, and those behind
//! run into their deadline. What is served is fresh, and no place is wasted ("adaptive LIFO", Maurer,
//! "Fail at Scale", ACM Queue 13(8), 2015).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config::model::Priority;

const CLASSES: usize = Priority::ALL.len();

/// Those who wait, each with a `T`.
pub struct Queue<T> {
    /// By class, and then in the order of arrival.
    lines: [VecDeque<(u64, T)>; CLASSES],
    arrivals: u64,
    /// Since when somebody has been waiting at every moment.
    busy_since: Option<Instant>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            lines: std::array::from_fn(|_| VecDeque::new()),
            arrivals: 0,
            busy_since: None,
        }
    }
}

impl<T> Queue<T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.lines.iter().map(VecDeque::len).sum()
    }

    /// Adds one, and numbers it.
    pub fn push(&mut self, class: Priority, waiter: T, now: Instant) -> u64 {
        self.busy_since.get_or_insert(now);
        let number = self.arrivals;
        self.arrivals += 1;
        self.lines[class.index()].push_back((number, waiter));
        number
    }

    /// The class of the next one.
    pub fn next_class(&self) -> Option<Priority> {
        let waits = |class: &&Priority| !self.lines[class.index()].is_empty();
        Priority::ALL.iter().rev().find(waits).copied()
    }

    /// Takes the next one out; `patience` is how long the queue may stand.
    pub fn pop(&mut self, patience: Duration, now: Instant) -> Option<T> {
        let class = self.next_class()?;
        let stands = self.stands(patience, now);
        let line = &mut self.lines[class.index()];
        let next = match stands {
            true => line.pop_back(),
            false => line.pop_front(),
        };
        self.emptied();
        next.map(|(_, waiter)| waiter)
    }

    /// Takes this one out, if it is still there.
    pub fn remove(&mut self, class: Priority, number: u64) -> Option<T> {
        let line = &mut self.lines[class.index()];
        let found = line.binary_search_by_key(&number, |(number, _)| *number);
        let removed = line.remove(found.ok()?);
        self.emptied();
        removed.map(|(_, waiter)| waiter)
    }

    /// Takes out who has to give way to a newcomer of this class: one of the least important, if that is
    /// less than the newcomer is. Where the queue stands, one of the same class, too: the oldest, who
    /// would not be served in time.
    pub fn displace(&mut self, class: Priority, patience: Duration, now: Instant) -> Option<T> {
        let waits = |class: &&Priority| !self.lines[class.index()].is_empty();
        let least = *Priority::ALL.iter().find(waits)?;
        let stands = self.stands(patience, now);
        let line = &mut self.lines[least.index()];
        let victim = match stands {
            true if least <= class => line.pop_front(),
            false if least < class => line.pop_back(),
            _ => None,
        };
        self.emptied();
        victim.map(|(_, waiter)| waiter)
    }

    fn stands(&self, patience: Duration, now: Instant) -> bool {
        let since = self.busy_since;
        since.is_some_and(|since| now.saturating_duration_since(since) >= patience)
    }

    fn emptied(&mut self) {
        if self.next_class().is_none() {
            self.busy_since = None;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;
    use Priority::{Critical, Low, Normal};

    const PATIENCE: Duration = Duration::from_millis(100);

    fn drain(queue: &mut Queue<char>, now: Instant) -> String {
        std::iter::from_fn(|| queue.pop(PATIENCE, now)).collect()
    }

    #[test]
    fn important_ones_come_first_and_then_those_who_came_first() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (class, name) in [
            (Low, 'a'),
            (Normal, 'b'),
            (Critical, 'c'),
            (Low, 'd'),
            (Normal, 'e'),
            (Critical, 'f'),
        ] {
            queue.push(class, name, now);
        }
        assert_eq!(queue.next_class(), Some(Critical));
        assert_eq!(drain(&mut queue, now), "cfbead");
        assert_eq!((queue.len(), queue.next_class()), (0, None));
    }

    #[test]
    fn where_the_queue_stands_the_last_comes_first_until_it_is_empty() {
        let (mut queue, begun) = (Queue::default(), Instant::now());
        for name in 'a'..='d' {
            queue.push(Normal, name, begun);
        }
        assert_eq!(queue.pop(PATIENCE, begun + PATIENCE / 2), Some('a'));
        assert_eq!(queue.pop(PATIENCE, begun + PATIENCE), Some('d'));
        assert_eq!(drain(&mut queue, begun + PATIENCE), "cb");
        for name in 'e'..='f' {
            queue.push(Normal, name, begun + PATIENCE);
        }
        assert_eq!(drain(&mut queue, begun + PATIENCE), "ef");
    }

    #[test]
    fn whoever_leaves_is_not_served() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let numbers = ['a', 'b', 'c'].map(|name| queue.push(Normal, name, now));
        assert_eq!(queue.remove(Normal, numbers[1]), Some('b'));
        assert_eq!(queue.remove(Normal, numbers[1]), None);
        assert_eq!(queue.remove(Low, numbers[0]), None);
        assert_eq!(drain(&mut queue, now), "ac");
    }

    #[test]
    fn a_newcomer_takes_the_place_of_the_last_of_the_least_important() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (class, name) in [(Low, 'a'), (Low, 'b'), (Normal, 'c')] {
            queue.push(class, name, now);
        }
        assert_eq!(queue.displace(Low, PATIENCE, now), None);
        assert_eq!(queue.displace(Normal, PATIENCE, now), Some('b'));
        assert_eq!(queue.displace(Critical, PATIENCE, now), Some('a'));
        assert_eq!(queue.displace(Normal, PATIENCE, now), None);
        assert_eq!(queue.displace(Critical, PATIENCE, now), Some('c'));
        assert_eq!(queue.displace(Critical, PATIENCE, now), None);
    }

    #[test]
    fn where_the_queue_stands_the_oldest_gives_way() {
        let (mut queue, begun) = (Queue::default(), Instant::now());
        for (class, name) in [(Normal, 'a'), (Normal, 'b'), (Critical, 'c')] {
            queue.push(class, name, begun);
        }
        let later = begun + PATIENCE;
        assert_eq!(queue.displace(Low, PATIENCE, later), None);
        assert_eq!(queue.displace(Normal, PATIENCE, later), Some('a'));
        assert_eq!(queue.displace(Critical, PATIENCE, later), Some('b'));
    }
}
