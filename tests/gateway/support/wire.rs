//! HTTP/1 as bytes on a socket: strict reading of heads and bodies, for both ends.

use std::io::{self, ErrorKind, Read};
use std::net::TcpStream;

/// Header fields in the order in which they came, names as they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The value of a field that must not occur twice.
    pub fn get(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() < 2, "{name} occurs twice: {values:?}");
        values.first().copied()
    }

    /// Every value of a field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }
}

/// A first line and its header fields.
#[derive(Clone, Debug)]
pub struct Head {
    /// The request or status line, without its line end.
    pub first: String,
    /// The fields.
    pub headers: Headers,
    /// All bytes, the empty line included.
    pub raw: Vec<u8>,
}

impl Head {
    fn parse(raw: Vec<u8>) -> io::Result<Self> {
        let text = String::from_utf8_lossy(&raw).into_owned();
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let mut headers = Headers::default();
        for line in lines.take_while(|line| !line.is_empty()) {
            headers.0.push(field(line)?);
        }
        Ok(Self {
            first,
            headers,
            raw,
        })
    }

    /// How the body is delimited, if there is one, when nothing else decides.
    pub fn framing(&self) -> Option<Framing> {
        let chunked = self
            .headers
            .get("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
        if chunked {
            return Some(Framing::Chunked);
        }
        let length = self.headers.get("content-length")?;
        Some(Framing::Length(length.parse().expect("a content length")))
    }
}

fn field(line: &str) -> io::Result<(String, String)> {
    let (name, value) = line
        .split_once(':')
        .ok_or_else(|| malformed(&format!("not a header field: {line:?}")))?;
    if name.is_empty() || name.contains([' ', '\t', '\n']) || value.contains('\n') {
        return Err(malformed(&format!("not a header field: {line:?}")));
    }
    Ok((name.to_owned(), value.trim().to_owned()))
}

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// This many bytes.
    Length(u64),
    /// Chunks, then trailers.
    Chunked,
    /// Whatever comes before the connection closes.
    Close,
}

/// The reading half of a connection.
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    /// Reads from this stream.
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// The socket below; what was already read is not in it any more.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Gives up the buffer and returns the socket.
    pub fn into_stream(self) -> TcpStream {
        assert!(self.buffer.is_empty(), "bytes were read too far");
        self.stream
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 16 * 1024];
        let read = self.stream.read(&mut chunk)?;
        self.buffer.extend_from_slice(&chunk[..read]);
        Ok(read)
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let rest = self.buffer.split_off(length);
        std::mem::replace(&mut self.buffer, rest)
    }

    fn through(&mut self, end: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut searched = 0;
        loop {
            let found = find(&self.buffer[searched..], end);
            if let Some(at) = found {
                return Ok(Some(self.take(searched + at + end.len())));
            }
            searched = self.buffer.len().saturating_sub(end.len() - 1);
            if self.fill()? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(truncated("inside a header")),
                };
            }
        }
    }

    /// A head; `None` when the connection ended before its first byte.
    pub fn head(&mut self) -> io::Result<Option<Head>> {
        self.through(b"\r\n\r\n")?.map(Head::parse).transpose()
    }

    /// A line without its end.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = self
            .through(b"\r\n")?
            .ok_or_else(|| truncated("before a line"))?;
        line.truncate(line.len() - 2);
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    /// Some bytes, as they arrive; empty at the end of the connection.
    pub fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.fill()?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Exactly this many bytes.
    pub fn exact(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            if self.fill()? == 0 {
                return Err(truncated("inside a body"));
            }
        }
        Ok(self.take(length))
    }

    /// One chunk of a chunked body; empty for the last one, whose trailers are still to be read.
    pub fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let line = self.line()?;
        let size = line.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16)
            .map_err(|_| malformed(&format!("not a chunk size: {line:?}")))?;
        if size == 0 {
            return Ok(Vec::new());
        }
        let data = self.exact(size)?;
        match self.exact(2)?.as_slice() {
            b"\r\n" => Ok(data),
            other => Err(malformed(&format!("after a chunk: {other:?}"))),
        }
    }

    /// Reads a whole body piece by piece, and returns its trailers.
    pub fn body(&mut self, framing: Framing, sink: &mut dyn FnMut(&[u8])) -> io::Result<Headers> {
        match framing {
            Framing::Length(length) => self.counted(length, sink)?,
            Framing::Chunked => return self.chunks(sink),
            Framing::Close => loop {
                let piece = self.some()?;
                if piece.is_empty() {
                    break;
                }
                sink(&piece);
            },
        }
        Ok(Headers::default())
    }

    fn counted(&mut self, length: u64, sink: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            let piece = self.some()?;
            if piece.is_empty() {
                return Err(truncated("inside a body"));
            }
            let mine = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
            sink(&piece[..mine]);
            left -= mine as u64;
            self.buffer = piece[mine..].to_vec();
        }
        Ok(())
    }

    fn chunks(&mut self, sink: &mut dyn FnMut(&[u8])) -> io::Result<Headers> {
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                return self.trailers();
            }
            sink(&chunk);
        }
    }

    fn trailers(&mut self) -> io::Result<Headers> {
        let mut trailers = Headers::default();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(trailers);
            }
            trailers.0.push(field(&line)?);
        }
    }
}

/// The first place of `needle`.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_owned())
}

fn truncated(place: &str) -> io::Error {
    io::Error::new(
        ErrorKind::UnexpectedEof,
        format!("the connection ended {place}"),
    )
}
