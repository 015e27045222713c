//! Where the socket is that successors ask through, and whether that is a safe place.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::wire::Link;

/// Others may not write into the folder, or may not remove what is not theirs.
const WRITABLE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Where the socket may be.
#[derive(Clone, Debug)]
pub struct Place {
    /// In order of preference; one when it is configured.
    candidates: Vec<PathBuf>,
    /// Nobody configured it.
    pub is_default: bool,
}

/// A socket that was bound.
#[derive(Debug)]
pub struct Bound {
    /// Where it is.
    pub path: PathBuf,
    /// The socket.
    pub listener: UnixListener,
}

impl Place {
    /// The configured path, or one named after the configuration's file, so that gateways of
    /// different files do not meet.
    pub fn new(configured: Option<&Path>, file: &Path) -> Self {
        if let Some(path) = configured {
            return Self {
                candidates: vec![path.to_owned()],
                is_default: false,
            };
        }
        let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
        let name = format!("{:016x}.sock", hash(file.as_os_str().as_encoded_bytes()));
        Self {
            candidates: folders()
                .into_iter()
                .map(|folder| folder.join(&name))
                .collect(),
            is_default: true,
        }
    }

    /// Binds the socket in the first folder that will do.
    pub fn bind(&self) -> io::Result<Bound> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for path in &self.candidates {
            match self.bind_at(path) {
                Ok(bound) => return Ok(bound),
                // Elsewhere it would hide from those who look for the other.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    return Err(at(path, error));
                }
                Err(error) => last = at(path, error),
            }
        }
        Err(last)
    }

    fn bind_at(&self, path: &Path) -> io::Result<Bound> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        if self.is_default && !folder.exists() {
            std::fs::DirBuilder::new().mode(0o700).create(folder)?;
        }
        check(folder)?;
        match UnixStream::connect(path) {
            Ok(_) => {
                let what = "another gateway listens there; to replace it, use -u";
                return Err(io::Error::new(io::ErrorKind::AddrInUse, what));
            }
            // It was left behind.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?;
            }
            Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Bound {
            path: path.to_owned(),
            listener,
        })
    }

    /// Whether the socket may be at this path.
    pub fn holds(&self, path: &Path) -> bool {
        self.candidates.iter().any(|candidate| candidate == path)
    }

    /// Connects to the gateway that runs there.
    pub fn connect(&self) -> io::Result<(PathBuf, Link)> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for path in &self.candidates {
            match connect(path) {
                Ok(link) => return Ok((path.clone(), link)),
                Err(error) => last = at(path, error),
            }
        }
        Err(last)
    }
}

/// Connects to a gateway of the same user, or as root to any.
pub fn connect(path: &Path) -> io::Result<Link> {
    let link = Link::new(UnixStream::connect(path)?)?;
    if !rustix::process::geteuid().is_root() {
        link.peer()?;
    }
    Ok(link)
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Private folders, the most fitting one first.
fn folders() -> Vec<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    // systemd's is a list.
    let systemd = std::env::var("RUNTIME_DIRECTORY").ok();
    let systemd = systemd
        .as_deref()
        .and_then(|list| list.split(':').next())
        .map(PathBuf::from);
    let user = variable("XDG_RUNTIME_DIR").map(|folder| folder.join("gateway"));
    let uid = rustix::process::geteuid().as_raw();
    systemd
        .into_iter()
        .chain(["/run/gateway".into()])
        .chain(user)
        .chain([format!("/tmp/gateway-{uid}").into()])
        .filter(|folder| folder.is_absolute())
        .collect()
}

/// Refuses a folder in which somebody else could put a socket in the place of ours.
fn check(folder: &Path) -> io::Result<()> {
    let found = std::fs::metadata(folder)?;
    let own = found.uid() == rustix::process::geteuid().as_raw();
    let root = found.uid() == 0;
    let open = found.mode() & WRITABLE != 0 && found.mode() & STICKY == 0;
    if (own || root) && !open && found.is_dir() {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        "the folder belongs to somebody else, or others may write into it",
    ))
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    fn place(path: PathBuf) -> Place {
        Place::new(Some(&path), Path::new("unused"))
    }

    #[test]
    fn a_file_has_a_place_of_its_own() {
        let one = Place::new(None, Path::new("/etc/one.yaml"));
        let other = Place::new(None, Path::new("/etc/other.yaml"));
        assert_ne!(one.candidates, other.candidates);
        assert!(one.is_default && !place("/a".into()).is_default);
        assert!(one.candidates.iter().all(|path| path.is_absolute()));
    }

    #[test]
    fn binds_where_nobody_listens_and_leaves_others_alone() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path().join("a.sock"));
        assert!(place.connect().is_err());
        let bound = place.bind().unwrap();
        let mode = std::fs::metadata(&bound.path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(place.connect().is_ok());
        let taken = place.bind().unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse, "{taken}");
        drop(bound);
        assert!(place.bind().is_ok(), "what is left behind is replaced");
    }

    #[test]
    fn refuses_a_folder_that_others_write_into() {
        let folder = tempfile::tempdir().unwrap();
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let place = place(folder.path().join("a.sock"));
        let refused = place.bind().unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        let sticky = std::fs::Permissions::from_mode(0o1777);
        std::fs::set_permissions(folder.path(), sticky).unwrap();
        assert!(place.bind().is_ok());
    }
}
