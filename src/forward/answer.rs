//! The head of a backend's response, judged as strictly as that of a request: what two readers could
//! frame differently is refused (RFC 9112 section 6), not repaired.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};

use crate::listener::framing::{Chunk, Framing, is_field_byte, is_token};
use crate::listener::head;
use crate::message::Response;

/// Fields of a response.
const MAX_FIELDS: usize = 256;

/// A head that is no good; the part that is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed response: {0}")]
pub struct Malformed(pub &'static str);

/// A response's head and what it says of the connection.
#[derive(Debug)]
pub struct Answer {
    /// The head.
    pub response: Response,
    /// Where the body ends; `Tunnel` where only the connection's end tells.
    pub framing: Framing,
    /// Whether the connection can be used again behind it.
    pub keep_alive: bool,
}

/// Judges a complete head, its final empty line included.
pub fn judge(bytes: &Bytes, method: &Method) -> Result<Answer, Malformed> {
    let (is_http11, status, reason, at) = status_line(bytes)?;
    lines(&bytes[at..])?;
    let headers = head::fields(bytes, at).ok_or(Malformed("field"))?;
    let mut response = Response {
        status,
        reason,
        headers,
    };
    let length = length(&response.headers)?;
    let chunked = chunked(&response.headers)?;
    if chunked && length.is_some() {
        return Err(Malformed("transfer-encoding"));
    }
    response.headers.remove(header::TRANSFER_ENCODING);
    let framing = match (chunked, length) {
        _ if response.is_bodiless(method) => Framing::Done,
        (true, _) => Framing::Chunked(Chunk::START),
        (false, Some(0)) => Framing::Done,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::Tunnel,
    };
    Ok(Answer {
        // HTTP/1.0 knows no chunks: who sends them is not to be relied on (RFC 9112 section 6.1).
        keep_alive: keeps_alive(&response.headers, is_http11)
            && (is_http11 || !chunked)
            && framing != Framing::Tunnel,
        framing,
        response,
    })
}

/// The version, the status, words that are not the usual ones, and where the fields begin.
fn status_line(bytes: &Bytes) -> Result<(bool, StatusCode, Option<Bytes>, usize), Malformed> {
    const BAD: Malformed = Malformed("status line");
    let end = memchr::memchr(b'\n', bytes).ok_or(BAD)?;
    let line = bytes[..end].strip_suffix(b"\r").ok_or(BAD)?;
    let (version, rest) = line.split_at_checked(9).ok_or(BAD)?;
    let is_http11 = match version {
        b"HTTP/1.1 " => true,
        b"HTTP/1.0 " => false,
        _ => return Err(BAD),
    };
    let (digits, rest) = rest.split_at_checked(3).ok_or(BAD)?;
    let status = StatusCode::from_bytes(digits).map_err(|_| BAD)?;
    // RFC 9112 section 4 wants the space even before no words at all; not everybody does.
    let words = match rest.split_first() {
        None => rest,
        Some((b' ', words)) if words.iter().all(|byte| is_field_byte(*byte)) => words,
        Some(_) => return Err(BAD),
    };
    let usual = status.canonical_reason().unwrap_or_default().as_bytes();
    let reason = (words != usual).then(|| bytes.slice_ref(words));
    Ok((is_http11, status, reason, end + 1))
}

/// Every line ends with CRLF and is a field: no folds, no space before the colon, no control bytes.
fn lines(mut bytes: &[u8]) -> Result<(), Malformed> {
    for _ in 0..=MAX_FIELDS {
        let end = memchr::memchr(b'\n', bytes).ok_or(Malformed("line ending"))?;
        let line = bytes[..end]
            .strip_suffix(b"\r")
            .ok_or(Malformed("line ending"))?;
        if line.is_empty() {
            return Ok(());
        }
        let colon = memchr::memchr(b':', line).ok_or(Malformed("field"))?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return Err(Malformed("field name"));
        }
        if !value.iter().all(|byte| is_field_byte(*byte)) {
            return Err(Malformed("field value"));
        }
        bytes = &bytes[end + 1..];
    }
    Err(Malformed("too many fields"))
}

/// The length, however often it is stated, as long as it is always the same (RFC 9110 section 8.6).
fn length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut length = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        for part in value.as_bytes().split(|byte| *byte == b',') {
            let stated =
                head::content_length(part.trim_ascii()).map_err(|_| Malformed("content-length"))?;
            if length.replace(stated).is_some_and(|other| other != stated) {
                return Err(Malformed("content-length"));
            }
        }
    }
    Ok(length)
}

/// Whether the body comes in chunks. Another encoding, or two, nobody would take off.
fn chunked(headers: &HeaderMap) -> Result<bool, Malformed> {
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(encoding) = encodings.next() else {
        return Ok(false);
    };
    let is_chunked = encoding.as_bytes().eq_ignore_ascii_case(b"chunked");
    if !is_chunked || encodings.next().is_some() {
        return Err(Malformed("transfer-encoding"));
    }
    Ok(true)
}

/// RFC 9112 section 9.3.
fn keeps_alive(headers: &HeaderMap, is_http11: bool) -> bool {
    let mut keeps = is_http11;
    for value in headers.get_all(header::CONNECTION) {
        for option in value.as_bytes().split(|byte| *byte == b',') {
            let option = option.trim_ascii();
            if option.eq_ignore_ascii_case(b"close") {
                return false;
            }
            keeps |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }
    keeps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(head: &str) -> Result<Answer, Malformed> {
        let bytes = Bytes::copy_from_slice(format!("{head}\r\n\r\n").as_bytes());
        judge(&bytes, &Method::GET)
    }

    fn framing(head: &str) -> Result<(Framing, bool), Malformed> {
        judged(head).map(|answer| (answer.framing, answer.keep_alive))
    }

    #[test]
    fn ordinary_responses_pass() {
        assert_eq!(
            framing("HTTP/1.1 200 OK\r\nContent-Length: 5"),
            Ok((Framing::Length(5), true))
        );
        assert_eq!(
            framing("HTTP/1.1 200\r\ntransfer-encoding:Chunked"),
            Ok((Framing::Chunked(Chunk::START), true))
        );
        assert_eq!(framing("HTTP/1.1 200 OK"), Ok((Framing::Tunnel, false)));
        assert_eq!(
            framing("HTTP/1.1 304 Not Modified\r\nContent-Length: 5"),
            Ok((Framing::Done, true))
        );
        assert_eq!(
            framing("HTTP/1.0 200 OK\r\nContent-Length: 0"),
            Ok((Framing::Done, false))
        );
        assert_eq!(
            framing("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: a, Keep-Alive"),
            Ok((Framing::Done, true))
        );
        assert_eq!(
            framing("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\nContent-Length: 5"),
            Ok((Framing::Length(5), true))
        );
        assert_eq!(
            framing("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive"),
            Ok((Framing::Chunked(Chunk::START), false))
        );
        let head = Bytes::from_static(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
        let head = judge(&head, &Method::HEAD).map(|answer| answer.framing);
        assert_eq!(head, Ok(Framing::Done));
    }

    #[test]
    fn own_words_are_kept() {
        let reason = |head: &str| judged(head).ok().and_then(|answer| answer.response.reason);
        assert_eq!(reason("HTTP/1.1 200 OK"), None);
        assert_eq!(
            reason("HTTP/1.1 503 Busy now").as_deref(),
            Some(&b"Busy now"[..])
        );
    }

    #[test]
    fn whatever_readers_could_disagree_about_is_refused() {
        for head in [
            "HTTP/1.1 abc OK",
            "HTTP/1.1 20 OK",
            "HTTP/1.1 2000 OK",
            "HTTP/1.1  200 OK",
            "HTTP/2.0 200 OK",
            "http/1.1 200 OK",
            "HTTP/1.1 200 O\u{1}K",
            "HTTP/1.1 200 OK\nA: b",
            "HTTP/1.1 200 OK\r\nA: b\r\n c",
            "HTTP/1.1 200 OK\r\nA : b",
            "HTTP/1.1 200 OK\r\nA",
            "HTTP/1.1 200 OK\r\n: b",
            "HTTP/1.1 200 OK\r\nA: b\rc",
            "HTTP/1.1 200 OK\r\nA: b\0c",
            "HTTP/1.1 200 OK\r\nA: b\nC: d",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6",
            "HTTP/1.1 200 OK\r\nContent-Length: 5,6",
            "HTTP/1.1 200 OK\r\nContent-Length: +5",
            "HTTP/1.1 200 OK\r\nContent-Length:",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        ] {
            assert!(judged(head).is_err(), "{head:?}");
        }
        let many = "A: b\r\n".repeat(MAX_FIELDS + 1);
        assert!(judged(&format!("HTTP/1.1 200 OK\r\n{}", many.trim_end())).is_err());
    }
}
