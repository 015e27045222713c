//! The header gate: what a request header must look like before anything acts on it.
//!
//! Stricter than RFC 9112 demands wherever two readers could disagree on where a request ends or
//! whom it is for: bare line feeds, folded lines, white space before a colon, several hosts,
//! lengths or encodings are refused rather than repaired.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use memchr::memmem;

use super::framing::{Chunk, Framing, is_field_byte, is_token};
use super::nominated::Options;
use super::normalize::{self, Target};
use crate::message::Request;
use crate::reply::Rejection;

/// Room for the fields of an ordinary message, and those that are added on the way.
const ROOM: usize = 24;

/// Empty lines tolerated before a request line (RFC 9112 section 2.2 asks for at least one).
const MAX_LEADING_LINES: usize = 4;

/// Bounds on a header.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes in all.
    pub bytes: usize,
    /// Fields.
    pub fields: usize,
    /// Bytes of the request target.
    pub target_bytes: usize,
    /// Whether paths are refused that a backend may read in another way.
    pub strict_paths: bool,
}

/// What the gate learned from a good header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Where the body ends.
    pub framing: Framing,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// The target everyone behind sees.
    pub target: Target,
    /// Whether the client would like to go on with the connection.
    pub keep_alive: bool,
    /// Whether `Connection` names fields that are to be taken off.
    pub names_fields: bool,
}

/// Finds the end of a header (behind its empty line), looking from `searched` on.
///
/// `None` means that more bytes are needed.
pub fn end_of_head(bytes: &[u8], searched: usize) -> Option<usize> {
    let from = searched.saturating_sub(3);
    memmem::find(&bytes[from..], b"\r\n\r\n").map(|at| from + at + 4)
}

/// How many bytes of empty lines stand before the request line, or `None` for too many.
pub fn leading_empty_lines(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    for _ in 0..=MAX_LEADING_LINES {
        if !bytes[at..].starts_with(b"\r\n") {
            return Some(at);
        }
        at += 2;
    }
    None
}

/// Whether an incomplete header can no longer become a good one, looking from `searched` on.
///
/// Without this a client that ends its lines with bare line feeds would wait for the deadline, and
/// one that speaks TLS to a plain port would, too.
pub fn hopeless(bytes: &[u8], searched: usize) -> bool {
    let unfit = |byte: &u8| (*byte < b' ' && !b"\r\n\t".contains(byte)) || *byte == 0x7f;
    let bare = |at: usize| searched + at == 0 || bytes[searched + at - 1] != b'\r';
    let fresh = &bytes[searched..];
    fresh.iter().any(unfit) || memchr::memchr_iter(b'\n', fresh).any(bare)
}

/// Judges a complete header, its final empty line included.
pub fn judge(head: &[u8], bounds: &Bounds) -> Result<Head, Rejection> {
    let mut lines = Lines { rest: head };
    let line = lines.next_line()?;
    let (target, version) = request_line(line, bounds)?;
    let mut fields = Fields::default();
    loop {
        let line = lines.next_line()?;
        if line.is_empty() {
            break;
        }
        fields.count += 1;
        if fields.count > bounds.fields {
            return Err(Rejection::HeaderTooLarge);
        }
        fields.read(line)?;
    }
    fields.conclude(target, version)
}

/// Takes a header apart that was judged. `None` could only be told of one that was not.
pub fn take_apart(head: &Bytes) -> Option<Request> {
    let end = memchr::memchr(b'\n', head)?;
    let line = head.get(..end.checked_sub(1)?)?;
    let method = &line[..memchr::memchr(b' ', line)?];
    let version = match line.last()? {
        b'0' => http::Version::HTTP_10,
        _ => http::Version::HTTP_11,
    };
    Some(Request {
        method: Method::from_bytes(method).ok()?,
        version,
        headers: fields(head, end + 1)?,
    })
}

/// The fields of a header that was judged, from this byte on. Values share its memory.
pub fn fields(head: &Bytes, mut at: usize) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(ROOM);
    while let Some(length) = memchr::memchr(b'\n', &head[at..]) {
        let line = &head[at..(at + length).checked_sub(1)?];
        if line.is_empty() {
            break;
        }
        let colon = memchr::memchr(b':', line)?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = trim(&line[colon + 1..]);
        let value = HeaderValue::from_maybe_shared(head.slice_ref(value)).ok()?;
        headers.append(name, value);
        at += length + 1;
    }
    Some(headers)
}

/// The lines of a header, each ended by CRLF.
struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Lines<'a> {
    fn next_line(&mut self) -> Result<&'a [u8], Rejection> {
        let end = memchr::memchr(b'\n', self.rest).ok_or(Rejection::BadRequest("line ending"))?;
        let line = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        match line.split_last() {
            Some((b'\r', line)) => Ok(line),
            _ => Err(Rejection::BadRequest("line ending")),
        }
    }
}

/// The `Allow` of a method that is never forwarded.
pub(super) const FORWARDED_METHODS: http::HeaderValue =
    http::HeaderValue::from_static("DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT");

/// The two versions that are spoken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

fn request_line(line: &[u8], bounds: &Bounds) -> Result<(Target, Version), Rejection> {
    let method_end = memchr::memchr(b' ', line).ok_or(Rejection::BadRequest("request line"))?;
    let (method, rest) = (&line[..method_end], &line[method_end + 1..]);
    if method.is_empty() || method.len() > 32 || !method.iter().all(|byte| is_token(*byte)) {
        return Err(Rejection::BadRequest("method"));
    }
    // Neither is forwarded by anyone who means well (RFC 9110 sections 9.3.6 and 9.3.8).
    if method == b"CONNECT" || method == b"TRACE" {
        return Err(Rejection::MethodNotAllowed(FORWARDED_METHODS));
    }
    let target_end = memchr::memrchr(b' ', rest).ok_or(Rejection::BadRequest("request line"))?;
    let (target, version) = (&rest[..target_end], &rest[target_end + 1..]);
    if target.len() > bounds.target_bytes {
        return Err(Rejection::UriTooLong);
    }
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(Rejection::VersionNotSupported);
        }
        _ => return Err(Rejection::BadRequest("version")),
    };
    let text = std::str::from_utf8(target).unwrap_or_default();
    if !is_target(text.as_bytes()) {
        return Err(Rejection::BadRequest("request target"));
    }
    let target = normalize::normalize(text, method == b"OPTIONS")?;
    if bounds.strict_paths && target.is_ambiguous() {
        return Err(Rejection::BadRequest("request target"));
    }
    Ok((target, version))
}

/// What the fields say about host and framing.
#[derive(Default)]
struct Fields<'a> {
    count: usize,
    host: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    connection: Options,
    expects_continue: bool,
}

impl<'a> Fields<'a> {
    fn read(&mut self, line: &'a [u8]) -> Result<(), Rejection> {
        let colon = memchr::memchr(b':', line).ok_or(Rejection::BadRequest("header field"))?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return Err(Rejection::BadRequest("header field name"));
        }
        if !value.iter().all(|byte| is_field_byte(*byte)) {
            return Err(Rejection::BadRequest("header field value"));
        }
        self.interpret(name, trim(value))
    }

    /// Looks at the fields that decide on framing; the length of the name is a cheap first test.
    fn interpret(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), Rejection> {
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.host(value),
            6 if name.eq_ignore_ascii_case(b"expect") => self.expect(value),
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                // No other protocol is passed through; a request for one stays with HTTP, as
                // RFC 9110 section 7.8 allows.
                self.upgrade |= value.eq_ignore_ascii_case(b"websocket");
                Ok(())
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                let read = self.connection.read(value);
                read.map_err(|_| Rejection::BadRequest("connection"))
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => self.length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.encoding(value),
            _ => Ok(()),
        }
    }

    fn host(&mut self, value: &'a [u8]) -> Result<(), Rejection> {
        if self.host.replace(value).is_some() || !is_authority(value) {
            return Err(Rejection::BadRequest("host"));
        }
        Ok(())
    }

    fn expect(&mut self, value: &[u8]) -> Result<(), Rejection> {
        if !value.eq_ignore_ascii_case(b"100-continue") {
            return Err(Rejection::ExpectationFailed);
        }
        self.expects_continue = true;
        Ok(())
    }

    /// One length of digits alone: no list, no sign, no second field even when it agrees.
    fn length(&mut self, value: &[u8]) -> Result<(), Rejection> {
        if self.length.is_some() {
            return Err(Rejection::BadRequest("content-length"));
        }
        self.length = Some(content_length(value)?);
        Ok(())
    }

    fn encoding(&mut self, value: &[u8]) -> Result<(), Rejection> {
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Rejection::BadRequest("transfer-encoding"));
        }
        self.chunked = true;
        Ok(())
    }

    fn conclude(self, target: Target, version: Version) -> Result<Head, Rejection> {
        if self.host.is_none() && version == Version::Http11 {
            return Err(Rejection::BadRequest("host"));
        }
        // RFC 9112 section 3.2.2 lets the target win; a client that says two things is refused.
        if let (Some(authority), Some(host)) = (&target.authority, self.host)
            && !authority.as_bytes().eq_ignore_ascii_case(host)
        {
            return Err(Rejection::BadRequest("host"));
        }
        if self.chunked && (self.length.is_some() || version == Version::Http10) {
            return Err(Rejection::BadRequest("transfer-encoding"));
        }
        let upgrades = self.upgrade && self.connection.upgrade && version == Version::Http11;
        let framing = match (self.chunked, self.length) {
            (true, _) => Framing::Chunked(Chunk::START),
            (false, Some(length)) if length > 0 => Framing::Length(length),
            _ if upgrades => Framing::Tunnel,
            _ => Framing::Done,
        };
        Ok(Head {
            framing,
            expects_continue: self.expects_continue && version == Version::Http11,
            target,
            // RFC 9112 section 9.3.
            keep_alive: !self.connection.close
                && (version == Version::Http11 || self.connection.keep_alive),
            names_fields: self.connection.names_fields,
        })
    }
}

/// The one way to write a length: digits alone.
pub fn content_length(value: &[u8]) -> Result<u64, Rejection> {
    let refused = Rejection::BadRequest("content-length");
    if value.is_empty() || value.len() > 18 {
        return Err(refused);
    }
    let mut length = 0u64;
    for byte in value {
        if !byte.is_ascii_digit() {
            return Err(refused);
        }
        // Eighteen digits fit into 64 bits.
        length = length * 10 + u64::from(byte - b'0');
    }
    Ok(length)
}

/// Whether every byte of a target may stand in one.
///
/// RFC 3986 leaves no byte outside visible ASCII in a target, and a fragment is the client's own
/// business (RFC 9112 section 3.2).
pub(super) fn is_target(target: &[u8]) -> bool {
    !target.is_empty()
        && target
            .iter()
            .all(|byte| byte.is_ascii_graphic() && *byte != b'#')
}

/// Whether this is a host with an optional port (RFC 3986 section 3.2), without user information.
pub(super) fn is_authority(value: &[u8]) -> bool {
    let (host, port) = if value.starts_with(b"[") {
        let Some(end) = memchr::memchr(b']', value) else {
            return false;
        };
        let inside = &value[1..end];
        let literal = std::str::from_utf8(inside)
            .is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok());
        if !literal {
            return false;
        }
        (inside, &value[end + 1..])
    } else {
        let end = memchr::memchr(b':', value).unwrap_or(value.len());
        let host = &value[..end];
        // Stricter than RFC 3986, which allows what no name in DNS has.
        let good = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
        if !host.iter().all(good) {
            return false;
        }
        (host, &value[end..])
    };
    let port_is_good = match port.split_first() {
        None => true,
        Some((b':', digits)) => is_port(digits),
        Some(_) => false,
    };
    !host.is_empty() && host.len() <= 255 && port_is_good
}

/// Whether this is empty (RFC 3986 section 3.2.3 allows it) or a port.
fn is_port(digits: &[u8]) -> bool {
    let number = digits.iter().try_fold(0u32, |number, digit| {
        let digit = char::from(*digit).to_digit(10)?;
        Some((number * 10 + digit).min(65_536))
    });
    digits.len() <= 5 && number.is_some_and(|number| number <= 65_535)
}

/// Takes optional white space (RFC 9110 section 5.6.3) off both ends.
fn trim(value: &[u8]) -> &[u8] {
    value.trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        bytes: 32 * 1024,
        fields: 100,
        target_bytes: 8 * 1024,
        strict_paths: true,
    };

    fn framing(head: &str) -> Result<Framing, Rejection> {
        judge(head.as_bytes(), &BOUNDS).map(|head| head.framing)
    }

    #[test]
    fn ordinary_requests_pass() {
        assert_eq!(
            framing("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            Ok(Framing::Done)
        );
        assert_eq!(framing("GET / HTTP/1.0\r\n\r\n"), Ok(Framing::Done));
        assert_eq!(
            framing("POST /x?y HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 12\r\n\r\n"),
            Ok(Framing::Length(12))
        );
        assert_eq!(
            framing("PUT / HTTP/1.1\r\nhost:a.example:8080\r\nTransfer-Encoding: Chunked\r\n\r\n"),
            Ok(Framing::Chunked(Chunk::START))
        );
        assert_eq!(
            framing(
                "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
                 Connection: keep-alive, Upgrade\r\n\r\n"
            ),
            Ok(Framing::Tunnel)
        );
    }

    #[test]
    fn ambiguous_requests_are_refused() {
        for head in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: \r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: user@a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a, b:1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
            "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n: empty\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / x HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /#f HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
            "GET / http/1.1\r\nHost: a\r\n\r\n",
            "GET /\r\n\r\n",
            "\r\n\r\n",
        ] {
            assert!(
                matches!(framing(head), Err(Rejection::BadRequest(_))),
                "{}: {:?}",
                head.escape_debug(),
                framing(head)
            );
        }
    }

    #[test]
    fn other_refusals_have_their_own_status() {
        assert_eq!(
            framing("GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
            Err(Rejection::VersionNotSupported)
        );
        assert_eq!(
            framing("GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n"),
            Err(Rejection::ExpectationFailed)
        );
        for method in ["TRACE / ", "CONNECT a:443 "] {
            let head = format!("{method}HTTP/1.1\r\nHost: a\r\n\r\n");
            assert!(matches!(
                framing(&head),
                Err(Rejection::MethodNotAllowed(_))
            ));
        }
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9000));
        assert_eq!(framing(&long), Err(Rejection::UriTooLong));
        let many = format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "A: b\r\n".repeat(100)
        );
        assert_eq!(framing(&many), Err(Rejection::HeaderTooLarge));
    }

    #[test]
    fn the_end_is_found_across_reads() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        for searched in 0..head.len() - 4 {
            assert_eq!(
                end_of_head(head, searched),
                Some(head.len() - 4),
                "{searched}"
            );
        }
        assert_eq!(end_of_head(b"GET / HTTP/1.1\r\n", 0), None);
    }

    #[test]
    fn what_cannot_become_a_header_is_refused_at_once() {
        assert!(hopeless(b"GET / HTTP/1.1\nHost", 0));
        assert!(hopeless(b"GET / HTTP/1.1\r\nHost: a\nX", 16));
        assert!(hopeless(b"\x16\x03\x01\x02\x00", 0));
        assert!(!hopeless(b"GET / HTT", 0));
        assert!(!hopeless(b"GET / HTTP/1.1\r\nHost: ", 15));
    }

    #[test]
    fn a_few_empty_lines_may_come_first() {
        assert_eq!(leading_empty_lines(b"GET"), Some(0));
        assert_eq!(leading_empty_lines(b"\r\n\r\nGET"), Some(4));
        assert_eq!(leading_empty_lines(&b"\r\n".repeat(9)), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = judge(&bytes, &BOUNDS);
            let _ = hopeless(&bytes, bytes.len() / 2);
            let _ = end_of_head(&bytes, 0);
        }
    }
}
