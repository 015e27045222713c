//! Finding what a client shows in the header of its request.

use http::{HeaderMap, HeaderValue, header};

use crate::config::model::CredentialSource;
use crate::metrics::AuthError;
use crate::tls::ClientCert;

/// What a client shows.
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    /// The header of its request.
    pub headers: &'a HeaderMap,
    /// Its certificate, if the handshake asked for one.
    pub client_cert: Option<&'a ClientCert>,
}

/// The one credential that is in one of these places. More than one is refused: two readers could
/// choose differently.
pub fn find<'a>(
    headers: &'a HeaderMap,
    sources: &[CredentialSource],
) -> Result<Option<&'a str>, AuthError> {
    let mut found = None;
    for source in sources {
        let one = match source {
            CredentialSource::Header { name, scheme } => {
                of_header(headers, name, scheme.as_deref())?
            }
            CredentialSource::Cookie(name) => of_cookie(headers, name)?,
        };
        if one.is_some() && found.replace(one).is_some() {
            return Err(AuthError::Ambiguous);
        }
    }
    Ok(found.flatten())
}

/// Takes these credentials out of a header, so that a backend does not get them.
pub fn strip(headers: &mut HeaderMap, sources: &[CredentialSource]) {
    for source in sources {
        match source {
            CredentialSource::Header { name, scheme } => {
                let holds =
                    |value: &HeaderValue| scheme.is_none() || has_scheme(value, scheme.as_deref());
                if headers.get_all(name).iter().any(holds) {
                    headers.remove(name);
                }
            }
            CredentialSource::Cookie(name) => strip_cookie(headers, name),
        }
    }
}

fn of_header<'a>(
    headers: &'a HeaderMap,
    name: &http::HeaderName,
    scheme: Option<&str>,
) -> Result<Option<&'a str>, AuthError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(AuthError::Ambiguous);
    }
    if scheme.is_some() && !has_scheme(value, scheme) {
        // It is for another scheme.
        return Ok(None);
    }
    let text = value.to_str().map_err(|_| AuthError::Malformed)?;
    let text = match scheme {
        // RFC 9110 section 11.4: one space or several behind the scheme.
        Some(scheme) => text[scheme.len()..].trim_matches(' '),
        None => text.trim_matches([' ', '\t']),
    };
    if text.is_empty() {
        return Err(AuthError::Malformed);
    }
    Ok(Some(text))
}

/// Whether the value begins with this word, in any case.
fn has_scheme(value: &HeaderValue, scheme: Option<&str>) -> bool {
    let (bytes, scheme) = (value.as_bytes(), scheme.unwrap_or_default().as_bytes());
    bytes.len() >= scheme.len()
        && bytes[..scheme.len()].eq_ignore_ascii_case(scheme)
        && bytes.get(scheme.len()).is_none_or(|byte| *byte == b' ')
}

/// RFC 6265 section 4.2.1; HTTP/2 may split the field (RFC 9113 section 8.2.3).
pub(crate) fn of_cookie<'a>(
    headers: &'a HeaderMap,
    name: &str,
) -> Result<Option<&'a str>, AuthError> {
    let mut found = None;
    for value in headers.get_all(header::COOKIE) {
        for pair in value.as_bytes().split(|byte| *byte == b';') {
            let Some(text) = cookie_value(pair, name) else {
                continue;
            };
            let text = std::str::from_utf8(text).map_err(|_| AuthError::Malformed)?;
            if found.replace(text).is_some() {
                return Err(AuthError::Ambiguous);
            }
        }
    }
    match found {
        // A cookie that was emptied is how browsers are told to forget one.
        Some("") => Ok(None),
        found => Ok(found),
    }
}

/// The value of a pair with this name, without quotes around it.
fn cookie_value<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let pair = pair.trim_ascii();
    let end = memchr::memchr(b'=', pair)?;
    if pair[..end].trim_ascii() != name.as_bytes() {
        return None;
    }
    let value = pair[end + 1..].trim_ascii();
    let quoted = value
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""));
    Some(quoted.unwrap_or(value))
}

/// Takes every cookie of this name away.
pub(crate) fn strip_cookie(headers: &mut HeaderMap, name: &str) {
    let mut all = headers.get_all(header::COOKIE).iter();
    if !all.any(|value| has_cookie(value, name)) {
        return;
    }
    let kept: Vec<Vec<u8>> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(|value| without_cookie(value.as_bytes(), name))
        .collect();
    headers.remove(header::COOKIE);
    for value in kept.into_iter().filter(|value| !value.is_empty()) {
        // A part of a value that was one.
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            headers.append(header::COOKIE, value);
        }
    }
}

fn has_cookie(value: &HeaderValue, name: &str) -> bool {
    let mut pairs = value.as_bytes().split(|byte| *byte == b';');
    pairs.any(|pair| cookie_value(pair, name).is_some())
}

fn without_cookie(value: &[u8], name: &str) -> Vec<u8> {
    let pairs = value.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let kept: Vec<&[u8]> = pairs
        .filter(|pair| cookie_value(pair, name).is_none())
        .collect();
    kept.join(&b"; "[..])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

    use http::HeaderName;

    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        headers
    }

    fn bearer() -> CredentialSource {
        CredentialSource::Header {
            name: header::AUTHORIZATION,
            scheme: Some("Bearer".to_owned()),
        }
    }

    fn key() -> CredentialSource {
        CredentialSource::Header {
            name: HeaderName::from_static("x-api-key"),
            scheme: None,
        }
    }

    fn cookie() -> CredentialSource {
        CredentialSource::Cookie("session".to_owned())
    }

    #[test]
    fn the_word_before_a_credential_is_compared_without_case() {
        for value in ["Bearer abc", "bearer abc", "BEARER   abc "] {
            let headers = headers(&[("authorization", value)]);
            assert_eq!(find(&headers, &[bearer()]), Ok(Some("abc")), "{value}");
        }
        for value in ["Basic abc", "Bearerabc", "Bear abc", "abc"] {
            let headers = headers(&[("authorization", value)]);
            assert_eq!(find(&headers, &[bearer()]), Ok(None), "{value}");
        }
        for value in ["Bearer", "Bearer "] {
            let headers = headers(&[("authorization", value)]);
            assert_eq!(find(&headers, &[bearer()]), Err(AuthError::Malformed));
        }
    }

    #[test]
    fn more_than_one_is_refused_wherever_they_are() {
        let twice = headers(&[("authorization", "Bearer a"), ("authorization", "Bearer a")]);
        assert_eq!(find(&twice, &[bearer()]), Err(AuthError::Ambiguous));
        let mixed = headers(&[("authorization", "Basic a"), ("authorization", "Bearer a")]);
        assert_eq!(find(&mixed, &[bearer()]), Err(AuthError::Ambiguous));
        let two = headers(&[("authorization", "Bearer a"), ("cookie", "session=b")]);
        assert_eq!(find(&two, &[bearer(), cookie()]), Err(AuthError::Ambiguous));
        let cookies = headers(&[("cookie", "session=a; x=1"), ("cookie", "session=a")]);
        assert_eq!(find(&cookies, &[cookie()]), Err(AuthError::Ambiguous));
    }

    #[test]
    fn cookies_are_found_among_others() {
        for value in [
            "session=abc",
            "a=1; session=abc; b=2",
            "session=\"abc\"",
            "x=session; session=abc",
        ] {
            let headers = headers(&[("cookie", value)]);
            assert_eq!(find(&headers, &[cookie()]), Ok(Some("abc")), "{value}");
        }
        for value in ["xsession=abc", "session", "Session=abc", "session="] {
            let headers = headers(&[("cookie", value)]);
            assert_eq!(find(&headers, &[cookie()]), Ok(None), "{value}");
        }
    }

    #[test]
    fn stripping_leaves_what_is_not_a_credential() {
        let mut all = headers(&[
            ("authorization", "Bearer a"),
            ("x-api-key", "k"),
            ("cookie", "a=1; session=s; b=2"),
            ("cookie", "session=s"),
        ]);
        strip(&mut all, &[bearer(), key(), cookie()]);
        assert_eq!(all.len(), 1);
        assert_eq!(all[header::COOKIE], "a=1; b=2");
        // Whichever of them a backend would read.
        let mut two = headers(&[("authorization", "Basic a"), ("authorization", "Bearer a")]);
        strip(&mut two, &[bearer()]);
        assert!(two.is_empty());
        let mut basic = headers(&[("authorization", "Basic a")]);
        strip(&mut basic, &[bearer()]);
        assert_eq!(basic.len(), 1);
    }
}
