//! Whether the files of a listener have changed since they were read.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::terminator::Terminator;
use crate::config::model::{ListenerTls, Tickets};

/// What tells one state of the files from another. Links are followed, so that a link which leads
/// elsewhere is a change, as when Kubernetes swaps a mounted secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamps(Vec<Option<Stamp>>);

/// Device, inode, size, and the times of the last changes.
type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

impl Stamps {
    /// Of the files as they are now.
    pub(super) fn of(source: &ListenerTls) -> Self {
        Self(files(source).iter().map(|path| stamp(path)).collect())
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let data = std::fs::metadata(path).ok()?;
    Some((
        data.dev(),
        data.ino(),
        data.size(),
        (data.mtime(), data.mtime_nsec()),
        (data.ctime(), data.ctime_nsec()),
    ))
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
    /// As they were when they were last tried, whatever came of it.
    tried: Stamps,
}

impl Watch {
    /// Looks once. Files that are being written settle first, so that a certificate is not read
    /// without its key.
    pub fn look(&mut self, current: &Terminator) -> Change {
        self.judge(Stamps::of(current.source()), &current.stamps)
    }

    fn judge(&mut self, now: Stamps, loaded: &Stamps) -> Change {
        if now == *loaded {
            self.tried = Stamps::default();
            self.seen = now;
            return Change::None;
        }
        if now == self.tried {
            self.seen = now;
            return Change::None;
        }
        if now != self.seen {
            self.seen = now;
            return Change::None;
        }
        self.tried = now;
        Change::Settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamps(inode: u64) -> Stamps {
        Stamps(vec![Some((1, inode, 0, (0, 0), (0, 0)))])
    }

    #[test]
    fn a_change_is_read_once_and_when_it_has_settled() {
        let (mut watch, loaded) = (Watch::default(), stamps(1));
        assert_eq!(watch.judge(stamps(1), &loaded), Change::None);
        assert_eq!(watch.judge(stamps(2), &loaded), Change::None);
        assert_eq!(watch.judge(stamps(3), &loaded), Change::None);
        assert_eq!(watch.judge(stamps(3), &loaded), Change::Settled);
        assert_eq!(watch.judge(stamps(3), &loaded), Change::None);
        assert_eq!(watch.judge(Stamps(vec![None]), &loaded), Change::None);
        assert_eq!(watch.judge(Stamps(vec![None]), &loaded), Change::Settled);
        assert_eq!(watch.judge(stamps(1), &loaded), Change::None);
        // What was tried in between is tried again when it comes back.
        assert_eq!(watch.judge(stamps(3), &loaded), Change::None);
        assert_eq!(watch.judge(stamps(3), &loaded), Change::Settled);
    }
}
