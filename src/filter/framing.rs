//! What a backend's response says of its own framing, in the one form that no reader behind the
//! gateway can misunderstand.

use http::{HeaderValue, StatusCode, Version, header};
use pingora_http::ResponseHeader;

/// Makes version and length of a backend's response unambiguous.
///
/// A gateway speaks its own version (RFC 9112 section 2.3): `HTTP/1.0` above `Connection:
/// keep-alive` or chunks would be read differently by different clients. Lengths that were repeated
/// become one (RFC 9110 section 8.6; Pingora has refused those that differ), and a 204 has none.
pub fn settle(response: &mut ResponseHeader) {
    response.set_version(Version::HTTP_11);
    if response.status == StatusCode::NO_CONTENT {
        response.remove_header(&header::CONTENT_LENGTH);
        response.remove_header(&header::TRANSFER_ENCODING);
        return;
    }
    if let Some(length) = repeated_length(response) {
        // The name is known and the value is a part of a good one.
        let _ = response.insert_header(header::CONTENT_LENGTH, length);
    }
}

/// The length, if it is there more than once.
fn repeated_length(response: &ResponseHeader) -> Option<HeaderValue> {
    let mut values = response.headers.get_all(header::CONTENT_LENGTH).iter();
    let first = values.next()?;
    let mut parts = first.as_bytes().split(|byte| *byte == b',');
    let length = parts.next()?;
    if parts.next().is_none() && values.next().is_none() {
        return None;
    }
    HeaderValue::from_bytes(length.trim_ascii()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(status: u16, lengths: &[&'static str]) -> Vec<String> {
        let mut response = ResponseHeader::build(status, None)
            .unwrap_or_else(|error| panic!("a response header: {error}"));
        response.set_version(Version::HTTP_10);
        for length in lengths {
            let _ = response.append_header("Content-Length", *length);
        }
        settle(&mut response);
        assert_eq!(response.version, Version::HTTP_11);
        let values = response.headers.get_all(header::CONTENT_LENGTH);
        values
            .iter()
            .map(|value| value.to_str().unwrap_or("-").to_owned())
            .collect()
    }

    #[test]
    fn a_length_is_stated_once() {
        assert_eq!(settled(200, &["5"]), ["5"]);
        assert_eq!(settled(200, &["5", "5"]), ["5"]);
        assert_eq!(settled(200, &["5, 5"]), ["5"]);
        assert!(settled(200, &[]).is_empty());
    }

    #[test]
    fn no_content_has_no_length() {
        assert!(settled(204, &["5"]).is_empty());
        assert_eq!(settled(304, &["5"]), ["5"]);
    }
}
