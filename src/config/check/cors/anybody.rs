//! Whether an expression for origins lets anybody's pages in, as far as trying says.
//!
//! What an expression matches cannot be listed, so it is tried with origins that nobody means.

use std::collections::BTreeSet;

use crate::config::pattern::{Origin, OriginPattern};

/// Schemes that expressions may stand for without naming them.
const SCHEMES: [&str; 6] = [
    "https",
    "http",
    "app",
    "capacitor",
    "chrome-extension",
    "moz-extension",
];

/// Names of one to four labels, in a domain where anybody can have one, addresses, and the identifiers
/// of browser extensions.
const HOSTS: [&str; 9] = [
    "nobody",
    "nobody.invalid",
    "nobody.com",
    "any.nobody.invalid",
    "so.any.nobody.invalid",
    "192.0.2.1",
    "[2001:db8::1]",
    "abcdefghijklmnopabcdefghijklmnop",
    "01234567-89ab-4cde-8f01-23456789abcd",
];

const PORTS: [&str; 5] = ["", ":1", ":3000", ":8443", ":12345"];

/// Whether the pattern of this expression matches an origin that nobody means.
pub(super) fn is_let_in(pattern: &OriginPattern, expression: &str) -> bool {
    schemes(expression).into_iter().any(|scheme| {
        HOSTS.iter().any(|host| {
            PORTS.iter().any(|port| {
                let text = format!("{scheme}://{host}{port}");
                Origin::parse(&text).is_some_and(|origin| pattern.matches(Some(&origin)))
            })
        })
    })
}

/// Every word of an expression may be a scheme that it matches. What is none makes no origin.
fn schemes(expression: &str) -> BTreeSet<String> {
    let plain = expression.replace('\\', "");
    let is_apart = |char: char| !char.is_ascii_alphanumeric() && !"+-.".contains(char);
    let words = plain.split(is_apart).map(str::to_ascii_lowercase);
    words.chain(SCHEMES.map(str::to_owned)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    fn lets_anybody_in(expression: &str) -> bool {
        is_let_in(&OriginPattern::parse_regex(expression).unwrap(), expression)
    }

    #[test]
    fn expressions_for_all_of_a_scheme_let_anybody_in() {
        for expression in [
            ".*",
            "https?://.*",
            r"https://[a-z]+",
            r"https://[^.]+\.[^.]+",
            r"https://[^.]+\.com",
            r"https://[^.]+\.[^.]+\..+",
            r"https://([a-z0-9-]+\.){3}[a-z]+",
            r"https://[^:]+:8443",
            r"http://[a-z.]+:[0-9]{4,5}",
            r"http://[0-9]+(\.[0-9]+){3}",
            r"https://\[.+\]",
            "chrome-extension://.*",
            r"chrome-extension://[a-p]{32}",
            r"moz\-extension:\/\/[0-9a-f-]{36}",
            r"https://app\.example\.com|tauri://.*",
            r"(?:https|com\.example\.app)://[^/]+",
            r"[a-z]+://localhost|[a-z-]+://[a-z]+",
        ] {
            assert!(lets_anybody_in(expression), "{expression}");
        }
    }

    #[test]
    fn expressions_for_hosts_do_not() {
        for expression in [
            r"https://[a-z0-9-]+\.example\.com",
            r"https://.*\.example\.com(:[0-9]+)?",
            r"https?://([a-z]+\.)*example\.(com|org)",
            r"http://localhost(:[0-9]+)?",
            r"http://10\.[0-9.]+:[0-9]+",
            r"https://pr-[0-9]+\.preview\.example",
            "chrome-extension://(abcdefghijklmnopabcdefghijklmnoa|b{32})",
            "capacitor://localhost",
        ] {
            assert!(!lets_anybody_in(expression), "{expression}");
        }
    }
}
