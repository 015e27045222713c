//! Where the socket is that successors ask through, and whether that is a safe place.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::wire::Link;

/// Others may not write into the folder, or may not remove what is not theirs.
const WRITABLE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Files that are looked at when a folder is tidied.
const MAX_TIDIED: usize = 200;
/// A younger socket may be bound and about to be listened at.
const TIDIED_AGE: Duration = Duration::from_secs(60);

/// Where the socket may be.
#[derive(Clone, Debug)]
pub struct Place {
    /// In order of preference; one when it is configured.
    candidates: Vec<PathBuf>,
    /// Where a gateway that was started before the path was configured may be.
    former: Vec<PathBuf>,
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
        let file = spelled(file);
        let name = format!("{:016x}.sock", hash(file.as_os_str().as_encoded_bytes()));
        let folders = folders().into_iter();
        let defaults = folders.map(|folder| folder.join(&name)).collect();
        match configured {
            Some(path) => Self {
                candidates: vec![path.to_owned()],
                former: defaults,
                is_default: false,
            },
            None => Self {
                candidates: defaults,
                former: Vec::new(),
                is_default: true,
            },
        }
    }

    /// This path alone.
    pub fn only(path: &Path) -> Self {
        Self {
            candidates: vec![path.to_owned()],
            former: Vec::new(),
            is_default: false,
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
        let folder = match path.parent() {
            Some(folder) if folder == Path::new("") => Path::new("."),
            Some(folder) => folder,
            None => Path::new("/"),
        };
        if self.is_default && !folder.exists() {
            std::fs::DirBuilder::new().mode(0o700).create(folder)?;
        }
        check(folder)?;
        if self.is_default {
            tidy(folder, SystemTime::now());
        }
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
        let mut tried = Vec::new();
        let mut kind = io::ErrorKind::NotFound;
        for path in self.candidates.iter().chain(&self.former) {
            match connect(path) {
                Ok(link) => return Ok((path.clone(), link)),
                Err(error) => {
                    kind = error.kind();
                    tried.push(at(path, error).to_string());
                }
            }
        }
        Err(io::Error::new(kind, tried.join("; ")))
    }
}

/// The file's path from the root as it is spelled: where its links lead to changes with a release,
/// or with a ConfigMap, and the gateway is to be found by the same name then.
fn spelled(file: &Path) -> PathBuf {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let parts: Vec<Component<'_>> = file.components().collect();
    let is_parent = |part: &Component<'_>| *part == Component::ParentDir;
    let Some(last) = parts.iter().rposition(is_parent) else {
        return file;
    };
    // Behind a link, `..` is elsewhere than it looks.
    let above: PathBuf = parts[..=last].iter().collect();
    let below: PathBuf = parts[last + 1..].iter().collect();
    above.canonicalize().unwrap_or(above).join(below)
}

/// Removes sockets that nobody listens at: what gateways leave that were killed.
fn tidy(folder: &Path, now: SystemTime) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.take(MAX_TIDIED).flatten() {
        let path = entry.path();
        let made = entry.metadata().and_then(|found| found.modified());
        let is_old = made.is_ok_and(|made| made + TIDIED_AGE < now);
        if is_old && is_default_name(&path) && is_left(&path) {
            // Another process may have been faster.
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// Whether nobody listens at a socket. Does not wait for one that is busy.
fn is_left(path: &Path) -> bool {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let (Ok(socket), Ok(address)) = (socket, SocketAddrUnix::new(path)) else {
        return false;
    };
    net::connect(&socket, &address) == Err(Errno::CONNREFUSED)
}

/// Whether it is named as [`Place::new`] names sockets.
fn is_default_name(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    path.extension()
        .is_some_and(|extension| extension == "sock")
        && stem.is_some_and(|stem| stem.len() == 16 && stem.bytes().all(|b| b.is_ascii_hexdigit()))
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
    fn a_file_is_found_again_when_its_links_lead_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for release in ["1", "2"] {
            std::fs::create_dir(root.join(release)).unwrap();
            std::fs::write(root.join(release).join("gateway.yaml"), "").unwrap();
        }
        let link = |to: &str| {
            let _ = std::fs::remove_file(root.join("..data"));
            std::os::unix::fs::symlink(to, root.join("..data")).unwrap();
        };
        link("1");
        let file = root.join("gateway.yaml");
        std::os::unix::fs::symlink("..data/gateway.yaml", &file).unwrap();
        let through = root.join("..data/gateway.yaml");
        let names = |file: &Path| Place::new(None, file).candidates;
        let before = (names(&file), names(&through));
        link("2");
        assert_eq!((names(&file), names(&through)), before);
        assert_ne!(before.0, before.1);
        assert_eq!(names(&root.join("1/../gateway.yaml")), before.0);
        assert_eq!(names(&root.join("./gateway.yaml")), before.0);
    }

    #[test]
    fn a_bare_name_is_in_this_folder_and_every_place_is_told() {
        let bare = PathBuf::from(format!("bare-{}.sock", std::process::id()));
        let place = place(bare.clone());
        let told = place.connect().unwrap_err().to_string();
        assert!(told.starts_with("bare-"), "{told}");
        assert_eq!(told.matches(".sock: ").count(), 1 + place.former.len());
        assert!(!place.holds(&place.former[0]));
        let bound = place.bind();
        let _ = std::fs::remove_file(&bare);
        assert_eq!(bound.unwrap().path, bare);
    }

    #[test]
    fn a_gateway_from_before_the_path_was_configured_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let mut place = place(folder.path().join("new.sock"));
        let old = folder.path().join("old.sock");
        place.former = vec![old.clone()];
        let _bound = Place::only(&old).bind().unwrap();
        assert_eq!(place.connect().unwrap().0, old);
        assert!(
            Place::only(&folder.path().join("new.sock"))
                .connect()
                .is_err()
        );
    }

    #[test]
    fn what_killed_gateways_leave_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join("0123456789abcdef.sock");
        let used = folder.path().join("123456789abcdef0.sock");
        let other = folder.path().join("other.sock");
        drop(UnixListener::bind(&left).unwrap());
        drop(UnixListener::bind(&other).unwrap());
        let _listens = UnixListener::bind(&used).unwrap();
        tidy(folder.path(), SystemTime::now());
        assert!(left.exists(), "it is too young");
        tidy(folder.path(), SystemTime::now() + TIDIED_AGE * 2);
        assert!(!left.exists() && used.exists() && other.exists());
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
