//! One form of a request target for everyone behind: routes, filters and the backend.
//!
//! Dot segments are resolved, empty segments merged and percent-encoded unreserved characters
//! decoded once (RFC 3986 section 6.2.2), before routing. What a backend might decode into
//! something else is refused: encoded control bytes. An encoded slash stays encoded: it is data
//! inside a segment. What only some backends read in another way is called ambiguous; whether that
//! is refused is for the configuration to say.

use std::borrow::Cow;

use crate::reply::Rejection;

/// A request target in normal form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Path and query as everyone behind sees them.
    text: String,
    /// Where the path ends in it.
    path_end: usize,
    /// Whether this is not what was received.
    pub changed: bool,
    /// The authority of an absolute form, which then stands for the `Host` header.
    pub authority: Option<String>,
}

impl Target {
    /// The path in normal form; `*` for the asterisk form.
    pub fn path(&self) -> &str {
        &self.text[..self.path_end]
    }

    /// The query as it was, without its question mark; empty when there is none.
    pub fn query(&self) -> &str {
        self.text.get(self.path_end + 1..).unwrap_or_default()
    }

    /// Path and query.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a backend may read the path in another way than the gateway, and so find another
    /// resource than the one that was routed and authorised.
    ///
    /// A backslash is a slash to some; an encoded slash is one to others, and dot segments beside it
    /// then lead elsewhere; a parameter (`..;x`) hides a dot segment until it is taken off; overlong
    /// UTF-8 hides any of these.
    pub fn is_ambiguous(&self) -> bool {
        let path = self.path();
        // What is none of these has neither an encoding nor a parameter.
        memchr::memchr2(b'%', b';', path.as_bytes()).is_some()
            && (path.contains("%5C") || is_overlong(path) || hides_dot_segment(path))
    }
}

/// Whether bytes are encoded that stand for ASCII in overlong UTF-8 (RFC 3629 section 3).
fn is_overlong(path: &str) -> bool {
    let encodings = path.split('%').skip(1);
    let followers = path.split('%').skip(2);
    encodings.zip(followers).any(|(lead, next)| match lead {
        "C0" | "C1" => next.starts_with(['8', '9', 'A', 'B']),
        "E0" => next.starts_with(['8', '9']),
        _ => false,
    })
}

/// Whether a dot segment appears when encoded slashes are decoded and parameters are taken off.
fn hides_dot_segment(path: &str) -> bool {
    let pieces = path.split('/').flat_map(|segment| segment.split("%2F"));
    let mut names = pieces.map(|piece| {
        let name = piece.split(';').next().unwrap_or_default();
        name.split("%3B").next().unwrap_or_default()
    });
    names.any(|name| name == "." || name == "..")
}

/// Takes a request target apart (RFC 9112 section 3.2) and normalises its path.
pub fn normalize(target: &str, is_options: bool) -> Result<Target, Rejection> {
    const REFUSED: Rejection = Rejection::BadRequest("request target");
    if target == "*" && is_options {
        return Ok(Target {
            text: target.to_owned(),
            path_end: 1,
            ..Target::default()
        });
    }
    let (authority, rest) = if target.starts_with('/') {
        (None, target)
    } else {
        let (authority, rest) = split_authority(target).ok_or(REFUSED)?;
        (Some(authority.to_owned()), rest)
    };
    let (path, query) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
    // No URI holds these, and Pingora's parser would refuse them without a word to the client, the
    // log or the metrics.
    if path.contains(['<', '>', '`']) || query.contains(['<', '>', '"']) {
        return Err(REFUSED);
    }
    let path = normalize_path(if path.is_empty() { "/" } else { path }).ok_or(REFUSED)?;
    let mut text = String::with_capacity(path.len() + query.len());
    text.push_str(&path);
    text.push_str(query);
    Ok(Target {
        changed: text != target,
        path_end: path.len(),
        text,
        authority,
    })
}

/// Takes the authority of an absolute form and what follows it.
fn split_authority(target: &str) -> Option<(&str, &str)> {
    let after = strip_scheme(target)?;
    let (authority, rest) = after.split_at(after.find(['/', '?']).unwrap_or(after.len()));
    super::head::is_authority(authority.as_bytes()).then_some((authority, rest))
}

fn strip_scheme(target: &str) -> Option<&str> {
    let end = target.find("://")?;
    let scheme = &target[..end];
    (scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https"))
        .then(|| &target[end + 3..])
}

/// The path in normal form, borrowed when it is so already; `None` when it must be refused.
fn normalize_path(path: &str) -> Option<Cow<'_, str>> {
    if is_normal(path.as_bytes()) {
        return Some(Cow::Borrowed(path));
    }
    let decoded = decode_unreserved(path)?;
    Some(Cow::Owned(resolve_segments(&decoded)))
}

/// A cheap test: no percent sign, no empty segment, no segment that begins with a dot.
fn is_normal(path: &[u8]) -> bool {
    let mut previous = 0;
    for byte in path {
        match byte {
            b'%' | b'\\' => return false,
            b'/' | b'.' if previous == b'/' => return false,
            _ => {}
        }
        previous = *byte;
    }
    true
}

/// Decodes what needs no encoding, writes other encodings in upper case, refuses the rest.
fn decode_unreserved(path: &str) -> Option<String> {
    let mut decoded = String::with_capacity(path.len());
    let bytes = path.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let value = hex(*bytes.get(at + 1)?)? << 4 | hex(*bytes.get(at + 2)?)?;
                if value < b' ' || value == 0x7f {
                    return None;
                }
                if value.is_ascii_alphanumeric() || b"-._~".contains(&value) {
                    decoded.push(char::from(value));
                } else {
                    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                    decoded.push('%');
                    decoded.push(char::from(DIGITS[usize::from(value >> 4)]));
                    decoded.push(char::from(DIGITS[usize::from(value & 15)]));
                }
                at += 3;
            }
            // No URI holds a backslash, and some backends read it as a slash.
            b'\\' => {
                decoded.push_str("%5C");
                at += 1;
            }
            byte => {
                decoded.push(char::from(byte));
                at += 1;
            }
        }
    }
    Some(decoded)
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// Resolves `.` and `..` and merges slashes; what leads above the root stays at the root.
fn resolve_segments(path: &str) -> String {
    let mut resolved = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "" | "." => {}
            ".." => {
                let parent = resolved.rfind('/').unwrap_or(0);
                resolved.truncate(parent);
            }
            _ => {
                resolved.push('/');
                resolved.push_str(segment);
                continue;
            }
        }
        if last {
            resolved.push('/');
        }
    }
    if resolved.is_empty() {
        resolved.push('/');
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(target: &str) -> String {
        match normalize(target, false) {
            Ok(target) => target.path().to_owned(),
            Err(rejection) => format!("{rejection:?}"),
        }
    }

    #[test]
    fn normal_targets_are_left_alone() {
        for target in ["/", "/a/b", "/a/b/", "/a.b/c..d", "/a?b=../c", "/?"] {
            let normal = normalize(target, false).unwrap_or_default();
            assert!(!normal.changed, "{target}");
            assert_eq!(normal.as_str(), target);
        }
    }

    #[test]
    fn paths_have_one_form() {
        for (target, expected) in [
            ("/a//b", "/a/b"),
            ("//a", "/a"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/../../etc", "/etc"),
            ("/..", "/"),
            ("/%2e%2E/a", "/a"),
            ("/a/%2e%2e/b", "/b"),
            ("/%61dmin", "/admin"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%c3%a9", "/a%C3%A9"),
            ("/a\\..\\b", "/a%5C..%5Cb"),
            ("/.hidden", "/.hidden"),
            ("/...", "/..."),
            ("/a/", "/a/"),
            ("/%252e", "/%252e"),
        ] {
            assert_eq!(path(target), expected, "{target}");
        }
    }

    #[test]
    fn encodings_that_hide_something_are_refused() {
        for target in [
            "/<a>",
            "/a`",
            "/?a=<b>",
            "/?\"",
            "/%",
            "/%4",
            "/%zz",
            "/%00",
            "/a%0d%0ab",
            "/%7f",
            "a",
            "",
            "*",
        ] {
            assert!(normalize(target, false).is_err(), "{target}");
        }
    }

    #[test]
    fn what_backends_may_read_in_another_way_is_ambiguous() {
        for target in [
            "/a/..%2fb",
            "/a/..%2F..%2Fetc",
            "/a%2f..",
            "/a%2F%2e%2e/b",
            "/%2f./b",
            "/..;/b",
            "/a/..;x=y/b",
            "/a/.;/b",
            "/a/..%3b/b",
            "/a/%2e%2e;/b",
            "/a\\b",
            "/a%5cb",
            "/a/..%5cb",
            "/%c0%ae%c0%ae/b",
            "/a%c0%afb",
            "/a%c1%9cb",
            "/a%e0%80%afb",
        ] {
            let target = normalize(target, false).unwrap_or_default();
            assert!(target.is_ambiguous(), "{}", target.as_str());
        }
        for target in [
            "/a%2Fb",
            "/a%2Fb..c",
            "/a%2F...",
            "/%40scope%2Fpackage",
            "/a;v=1/b",
            "/a;..",
            "/a%20b",
            "/%C3%A9t%C3%A9",
            "/%E0%A4%85",
            "/%E9",
            "/%C0",
            "/a?b=..%2F&c=\\",
            "/a/../b",
            "/%252e",
        ] {
            let target = normalize(target, false).unwrap_or_default();
            assert!(!target.is_ambiguous(), "{}", target.as_str());
        }
    }

    #[test]
    fn the_absolute_form_is_taken_apart() {
        let target = normalize("http://Example.com:8080/a/../b?c", false).unwrap_or_default();
        assert_eq!(target.as_str(), "/b?c");
        assert_eq!((target.path(), target.query()), ("/b", "c"));
        assert_eq!(target.authority.as_deref(), Some("Example.com:8080"));
        assert!(target.changed);
        assert_eq!(path("http://example.com"), "/");
        assert_eq!(path("https://example.com?x"), "/");
        assert!(normalize("http:///a", false).is_err());
        assert!(normalize("http://user@host/", false).is_err());
        assert!(normalize("ftp://host/", false).is_err());
    }

    #[test]
    fn the_asterisk_is_for_options() {
        assert!(normalize("*", true).is_ok_and(|target| target.path() == "*"));
    }

    proptest::proptest! {
        #[test]
        fn normal_form_is_stable(target in "/[a-z./%0-9A-F\\\\]{0,24}") {
            if let Ok(once) = normalize(&target, false) {
                let path = once.path();
                proptest::prop_assert!(normalize(path, false).is_ok_and(|again| !again.changed));
                proptest::prop_assert!(!path.contains("//"));
                proptest::prop_assert!(!path.split('/').any(|s| s == "." || s == ".."));
            }
        }
    }
}
