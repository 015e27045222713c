//! Looks at a file with a list of backends, and reads it when it is another one.
//!
//! A file is read when it has been the same for two looks, since it may be half written: half a list
//! can be a valid one. One that could not be used is read again after a while, untouched as it is: a host
//! name in it may resolve by then.

use std::path::Path;
use std::time::{Duration, Instant};

use super::knowledge::Answer;
use super::records;
use crate::config::model::Identity;
use crate::config::{self, ProcessEnv, Stamp};

/// Between two looks.
pub(super) const LOOKS: Duration = Duration::from_millis(500);

/// What was seen of a file.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The state that was read; `None`: nothing was read yet.
    read: Option<Option<Stamp>>,
    pending: Option<Option<Stamp>>,
    /// When what was read is read again, since it could not be used.
    again: Option<Instant>,
}

impl Seen {
    /// Whether the file, in this state, is to be read now. The first time it is read at once.
    pub fn is_due(&mut self, file: Option<Stamp>, now: Instant) -> bool {
        let is_new = self.read != Some(file);
        let is_due = match is_new {
            true => self.read.is_none() || self.pending == Some(file),
            false => self.again.is_some_and(|again| now >= again),
        };
        if is_due {
            *self = Self {
                read: Some(file),
                ..Self::default()
            };
            return true;
        }
        self.pending = is_new.then_some(file);
        false
    }

    /// What was read cannot be used: it is read again then.
    pub fn retry_at(&mut self, again: Instant) {
        self.again = Some(again);
    }
}

/// Reads the list. It may wait for a disk, and for the names of hosts in the list.
pub(super) fn read(path: &Path, identity: &Identity) -> Answer {
    match config::backends(path, identity, &ProcessEnv) {
        Ok(backends) => {
            let (backends, left_out) = records::in_order(backends);
            Answer::Found(backends, LOOKS, left_out)
        }
        Err(problems) => Answer::Failed(problems.to_string().replace('\n', "; ")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_read_once_it_has_stayed_the_same_for_a_look() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backends.yaml");
        let (mut seen, now) = (Seen::default(), Instant::now());
        let mut look = || seen.is_due(Stamp::at(&path), now);
        assert!(look(), "the first look reads, also nothing");
        assert!(!look());
        std::fs::write(&path, "- 10.0.0.1:1\n").unwrap();
        assert!(!look(), "it may be half written");
        std::fs::write(&path, "- 10.0.0.1:1\n- 10.0.0.2:1\n").unwrap();
        assert!(!look(), "it was");
        assert!(look());
        assert!(!look());
    }

    #[test]
    fn a_file_that_could_not_be_used_is_read_again_untouched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backends.yaml");
        std::fs::write(&path, "- not-yet.test:1\n").unwrap();
        let (mut seen, now) = (Seen::default(), Instant::now());
        let second = Duration::from_secs(1);
        let look = |seen: &mut Seen, after| seen.is_due(Stamp::at(&path), now + after * second);
        assert!(look(&mut seen, 0));
        seen.retry_at(now + 2 * second);
        assert!(!look(&mut seen, 1));
        assert!(look(&mut seen, 2));
        assert!(!look(&mut seen, 9), "it was good then");
        seen.retry_at(now + 10 * second);
        std::fs::write(&path, "- half writ").unwrap();
        assert!(!look(&mut seen, 20), "it is another by now");
        assert!(look(&mut seen, 20));
        assert!(!look(&mut seen, 30));
    }
}
