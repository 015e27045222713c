//! The path parameters of one request: where they are in the path, and what they are called.

use std::ops::Range;
use std::sync::Arc;

/// Parameters kept without an allocation. Patterns with more are rare and cost one `Vec`.
const INLINE: usize = 8;

/// The names of a pattern's parameters, from left to right.
pub(super) type Names = Arc<[Box<str>]>;

/// The path parameters a route's pattern found.
///
/// Only byte ranges are kept, so every question brings the path that was looked up.
#[derive(Clone, Debug, Default)]
pub struct Params {
    names: Option<Names>,
    ranges: Ranges,
}

impl Params {
    pub(super) fn new(names: Option<Names>, ranges: Ranges) -> Self {
        Self { names, ranges }
    }

    /// The parameter of this name in the path that was looked up, as the bytes are there.
    pub fn get<'p>(&self, name: &str, path: &'p str) -> Option<&'p str> {
        let names = self.names.as_deref()?;
        let position = names.iter().position(|known| **known == *name)?;
        path.get(self.ranges.get(position)?)
    }

    /// Whether the route's pattern names no parameter.
    pub fn is_empty(&self) -> bool {
        self.names.is_none()
    }
}

/// Byte ranges of a path, in the order in which they were found. Works as a stack.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges {
    inline: [(u32, u32); INLINE],
    len: usize,
    spilled: Vec<(u32, u32)>,
}

impl Ranges {
    pub(super) fn push(&mut self, start: usize, end: usize) {
        // A header limit keeps paths far below 4 GiB; a longer one would only lose its parameters.
        let bound = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let range = (bound(start), bound(end));
        match self.inline.get_mut(self.len) {
            Some(slot) => *slot = range,
            None => self.spilled.push(range),
        }
        self.len += 1;
    }

    pub(super) fn pop(&mut self) {
        if self.len > INLINE {
            self.spilled.pop();
        }
        self.len = self.len.saturating_sub(1);
    }

    fn get(&self, position: usize) -> Option<Range<usize>> {
        if position >= self.len {
            return None;
        }
        let &(start, end) = match position.checked_sub(INLINE) {
            None => self.inline.get(position)?,
            Some(beyond) => self.spilled.get(beyond)?,
        };
        Some(start as usize..end as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_eight_are_kept_in_order() {
        let path = "abcdefghijkl";
        let names: Names = path.chars().map(|name| name.to_string().into()).collect();
        let mut ranges = Ranges::default();
        for at in 0..path.len() {
            ranges.push(at, at + 1);
        }
        let params = Params::new(Some(names), ranges);
        for name in path.chars() {
            let name = name.to_string();
            assert_eq!(params.get(&name, path), Some(name.as_str()));
        }
        assert_eq!(params.get("z", path), None);
    }

    #[test]
    fn what_was_popped_is_gone() {
        let mut ranges = Ranges::default();
        for at in 0..10 {
            ranges.push(at, at + 1);
        }
        for _ in 0..3 {
            ranges.pop();
        }
        assert_eq!(ranges.get(6), Some(6..7));
        assert_eq!(ranges.get(7), None);
        ranges.push(20, 21);
        assert_eq!(ranges.get(7), Some(20..21));
    }

    #[test]
    fn no_names_means_no_parameters() {
        assert!(Params::default().is_empty());
        assert_eq!(Params::default().get("id", "/a"), None);
    }
}
