//! Whether the files of a listener have changed since they were read.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::terminator::Terminator;
use crate::config::Stamp;
use crate::config::model::{ListenerTls, Tickets};

/// After which files that could not be used are read again, although they are the same: what was in
/// the way may have passed.
const RETRY: Duration = Duration::from_secs(30);

/// What tells one state of the files from another. Links are followed, so that a link which leads
/// elsewhere is a change, as when Kubernetes swaps a mounted secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamps(Vec<Option<Stamp>>);

impl Stamps {
    /// Of the files as they are now.
    pub(super) fn of(source: &ListenerTls) -> Self {
        Self(files(source).iter().map(|path| Stamp::at(path)).collect())
    }
}

fn files(source: &ListenerTls) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for certificate in &source.certificates {
        files.push(certificate.cert.clone());
        files.push(certificate.key.clone());
        files.extend(certificate.client_auth.iter().map(|auth| auth.ca.clone()));
    }
    if let Tickets::File(path) = &source.tickets {
        files.push(path.clone());
    }
    files
}

/// What a look at the files finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing to do.
    None,
    /// They changed and have stayed so since the last look: read them.
    Settled,
}

/// Looks at the files of one listener again and again.
#[derive(Debug, Default)]
pub struct Watch {
    /// As they were at the last look.
    seen: Stamps,
    failed: Option<Failed>,
}

/// An attempt that came to nothing.
#[derive(Debug)]
struct Failed {
    /// The files that were tried.
    tried: Stamps,
    /// Those that were in use, and stayed so.
    loaded: Stamps,
    at: Instant,
}

impl Watch {
    /// Looks once. Files that are being written settle first, so that a certificate is not read
    /// without its key.
    pub fn look(&mut self, current: &Terminator, now: Instant) -> Change {
        self.judge(Stamps::of(current.source()), &current.stamps, now)
    }

    /// The files of the last look could not be used; what is in use stays.
    pub fn failed(&mut self, current: &Terminator, now: Instant) {
        self.remember(current.stamps.clone(), now);
    }

    fn remember(&mut self, loaded: Stamps, at: Instant) {
        let tried = self.seen.clone();
        self.failed = Some(Failed { tried, loaded, at });
    }

    fn judge(&mut self, files: Stamps, loaded: &Stamps, now: Instant) -> Change {
        let has_settled = files == self.seen;
        self.seen = files;
        if self.seen == *loaded {
            self.failed = None;
            return Change::None;
        }
        let in_vain = self.failed.as_ref().is_some_and(|failed| {
            failed.tried == self.seen
                && failed.loaded == *loaded
                && now.duration_since(failed.at) < RETRY
        });
        if has_settled && !in_vain {
            Change::Settled
        } else {
            Change::None
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    /// Those of a file that is the `number`th at its place.
    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn stamps(&self, number: u64) -> Stamps {
            let path = self.0.path().join(number.to_string());
            if !path.exists() {
                std::fs::write(&path, "").unwrap();
            }
            Stamps(vec![Stamp::at(&path)])
        }
    }

    #[test]
    fn a_change_is_read_once_and_when_it_has_settled() {
        let (files, now) = (Files::new(), Instant::now());
        let (mut watch, loaded) = (Watch::default(), files.stamps(1));
        let mut look = |files: Stamps| {
            let change = watch.judge(files, &loaded, now);
            if change == Change::Settled {
                watch.remember(loaded.clone(), now);
            }
            change
        };
        let none = || Stamps(vec![None]);
        assert_eq!(look(files.stamps(1)), Change::None);
        assert_eq!(look(files.stamps(2)), Change::None);
        assert_eq!(look(files.stamps(3)), Change::None);
        assert_eq!(look(files.stamps(3)), Change::Settled);
        assert_eq!(look(files.stamps(3)), Change::None);
        assert_eq!(look(none()), Change::None);
        assert_eq!(look(none()), Change::Settled);
        assert_eq!(look(files.stamps(1)), Change::None);
        // What was tried in between is tried again when it comes back.
        assert_eq!(look(files.stamps(3)), Change::None);
        assert_eq!(look(files.stamps(3)), Change::Settled);
    }

    #[test]
    fn what_failed_is_tried_again_after_a_while() {
        let (files, start) = (Files::new(), Instant::now());
        let (mut watch, loaded) = (Watch::default(), files.stamps(1));
        let new = || files.stamps(2);
        watch.judge(new(), &loaded, start);
        assert_eq!(watch.judge(new(), &loaded, start), Change::Settled);
        watch.remember(loaded.clone(), start);
        let before = start + RETRY - Duration::from_secs(1);
        assert_eq!(watch.judge(new(), &loaded, before), Change::None);
        assert_eq!(watch.judge(new(), &loaded, start + RETRY), Change::Settled);
    }

    #[test]
    fn what_is_in_use_being_another_by_now_is_reason_to_try_again() {
        let (files, now) = (Files::new(), Instant::now());
        let (mut watch, loaded) = (Watch::default(), files.stamps(1));
        let new = || files.stamps(3);
        watch.judge(new(), &loaded, now);
        assert_eq!(watch.judge(new(), &loaded, now), Change::Settled);
        watch.remember(loaded, now);
        assert_eq!(watch.judge(new(), &files.stamps(2), now), Change::Settled);
    }

    #[test]
    fn an_older_certificate_that_a_reload_brings_back_is_noticed() {
        let (files, now) = (Files::new(), Instant::now());
        let mut watch = Watch::default();
        let (old, new) = (files.stamps(1), files.stamps(2));
        watch.judge(new.clone(), &old, now);
        // It is read, and a reload which read the old one takes its place at once.
        assert_eq!(watch.judge(new.clone(), &old, now), Change::Settled);
        assert_eq!(watch.judge(new, &old, now), Change::Settled);
    }
}
