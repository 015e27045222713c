//! Where lines end up. Only the writer thread touches it.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::config::model::LogOutput;

/// Between two tries on an output that is not ready, such as a terminal in non-blocking mode.
const NOT_READY: Duration = Duration::from_millis(5);

/// What a pipe takes as a whole, whoever else writes into it (POSIX's `PIPE_BUF` on Linux).
const PIPE_BYTES: usize = 4096;

/// A stream, or a file that can be opened again.
pub(super) struct Output {
    stream: Box<dyn Write + Send>,
    path: Option<PathBuf>,
    // The last write ended inside a line.
    torn: bool,
    failing: bool,
    // Two processes write into it during an upgrade, and it mixes larger writes.
    is_pipe: bool,
}

impl Output {
    /// Opens what is configured.
    pub fn open(output: &LogOutput) -> io::Result<Self> {
        let mut opened = match output {
            LogOutput::Stdout => Self::inherited(unbuffered(io::stdout())?),
            LogOutput::Stderr => Self::inherited(unbuffered(io::stderr())?),
            LogOutput::File(path) => Self::stream(open_file(path)?),
        };
        if let LogOutput::File(path) = output {
            opened.path = Some(path.clone());
        }
        Ok(opened)
    }

    /// An output that this process was given.
    fn inherited(file: File) -> Self {
        let kind = file.metadata().map(|found| found.file_type());
        let is_pipe = kind.is_ok_and(|kind| kind.is_fifo() || kind.is_socket());
        Self {
            is_pipe,
            ..Self::stream(file)
        }
    }

    /// An output over any stream.
    pub fn stream(stream: impl Write + Send + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            path: None,
            torn: false,
            failing: false,
            is_pipe: false,
        }
    }

    /// Opens the file again; what is open stays when that fails.
    pub fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match open_file(path) {
            Ok(file) => {
                self.stream = Box::new(file);
                self.torn = false;
            }
            Err(error) => log::error!("access log: cannot reopen {}: {error}", path.display()),
        }
    }

    /// Writes whole lines. Returns how many of them were lost.
    pub fn write(&mut self, lines: &[u8]) -> u64 {
        let mut rest = lines;
        let result = self.write_all(&mut rest);
        self.note(result);
        memchr::memchr_iter(b'\n', rest).count() as u64
    }

    /// Advances `rest` over what was written.
    fn write_all(&mut self, rest: &mut &[u8]) -> io::Result<()> {
        if self.torn {
            self.write_some(b"\n")?;
            self.torn = false;
        }
        while !rest.is_empty() {
            let piece = if self.is_pipe {
                whole_lines(rest)
            } else {
                *rest
            };
            let written = self.write_some(piece)?;
            self.torn = rest.get(written.wrapping_sub(1)) != Some(&b'\n');
            *rest = rest.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.stream.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => return Ok(written),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(NOT_READY),
                Err(error) => return Err(error),
            }
        }
    }

    /// Says once that writing fails, and once that it works again.
    fn note(&mut self, result: io::Result<()>) {
        let was_failing = std::mem::replace(&mut self.failing, result.is_err());
        match result {
            Err(error) if !was_failing => log::error!("access log: cannot write: {error}"),
            Ok(()) if was_failing => log::info!("access log: writing again"),
            _ => {}
        }
    }
}

/// As many lines as a pipe takes as a whole, or one that is longer.
fn whole_lines(lines: &[u8]) -> &[u8] {
    let fitting = &lines[..lines.len().min(PIPE_BYTES)];
    let end = memchr::memrchr(b'\n', fitting).or_else(|| memchr::memchr(b'\n', lines));
    end.map_or(lines, |end| &lines[..=end])
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// The stream without the line buffer of the standard library, which would cut batches into pieces.
fn unbuffered(stream: impl std::os::fd::AsFd) -> io::Result<File> {
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    /// Takes `room` bytes, then fails until there is room again.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Disk {
        fn set_room(&self, room: usize) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).1 = room;
        }

        fn text(&self) -> String {
            let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            String::from_utf8_lossy(&held.0).into_owned()
        }
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = bytes.len().min(held.1);
            if taken == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            held.1 -= taken;
            held.0.extend(bytes.iter().take(taken));
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_pipe_gets_whole_lines() {
        let line = [&[b'a'; 999][..], b"\n"].concat();
        let many = line.repeat(10);
        assert_eq!(whole_lines(&many).len(), 4000);
        assert_eq!(whole_lines(&line), line);
        let long = [&[b'a'; 9000][..], b"\nnext\n"].concat();
        assert_eq!(whole_lines(&long).len(), 9001);
        assert_eq!(whole_lines(b"no end"), b"no end");
    }

    #[test]
    fn a_full_disk_costs_the_lines_that_do_not_fit_and_tears_no_other() {
        let disk = Disk::default();
        let mut output = Output::stream(disk.clone());
        disk.set_room(7);
        assert_eq!(output.write(b"one\ntwo\nthree\n"), 2);
        assert_eq!(output.write(b"four\n"), 1);
        disk.set_room(100);
        assert_eq!(output.write(b"five\n"), 0);
        assert_eq!(disk.text(), "one\ntwo\nfive\n");
    }
}
