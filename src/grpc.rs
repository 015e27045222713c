//! What a gateway has to know of gRPC: which requests are calls, how long they may take, and how they
//! are told of a failure (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

/// The code that a call ended with.
pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// A sentence about it.
pub const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// How long the client gives a call.
pub const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// There is not enough of something for the call.
pub const RESOURCE_EXHAUSTED: u8 = 8;
/// The client's time for the call is over.
pub const DEADLINE_EXCEEDED: u8 = 4;

/// Whether a request with these fields is a call. gRPC-Web is not gRPC: it is ordinary HTTP to us.
pub fn is_call(headers: &HeaderMap) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    let Some(content_type) = headers.get(header::CONTENT_TYPE) else {
        return false;
    };
    let Some((name, rest)) = content_type.as_bytes().split_at_checked(TYPE.len()) else {
        return false;
    };
    name.eq_ignore_ascii_case(TYPE) && matches!(rest.first(), None | Some(b'+' | b';'))
}

/// The value of `grpc-timeout` breaks its grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// How long the client gives the call: at most eight digits and a unit.
pub fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Malformed> {
    let Some(value) = headers.get(TIMEOUT) else {
        return Ok(None);
    };
    let (unit, digits) = value.as_bytes().split_last().ok_or(Malformed)?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    let number = digits
        .iter()
        .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    let timeout = match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return Err(Malformed),
    };
    Ok(Some(timeout))
}

/// The value that tells a server that so much is left: milliseconds while eight digits are enough, then
/// seconds.
pub fn timeout_value(left: Duration) -> HeaderValue {
    let millis = left.as_millis().max(1);
    let text = match millis <= 99_999_999 {
        true => format!("{millis}m"),
        false => format!("{}S", left.as_secs().min(99_999_999)),
    };
    // Digits and a letter.
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("1m"))
}

/// The code that stands for an HTTP status: the table of gRPC's `http-grpc-status-mapping`, and what
/// says more where that has only UNKNOWN.
pub fn code_of(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 | 500 => 13,
        401 => 16,
        403 => 7,
        404 | 405 => 12,
        408 | 429 | 502 | 503 | 504 => 14,
        413 | 431 => 8,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn calls_are_told_by_their_content_type() {
        for (value, call) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/json", false),
        ] {
            assert_eq!(is_call(&with(header::CONTENT_TYPE, value)), call, "{value}");
        }
        assert!(!is_call(&HeaderMap::new()));
    }

    #[test]
    fn timeouts_have_units() {
        for (value, expected) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("250m", Duration::from_millis(250)),
            ("99999999u", Duration::from_micros(99_999_999)),
            ("0n", Duration::ZERO),
        ] {
            assert_eq!(
                timeout(&with(TIMEOUT, value)),
                Ok(Some(expected)),
                "{value}"
            );
        }
        for value in ["", "S", "1", "1s", "-1S", "123456789S", "1 S", "1.5S"] {
            assert_eq!(timeout(&with(TIMEOUT, value)), Err(Malformed), "{value}");
        }
        assert_eq!(timeout(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn what_is_left_is_written_as_it_is_read() {
        for (left, written) in [
            (Duration::ZERO, "1m"),
            (Duration::from_micros(1_500), "1m"),
            (Duration::from_secs(20), "20000m"),
            (Duration::from_secs(200_000), "200000S"),
        ] {
            assert_eq!(timeout_value(left), written);
        }
    }
}
