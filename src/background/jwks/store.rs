//! Key sets on disk, for the next start.
//!
//! Whoever can write there can make tokens: a file is for its owner alone, and one that others may
//! write is not read.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};

use crate::config::model::JwksUrl;
use crate::filter::auth::jwks::{RemoteKeys, Saved};

/// Largest file: a key set, every byte of it escaped, and what is kept beside it.
const MAX_FILE_BYTES: u64 = 8 << 20;
/// Who may do what with a file: its owner, and nobody else.
const MODE: u32 = 0o600;
/// That others may write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Where a provider's keys are kept; `None`: they are not.
pub(super) fn place(keys: &RemoteKeys) -> Option<PathBuf> {
    let folder = keys.config.cache_dir.as_ref()?;
    Some(folder.join(file_name(&keys.name, &keys.config)))
}

/// Told apart by the URL, too: a provider that moves has other keys.
fn file_name(name: &str, config: &JwksUrl) -> String {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let shown: String = name.chars().filter(|c| known(*c)).take(64).collect();
    let hash = digest(&SHA256, format!("{name}\n{}", config.url).as_bytes());
    let hash: String = hash
        .as_ref()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("jwks-{shown}-{hash}.json")
}

/// What was kept; `None` when nothing was. The error is why it is not used.
pub(super) fn read(path: &Path) -> Result<Option<Saved>, String> {
    let file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot be opened: {error}")),
    };
    let cannot = |error: io::Error| format!("cannot be read: {error}");
    let metadata = file.metadata().map_err(cannot)?;
    if !metadata.is_file() {
        return Err("is no regular file".to_owned());
    }
    if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err("can be written by others than its owner".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(cannot)?;
    // The cause may quote the file.
    let saved = serde_json::from_slice(&bytes).map_err(|_| "is damaged")?;
    Ok(Some(saved))
}

/// Without waiting for whoever writes to a pipe.
fn open(path: &Path) -> io::Result<File> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits();
    let flags = i32::try_from(nonblocking).map_err(io::Error::other)?;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Keeps keys: a new file takes the place of the old one, so that none is ever half written.
pub(super) fn write(path: &Path, saved: &Saved) -> io::Result<()> {
    let bytes = serde_json::to_vec(saved)?;
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    }
    let fresh = path.with_extension(format!("{}.new", std::process::id()));
    let written = write_new(&fresh, &bytes).and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        // Nothing more can be done about it, and the error is told.
        let _ = fs::remove_file(&fresh);
    }
    written
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // One of a process with the same number that ended while it wrote.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn saved() -> Saved {
        let url = http::Uri::from_static("https://id.test/keys");
        Saved::new("main", &url, SystemTime::now(), "{\"keys\":[]}")
    }

    #[test]
    fn what_was_written_is_read_and_only_the_owner_may() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made").join("main.json");
        assert_eq!(read(&path), Ok(None));
        write(&path, &saved()).unwrap();
        write(&path, &saved()).unwrap();
        assert_eq!(read(&path), Ok(Some(saved())));
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let files = fs::read_dir(path.parent().unwrap()).unwrap();
        assert_eq!(files.count(), 1);
    }

    #[test]
    fn damaged_files_and_those_of_others_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("main.json");
        for text in ["", "{", "null", "{\"version\":1}", "\0\0\0"] {
            fs::write(&path, text).unwrap();
            assert_eq!(read(&path), Err("is damaged".to_owned()), "{text:?}");
        }
        write(&path, &saved()).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o620)).unwrap();
        assert!(read(&path).unwrap_err().contains("by others"));
        assert!(read(folder.path()).unwrap_err().contains("regular file"));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("file");
        fs::write(&blocked, "").unwrap();
        assert!(write(&blocked.join("main.json"), &saved()).is_err());
    }
}
