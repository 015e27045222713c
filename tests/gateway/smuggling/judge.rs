//! A strict reader of HTTP/1 requests that shares nothing with the gateway.
//!
//! It knows RFC 9112 and refuses whatever the grammar does not have. It takes a whole connection's
//! bytes and stops at the first thing it does not understand.

/// A request as this reader understands it.
#[derive(Debug)]
pub struct Judged {
    /// The method.
    pub method: String,
    /// The target, when it is so plain that no proxy would change it.
    pub target: Option<String>,
    /// The first `X-Case`.
    pub mark: Option<String>,
    /// The body; `None` when the bytes end inside it, or it breaks the grammar.
    pub body: Option<Vec<u8>>,
}

/// Every request, up to the first that is malformed.
pub fn requests(mut bytes: &[u8]) -> Vec<Judged> {
    let mut found = Vec::new();
    loop {
        while let Some(rest) = bytes.strip_prefix(b"\r\n") {
            bytes = rest;
        }
        let Some((request, rest)) = request(bytes) else {
            return found;
        };
        found.push(request);
        let Some(rest) = rest else {
            return found;
        };
        bytes = rest;
    }
}

/// The next request and what follows it, if it is whole.
fn request(bytes: &[u8]) -> Option<(Judged, Option<&[u8]>)> {
    let (first, mut rest) = line(bytes)?;
    let words: Vec<&str> = std::str::from_utf8(first).ok()?.split(' ').collect();
    let [method, target, version] = words[..] else {
        return None;
    };
    if !["HTTP/1.1", "HTTP/1.0"].contains(&version) || !is_token(method) || target.is_empty() {
        return None;
    }
    let (mut lengths, mut encodings, mut hosts) = (Vec::new(), Vec::new(), 0);
    let mut mark = None;
    loop {
        let (field, after) = line(rest)?;
        rest = after;
        if field.is_empty() {
            break;
        }
        let colon = field.iter().position(|byte| *byte == b':')?;
        let name = std::str::from_utf8(&field[..colon])
            .ok()?
            .to_ascii_lowercase();
        let value = field[colon + 1..].trim_ascii();
        if !is_token(&name) || value.iter().any(|byte| is_control(*byte)) {
            return None;
        }
        match name.as_str() {
            "content-length" => lengths.push(value),
            "transfer-encoding" => encodings.push(value.to_ascii_lowercase()),
            "host" => hosts += 1,
            "x-case" if mark.is_none() => mark = Some(String::from_utf8_lossy(value).into_owned()),
            _ => {}
        }
    }
    if hosts > 1 || hosts == 0 && version == "HTTP/1.1" {
        return None;
    }
    let body = match (lengths[..].len(), encodings[..].len()) {
        (0, 0) => Some((Vec::new(), rest)),
        (1, 0) => {
            let digits = std::str::from_utf8(lengths[0]).ok()?;
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let length = digits.parse().ok()?;
            rest.split_at_checked(length)
                .map(|(body, rest)| (body.to_vec(), rest))
        }
        (0, 1) if encodings[0] == b"chunked" && version == "HTTP/1.1" => chunks(rest),
        _ => return None,
    };
    let plain = target
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"/-".contains(&byte));
    let plain = plain && target.starts_with('/') && !target.contains("//");
    let (body, rest) = body.map_or((None, None), |(body, rest)| (Some(body), Some(rest)));
    let judged = Judged {
        method: method.to_owned(),
        target: plain.then(|| target.to_owned()),
        mark,
        body,
    };
    Some((judged, rest))
}

/// The data of a chunked body, and what follows it.
fn chunks(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut data = Vec::new();
    loop {
        let (size, after) = line(rest)?;
        let size = std::str::from_utf8(size).ok()?;
        let digits = size.split(';').next()?;
        let good = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !good || size.bytes().any(is_control) {
            return None;
        }
        let size = usize::from_str_radix(digits, 16).ok()?;
        rest = after;
        if size == 0 {
            break;
        }
        let (chunk, after) = rest.split_at_checked(size)?;
        data.extend_from_slice(chunk);
        rest = after.strip_prefix(b"\r\n")?;
    }
    loop {
        let (trailer, after) = line(rest)?;
        rest = after;
        if trailer.is_empty() {
            return Some((data, rest));
        }
        if trailer.iter().any(|byte| is_control(*byte)) {
            return None;
        }
    }
}

/// A line without its CRLF, in which no other CR or LF may be.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let line = &bytes[..end];
    let bare = line.contains(&b'\r') || line.contains(&b'\n');
    (!bare).then(|| (line, &bytes[end + 2..]))
}

fn is_token(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(good)
}

fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}
