//! How a host pattern is written.

use std::fmt;
use std::net::Ipv6Addr;

use super::HostPattern;
use crate::config::problem::{Invalid, quote};

const EXPECTED: &str = "a host without port such as `api.example.com` or `*.example.com`";

impl HostPattern {
    /// Reads `api.example.com` or `*.example.com`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let refuse = |what: &str| Err(Invalid::new(format!("{} {what}", quote(text)), EXPECTED));
        let host = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if host == "*" {
            return refuse("matches every host, which leaving the key out does");
        }
        if let Some(inner) = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
        {
            return match inner.parse::<Ipv6Addr>() {
                Ok(_) => Ok(Self::Exact(host)),
                Err(_) => refuse("is not an IPv6 address"),
            };
        }
        if host.contains(':') {
            return refuse("has a port or scheme");
        }
        let (suffix, wildcard) = match host.strip_prefix("*.") {
            Some(suffix) => (suffix, true),
            None => (host.as_str(), false),
        };
        if suffix.contains('*') {
            return refuse("has a `*` that is not its first label");
        }
        if suffix.len() > 253 || !suffix.split('.').all(is_label) {
            return refuse("is not a host name");
        }
        Ok(if wildcard {
            Self::Wildcard(suffix.to_owned())
        } else {
            Self::Exact(host)
        })
    }
}

/// Whether this may stand between the dots of a host name.
pub(super) fn is_label(label: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=63).contains(&label.len()) && label.bytes().all(allowed)
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_exact_or_have_a_first_label_left_open() {
        for (text, host) in [
            (
                "API.Example.com.",
                HostPattern::Exact("api.example.com".into()),
            ),
            ("*.Example.com", HostPattern::Wildcard("example.com".into())),
            ("127.0.0.1", HostPattern::Exact("127.0.0.1".into())),
            ("[::1]", HostPattern::Exact("[::1]".into())),
        ] {
            assert_eq!(HostPattern::parse(text), Ok(host));
        }
        assert_eq!(HostPattern::Wildcard("a.b".into()).to_string(), "*.a.b");
    }

    #[test]
    fn other_texts_are_refused() {
        let long = "a".repeat(64);
        for text in [
            "", "*", "a..b", "a.*.b", "*a.b", "a b", "a:80", "http://a", "[x]", "é.com", &long,
        ] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
    }
}
