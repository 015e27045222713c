//! A response as HTTP/1 writes it: its header, and what frames its body.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Method, StatusCode, Version, header};
use pingora_core::protocols::http::date::get_cached_date;

use super::wire::{Carrier, Wire};
use crate::message::{Request, Response};

/// What tells the client where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delimiter {
    /// There is no header yet, or no body.
    Nothing,
    /// So many bytes are left of it.
    Length(u64),
    /// Chunks.
    Chunks,
    /// The end of the connection.
    End,
}

/// Fields that say something of one connection, which are written here and by nobody else.
const OWN: [HeaderName; 2] = [header::CONNECTION, header::TRANSFER_ENCODING];

/// Writes the response to one request.
#[derive(Debug)]
pub struct Writer {
    method: Method,
    version: Version,
    delimiter: Delimiter,
    /// The size of the chunk at hand has been written.
    in_chunk: bool,
}

impl Writer {
    /// For the response to this request.
    pub fn new(request: &Request) -> Self {
        Self {
            method: request.method.clone(),
            version: request.version,
            delimiter: Delimiter::Nothing,
            in_chunk: false,
        }
    }

    /// How the end of the body is told.
    pub fn delimiter(&self) -> Delimiter {
        self.delimiter
    }

    /// Writes a header, and with a final one how the body is framed and whether the connection goes
    /// on.
    pub fn head(&mut self, out: &mut BytesMut, head: &Response, keep_alive: &mut bool) {
        status_line(out, head);
        fields(out, &head.headers);
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            self.delimiter = Delimiter::End;
            *keep_alive = false;
            out.put_slice(b"Connection: Upgrade\r\n");
        } else if !head.is_interim() {
            self.delimiter = self.choose(head);
            match self.delimiter {
                Delimiter::Chunks => out.put_slice(b"Transfer-Encoding: chunked\r\n"),
                Delimiter::End => *keep_alive = false,
                Delimiter::Nothing | Delimiter::Length(_) => {}
            }
            if !head.headers.contains_key(header::DATE) {
                field(out, &header::DATE, get_cached_date().as_bytes());
            }
            out.put_slice(match keep_alive {
                true => b"Connection: keep-alive\r\n",
                false => b"Connection: close\r\n",
            });
        }
        out.put_slice(b"\r\n");
    }

    /// RFC 9112 section 6.3; HTTP/1.0 knows no chunks.
    fn choose(&self, head: &Response) -> Delimiter {
        if head.is_bodiless(&self.method) {
            return Delimiter::Nothing;
        }
        let length = head.headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
        match length {
            Some(length) => Delimiter::Length(length),
            None if self.version == Version::HTTP_10 => Delimiter::End,
            None => Delimiter::Chunks,
        }
    }

    /// Writes a piece of the body, and leaves in it what is not taken yet. More than was announced is
    /// thrown away, and so is a body where there can be none.
    pub fn poll_body<T: Carrier>(
        &mut self,
        wire: &mut Wire<T>,
        piece: &mut Bytes,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if piece.is_empty() {
            return Poll::Ready(Ok(()));
        }
        match &mut self.delimiter {
            Delimiter::Nothing => piece.clear(),
            Delimiter::Length(left) => {
                piece.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                let before = piece.len();
                let sent = wire.poll_send(piece, context);
                *left -= (before - piece.len()) as u64;
                ready!(sent)?;
            }
            Delimiter::End => ready!(wire.poll_send(piece, context))?,
            Delimiter::Chunks => {
                if !self.in_chunk {
                    self.in_chunk = true;
                    chunk_size(wire.outbound(), piece.len());
                }
                ready!(wire.poll_send(piece, context))?;
                self.in_chunk = false;
                wire.outbound().put_slice(b"\r\n");
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the body. False: it is not as long as it was said to be.
    pub fn finish(&mut self, out: &mut BytesMut, trailers: Option<HeaderMap>) -> bool {
        match std::mem::replace(&mut self.delimiter, Delimiter::Nothing) {
            Delimiter::Chunks => {
                out.put_slice(b"0\r\n");
                if let Some(trailers) = trailers {
                    fields(out, &trailers);
                }
                out.put_slice(b"\r\n");
                true
            }
            Delimiter::Length(left) => left == 0,
            Delimiter::Nothing | Delimiter::End => true,
        }
    }
}

/// A chunk's size and the end of its line.
pub fn chunk_size(out: &mut BytesMut, size: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        out.put_u8(DIGITS[size >> (4 * place) & 15]);
    }
    out.put_slice(b"\r\n");
}

fn status_line(out: &mut BytesMut, head: &Response) {
    out.reserve(64 + 48 * head.headers.len());
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(head.status.as_str().as_bytes());
    out.put_u8(b' ');
    let usual = || {
        head.status
            .canonical_reason()
            .unwrap_or_default()
            .as_bytes()
    };
    out.put_slice(head.reason.as_deref().unwrap_or_else(usual));
    out.put_slice(b"\r\n");
}

fn fields(out: &mut BytesMut, headers: &HeaderMap) {
    for (name, value) in headers {
        if !OWN.contains(name) {
            field(out, name, value.as_bytes());
        }
    }
}

/// A field, its name with capitals: what people search for in what they see.
fn field(out: &mut BytesMut, name: &HeaderName, value: &[u8]) {
    let name = name.as_str().as_bytes();
    out.reserve(name.len() + value.len() + 4);
    let begin = out.len();
    out.put_slice(name);
    let mut first = true;
    for byte in &mut out[begin..] {
        if first {
            byte.make_ascii_uppercase();
        }
        first = *byte == b'-';
    }
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}
