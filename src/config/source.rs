//! The files that a configuration was read from, and whether one of them is another by now.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What tells one state of a file from another, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// Of an open file.
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }

    /// Of what a path leads to now, through any links, so that a link that is set to another
    /// folder is seen. `None`: there is nothing that can be looked at.
    pub fn at(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().as_ref().map(Self::of)
    }
}

/// A file as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where it was looked for.
    pub path: PathBuf,
    /// What it was; `None` when it could not be opened.
    pub stamp: Option<Stamp>,
}

/// Where a configuration came from.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    /// The file itself; `None` for a configuration that is built in.
    pub path: Option<PathBuf>,
    /// It and the files that it refers to, as they were when they were read.
    pub sources: Vec<Source>,
}

impl Source {
    /// Opens a file, and says which one it was even if that fails.
    pub(super) fn open(path: &Path) -> (Self, io::Result<std::fs::File>) {
        let opened = std::fs::File::open(path);
        let metadata = opened.as_ref().ok().and_then(|file| file.metadata().ok());
        let source = Self {
            path: path.to_owned(),
            stamp: metadata.as_ref().map(Stamp::of),
        };
        (source, opened)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn another_file_behind_a_link_has_another_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let (link, one, two) = (
            folder.path().join("..data"),
            folder.path().join("one"),
            folder.path().join("two"),
        );
        for target in [&one, &two] {
            std::fs::create_dir(target).unwrap();
            std::fs::write(target.join("gateway.yaml"), "same").unwrap();
        }
        std::os::unix::fs::symlink(&one, &link).unwrap();
        let path = link.join("gateway.yaml");
        let before = Source::open(&path).0;
        assert_eq!(before.stamp, Stamp::at(&path));
        let next = folder.path().join("..tmp");
        std::os::unix::fs::symlink(&two, &next).unwrap();
        std::fs::rename(&next, &link).unwrap();
        assert_ne!(before.stamp, Stamp::at(&path));
        std::fs::remove_file(&link).unwrap();
        assert_eq!(Stamp::at(&path), None);
        assert_eq!(Source::open(&path).0.stamp, None);
    }
}
