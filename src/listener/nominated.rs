//! What a request's `Connection` field names: options of the connection, and fields that are meant
//! for this hop alone (RFC 9110 section 7.6.1).
//!
//! A client could have a field taken away that others rely on: the one that says who the client is,
//! who the user is, or where the body ends. Such a request is refused. Other fields that are named
//! are taken off before anything is decided by them.

use http::{HeaderMap, HeaderName, header};

use super::framing::is_token;

/// Options in all `Connection` fields of a request; Pingora takes no more.
const MAX_OPTIONS: usize = 9;

/// Fields that are for every recipient, whatever a client says.
const PROTECTED: [&str; 12] = [
    "authorization",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "transfer-encoding",
    "via",
    "x-real-ip",
    "x-request-id",
];
/// What the names of others begin with.
const PROTECTED_BEGINNING: &[u8] = b"x-forwarded-";

/// What the `Connection` fields of a request ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    count: usize,
    /// To go on with another protocol.
    pub upgrade: bool,
    /// To end the connection behind the answer.
    pub close: bool,
    /// To keep it, which HTTP/1.0 does not do by itself.
    pub keep_alive: bool,
    /// There are fields to be taken off.
    pub names_fields: bool,
}

/// A `Connection` field that is malformed, too long, or names what it must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forbidden;

impl Options {
    /// Reads a further field.
    pub fn read(&mut self, value: &[u8]) -> Result<(), Forbidden> {
        for option in options(value) {
            self.count += 1;
            if self.count > MAX_OPTIONS {
                return Err(Forbidden);
            }
            if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else if !is_plain(option) {
                if !option.iter().all(|byte| is_token(*byte)) || is_protected(option) {
                    return Err(Forbidden);
                }
                self.names_fields = true;
            }
        }
        Ok(())
    }
}

fn options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|option| !option.is_empty())
}

/// Whether this is an option that every client may send, and no field that could be taken off.
fn is_plain(option: &[u8]) -> bool {
    [&b"keep-alive"[..], b"close", b"upgrade", b"te"]
        .iter()
        .any(|plain| option.eq_ignore_ascii_case(plain))
}

fn is_protected(option: &[u8]) -> bool {
    let beginning = option.get(..PROTECTED_BEGINNING.len());
    beginning.is_some_and(|beginning| beginning.eq_ignore_ascii_case(PROTECTED_BEGINNING))
        || PROTECTED
            .iter()
            .any(|name| option.eq_ignore_ascii_case(name.as_bytes()))
}

/// Takes off the fields that are named.
pub fn strip(headers: &mut HeaderMap) {
    let values = headers.get_all(header::CONNECTION);
    let named: Vec<HeaderName> = values
        .iter()
        .flat_map(|value| options(value.as_bytes()))
        .filter(|option| !is_plain(option) && !option.eq_ignore_ascii_case(b"connection"))
        .filter_map(|option| HeaderName::from_bytes(option).ok())
        .collect();
    for name in named {
        headers.remove(&name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<Options, Forbidden> {
        let mut options = Options::default();
        for value in values {
            options.read(value.as_bytes())?;
        }
        Ok(options)
    }

    #[test]
    fn ordinary_options_pass() {
        for value in [
            "",
            "close",
            "Keep-Alive",
            "keep-alive, TE",
            ",, close ,",
            "X-Own",
        ] {
            assert_eq!(read(&[value]).map(|options| options.upgrade), Ok(false));
        }
        let options = read(&["keep-alive", "close, UPGRADE, HTTP2-Settings"]);
        assert_eq!(options.map(|options| options.upgrade), Ok(true));
    }

    #[test]
    fn fields_that_are_for_everyone_cannot_be_named() {
        for value in [
            "X-Forwarded-For",
            "close, x-FORWARDED-proto",
            "x-forwarded-anything",
            "Forwarded",
            "X-Real-IP",
            "Host",
            "keep-alive,Content-Length",
            "Transfer-Encoding",
            "Authorization",
            "Cookie",
            "X-Request-Id",
            "Via",
        ] {
            assert_eq!(read(&[value]), Err(Forbidden), "{value}");
        }
    }

    #[test]
    fn what_is_no_option_is_refused() {
        for value in ["\"close\"", ":authority", "a b", "close;x", "\u{e9}"] {
            assert_eq!(read(&[value]), Err(Forbidden), "{value}");
        }
        assert!(read(&["a, b, c", "d, e, f, g, h, i"]).is_ok());
        assert_eq!(read(&["a, b, c", "d, e, f, g, h, i, j"]), Err(Forbidden));
    }

    #[test]
    fn named_fields_are_taken_off() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Own, te, connection"),
            ("connection", "x-other"),
            ("x-own", "1"),
            ("X-Other", "2"),
            ("te", "trailers"),
            ("x-kept", "3"),
        ] {
            let name = HeaderName::from_bytes(name.as_bytes());
            headers.append(
                name.unwrap_or_else(|error| panic!("{error}")),
                http::HeaderValue::from_static(value),
            );
        }
        strip(&mut headers);
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["connection", "te", "x-kept"]);
    }
}
