//! How long a response says that its keys are good for (RFC 9111 section 4.2).

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};

/// How long the keys of a response may be used before they are asked for again, as far as its header
/// says so. It is zero for one that is not to be stored, or whose header cannot be understood, which
/// RFC 9111 section 4.2.1 asks to take for stale.
pub fn lifetime(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let lifetime = match cache_control(headers) {
        CacheControl::MaxAge(seconds) => Duration::from_secs(seconds),
        CacheControl::Never => return Some(Duration::ZERO),
        CacheControl::Silent => expires(headers, now)?,
    };
    Some(lifetime.saturating_sub(age(headers)))
}

enum CacheControl {
    MaxAge(u64),
    Never,
    Silent,
}

/// RFC 9111 section 5.2.2. Of several ages the shortest counts.
fn cache_control(headers: &HeaderMap) -> CacheControl {
    let mut shortest = None;
    for value in headers.get_all(header::CACHE_CONTROL) {
        let Ok(text) = value.to_str() else {
            return CacheControl::Never;
        };
        for directive in text.split(',') {
            let (name, argument) = directive.split_once('=').unwrap_or((directive, ""));
            let name = name.trim();
            if ["no-store", "no-cache"]
                .iter()
                .any(|one| name.eq_ignore_ascii_case(one))
            {
                return CacheControl::Never;
            }
            if name.eq_ignore_ascii_case("max-age") {
                let Some(seconds) = seconds(argument.trim().trim_matches('"')) else {
                    return CacheControl::Never;
                };
                shortest = Some(shortest.map_or(seconds, |known: u64| known.min(seconds)));
            }
        }
    }
    shortest.map_or(CacheControl::Silent, CacheControl::MaxAge)
}

/// RFC 9111 section 5.3: what is no date is in the past.
fn expires(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let expires = headers.get(header::EXPIRES)?;
    let date = |value: &http::HeaderValue| httpdate::parse_http_date(value.to_str().ok()?).ok();
    let sent = headers.get(header::DATE).and_then(date).unwrap_or(now);
    let until = date(expires).and_then(|until| until.duration_since(sent).ok());
    Some(until.unwrap_or(Duration::ZERO))
}

/// RFC 9111 section 5.1: how long it has been in caches on the way.
fn age(headers: &HeaderMap) -> Duration {
    let age = headers.get(header::AGE).and_then(|age| age.to_str().ok());
    Duration::from_secs(age.and_then(|age| seconds(age.trim())).unwrap_or(0))
}

/// RFC 9111 section 1.2.2: digits alone; what is too large to be kept is the largest.
fn seconds(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    fn of(fields: &[(&'static str, &str)]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        // Sun, 06 Nov 1994 08:49:37 GMT
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        lifetime(&headers, now).map(|lifetime| lifetime.as_secs())
    }

    #[test]
    fn the_age_of_cache_control_counts_less_the_time_in_caches() {
        for (value, expected) in [
            ("max-age=600", 600),
            ("public, Max-Age=600, must-revalidate", 600),
            ("max-age=\"600\"", 600),
            ("max-age=600, max-age=60", 60),
            ("s-maxage=7, max-age=600", 600),
            ("max-age=99999999999999999999999", u64::MAX),
        ] {
            assert_eq!(of(&[("cache-control", value)]), Some(expected), "{value}");
        }
        assert_eq!(
            of(&[("cache-control", "max-age=600"), ("age", "100")]),
            Some(500)
        );
        assert_eq!(
            of(&[("cache-control", "max-age=600"), ("age", "700")]),
            Some(0)
        );
        assert_eq!(
            of(&[("cache-control", "max-age=600"), ("age", "x")]),
            Some(600)
        );
    }

    #[test]
    fn what_is_not_to_be_kept_or_not_understood_is_stale() {
        for value in [
            "no-store",
            "No-Cache, max-age=600",
            "max-age",
            "max-age=-1",
            "max-age=1.5",
        ] {
            assert_eq!(of(&[("cache-control", value)]), Some(0), "{value}");
        }
        let two = [
            ("cache-control", "max-age=600"),
            ("cache-control", "no-store"),
        ];
        assert_eq!(of(&two), Some(0));
    }

    #[test]
    fn expires_counts_where_cache_control_says_nothing() {
        let later = "Sun, 06 Nov 1994 08:59:37 GMT";
        assert_eq!(of(&[("expires", later)]), Some(600));
        assert_eq!(
            of(&[
                ("expires", later),
                ("date", "Sun, 06 Nov 1994 08:58:37 GMT")
            ]),
            Some(60)
        );
        assert_eq!(of(&[("expires", later), ("age", "1")]), Some(599));
        assert_eq!(
            of(&[("expires", later), ("cache-control", "max-age=1")]),
            Some(1)
        );
        assert_eq!(
            of(&[("expires", later), ("cache-control", "public")]),
            Some(600)
        );
        for past in ["0", "Sun, 06 Nov 1994 08:49:36 GMT", "soon"] {
            assert_eq!(of(&[("expires", past)]), Some(0), "{past}");
        }
    }

    #[test]
    fn a_header_that_says_nothing_says_nothing() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("cache-control", "public"), ("age", "3")]), None);
    }
}
