//! Header fields that concern one connection alone and are not passed on (RFC 9110 section 7.6.1).
//!
//! For requests Pingora takes them away; for responses it leaves that to us.

use http::{HeaderName, header};
use pingora_http::ResponseHeader;

const FIELDS: [HeaderName; 4] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::UPGRADE,
];

/// Takes them off a backend's response.
///
/// `Transfer-Encoding` stays: it tells Pingora how to frame the body. What `Connection` names goes,
/// unless that would take the framing away.
pub fn strip(response: &mut ResponseHeader) {
    if !response.headers.contains_key(header::CONNECTION) {
        return strip_fields(response);
    }
    let named: Vec<HeaderName> = response
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| *name != header::CONTENT_LENGTH && *name != header::TRANSFER_ENCODING)
        .collect();
    for name in &named {
        response.remove_header(name);
    }
    response.remove_header(&header::CONNECTION);
    strip_fields(response);
}

fn strip_fields(response: &mut ResponseHeader) {
    // Most responses have none of them: comparing names is cheaper than looking each one up.
    if response.headers.keys().any(|name| FIELDS.contains(name)) {
        for name in &FIELDS {
            response.remove_header(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_the_connection_alone_is_taken_off() {
        let mut response = ResponseHeader::build(200, None)
            .unwrap_or_else(|error| panic!("a response header: {error}"));
        for (name, value) in [
            ("connection", "close, X-Internal, content-length"),
            ("connection", "X-Second"),
            ("x-internal", "1"),
            ("x-second", "1"),
            ("keep-alive", "timeout=5"),
            ("content-length", "3"),
            ("x-kept", "1"),
        ] {
            let _ = response.append_header(name, value);
        }
        strip(&mut response);
        let names: Vec<&str> = response.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["content-length", "x-kept"]);
    }
}
