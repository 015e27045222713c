//! Counters by status code, small for the few codes that a service really sends.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const FIRST: u16 = 100;
const LAST: u16 = 599;

/// Codes of a chunk. A service sends codes of two or three chunks; the rest is never allocated.
const CHUNK: usize = 20;
const CHUNKS: usize = (LAST - FIRST + 1) as usize / CHUNK;

type Chunk = [AtomicU64; CHUNK];

/// One counter for each of 100 to 599, and one for everything else.
pub(super) struct StatusCounts {
    chunks: [OnceLock<Box<Chunk>>; CHUNKS],
    other: AtomicU64,
}

impl Default for StatusCounts {
    fn default() -> Self {
        Self {
            chunks: [const { OnceLock::new() }; CHUNKS],
            other: AtomicU64::new(0),
        }
    }
}

impl StatusCounts {
    /// Counts one more.
    pub fn inc(&self, status: u16) {
        self.counter(status).fetch_add(1, Relaxed);
    }

    fn counter(&self, status: u16) -> &AtomicU64 {
        if !(FIRST..=LAST).contains(&status) {
            return &self.other;
        }
        let at = usize::from(status - FIRST);
        let Some(chunk) = self.chunks.get(at / CHUNK) else {
            return &self.other;
        };
        let chunk = chunk.get_or_init(|| Box::new([const { AtomicU64::new(0) }; CHUNK]));
        &chunk[at % CHUNK]
    }

    /// Calls `each` with every code that was counted.
    pub fn read(&self, mut each: impl FnMut(&str, u64)) {
        for (place, chunk) in self.chunks.iter().enumerate() {
            for (at, counter) in chunk
                .get()
                .iter()
                .flat_map(|chunk| chunk.iter().enumerate())
            {
                let count = counter.load(Relaxed);
                if count > 0 {
                    let code = usize::from(FIRST) + place * CHUNK + at;
                    each(itoa::Buffer::new().format(code), count);
                }
            }
        }
        let other = self.other.load(Relaxed);
        if other > 0 {
            each("other", other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own_counter() {
        let counts = StatusCounts::default();
        for status in 0..=u16::MAX {
            counts.inc(status);
        }
        let mut read = Vec::new();
        counts.read(|code, count| read.push((code.to_owned(), count)));
        let codes: Vec<_> = (100..=599).map(|code| (code.to_string(), 1)).collect();
        assert_eq!(read.get(..500), Some(codes.as_slice()));
        assert_eq!(read.last(), Some(&("other".to_owned(), 65_536 - 500)));
    }
}
