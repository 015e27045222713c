//! How this process was started, so that its successor can be started the same way.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::PREDECESSOR;

/// The program and its arguments.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// This process's. The path is the one it was called by, so that a replaced file, or a symbolic
    /// link that now leads elsewhere, is the new version.
    pub fn current() -> std::io::Result<Self> {
        let mut words = std::env::args_os();
        let called = words.next().map(PathBuf::from).unwrap_or_default();
        let path = match locate(&called) {
            Some(path) => path,
            None => std::env::current_exe()?,
        };
        let arguments = words.filter(|word| word != "-u" && word != "--upgrade");
        Ok(Self {
            path,
            arguments: arguments.collect(),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts it as the successor of the gateway that listens at `socket`.
    pub fn start_successor(&self, socket: &Path) -> std::io::Result<Child> {
        Command::new(&self.path)
            .arg("-u")
            .args(&self.arguments)
            .env(PREDECESSOR, socket)
            .stdin(Stdio::null())
            .spawn()
    }
}

/// The file that a program called so is, if it is there.
fn locate(called: &Path) -> Option<PathBuf> {
    if called.components().count() > 1 {
        return std::path::absolute(called)
            .ok()
            .filter(|path| path.exists());
    }
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders)
        .map(|folder| folder.join(called))
        .find(|path| path.is_file() && path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_by_path_and_by_name() {
        assert_eq!(locate(Path::new("/bin/sh")), Some("/bin/sh".into()));
        assert!(locate(Path::new("sh")).is_some_and(|path| path.ends_with("sh")));
        assert_eq!(locate(Path::new("no-such-program")), None);
        assert_eq!(locate(Path::new("./no-such-program")), None);
    }
}
