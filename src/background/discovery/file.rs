//! Looks at a file with a list of backends, and reads it when it is another one.
//!
//! A file is read when it has been the same for two looks, since it may be half written: half a list
//! can be a valid one.

use std::path::Path;
use std::time::Duration;

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
}

impl Seen {
    /// Whether the file is to be read now. The first time it is read at once.
    pub fn is_due(&mut self, now: Option<Stamp>) -> bool {
        let is_new = self.read != Some(now);
        let is_settled = self.read.is_none() || self.pending == Some(now);
        if is_new && is_settled {
            self.read = Some(now);
            self.pending = None;
            return true;
        }
        self.pending = is_new.then_some(now);
        false
    }
}

/// Reads the list. It may wait for a disk, and for the names of hosts in the list.
pub(super) fn read(path: &Path, identity: &Identity) -> Answer {
    match config::backends(path, identity, &ProcessEnv) {
        Ok(backends) => Answer::Found(records::in_order(backends), LOOKS),
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
        let mut seen = Seen::default();
        assert!(
            seen.is_due(Stamp::at(&path)),
            "the first look reads, also nothing"
        );
        assert!(!seen.is_due(Stamp::at(&path)));
        std::fs::write(&path, "- 10.0.0.1:1\n").unwrap();
        assert!(!seen.is_due(Stamp::at(&path)), "it may be half written");
        std::fs::write(&path, "- 10.0.0.1:1\n- 10.0.0.2:1\n").unwrap();
        assert!(!seen.is_due(Stamp::at(&path)), "it was");
        assert!(seen.is_due(Stamp::at(&path)));
        assert!(!seen.is_due(Stamp::at(&path)));
    }
}
