//! What a backend's response says of its own framing, in the one form that no reader behind the
//! gateway can misunderstand.

use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::message::Response;

/// Makes the length of a backend's response unambiguous.
///
/// Lengths that were repeated become one (RFC 9110 section 8.6; those that differ were refused), and a
/// 204 has none.
pub fn settle(response: &mut Response) {
    if response.status == StatusCode::NO_CONTENT {
        response.headers.remove(header::CONTENT_LENGTH);
        return;
    }
    if let Some(length) = repeated_length(&response.headers) {
        response.insert(header::CONTENT_LENGTH, length);
    }
}

/// The length, if it is there more than once.
fn repeated_length(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
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
        let status = StatusCode::from_u16(status).unwrap_or_default();
        let mut response = Response::new(status);
        for length in lengths {
            let value = HeaderValue::from_static(length);
            response.headers.append(header::CONTENT_LENGTH, value);
        }
        settle(&mut response);
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
