//! The backends behind the gateway under load. They keep nothing of what they see.

use std::io::{self, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::Origin;
use crate::support::wire::{Framing, Wire};

/// A slow response comes in this many pieces.
pub const PIECES: u32 = 100;
const PIECE_BYTES: usize = 40_000;

/// Answers every request with what it was.
pub fn work() -> Origin {
    Origin::conversation(|stream| {
        // The end of a connection, whatever its reason, ends only its thread.
        drop(serve(stream));
    })
}

fn serve(stream: TcpStream) -> io::Result<()> {
    let mut wire = Wire::new(stream);
    while let Some(head) = wire.head()? {
        let mut length = 0;
        let framing = head.framing().unwrap_or(Framing::Length(0));
        wire.body(framing, &mut |part| length += part.len())?;
        let target = head.first.split(' ').nth(1).unwrap_or_default();
        let body = answer(target, length);
        let text = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        wire.stream().write_all(text.as_bytes())?;
    }
    Ok(())
}

/// The body of the answer to a request with a body of this length.
pub fn answer(target: &str, length: usize) -> String {
    format!("{target} {length} {:.<900}", "")
}

/// Sends back every message.
pub fn socket() -> Origin {
    Origin::conversation(|stream| {
        let Ok(mut socket) = tungstenite::accept(stream) else {
            return;
        };
        while let Ok(message) = socket.read() {
            if message.is_close() {
                continue;
            }
            if socket.send(message).is_err() {
                return;
            }
        }
    })
}

/// Takes this long for its response.
pub fn slow(length: Duration) -> Origin {
    let pause = length / PIECES;
    Origin::conversation(move |stream| drop(trickle(stream, pause)))
}

fn trickle(stream: TcpStream, pause: Duration) -> io::Result<()> {
    let mut wire = Wire::new(stream);
    while wire.head()?.is_some() {
        let length = PIECE_BYTES * PIECES as usize;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        wire.stream().write_all(head.as_bytes())?;
        for number in 0..PIECES {
            wire.stream().write_all(&piece(number))?;
            std::thread::sleep(pause);
        }
    }
    Ok(())
}

/// The bytes of a piece of the slow response, unlike those of any other.
pub fn piece(number: u32) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9) | 1;
    std::iter::repeat_with(|| {
        // xorshift32
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    })
    .take(PIECE_BYTES)
    .collect()
}
