//! The host a request asks for: without port, case and trailing dot, and safe to repeat.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// The longest host that is believed; DNS allows no longer one.
const MAX_HOST_BYTES: usize = 253;

/// Splits an authority (`Host` or `:authority`) into host and port.
///
/// The brackets of an IPv6 address and one trailing dot are taken away. What follows the colon is
/// no part of the host even when it is no port.
pub fn split(authority: &str) -> (&str, Option<u16>) {
    if let Some(inner) = authority.strip_prefix('[')
        && let Some((address, rest)) = inner.split_once(']')
    {
        return (address, rest.strip_prefix(':').and_then(parse_port));
    }
    // More than one colon without brackets is an IPv6 address written bare, which has no port.
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, parse_port(port)),
        _ => (authority, None),
    };
    (host.strip_suffix('.').unwrap_or(host), port)
}

/// The host alone, in lower case. Borrows unless there is an upper case letter in it.
pub fn normalize(authority: &str) -> Cow<'_, str> {
    let (host, _) = split(authority);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// The host as it may stand in a URL, IPv6 addresses in brackets; `None` when it is no host.
pub fn for_url(host: &str) -> Option<Cow<'_, str>> {
    let bare = host
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(host);
    if bare.contains(':') {
        let address: Ipv6Addr = bare.parse().ok()?;
        return Some(Cow::Owned(format!("[{address}]")));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let valid = !host.is_empty() && host.len() <= MAX_HOST_BYTES && host.bytes().all(plain);
    valid.then_some(Cow::Borrowed(host))
}

fn parse_port(text: &str) -> Option<u16> {
    // `parse` alone would take a sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_port_brackets_and_trailing_dot_off() {
        for (authority, expected) in [
            ("example.com", ("example.com", None)),
            ("example.com:8080", ("example.com", Some(8080))),
            ("example.com.:8080", ("example.com", Some(8080))),
            ("example.com.", ("example.com", None)),
            ("example.com:", ("example.com", None)),
            ("example.com:+80", ("example.com", None)),
            ("example.com:99999", ("example.com", None)),
            ("[::1]:8443", ("::1", Some(8443))),
            ("[::1]", ("::1", None)),
            ("::1", ("::1", None)),
            ("", ("", None)),
        ] {
            assert_eq!(split(authority), expected, "{authority}");
        }
    }

    #[test]
    fn borrows_what_is_normal_already() {
        assert!(matches!(normalize("a.test:80"), Cow::Borrowed("a.test")));
        assert_eq!(normalize("A.Test.:80"), "a.test");
    }

    #[test]
    fn only_hosts_may_stand_in_a_url() {
        assert_eq!(for_url("a_b-c.test").as_deref(), Some("a_b-c.test"));
        assert_eq!(for_url("::1").as_deref(), Some("[::1]"));
        assert_eq!(for_url("[::1]").as_deref(), Some("[::1]"));
        for bad in ["", "a b", "a@evil.test", "a/b", "a\\b", "a\r\nx", "[zz::]"] {
            assert_eq!(for_url(bad), None, "{bad:?}");
        }
        assert_eq!(for_url(&"a".repeat(254)), None);
    }
}
