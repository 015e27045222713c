//! Where a request ends: the gateway's own account of a request body's framing.
//!
//! The bytes pass through unchanged; what is decided here is how many of them belong to the
//! request, so that no reader behind can take bytes of the next one, and that a chunked body
//! follows RFC 9112 section 7.1 to the letter.

/// The longest chunk-size line, extensions included.
const MAX_CHUNK_LINE_BYTES: u32 = 256;
/// The longest trailer section.
const MAX_TRAILER_BYTES: u32 = 8 * 1024;

/// What is left of the current request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Nothing: further bytes belong to the next request.
    Done,
    /// So many bytes of body.
    Length(u64),
    /// A chunked body, at this point of its grammar.
    Chunked(Chunk),
    /// Bytes of another protocol until the connection ends.
    Tunnel,
}

/// A point in the grammar of a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// In the digits of a chunk's size.
    Size {
        /// The value so far.
        size: u64,
        /// Bytes of the line so far.
        line: u32,
    },
    /// In the extensions behind the size.
    Extension {
        /// The chunk's size.
        size: u64,
        /// Bytes of the line so far.
        line: u32,
    },
    /// Before the line feed that ends the size line.
    SizeLineFeed {
        /// The chunk's size.
        size: u64,
    },
    /// In the data.
    Data(u64),
    /// Before the carriage return behind the data.
    DataReturn,
    /// Before the line feed behind the data.
    DataLineFeed,
    /// At the beginning of a trailer line (or of the last, empty one).
    TrailerStart {
        /// Bytes of the trailer section so far.
        bytes: u32,
    },
    /// Inside a trailer line.
    Trailer {
        /// Bytes of the trailer section so far.
        bytes: u32,
    },
    /// Before the line feed that ends a trailer line.
    TrailerLineFeed {
        /// Bytes of the trailer section so far.
        bytes: u32,
    },
    /// Before the line feed that ends the body.
    LastLineFeed,
}

impl Chunk {
    /// Before the first chunk.
    pub const START: Self = Self::Size { size: 0, line: 0 };
}

/// A chunked body breaks the grammar, or a bound on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed chunked body")]
pub struct MalformedChunk;

impl Framing {
    /// Whether the request has been read to its end.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Moves on over `bytes` and says how many of them belong to this request.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, MalformedChunk> {
        let mut at = 0;
        while at < bytes.len() && !self.is_done() {
            at += self.run(&bytes[at..])?.len();
        }
        Ok(at)
    }

    /// Moves on over the first bytes, all of one kind, and says of which, and how many they are.
    ///
    /// Of a message that is done there are none.
    pub fn run(&mut self, bytes: &[u8]) -> Result<Run, MalformedChunk> {
        match self {
            Self::Done => Ok(Run::Between(0)),
            Self::Tunnel => Ok(Run::Data(bytes.len())),
            Self::Length(left) => {
                let taken = bytes
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(Run::Data(taken))
            }
            Self::Chunked(chunk) => {
                let (run, finished) = chunk.run(bytes)?;
                if finished {
                    *self = Self::Done;
                }
                Ok(run)
            }
        }
    }
}

/// Bytes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// The message's own.
    Data(usize),
    /// What says where the data is.
    Between(usize),
    /// Lines of the trailer section, with the empty one that ends it.
    Trailer(usize),
}

impl Run {
    /// How many there are.
    fn len(self) -> usize {
        match self {
            Self::Data(count) | Self::Between(count) | Self::Trailer(count) => count,
        }
    }
}

impl Chunk {
    /// Whether the trailer section has begun.
    fn is_trailer(self) -> bool {
        matches!(
            self,
            Self::TrailerStart { .. }
                | Self::Trailer { .. }
                | Self::TrailerLineFeed { .. }
                | Self::LastLineFeed
        )
    }

    /// Moves on over the first bytes of one kind, and says whether the body has ended.
    fn run(&mut self, bytes: &[u8]) -> Result<(Run, bool), MalformedChunk> {
        if let Self::Data(left) = self {
            let taken = bytes
                .len()
                .min(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= taken as u64;
            if *left == 0 {
                *self = Self::DataReturn;
            }
            return Ok((Run::Data(taken), false));
        }
        let is_trailer = self.is_trailer();
        let run = match is_trailer {
            true => Run::Trailer,
            false => Run::Between,
        };
        for (at, byte) in bytes.iter().enumerate() {
            if *self == Self::LastLineFeed {
                return match byte {
                    b'\n' => Ok((run(at + 1), true)),
                    _ => Err(MalformedChunk),
                };
            }
            *self = self.step(*byte)?;
            if matches!(self, Self::Data(_)) || (self.is_trailer() && !is_trailer) {
                return Ok((run(at + 1), false));
            }
        }
        Ok((run(bytes.len()), false))
    }

    /// The state behind one byte of what is not data.
    fn step(self, byte: u8) -> Result<Self, MalformedChunk> {
        match (self, byte) {
            (Self::Size { size, line }, _) => Self::size(size, line, byte),
            (Self::Extension { size, line }, _) => Self::extension(size, line, byte),
            (Self::SizeLineFeed { size: 0 }, b'\n') => Ok(Self::TrailerStart { bytes: 0 }),
            (Self::SizeLineFeed { size }, b'\n') => Ok(Self::Data(size)),
            (Self::DataReturn, b'\r') => Ok(Self::DataLineFeed),
            (Self::DataLineFeed, b'\n') => Ok(Self::START),
            (Self::TrailerStart { .. }, b'\r') => Ok(Self::LastLineFeed),
            (Self::TrailerStart { bytes }, _) if is_token(byte) => Self::trailer(bytes),
            (Self::Trailer { bytes }, b'\r') => Ok(Self::TrailerLineFeed { bytes }),
            (Self::Trailer { bytes }, _) if is_field_byte(byte) => Self::trailer(bytes),
            (Self::TrailerLineFeed { bytes }, b'\n') => Ok(Self::TrailerStart { bytes }),
            _ => Err(MalformedChunk),
        }
    }

    fn size(size: u64, line: u32, byte: u8) -> Result<Self, MalformedChunk> {
        match (byte as char).to_digit(16) {
            // Sixteen digits would overflow; nobody sends a chunk of 2^60 bytes.
            Some(digit) if line < 15 => Ok(Self::Size {
                size: size * 16 + u64::from(digit),
                line: line + 1,
            }),
            Some(_) => Err(MalformedChunk),
            None if line == 0 => Err(MalformedChunk),
            None => match byte {
                b'\r' => Ok(Self::SizeLineFeed { size }),
                b';' => Ok(Self::Extension { size, line }),
                _ => Err(MalformedChunk),
            },
        }
    }

    fn extension(size: u64, line: u32, byte: u8) -> Result<Self, MalformedChunk> {
        match byte {
            b'\r' => Ok(Self::SizeLineFeed { size }),
            _ if is_field_byte(byte) && line < MAX_CHUNK_LINE_BYTES => Ok(Self::Extension {
                size,
                line: line + 1,
            }),
            _ => Err(MalformedChunk),
        }
    }

    fn trailer(bytes: u32) -> Result<Self, MalformedChunk> {
        if bytes < MAX_TRAILER_BYTES {
            Ok(Self::Trailer { bytes: bytes + 1 })
        } else {
            Err(MalformedChunk)
        }
    }
}

/// A byte of a token (RFC 9110 section 5.6.2): methods and field names.
pub fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// A table, since every byte of every field name is looked up.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = matches!(byte as u8,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_'
            | b'`' | b'|' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z');
        byte += 1;
    }
    table
};

/// A byte of a field value (RFC 9110 section 5.5): visible, space, tab, or beyond ASCII.
pub fn is_field_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the body in pieces of every size and reports how many bytes belong to it.
    fn taken(body: &[u8]) -> Result<Option<usize>, MalformedChunk> {
        let mut result = None;
        for piece in 1..=body.len() {
            let mut framing = Framing::Chunked(Chunk::START);
            let mut total = 0;
            for bytes in body.chunks(piece) {
                match framing.advance(bytes) {
                    Ok(count) => total += count,
                    Err(error) => {
                        assert!(result.is_none_or(|r| r == Err(error)), "pieces of {piece}");
                        result = Some(Err(error));
                        break;
                    }
                }
            }
            if result == Some(Err(MalformedChunk)) {
                continue;
            }
            let outcome = Ok(framing.is_done().then_some(total));
            assert!(result.is_none_or(|r| r == outcome), "pieces of {piece}");
            result = Some(outcome);
        }
        result.unwrap_or(Ok(None))
    }

    #[test]
    fn a_body_ends_where_its_last_chunk_does() {
        let body = b"5\r\nhello\r\nA;name=value\r\n0123456789\r\n0\r\n\r\nGET /next";
        assert_eq!(taken(body), Ok(Some(body.len() - b"GET /next".len())));
    }

    #[test]
    fn trailers_belong_to_the_body() {
        let body = b"1\r\nx\r\n0\r\nA: b\r\nC: d\r\n\r\nrest";
        assert_eq!(taken(body), Ok(Some(body.len() - 4)));
    }

    #[test]
    fn an_unfinished_body_is_not_done() {
        assert_eq!(taken(b"5\r\nhel"), Ok(None));
        assert_eq!(taken(b"0\r\n"), Ok(None));
    }

    #[test]
    fn whatever_readers_could_disagree_about_is_refused() {
        for body in [
            &b"5\nhello\r\n0\r\n\r\n"[..],
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhelloX\r\n0\r\n\r\n",
            b" 5\r\nhello\r\n0\r\n\r\n",
            b"5 \r\nhello\r\n0\r\n\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"\r\nhello\r\n0\r\n\r\n",
            b"5;a\nb\r\nhello\r\n0\r\n\r\n",
            b"5\rhello\r\n0\r\n\r\n",
            b"00000000000000005\r\nhello\r\n0\r\n\r\n",
            b"ffffffffffffffff\r\nhello",
            b"0\r\n\n",
            b"0\r\n A: b\r\n\r\n",
            b"0\r\nA: b\n\r\n",
        ] {
            assert_eq!(taken(body), Err(MalformedChunk), "{}", body.escape_ascii());
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let mut long = b"1;".to_vec();
        long.extend(std::iter::repeat_n(b'a', 300));
        assert_eq!(
            Framing::Chunked(Chunk::START).advance(&long),
            Err(MalformedChunk)
        );
        let mut trailers = b"0\r\n".to_vec();
        for _ in 0..2000 {
            trailers.extend(b"name: value\r\n");
        }
        assert_eq!(
            Framing::Chunked(Chunk::START).advance(&trailers),
            Err(MalformedChunk)
        );
    }

    #[test]
    fn a_length_is_counted_down() {
        let mut framing = Framing::Length(5);
        assert_eq!(framing.advance(b"abc"), Ok(3));
        assert_eq!(framing.advance(b"defgh"), Ok(2));
        assert!(framing.is_done());
        assert_eq!(framing.advance(b"x"), Ok(0));
    }
}
