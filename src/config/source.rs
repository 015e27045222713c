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
    /// Of what is in it or who may read it; unlike `modified` nobody sets it back.
    changed: (i64, i64),
}

impl Stamp {
    /// Of an open file.
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
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
    /// What it was; `None` when there was nothing to look at.
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
    /// Opens a regular file, and says which one it was even if that fails.
    pub(super) fn open(path: &Path) -> (Self, io::Result<std::fs::File>) {
        let found = std::fs::metadata(path);
        let mut stamp = found.as_ref().ok().map(Stamp::of);
        // Opening a pipe would wait for whoever writes to it.
        let opened = found
            .and_then(|metadata| regular(&metadata))
            .and_then(|()| std::fs::File::open(path))
            .and_then(|file| {
                // It may be another by now.
                let metadata = file.metadata()?;
                stamp = Some(Stamp::of(&metadata));
                regular(&metadata).map(|()| file)
            });
        let path = path.to_owned();
        (Self { path, stamp }, opened)
    }
}

fn regular(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    Err(io::Error::other("not a regular file"))
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

    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let (source, opened) = Source::open(&path);
        assert_eq!(opened.unwrap_err().to_string(), "not a regular file");
        // What is there and cannot be opened is no change as long as it stays the same.
        assert!(source.stamp.is_some());
        assert_eq!(source.stamp, Stamp::at(&path));
    }

    #[test]
    fn a_file_whose_times_were_set_back_has_another_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "one").unwrap();
        let before = Source::open(&path).0;
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        // The clock of a file system goes in steps.
        while Stamp::at(&path).map(|stamp| stamp.changed) == before.stamp.map(|one| one.changed) {
            std::fs::write(&path, "two").unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(modified).unwrap();
        }
        let now = Stamp::at(&path).unwrap();
        assert_eq!(Some(now.modified), before.stamp.map(|one| one.modified));
        assert_ne!(Some(now), before.stamp);
    }
}
