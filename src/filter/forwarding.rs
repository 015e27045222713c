//! The headers that tell a backend where a request comes from.
//!
//! `X-Forwarded-For`, `-Proto`, `-Host`, `Forwarded` (RFC 7239), `Via` (RFC 9110 section 7.6.3) and
//! `X-Request-Id`. What the peer says about hops before it is kept only when the peer is trusted.

use std::fmt::Write;
use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Version};
use pingora_http::RequestHeader;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const VIA: HeaderName = HeaderName::from_static("via");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Further names under which backends look for the client; nobody here sets them.
const ALIASES: [HeaderName; 3] = [
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-prefix"),
];

/// Where a request comes from.
#[derive(Clone, Copy)]
pub struct Hop<'a> {
    /// The peer of the connection.
    pub peer: IpAddr,
    /// Whether what the peer says is believed.
    pub trusted: bool,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The version the client spoke.
    pub version: Version,
    /// The request's identifier.
    pub request_id: &'a str,
}

/// Sets them on the request that goes to the backend.
pub fn apply(request: &mut RequestHeader, hop: &Hop<'_>) -> pingora_core::Result<()> {
    if !hop.trusted {
        for name in &ALIASES {
            if request.headers.contains_key(name) {
                request.remove_header(name);
            }
        }
    }
    let host = request.headers.get(http::header::HOST).cloned();
    let mut text = String::with_capacity(128);

    prefix_with(&mut text, &request.headers, &FOR, hop.trusted);
    push(&mut text, format_args!("{}", hop.peer));
    request.insert_header(FOR, text.as_str())?;

    prefix_with(&mut text, &request.headers, &FORWARDED, hop.trusted);
    push_forwarded(&mut text, hop, host.as_ref());
    request.insert_header(FORWARDED, text.as_str())?;

    prefix_with(&mut text, &request.headers, &VIA, true);
    text.push_str(via(hop.version));
    request.insert_header(VIA, text.as_str())?;

    if !(hop.trusted && request.headers.contains_key(PROTO)) {
        request.insert_header(PROTO, HeaderValue::from_static(hop.scheme))?;
    }
    if !(hop.trusted && request.headers.contains_key(HOST)) {
        match host {
            Some(host) => request.insert_header(HOST, host)?,
            None => {
                request.remove_header(&HOST);
            }
        }
    }
    request.insert_header(REQUEST_ID, hop.request_id)
}

/// Begins a list with what is there already, when that is to be kept.
fn prefix_with(text: &mut String, headers: &HeaderMap, name: &HeaderName, keep: bool) {
    text.clear();
    if !keep {
        return;
    }
    for value in headers.get_all(name) {
        if let Ok(value) = value.to_str() {
            text.push_str(value);
            text.push_str(", ");
        }
    }
}

fn via(version: Version) -> &'static str {
    if version == Version::HTTP_10 {
        "1.0 gateway"
    } else {
        "1.1 gateway"
    }
}

/// One element of RFC 7239: addresses of IPv6 in brackets and quotes, a host with a port quoted.
fn push_forwarded(text: &mut String, hop: &Hop<'_>, host: Option<&HeaderValue>) {
    match hop.peer {
        IpAddr::V4(peer) => push(text, format_args!("for={peer}")),
        IpAddr::V6(peer) => push(text, format_args!("for=\"[{peer}]\"")),
    }
    // The header gate lets no quote or backslash into a host.
    if let Some(host) = host.and_then(|host| host.to_str().ok()) {
        if host.contains([':', '[']) {
            push(text, format_args!(";host=\"{host}\""));
        } else {
            push(text, format_args!(";host={host}"));
        }
    }
    push(text, format_args!(";proto={}", hop.scheme));
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = text.write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(
        trusted: bool,
        peer: &str,
        given: &[(&'static str, &'static str)],
    ) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None)
            .unwrap_or_else(|error| panic!("a request header: {error}"));
        for (name, value) in given {
            let _ = request.append_header(*name, *value);
        }
        let hop = Hop {
            peer: peer.parse().unwrap_or(IpAddr::from([0, 0, 0, 0])),
            trusted,
            scheme: "http",
            version: Version::HTTP_11,
            request_id: "id-1",
        };
        apply(&mut request, &hop).unwrap_or_else(|error| panic!("headers: {error}"));
        request
    }

    fn value<'a>(request: &'a RequestHeader, name: &str) -> &'a str {
        let mut values = request.headers.get_all(name).iter();
        let first = values.next().and_then(|value| value.to_str().ok());
        assert!(values.next().is_none(), "{name} is there once");
        first.unwrap_or("-")
    }

    #[test]
    fn strangers_do_not_choose_where_they_come_from() {
        let request = forwarded(
            false,
            "192.0.2.1",
            &[
                ("host", "a.test:8080"),
                ("x-forwarded-for", "10.0.0.1"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "admin.test"),
                ("forwarded", "for=10.0.0.1"),
                ("x-real-ip", "10.0.0.1"),
                ("x-request-id", "theirs"),
            ],
        );
        assert_eq!(value(&request, "x-forwarded-for"), "192.0.2.1");
        assert_eq!(value(&request, "x-forwarded-proto"), "http");
        assert_eq!(value(&request, "x-forwarded-host"), "a.test:8080");
        assert_eq!(
            value(&request, "forwarded"),
            "for=192.0.2.1;host=\"a.test:8080\";proto=http"
        );
        assert_eq!(value(&request, "x-real-ip"), "-");
        assert_eq!(value(&request, "x-request-id"), "id-1");
        assert_eq!(value(&request, "via"), "1.1 gateway");
    }

    #[test]
    fn trusted_proxies_are_added_to() {
        let request = forwarded(
            true,
            "2001:db8::1",
            &[
                ("host", "a.test"),
                ("x-forwarded-for", "198.51.100.7"),
                ("x-forwarded-for", "10.0.0.2"),
                ("x-forwarded-proto", "https"),
                ("forwarded", "for=198.51.100.7"),
                ("via", "1.1 edge"),
            ],
        );
        assert_eq!(
            value(&request, "x-forwarded-for"),
            "198.51.100.7, 10.0.0.2, 2001:db8::1"
        );
        assert_eq!(value(&request, "x-forwarded-proto"), "https");
        assert_eq!(value(&request, "x-forwarded-host"), "a.test");
        assert_eq!(
            value(&request, "forwarded"),
            "for=198.51.100.7, for=\"[2001:db8::1]\";host=a.test;proto=http"
        );
        assert_eq!(value(&request, "via"), "1.1 edge, 1.1 gateway");
    }

    #[test]
    fn a_request_without_a_host_has_none() {
        let request = forwarded(false, "192.0.2.1", &[("x-forwarded-host", "admin.test")]);
        assert_eq!(value(&request, "x-forwarded-host"), "-");
        assert_eq!(value(&request, "forwarded"), "for=192.0.2.1;proto=http");
    }
}
