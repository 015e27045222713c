//! The ways in which a backend sends.

use std::io::{self, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::wait::DEADLINE;

/// The most that an endless step sends, so that no test fills the machine.
const ENDLESS_BYTES: usize = 64 * 1024 * 1024;

/// Byte by byte, with pauses.
pub fn drip(mut stream: &TcpStream, bytes: &[u8], pause: Duration) -> io::Result<()> {
    for byte in bytes {
        stream.write_all(&[*byte])?;
        std::thread::sleep(pause);
    }
    Ok(())
}

/// Writes this many bytes of filling.
pub fn fill(mut stream: &TcpStream, length: u64) -> io::Result<()> {
    let block = vec![b'x'; 256 * 1024];
    let mut left = length;
    while left > 0 {
        let size = usize::try_from(left).map_or(block.len(), |left| left.min(block.len()));
        stream.write_all(&block[..size])?;
        left -= size as u64;
    }
    Ok(())
}

/// The same bytes again and again.
pub fn repeat(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.set_write_timeout(Some(DEADLINE))?;
    let block = bytes.repeat(1 + 64 * 1024 / bytes.len());
    for _ in 0..ENDLESS_BYTES / block.len() {
        stream.write_all(&block)?;
    }
    Ok(())
}
