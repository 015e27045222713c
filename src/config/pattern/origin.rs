//! Origins of web pages, and how patterns of them are written.

use std::borrow::Cow;

use regex::Regex;

use super::host::is_label;
use super::regex;
use crate::config::problem::{Invalid, quote};

const EXPECTED: &str = "an origin such as `https://app.example.com`, `https://*.example.com` or \
                        `http://localhost:*`, `null`, or `*`";

/// The longest origin that is looked at: a scheme, a host name of 253 bytes and a port.
const MAX_BYTES: usize = 320;

/// An origin as a browser states it: `scheme://host`, and a port that is not the scheme's own (RFC 6454
/// section 6.2, and "serialized origin" of the URL standard).
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    text: &'a str,
    scheme: &'a str,
    host: &'a str,
    /// The port that is meant, written or not; `None` where the scheme has none.
    port: Option<u16>,
}

impl<'a> Origin<'a> {
    /// Reads the value of `Origin`, but for `null`. `None`: it is not one origin.
    pub fn parse(text: &'a str) -> Option<Self> {
        if text.len() > MAX_BYTES {
            return None;
        }
        let (scheme, authority) = text.split_once("://")?;
        let (host, port) = split_port(authority)?;
        let port = match port {
            Some(port) => Some(number(port)?),
            None => None,
        };
        (is_scheme(scheme) && is_host(host)).then_some(Self {
            text,
            scheme,
            host,
            port: port.or(default_port(scheme)),
        })
    }

    /// In lower case and without a default port.
    fn normal(&self) -> Cow<'a, str> {
        let is_lower = !self.text.bytes().any(|byte| byte.is_ascii_uppercase());
        let needless = self.port.is_some() && self.port == default_port(self.scheme);
        if is_lower && !(needless && self.has_port()) {
            return Cow::Borrowed(self.text);
        }
        let mut text = format!("{}://{}", self.scheme, self.host);
        if let (Some(port), false) = (self.port, needless) {
            text.push_str(&format!(":{port}"));
        }
        text.make_ascii_lowercase();
        Cow::Owned(text)
    }

    fn has_port(&self) -> bool {
        self.text.len() > self.scheme.len() + "://".len() + self.host.len()
    }
}

/// Host and port, if there is one.
fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    let end = match authority.starts_with('[') {
        true => authority.find(']')? + 1,
        false => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at(end);
    match rest.strip_prefix(':') {
        Some(port) => Some((host, Some(port))),
        None if rest.is_empty() => Some((host, None)),
        None => None,
    }
}

/// A port as it is written normally, so that it has one form.
fn number(port: &str) -> Option<u16> {
    let is_normal = port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0');
    port.parse().ok().filter(|_| is_normal)
}

fn default_port(scheme: &str) -> Option<u16> {
    if scheme.eq_ignore_ascii_case("https") {
        Some(443)
    } else if scheme.eq_ignore_ascii_case("http") {
        Some(80)
    } else {
        None
    }
}

/// RFC 3986 section 3.1.
fn is_scheme(scheme: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.bytes().all(allowed)
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[') {
        Some(inner) => inner
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok()),
        // Browsers tell a host with a final dot from one without.
        None => host
            .strip_suffix('.')
            .unwrap_or(host)
            .split('.')
            .all(is_label),
    }
}

/// Which origins are meant.
#[derive(Clone, Debug)]
pub enum OriginPattern {
    /// That of pages which do not say theirs, such as sandboxed frames and local files.
    Null,
    /// One host, or hosts below one.
    Host {
        /// In lower case.
        scheme: String,
        /// In lower case.
        host: String,
        /// Whether one or more labels stand in front of `host`.
        below: bool,
        /// The port.
        port: OriginPort,
    },
    /// Those that this expression matches from beginning to end.
    Regex(Regex),
}

/// Which ports are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginPort {
    /// Every one.
    Any,
    /// This one, which may be the scheme's own; `None` where the scheme has none.
    Is(Option<u16>),
}

impl OriginPattern {
    /// Reads an origin, or a pattern with `*` as its first label or its port.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let refuse = |what: &str| Invalid::new(format!("{} {what}", quote(text)), EXPECTED);
        if text == "null" {
            return Ok(Self::Null);
        }
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| refuse("has no scheme"))?;
        let (below, authority) = match rest.strip_prefix("*.") {
            Some(authority) => (true, authority),
            None => (false, rest),
        };
        if authority.contains(['/', '?', '#', '@']) {
            return Err(refuse("has more than scheme, host and port"));
        }
        let (host, port) = split_port(authority).ok_or_else(|| refuse("is not an origin"))?;
        let is_name = !below || !host.starts_with('[');
        if !is_scheme(scheme) || !is_host(host) || !is_name {
            return Err(refuse("is not an origin"));
        }
        let port = match port {
            None => OriginPort::Is(default_port(scheme)),
            Some("*") => OriginPort::Any,
            Some(port) => {
                let port = number(port).ok_or_else(|| refuse("has a port that is none"))?;
                OriginPort::Is(Some(port))
            }
        };
        Ok(Self::Host {
            scheme: scheme.to_ascii_lowercase(),
            host: host.to_ascii_lowercase(),
            below,
            port,
        })
    }

    /// Reads an expression. It is held against all of an origin: one that matched somewhere would let
    /// `https://example.com.evil.test` in.
    pub(in crate::config) fn parse_regex(text: &str) -> Result<Self, Invalid> {
        regex(text)?;
        regex(&format!(r"\A(?:{text})\z")).map(Self::Regex)
    }

    /// Whether this is one of the origins; `None` stands for `null`.
    pub fn matches(&self, origin: Option<&Origin<'_>>) -> bool {
        let Some(origin) = origin else {
            return matches!(self, Self::Null);
        };
        match self {
            Self::Null => false,
            Self::Host {
                scheme,
                host,
                below,
                port,
            } => {
                let same_port = match port {
                    OriginPort::Any => true,
                    OriginPort::Is(port) => *port == origin.port,
                };
                let same_host = match below {
                    true => is_below(origin.host, host),
                    false => origin.host.eq_ignore_ascii_case(host),
                };
                same_port && same_host && origin.scheme.eq_ignore_ascii_case(scheme)
            }
            Self::Regex(regex) => regex.is_match(&origin.normal()),
        }
    }
}

/// Whether a host has one or more labels in front of this one.
fn is_below(host: &str, suffix: &str) -> bool {
    let Some(front) = host.len().checked_sub(suffix.len() + 1) else {
        return false;
    };
    let (front, rest) = host.as_bytes().split_at(front);
    // Its labels are not empty: it is a host.
    !front.is_empty()
        && rest.first() == Some(&b'.')
        && rest[1..].eq_ignore_ascii_case(suffix.as_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    fn matches(pattern: &OriginPattern, origin: &str) -> bool {
        match origin {
            "null" => pattern.matches(None),
            origin => Origin::parse(origin).is_some_and(|origin| pattern.matches(Some(&origin))),
        }
    }

    #[track_caller]
    fn assert_matches(pattern: &OriginPattern, good: &[&str], bad: &[&str]) {
        for origin in good {
            assert!(matches(pattern, origin), "{origin}");
        }
        for origin in bad {
            assert!(!matches(pattern, origin), "{origin}");
        }
    }

    #[test]
    fn an_origin_is_its_scheme_host_and_port() {
        assert_matches(
            &OriginPattern::parse("https://App.Example.com:443").unwrap(),
            &[
                "https://app.example.com",
                "HTTPS://APP.example.COM",
                "https://app.example.com:443",
            ],
            &[
                "http://app.example.com",
                "http://app.example.com:443",
                "https://app.example.com:8443",
                "https://app.example.com.evil.test",
                "https://evil.test",
                "https://app.example.com/",
                "https://app.example.com.",
                "https://user@app.example.com",
                "https://app.example.com https://evil.test",
                "https://app.example.com:0443",
                "https://app.example.com:+443",
                "https://app.example.com:",
                "app.example.com",
                "null",
                "",
            ],
        );
    }

    #[test]
    fn a_star_stands_for_whole_labels_in_front_or_a_port() {
        assert_matches(
            &OriginPattern::parse("https://*.example.com").unwrap(),
            &["https://a.example.com", "https://a.b.EXAMPLE.com:443"],
            &[
                "https://example.com",
                "https://.example.com",
                "https://evilexample.com",
                "https://a.example.com:8443",
                "http://a.example.com",
                "https://a..example.com",
                "https://a.example.com.evil.test",
                "https://evil.test#.example.com",
                "null",
            ],
        );
        assert_matches(
            &OriginPattern::parse("http://localhost:*").unwrap(),
            &["http://localhost", "http://localhost:3000"],
            &["https://localhost:3000", "http://localhost.evil.test:3000"],
        );
    }

    #[test]
    fn other_schemes_and_addresses_have_origins_too() {
        let app = OriginPattern::parse("capacitor://localhost").unwrap();
        assert_matches(&app, &["capacitor://localhost"], &["http://localhost"]);
        let address = OriginPattern::parse("http://[::1]:8080").unwrap();
        assert_matches(&address, &["http://[::1]:8080"], &["http://[::1]"]);
    }

    #[test]
    fn an_expression_is_held_against_the_whole_normal_form() {
        assert_matches(
            &OriginPattern::parse_regex(r"https://pr-[0-9]+\.example\.com|https://b").unwrap(),
            &[
                "https://pr-12.example.com",
                "HTTPS://PR-12.example.com:443",
                "https://b",
            ],
            &[
                "https://pr-12.example.com.evil.test",
                "https://pr-12.example.com:8443",
                "https://evil.test",
                "https://bb",
                "null",
            ],
        );
    }

    #[test]
    fn null_is_only_itself() {
        let everything = OriginPattern::parse_regex(".*").unwrap();
        assert!(!matches(&everything, "null"));
        assert!(matches(&OriginPattern::parse("null").unwrap(), "null"));
    }

    #[test]
    fn texts_that_are_no_patterns_are_refused() {
        for text in [
            "",
            "*",
            "example.com",
            "https://",
            "https://*",
            "https://a.*.com",
            "https://api-*.example.com",
            "https://example.com/",
            "https://example.com:99999",
            "https://example.com:",
            "https://*.[::1]",
            "*://example.com",
            "https://exa mple.com",
        ] {
            assert!(OriginPattern::parse(text).is_err(), "{text}");
        }
        assert!(OriginPattern::parse_regex("a)|(b").is_err());
        assert!(OriginPattern::parse_regex("(").is_err());
    }
}
