//! Header fields that concern one connection alone and are not passed on (RFC 9110 section 7.6.1).

use http::{HeaderMap, HeaderName, header};

const OF_RESPONSES: [HeaderName; 5] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

const OF_REQUESTS: [HeaderName; 10] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Takes them off a client's request; what `Connection` names, the gate has seen to.
pub fn strip_request(headers: &mut HeaderMap) {
    strip_fields(headers, &OF_REQUESTS);
}

/// Takes them off a backend's response.
///
/// What `Connection` names goes, unless that would take the length away.
pub fn strip(headers: &mut HeaderMap) {
    if !headers.contains_key(header::CONNECTION) {
        return strip_fields(headers, &OF_RESPONSES);
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| *name != header::CONTENT_LENGTH)
        .collect();
    for name in &named {
        headers.remove(name);
    }
    headers.remove(header::CONNECTION);
    strip_fields(headers, &OF_RESPONSES);
}

fn strip_fields(headers: &mut HeaderMap, fields: &[HeaderName]) {
    // Most messages have few of them: comparing names is cheaper than looking each one up.
    if headers.keys().any(|name| fields.contains(name)) {
        for name in fields {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_the_connection_alone_is_taken_off() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Internal, content-length"),
            ("connection", "X-Second"),
            ("x-internal", "1"),
            ("x-second", "1"),
            ("keep-alive", "timeout=5"),
            ("content-length", "3"),
            ("x-kept", "1"),
        ] {
            headers.append(name, http::HeaderValue::from_static(value));
        }
        strip(&mut headers);
        let names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["content-length", "x-kept"]);
    }
}
