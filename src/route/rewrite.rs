//! The path that the backend gets: prefixes taken away or replaced, or an expression applied.

use std::borrow::Cow;

use crate::config::model::Rewrite;

/// Applies a rewrite to a normalised path. The result begins with `/`, and never with `//`.
///
/// A path that the rewrite does not fit stays as it is, and so does the `*` of `OPTIONS *`.
pub fn apply<'p>(rewrite: &Rewrite, path: &'p str) -> Cow<'p, str> {
    if !path.starts_with('/') {
        return Cow::Borrowed(path);
    }
    match rewrite {
        Rewrite::StripPrefix(prefix) => match after_prefix(path, prefix) {
            None => Cow::Borrowed(path),
            Some("") => Cow::Borrowed("/"),
            Some(rest) => one_slash(Cow::Borrowed(rest)),
        },
        Rewrite::ReplacePrefix { from, to } => match after_prefix(path, from) {
            None => Cow::Borrowed(path),
            Some("") => one_slash(Cow::Owned(to.clone())),
            Some(rest) => one_slash(Cow::Owned(format!("{}{rest}", trim_end_slash(to)))),
        },
        Rewrite::Regex {
            pattern,
            replacement,
        } => match pattern.replace(path, replacement) {
            Cow::Borrowed(same) => Cow::Borrowed(same),
            Cow::Owned(changed) => Cow::Owned(make_valid(&changed)),
        },
    }
}

/// What follows the prefix: nothing, or a slash and more. `None` if the path is not below it.
fn after_prefix<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    let rest = path.strip_prefix(trim_end_slash(prefix))?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

fn trim_end_slash(prefix: &str) -> &str {
    prefix.strip_suffix('/').unwrap_or(prefix)
}

/// Leaves exactly one slash at the start: two would make a host of the first segment.
fn one_slash(path: Cow<'_, str>) -> Cow<'_, str> {
    let slashes = path.len() - path.trim_start_matches('/').len();
    match (slashes, path) {
        (1, path) => path,
        (0, path) => Cow::Owned(format!("/{path}")),
        (_, Cow::Borrowed(path)) => Cow::Borrowed(&path[slashes - 1..]),
        (_, Cow::Owned(path)) => Cow::Owned(path[slashes - 1..].to_owned()),
    }
}

/// Makes a path of whatever an expression has left: an expression can cut escapes in half and join
/// texts to `..` segments, which must not reach a backend.
fn make_valid(text: &str) -> String {
    let mut path = String::with_capacity(text.len() + 1);
    for segment in text.trim_start_matches('/').split('/') {
        match dots(segment) {
            Some(1) => continue,
            Some(_) => path.truncate(path.rfind('/').unwrap_or(0)),
            None => {
                path.push('/');
                push_encoded(&mut path, segment, is_path_byte);
            }
        }
    }
    // A dot segment at the end stands for a directory.
    let ends_in_dots = text
        .rsplit('/')
        .next()
        .is_some_and(|last| dots(last).is_some());
    if path.is_empty() || (ends_in_dots && !path.ends_with('/')) {
        path.push('/');
    }
    one_slash(Cow::Owned(path)).into_owned()
}

/// How many dots a segment consists of, if it is a dot segment (RFC 3986, 5.2.4), encoded or not.
fn dots(segment: &str) -> Option<usize> {
    let mut rest = segment;
    let mut count = 0;
    while !rest.is_empty() {
        let encoded = rest
            .get(..3)
            .filter(|text| text.eq_ignore_ascii_case("%2e"));
        rest = encoded.map_or_else(|| rest.strip_prefix('.'), |_| rest.get(3..))?;
        count += 1;
    }
    matches!(count, 1 | 2).then_some(count)
}

/// Adds a text, percent-encoding what is not allowed. Good escapes stay as they are.
pub(super) fn push_encoded(out: &mut String, text: &str, allowed: fn(u8) -> bool) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let bytes = text.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        let escape = byte == b'%'
            && matches!(bytes.get(at + 1..at + 3), Some([a, b]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
        if escape || (byte.is_ascii() && allowed(byte)) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}

/// What may stand in a path: `pchar` of RFC 3986 without the percent sign, and the slash.
pub(super) fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

    use proptest::prelude::*;

    use super::*;

    fn strip(prefix: &str, path: &str) -> String {
        apply(&Rewrite::StripPrefix(prefix.to_owned()), path).into_owned()
    }

    fn replace(from: &str, to: &str, path: &str) -> String {
        let (from, to) = (from.to_owned(), to.to_owned());
        apply(&Rewrite::ReplacePrefix { from, to }, path).into_owned()
    }

    fn regex(pattern: &str, replacement: &str, path: &str) -> String {
        let pattern = regex::Regex::new(pattern).unwrap();
        let replacement = replacement.to_owned();
        apply(
            &Rewrite::Regex {
                pattern,
                replacement,
            },
            path,
        )
        .into_owned()
    }

    #[test]
    fn strips_whole_segments_only() {
        assert_eq!(strip("/api", "/api/users"), "/users");
        assert_eq!(strip("/api", "/api"), "/");
        assert_eq!(strip("/api", "/api/"), "/");
        assert_eq!(strip("/api", "/apis/users"), "/apis/users");
        assert_eq!(strip("/api", "/other"), "/other");
        assert_eq!(strip("/api/", "/api/users"), "/users");
        assert_eq!(strip("/", "/users"), "/users");
        assert_eq!(strip("/api", "/api/a/"), "/a/");
        assert_eq!(strip("/api", "*"), "*");
    }

    #[test]
    fn stripping_leaves_one_slash_and_allocates_nothing() {
        let rewrite = Rewrite::StripPrefix("/api".to_owned());
        assert!(matches!(
            apply(&rewrite, "/api//evil.test/x"),
            Cow::Borrowed("/evil.test/x")
        ));
        assert!(matches!(
            apply(&rewrite, "/api/users"),
            Cow::Borrowed("/users")
        ));
    }

    #[test]
    fn replaces_whole_segments_only() {
        assert_eq!(replace("/v1", "/v2", "/v1/users"), "/v2/users");
        assert_eq!(replace("/v1", "/v2", "/v1"), "/v2");
        assert_eq!(replace("/v1", "/v2/", "/v1/users"), "/v2/users");
        assert_eq!(replace("/v1", "/v2", "/v10/users"), "/v10/users");
        assert_eq!(replace("/", "/app", "/users"), "/app/users");
        assert_eq!(replace("/v1", "/", "/v1"), "/");
        assert_eq!(replace("/v1", "/", "/v1/users"), "/users");
        assert_eq!(replace("/v1", "", "/v1"), "/");
        assert_eq!(replace("/v1", "", "/v1//evil.test"), "/evil.test");
        assert_eq!(replace("/v1", "v2", "/v1/users"), "/v2/users");
    }

    #[test]
    fn an_expression_changes_its_first_match() {
        assert_eq!(
            regex("^/users/([0-9]+)", "/u/$1/profile", "/users/7"),
            "/u/7/profile"
        );
        assert_eq!(regex("/(?<a>x)", "/${a}y", "/x/x"), "/xy/x");
        assert_eq!(regex("nothing", "x", "/users/7"), "/users/7");
    }

    #[test]
    fn what_an_expression_makes_is_a_path() {
        assert_eq!(regex("^/a", "", "/a/b"), "/b");
        assert_eq!(regex("^/.*", "", "/a/b"), "/");
        assert_eq!(regex("^/a", "//evil.test", "/a/b"), "/evil.test/b");
        assert_eq!(regex("a", "b ?#\r\n", "/a"), "/b%20%3F%23%0D%0A");
        assert_eq!(regex("a", "é", "/a"), "/%C3%A9");
        assert_eq!(regex("2F", "", "/a%2Fb"), "/a%25b");
        assert_eq!(regex("a", "b", "/a%2Fb"), "/b%2Fb");
    }

    #[test]
    fn an_expression_makes_no_dot_segments() {
        assert_eq!(regex("x", "", "/a/.x./b"), "/b");
        assert_eq!(regex("x", "", "/a/b/.x."), "/a/");
        assert_eq!(
            regex("x", "", "/%2x%2e".replace("%2x", "%2xe").as_str()),
            "/"
        );
        assert_eq!(regex("x", "..", "/x/x/b"), "/x/b");
        assert_eq!(regex("x", "", "/.x./../b"), "/b");
        assert_eq!(regex("x", "", "/a/.x"), "/a/");
        assert_eq!(regex("x", "", "/a/...x"), "/a/...");
    }

    proptest! {
        #[test]
        fn every_result_is_an_origin_form_path(
            path in "/[a-c/.%2e]{0,12}",
            replacement in "[/.%a ?\u{0}-\u{20}é]{0,6}",
        ) {
            let result = regex("[ab/]+", &replacement, &path);
            prop_assert!(result.starts_with('/'));
            if result != path {
                prop_assert!(!result.starts_with("//"));
                prop_assert!(result.bytes().all(|byte| byte == b'%' || is_path_byte(byte)));
                prop_assert!(result.split('/').all(|segment| dots(segment).is_none()));
            }
        }
    }
}
