//! How a path pattern is written.

use std::fmt;

use regex::{Regex, RegexBuilder};

use super::{PathPattern, Segment, Tail};
use crate::config::problem::{Invalid, quote};

const EXPECTED: &str = "a path such as `/users`, `/users/:id`, `/static/*` or `/files/*rest`";

/// Largest compiled expression; thousands of routes may have one each.
const MAX_REGEX_BYTES: usize = 1 << 20;

const ANCHOR_START: &str = r"\A(?:";
const ANCHOR_END: &str = r")\z";

impl PathPattern {
    /// Reads `/users/:id`, `/static/*` and the like.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let refuse = |what: &str| Invalid::new(format!("{} {what}", quote(text)), EXPECTED);
        let Some(rest) = text.strip_prefix('/') else {
            return Err(refuse("does not begin with `/`"));
        };
        let mut segments = Vec::new();
        let mut names = Vec::new();
        let mut pieces = rest.split('/').peekable();
        while let Some(piece) = pieces.next() {
            let last = pieces.peek().is_none();
            if let Some(name) = piece.strip_prefix('*') {
                if !last {
                    return Err(refuse("has a `*` before its end"));
                }
                if name.is_empty() {
                    return Ok(Self::Segments {
                        segments,
                        tail: Tail::Prefix,
                    });
                }
                let name = parameter(name, &mut names).map_err(refuse)?;
                return Ok(Self::Segments {
                    segments,
                    tail: Tail::CatchAll(name),
                });
            }
            segments.push(if let Some(name) = piece.strip_prefix(':') {
                Segment::Param(parameter(name, &mut names).map_err(refuse)?)
            } else {
                Segment::Literal(literal(piece, last).map_err(refuse)?)
            });
        }
        Ok(Self::Segments {
            segments,
            tail: Tail::End,
        })
    }

    /// Reads an expression that must match the whole path.
    pub fn parse_regex(text: &str) -> Result<Self, Invalid> {
        regex(text)?;
        // What is valid alone may still leave the closing bracket in a comment of `(?x)`.
        regex(&format!("{ANCHOR_START}{text}{ANCHOR_END}")).map(Self::Regex)
    }

    /// Whether a parameter of this name is there.
    pub fn has_parameter(&self, name: &str) -> bool {
        match self {
            Self::Segments { segments, tail } => {
                let named = |segment: &Segment| matches!(segment, Segment::Param(n) if n == name);
                matches!(tail, Tail::CatchAll(n) if n == name) || segments.iter().any(named)
            }
            Self::Regex(regex) => regex.capture_names().flatten().any(|n| n == name),
        }
    }
}

/// Compiles an expression of bounded size.
pub(in crate::config) fn regex(text: &str) -> Result<Regex, Invalid> {
    RegexBuilder::new(text)
        .size_limit(MAX_REGEX_BYTES)
        .build()
        .map_err(|error| {
            let cause = error.to_string();
            // The crate draws the place of the fault over several lines; the last one says what it is.
            let cause = cause
                .lines()
                .last()
                .unwrap_or_default()
                .trim_start_matches("error: ");
            let detail = format!("{} is not a regular expression ({cause})", quote(text));
            Invalid::new(
                detail,
                "one in the syntax of Rust's `regex`, without look-around",
            )
        })
}

fn parameter(name: &str, names: &mut Vec<String>) -> Result<String, &'static str> {
    if !is_parameter_name(name) {
        return Err("has a parameter without a proper name (letters, digits and `_`)");
    }
    if names.iter().any(|known| known == name) {
        return Err("has the same parameter twice");
    }
    names.push(name.to_owned());
    Ok(name.to_owned())
}

/// Whether a parameter can have this name.
pub(super) fn is_parameter_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && name.bytes().all(word) && !name.as_bytes()[0].is_ascii_digit()
}

/// A segment in the form that request paths have when they are matched: percent-encoded where it
/// must be and nowhere else.
fn literal(piece: &str, last: bool) -> Result<String, &'static str> {
    if piece.is_empty() && !last {
        return Err("has an empty segment");
    }
    if piece == "." || piece == ".." {
        return Err("has a `.` or `..` segment, which no request has when it is matched");
    }
    if piece.contains('*') {
        return Err("has a `*` inside of a segment");
    }
    let mut out = String::with_capacity(piece.len());
    let mut bytes = piece.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| (byte as char).to_digit(16));
                let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else {
                    return Err("has a `%` without two hexadecimal digits");
                };
                match char::from_u32(high * 16 + low) {
                    Some(c) if c.is_ascii_alphanumeric() || "-._~".contains(c) => out.push(c),
                    _ => out.push_str(&format!("%{high:X}{low:X}")),
                }
            }
            b'?' | b'#' => return Err("has a `?` or `#`, which a path cannot have"),
            0..=b' ' | 0x7f => return Err("has a space or control character"),
            0x80.. => out.push_str(&format!("%{byte:02X}")),
            _ => out.push(byte as char),
        }
    }
    Ok(out)
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (segments, tail) = match self {
            Self::Segments { segments, tail } => (segments, tail),
            Self::Regex(regex) => {
                let text = regex.as_str();
                let inner = text
                    .strip_prefix(ANCHOR_START)
                    .and_then(|t| t.strip_suffix(ANCHOR_END));
                return f.write_str(inner.unwrap_or(text));
            }
        };
        for segment in segments {
            match segment {
                Segment::Literal(text) => write!(f, "/{text}")?,
                Segment::Param(name) => write!(f, "/:{name}")?,
            }
        }
        match tail {
            Tail::End => Ok(()),
            Tail::Prefix => f.write_str("/*"),
            Tail::CatchAll(name) => write!(f, "/*{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // A test that cannot go on has failed.
    use super::*;

    fn segments(text: &str) -> (Vec<Segment>, Tail) {
        match PathPattern::parse(text).unwrap() {
            PathPattern::Segments { segments, tail } => (segments, tail),
            PathPattern::Regex(regex) => panic!("{regex}"),
        }
    }

    fn literal(text: &str) -> Segment {
        Segment::Literal(text.into())
    }

    #[test]
    fn paths_are_read_segment_by_segment() {
        assert_eq!(segments("/"), (vec![literal("")], Tail::End));
        assert_eq!(segments("/*"), (vec![], Tail::Prefix));
        assert_eq!(
            segments("/a/"),
            (vec![literal("a"), literal("")], Tail::End)
        );
        assert_eq!(segments("/a/*"), (vec![literal("a")], Tail::Prefix));
        assert_eq!(
            segments("/a/*rest"),
            (vec![literal("a")], Tail::CatchAll("rest".into()))
        );
        let id = Segment::Param("id".into());
        assert_eq!(
            segments("/u/:id/x:y"),
            (vec![literal("u"), id, literal("x:y")], Tail::End)
        );
    }

    #[test]
    fn literals_are_kept_as_requests_have_them() {
        assert_eq!(
            segments("/caf\u{e9}/%7euser/%2f").0,
            [literal("caf%C3%A9"), literal("~user"), literal("%2F")]
        );
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "", "a", "*", "//", "/a//b", "/a/*/b", "/a/b*", "/:", "/:1", "/:a-b", "/:a/:a",
            "/:a/*a", "/a b", "/a?b", "/a#b", "/%zz", "/%4", "/../a", "/a/.", "/a\u{7f}",
        ] {
            assert!(PathPattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_expression_matches_the_whole_path() {
        let PathPattern::Regex(regex) = PathPattern::parse_regex("/v[0-9]+|/w").unwrap() else {
            panic!()
        };
        assert!(regex.is_match("/v12") && regex.is_match("/w"));
        assert!(!regex.is_match("/v12/x") && !regex.is_match("/x/w"));
        let error = PathPattern::parse_regex("/(").unwrap_err();
        assert!(error.detail.contains("unclosed group"), "{error}");
        assert!(PathPattern::parse_regex("/a)|(b").is_err());
        assert!(PathPattern::parse_regex("(?x)/a # x").is_err());
        assert!(PathPattern::parse_regex("(a{1000}){1000}").is_err());
    }

    #[test]
    fn a_pattern_prints_as_it_was_written() {
        for text in ["/", "/*", "/a/", "/a/*", "/a/:id/*rest"] {
            assert_eq!(PathPattern::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(
            PathPattern::parse_regex("/v[0-9]").unwrap().to_string(),
            "/v[0-9]"
        );
    }

    #[test]
    fn parameters_are_known_by_name() {
        let path = PathPattern::parse("/a/:id/*rest").unwrap();
        assert!(path.has_parameter("id") && path.has_parameter("rest") && !path.has_parameter("a"));
        assert!(
            PathPattern::parse_regex("/(?<id>.*)")
                .unwrap()
                .has_parameter("id")
        );
    }
}
