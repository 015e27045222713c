//! The headers that tell a backend where a request comes from.
//!
//! `X-Forwarded-For`, `-Proto`, `-Host`, `Forwarded` (RFC 7239), `Via` (RFC 9110 section 7.6.3) and
//! `X-Request-Id`. What the peer says about hops before it is kept only when the peer is trusted.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Version};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const VIA: HeaderName = HeaderName::from_static("via");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How many fields are set.
pub const FIELDS: usize = 6;
/// Further names under which backends look for the client; nobody here sets them.
const ALIASES: [HeaderName; 3] = [
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-prefix"),
];

/// The peer of a connection, as the headers name it: written once for all its requests.
#[derive(Clone, Debug)]
pub struct Peer {
    /// As `X-Forwarded-For` has it.
    address: HeaderValue,
    /// As RFC 7239 has it: `for=…`, an IPv6 address in brackets and quotes.
    element: Box<str>,
}

impl Peer {
    /// The peer with this address.
    pub fn new(address: IpAddr) -> Self {
        let text = address.to_string();
        let element = match address {
            IpAddr::V4(_) => format!("for={text}"),
            IpAddr::V6(_) => format!("for=\"[{text}]\""),
        };
        Self {
            element: element.into(),
            // An address is visible ASCII.
            address: HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("unknown")),
        }
    }
}

/// Where a request comes from.
#[derive(Clone, Copy)]
pub struct Hop<'a> {
    /// The peer of the connection.
    pub peer: &'a Peer,
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
pub fn apply(headers: &mut HeaderMap, hop: &Hop<'_>) {
    if !hop.trusted {
        for name in &ALIASES {
            headers.remove(name);
        }
    }
    let host = headers.get(http::header::HOST).cloned();
    let via = HeaderValue::from_static(via(hop.version));
    let element = forwarded(hop, host.as_ref());
    if hop.trusted && !headers.contains_key(&FORWARDED) {
        translate(headers);
    }
    append(headers, FOR, hop.peer.address.clone(), hop.trusted);
    append(headers, FORWARDED, element, hop.trusted);
    append(headers, VIA, via, true);
    if !(hop.trusted && headers.contains_key(PROTO)) {
        headers.insert(PROTO, HeaderValue::from_static(hop.scheme));
    }
    if !(hop.trusted && headers.contains_key(HOST)) {
        match host {
            Some(host) => headers.insert(HOST, host),
            None => headers.remove(HOST),
        };
    }
    // A request id holds nothing that a header may not.
    if let Ok(id) = HeaderValue::from_str(hop.request_id) {
        headers.insert(REQUEST_ID, id);
    }
}

/// Sets a list to `value`, behind what is there already when that is to be kept.
fn append(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue, keep: bool) {
    if !keep || !headers.contains_key(&name) {
        headers.insert(name, value);
        return;
    }
    let mut list = Vec::new();
    for value in headers.get_all(&name).iter().chain([&value]) {
        if !list.is_empty() {
            list.extend_from_slice(b", ");
        }
        list.extend_from_slice(value.as_bytes());
    }
    // Every piece was a value, and so is the list.
    let list = HeaderValue::from_maybe_shared(bytes::Bytes::from(list)).unwrap_or(value);
    headers.insert(name, list);
}

/// Says in RFC 7239's words what a proxy in front has said in the older headers alone.
///
/// Without this a backend that prefers `Forwarded` would take that proxy for the client.
fn translate(headers: &mut HeaderMap) {
    let text = |name: &HeaderName| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        // What could break out of the quotes is left out.
        value.filter(|value| !value.is_empty() && !value.contains(['"', '\\']))
    };
    let Some(hops) = text(&FOR) else {
        return;
    };
    let mut elements = Vec::new();
    for hop in hops.split(',').map(str::trim) {
        let node = match hop.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => format!("for=\"[{address}]\""),
            Ok(IpAddr::V4(address)) => format!("for={address}"),
            Err(_) => format!("for=\"{hop}\""),
        };
        elements.push(node);
    }
    if let Some(client) = elements.first_mut() {
        for (parameter, name) in [("host", &HOST), ("proto", &PROTO)] {
            if let Some(value) = text(name) {
                client.push_str(&format!(";{parameter}=\"{value}\""));
            }
        }
    }
    if let Ok(value) = HeaderValue::try_from(elements.join(", ")) {
        headers.insert(FORWARDED, value);
    }
}

fn via(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0 gateway",
        Version::HTTP_2 => "2.0 gateway",
        _ => "1.1 gateway",
    }
}

/// One element of RFC 7239. A host with a port is quoted; the header gate lets no quote or
/// backslash into a host.
fn forwarded(hop: &Hop<'_>, host: Option<&HeaderValue>) -> HeaderValue {
    let mut element = Vec::with_capacity(128);
    element.extend_from_slice(hop.peer.element.as_bytes());
    if let Some(host) = host {
        let host = host.as_bytes();
        let quote: &[u8] = if host.iter().any(|byte| b":[".contains(byte)) {
            b"\""
        } else {
            b""
        };
        for piece in [b";host=", quote, host, quote] {
            element.extend_from_slice(piece);
        }
    }
    element.extend_from_slice(b";proto=");
    element.extend_from_slice(hop.scheme.as_bytes());
    let value = HeaderValue::from_maybe_shared(bytes::Bytes::from(element));
    value.unwrap_or_else(|_| hop.peer.address.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(trusted: bool, peer: &str, given: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let peer = Peer::new(peer.parse().unwrap_or(IpAddr::from([0, 0, 0, 0])));
        let hop = Hop {
            peer: &peer,
            trusted,
            scheme: "http",
            version: Version::HTTP_11,
            request_id: "id-1",
        };
        apply(&mut headers, &hop);
        headers
    }

    fn value<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
        let mut values = headers.get_all(name).iter();
        let first = values.next().and_then(|value| value.to_str().ok());
        assert!(values.next().is_none(), "{name} is there once");
        first.unwrap_or("-")
    }

    #[test]
    fn strangers_do_not_choose_where_they_come_from() {
        let headers = sent(
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
        assert_eq!(value(&headers, "x-forwarded-for"), "192.0.2.1");
        assert_eq!(value(&headers, "x-forwarded-proto"), "http");
        assert_eq!(value(&headers, "x-forwarded-host"), "a.test:8080");
        assert_eq!(
            value(&headers, "forwarded"),
            "for=192.0.2.1;host=\"a.test:8080\";proto=http"
        );
        assert_eq!(value(&headers, "x-real-ip"), "-");
        assert_eq!(value(&headers, "x-request-id"), "id-1");
        assert_eq!(value(&headers, "via"), "1.1 gateway");
    }

    #[test]
    fn trusted_proxies_are_added_to() {
        let headers = sent(
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
            value(&headers, "x-forwarded-for"),
            "198.51.100.7, 10.0.0.2, 2001:db8::1"
        );
        assert_eq!(value(&headers, "x-forwarded-proto"), "https");
        assert_eq!(value(&headers, "x-forwarded-host"), "a.test");
        assert_eq!(
            value(&headers, "forwarded"),
            "for=198.51.100.7, for=\"[2001:db8::1]\";host=a.test;proto=http"
        );
        assert_eq!(value(&headers, "via"), "1.1 edge, 1.1 gateway");
    }

    #[test]
    fn what_only_the_older_headers_say_is_said_in_forwarded_too() {
        let headers = sent(
            true,
            "10.0.0.1",
            &[
                ("host", "inner.test"),
                ("x-forwarded-for", "2001:db8::7, 10.0.0.2"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "shop.test:8443"),
            ],
        );
        assert_eq!(
            value(&headers, "forwarded"),
            "for=\"[2001:db8::7]\";host=\"shop.test:8443\";proto=\"https\", for=10.0.0.2, \
             for=10.0.0.1;host=inner.test;proto=http"
        );
        let hostile = sent(true, "10.0.0.1", &[("x-forwarded-for", "a\";for=b")]);
        assert_eq!(value(&hostile, "forwarded"), "for=10.0.0.1;proto=http");
    }

    #[test]
    fn a_request_without_a_host_has_none() {
        let headers = sent(false, "192.0.2.1", &[("x-forwarded-host", "admin.test")]);
        assert_eq!(value(&headers, "x-forwarded-host"), "-");
        assert_eq!(value(&headers, "forwarded"), "for=192.0.2.1;proto=http");
    }
}
