//! The frames of an HTTP/2 connection as they pass, seen from outside the library that reads them.
//!
//! Only the nine bytes of a frame's header (RFC 9113 section 4.1) and the first four of its payload
//! are looked at; the rest is skipped.

/// Bytes of a frame header.
const HEADER: usize = 9;
/// Bytes of a payload that are looked at.
const PEEK: usize = 4;
/// What a client sends before its first frame (RFC 9113 section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The type of a frame (RFC 9113 section 6, RFC 9218 section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// DATA
    Data,
    /// HEADERS
    Headers,
    /// PRIORITY, and PRIORITY_UPDATE, which took its place
    Priority,
    /// RST_STREAM
    Reset,
    /// SETTINGS
    Settings,
    /// PING
    Ping,
    /// GOAWAY
    GoAway,
    /// WINDOW_UPDATE
    WindowUpdate,
    /// CONTINUATION
    Continuation,
    /// PUSH_PROMISE, which no client may send, and what is not known
    Other,
}

impl From<u8> for Kind {
    fn from(byte: u8) -> Self {
        match byte {
            0 => Self::Data,
            1 => Self::Headers,
            2 | 0x10 => Self::Priority,
            3 => Self::Reset,
            4 => Self::Settings,
            6 => Self::Ping,
            7 => Self::GoAway,
            8 => Self::WindowUpdate,
            9 => Self::Continuation,
            _ => Self::Other,
        }
    }
}

/// What is seen of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: Kind,
    /// Bytes of its payload.
    pub length: usize,
    flags: u8,
    peek: [u8; PEEK],
}

impl Frame {
    /// Whether it is the last frame of its stream in this direction.
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, Kind::Data | Kind::Headers) && self.flags & 0x1 != 0
    }

    /// Whether it carries nothing but, perhaps, padding.
    pub fn is_empty(&self) -> bool {
        let padded = matches!(self.kind, Kind::Data | Kind::Headers) && self.flags & 0x8 != 0;
        let padding = if padded {
            1 + usize::from(self.peek[0])
        } else {
            0
        };
        self.length <= padding
    }

    /// The error code of a RST_STREAM.
    pub fn error_code(&self) -> u32 {
        u32::from_be_bytes(self.peek)
    }
}

/// Finds the frames in one direction of a connection, whatever pieces its bytes come in.
#[derive(Debug)]
pub struct Scanner {
    head: [u8; HEADER + PEEK],
    filled: usize,
    /// Bytes to skip before the next frame header.
    skip: usize,
    /// Whether what is skipped, or read at the moment, belongs to a header block.
    in_headers: bool,
}

impl Scanner {
    /// At the beginning of what a client sends.
    pub fn of_client() -> Self {
        Self::behind(PREFACE.len())
    }

    /// At the beginning of what a server sends.
    pub fn of_server() -> Self {
        Self::behind(0)
    }

    fn behind(skip: usize) -> Self {
        Self {
            head: [0; HEADER + PEEK],
            filled: 0,
            skip,
            in_headers: false,
        }
    }

    /// Whether a header block has begun and is not complete.
    pub fn in_header_block(&self) -> bool {
        self.in_headers
    }

    /// Moves on over `bytes` and shows each frame as soon as enough of it is there.
    pub fn feed(&mut self, mut bytes: &[u8], mut show: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                self.leave_block();
                continue;
            }
            let wanted = self.wanted();
            let taken = (wanted - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled >= HEADER && self.filled == self.wanted() {
                show(self.conclude());
            }
        }
    }

    /// Bytes of frame header and payload that are to be looked at.
    fn wanted(&self) -> usize {
        if self.filled < HEADER {
            HEADER
        } else {
            HEADER + self.length().min(PEEK)
        }
    }

    fn length(&self) -> usize {
        usize::from(self.head[0]) << 16 | usize::from(self.head[1]) << 8 | usize::from(self.head[2])
    }

    fn conclude(&mut self) -> Frame {
        let mut peek = [0; PEEK];
        let seen = self.filled - HEADER;
        peek[..seen].copy_from_slice(&self.head[HEADER..self.filled]);
        let frame = Frame {
            kind: Kind::from(self.head[3]),
            length: self.length(),
            flags: self.head[4],
            peek,
        };
        self.skip = frame.length - seen;
        self.filled = 0;
        if matches!(frame.kind, Kind::Headers | Kind::Continuation) {
            self.in_headers = true;
            self.leave_block();
        }
        frame
    }

    /// Notes the end of a header block, once the last byte of its last frame has passed.
    fn leave_block(&mut self) {
        if self.in_headers && self.skip == 0 && self.head[4] & 0x4 != 0 {
            self.in_headers = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = payload.len() as u32;
        let mut bytes = length.to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.extend(payload);
        bytes
    }

    /// Feeds the bytes in pieces of this size.
    fn scan(bytes: &[u8], piece: usize) -> (Vec<Frame>, bool) {
        let mut scanner = Scanner::of_client();
        let mut frames = Vec::new();
        for piece in bytes.chunks(piece) {
            scanner.feed(piece, |frame| frames.push(frame));
        }
        (frames, scanner.in_header_block())
    }

    #[test]
    fn frames_are_found_in_pieces_of_every_size() {
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(4, 0, &[]));
        bytes.extend(frame(1, 0x5, &[0x82; 300]));
        bytes.extend(frame(3, 0, &8u32.to_be_bytes()));
        bytes.extend(frame(0, 0x1, b"ab"));
        let (whole, _) = scan(&bytes, bytes.len());
        let kinds: Vec<Kind> = whole.iter().map(|frame| frame.kind).collect();
        assert_eq!(
            kinds,
            [Kind::Settings, Kind::Headers, Kind::Reset, Kind::Data]
        );
        assert_eq!(whole[2].error_code(), 8);
        assert!(whole[3].ends_stream() && !whole[3].is_empty());
        for piece in 1..40 {
            assert_eq!(scan(&bytes, piece), (whole.clone(), false), "{piece}");
        }
    }

    #[test]
    fn padding_is_nothing() {
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(0, 0x8, &[3, 0, 0, 0]));
        bytes.extend(frame(0, 0x8, &[2, b'x', 0, 0]));
        bytes.extend(frame(0, 0, &[]));
        let (frames, _) = scan(&bytes, 7);
        let empty: Vec<bool> = frames.iter().map(Frame::is_empty).collect();
        assert_eq!(empty, [true, false, true]);
    }

    #[test]
    fn a_header_block_ends_with_the_last_byte_of_its_last_frame() {
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(1, 0, &[0x82; 10]));
        assert!(scan(&bytes, 5).1, "END_HEADERS is missing");
        bytes.extend(frame(9, 0x4, &[0x82; 10]));
        assert!(!scan(&bytes, 5).1);
        bytes.truncate(bytes.len() - 1);
        assert!(scan(&bytes, 5).1, "a byte is missing");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_scanned(bytes: Vec<u8>, piece in 1usize..64) {
            let (frames, _) = scan(&bytes, piece);
            proptest::prop_assert!(frames.len() <= bytes.len() / HEADER + 1);
        }
    }
}
