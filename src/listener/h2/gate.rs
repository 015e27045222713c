//! The header gate for HTTP/2 requests: the rules of [`super::super::head`], for a request that
//! came as fields.
//!
//! The library below has refused what breaks HTTP/2 itself (RFC 9113 section 8.2 and 8.3: upper
//! case, connection-specific fields, repeated pseudo-fields, a body that is not as long as stated) by
//! resetting the stream. What is left is brought into the form that an HTTP/1 request has: one Host
//! field, one Cookie field, a target in origin form.

use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Uri, Version};

use super::CONNECTION_FIELDS;
use crate::listener::framing::{Chunk, Framing, is_field_byte};
use crate::listener::head::{self, Bounds, FORWARDED_METHODS, Head};
use crate::listener::normalize::{self, Target};
use crate::reply::Rejection;

/// What the name of a method may have.
const METHOD_BYTES: usize = 32;

/// Judges a request and gives it the form that everyone behind the gate sees. `ended` says that
/// there is no body.
pub fn judge(parts: &mut Parts, ended: bool, bounds: &Bounds) -> Result<Head, Rejection> {
    method(&parts.method)?;
    let target = target(parts, bounds)?;
    let host = host(parts)?;
    fields(parts, bounds)?;
    let length = length(&parts.headers)?;
    let expects_continue = expectation(&parts.headers)?;
    parts.headers.insert(header::HOST, host);
    join_cookies(&mut parts.headers)?;
    parts.uri =
        Uri::try_from(target.as_str()).map_err(|_| Rejection::BadRequest("request target"))?;
    parts.version = Version::HTTP_2;
    let framing = match length {
        _ if ended => Framing::Done,
        Some(0) => Framing::Done,
        Some(length) => Framing::Length(length),
        // Only an end of the stream says where the body ends.
        None => Framing::Chunked(Chunk::START),
    };
    Ok(Head {
        framing,
        expects_continue,
        target,
        keep_alive: true,
        names_fields: false,
    })
}

fn method(method: &Method) -> Result<(), Rejection> {
    if method.as_str().len() > METHOD_BYTES {
        return Err(Rejection::BadRequest("method"));
    }
    if matches!(*method, Method::CONNECT | Method::TRACE) {
        return Err(Rejection::MethodNotAllowed(FORWARDED_METHODS));
    }
    Ok(())
}

/// The target in normal form, with no authority in it and nothing left to adopt.
fn target(parts: &Parts, bounds: &Bounds) -> Result<Target, Rejection> {
    const REFUSED: Rejection = Rejection::BadRequest("request target");
    let scheme = parts.uri.scheme_str();
    // The library drops the scheme of a request that names its host in a field alone.
    let known = scheme.is_some_and(|scheme| matches!(scheme, "http" | "https"));
    if !known && parts.uri.authority().is_some() {
        return Err(Rejection::BadRequest("scheme"));
    }
    let text = parts.uri.path_and_query().ok_or(REFUSED)?.as_str();
    if text.len() > bounds.target_bytes {
        return Err(Rejection::UriTooLong);
    }
    // An absolute form inside of `:path` would be a second authority.
    if !head::is_target(text.as_bytes()) || !(text.starts_with('/') || text == "*") {
        return Err(REFUSED);
    }
    let mut target = normalize::normalize(text, parts.method == Method::OPTIONS)?;
    if bounds.strict_paths && target.is_ambiguous() {
        return Err(Rejection::BadRequest("request target"));
    }
    target.changed = false;
    Ok(target)
}

/// The one authority of the request. `:authority` and Host must not differ (RFC 9113 section 8.3.1).
fn host(parts: &Parts) -> Result<HeaderValue, Rejection> {
    const REFUSED: Rejection = Rejection::BadRequest("host");
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let field = hosts.next();
    if hosts.next().is_some() {
        return Err(REFUSED);
    }
    let value = match (parts.uri.authority(), field) {
        (Some(authority), None) => {
            HeaderValue::from_str(authority.as_str()).map_err(|_| REFUSED)?
        }
        (Some(authority), Some(field))
            if authority
                .as_str()
                .as_bytes()
                .eq_ignore_ascii_case(field.as_bytes()) =>
        {
            field.clone()
        }
        (None, Some(field)) => field.clone(),
        _ => return Err(REFUSED),
    };
    head::is_authority(value.as_bytes())
        .then_some(value)
        .ok_or(REFUSED)
}

/// Number, size and bytes of the fields. All Cookie fields count as the one they become.
fn fields(parts: &Parts, bounds: &Bounds) -> Result<(), Rejection> {
    let mut count = 0;
    let mut bytes = parts.method.as_str().len() + parts.uri.path().len();
    let mut cookies = 0;
    for (name, value) in &parts.headers {
        // As many bytes as in HTTP/1, with `: ` and the end of the line.
        bytes += name.as_str().len() + value.len() + 4;
        if *name == header::COOKIE {
            cookies = 1;
        } else {
            count += 1;
        }
        field(name, value)?;
    }
    if count + cookies > bounds.fields || bytes > bounds.bytes {
        return Err(Rejection::HeaderTooLarge);
    }
    Ok(())
}

fn field(name: &HeaderName, value: &HeaderValue) -> Result<(), Rejection> {
    let value = value.as_bytes();
    // RFC 9113 section 8.2.1: no field value begins or ends with white space.
    if !value.iter().all(|byte| is_field_byte(*byte)) || value.trim_ascii() != value {
        return Err(Rejection::BadRequest("header field value"));
    }
    let te = *name == header::TE && !value.eq_ignore_ascii_case(b"trailers");
    if te || CONNECTION_FIELDS.contains(name) {
        return Err(Rejection::BadRequest("header field name"));
    }
    Ok(())
}

fn length(headers: &HeaderMap) -> Result<Option<u64>, Rejection> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else {
        return Ok(None);
    };
    if lengths.next().is_some() {
        return Err(Rejection::BadRequest("content-length"));
    }
    head::content_length(length.as_bytes()).map(Some)
}

fn expectation(headers: &HeaderMap) -> Result<bool, Rejection> {
    let mut expectations = headers.get_all(header::EXPECT).iter();
    if expectations.any(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(Rejection::ExpectationFailed);
    }
    Ok(headers.contains_key(header::EXPECT))
}

/// Makes several Cookie fields one (RFC 9113 section 8.2.3): HTTP/1 knows only one.
fn join_cookies(headers: &mut HeaderMap) -> Result<(), Rejection> {
    let cookies = headers.get_all(header::COOKIE);
    if cookies.iter().nth(1).is_none() {
        return Ok(());
    }
    let crumbs: Vec<&[u8]> = cookies.iter().map(HeaderValue::as_bytes).collect();
    let joined = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
        .map_err(|_| Rejection::BadRequest("header field value"))?;
    headers.insert(header::COOKIE, joined);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        bytes: 32 * 1024,
        fields: 100,
        target_bytes: 8 * 1024,
        strict_paths: true,
    };

    fn request(method: &str, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn judged(
        method: &str,
        uri: &str,
        fields: &[(&str, &str)],
    ) -> Result<(Parts, Head), Rejection> {
        let mut parts = request(method, uri, fields);
        let head = judge(&mut parts, true, &BOUNDS)?;
        Ok((parts, head))
    }

    #[test]
    fn a_good_request_looks_like_one_of_http_1() {
        let (header, head) = judged("GET", "https://Example.com:8443/a/../b?c", &[]).unwrap();
        assert_eq!(header.headers["host"], "Example.com:8443");
        assert_eq!(header.uri.to_string(), "/b?c");
        assert_eq!(head.target.as_str(), "/b?c");
        assert!(!head.target.changed);
        assert_eq!(head.framing, Framing::Done);
    }

    #[test]
    fn the_length_decides_the_framing() {
        let framing = |fields: &[(&str, &str)], ended| {
            let mut parts = request("POST", "http://a/", fields);
            judge(&mut parts, ended, &BOUNDS).unwrap().framing
        };
        assert_eq!(
            framing(&[("content-length", "5")], false),
            Framing::Length(5)
        );
        assert_eq!(framing(&[("content-length", "0")], false), Framing::Done);
        assert_eq!(framing(&[], false), Framing::Chunked(Chunk::START));
        assert_eq!(framing(&[], true), Framing::Done);
    }

    #[test]
    fn host_and_authority_agree_or_one_is_missing() {
        let host = |fields: &[(&str, &str)]| {
            judged("GET", "http://a.example/", fields).map(|(header, _)| header.headers.len())
        };
        assert_eq!(host(&[("host", "A.example")]), Ok(1));
        let refused = Err(Rejection::BadRequest("host"));
        assert_eq!(host(&[("host", "b.example")]), refused);
        assert_eq!(
            host(&[("host", "a.example"), ("host", "a.example")]),
            refused
        );
        let (header, _) = judged("GET", "/b", &[("host", "a")]).unwrap();
        assert_eq!(header.headers["host"], "a");
        assert_eq!(header.uri.path(), "/b");
        let mut parts = request("GET", "/", &[("host", "a")]);
        parts.uri = "http://u@a/".parse().unwrap();
        assert!(judge(&mut parts, true, &BOUNDS).is_err());
    }

    #[test]
    fn what_http_1_refuses_is_refused_here() {
        for (method, uri, fields, rejection) in [
            (
                "CONNECT",
                "a:80",
                &[][..],
                Rejection::MethodNotAllowed(FORWARDED_METHODS),
            ),
            (
                "TRACE",
                "http://a/",
                &[],
                Rejection::MethodNotAllowed(FORWARDED_METHODS),
            ),
            (
                "GET",
                "http://a/%00",
                &[],
                Rejection::BadRequest("request target"),
            ),
            ("GET", "ftp://a/", &[], Rejection::BadRequest("scheme")),
            ("GET", "/", &[], Rejection::BadRequest("host")),
            ("GET", "http://u:p@a/", &[], Rejection::BadRequest("host")),
            (
                "GET",
                "http://a/",
                &[("te", "gzip")],
                Rejection::BadRequest("header field name"),
            ),
            (
                "GET",
                "http://a/",
                &[("connection", "close")],
                Rejection::BadRequest("header field name"),
            ),
            (
                "GET",
                "http://a/",
                &[("transfer-encoding", "chunked")],
                Rejection::BadRequest("header field name"),
            ),
            (
                "GET",
                "http://a/",
                &[("expect", "more")],
                Rejection::ExpectationFailed,
            ),
            (
                "GET",
                "http://a/",
                &[("x", " y")],
                Rejection::BadRequest("header field value"),
            ),
            (
                "GET",
                "http://a/",
                &[("content-length", "+1")],
                Rejection::BadRequest("content-length"),
            ),
            (
                "GET",
                "http://a/",
                &[("content-length", "1"), ("content-length", "1")],
                Rejection::BadRequest("content-length"),
            ),
        ] {
            let judged = judged(method, uri, fields).map(|_| ());
            assert_eq!(judged, Err(rejection), "{method} {uri} {fields:?}");
        }
    }

    #[test]
    fn sizes_are_bounded() {
        let long = format!("http://a/{}", "a".repeat(8 * 1024));
        assert_eq!(
            judged("GET", &long, &[]).map(|_| ()),
            Err(Rejection::UriTooLong)
        );
        let value = "a".repeat(33 * 1024);
        let large = judged("GET", "http://a/", &[("x", &value)]).map(|_| ());
        assert_eq!(large, Err(Rejection::HeaderTooLarge));
        let names: Vec<String> = (0..101).map(|index| format!("x-{index}")).collect();
        let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
        let many = judged("GET", "http://a/", &many).map(|_| ());
        assert_eq!(many, Err(Rejection::HeaderTooLarge));
    }

    #[test]
    fn cookies_become_one_field() {
        let crumbs = vec![("cookie", "a=1"); 120];
        let (header, _) = judged("GET", "http://a/", &crumbs).unwrap();
        let joined = header.headers.get_all("cookie").iter().count();
        assert_eq!(joined, 1);
        assert!(
            header.headers["cookie"]
                .to_str()
                .unwrap()
                .starts_with("a=1; a=1")
        );
    }
}
