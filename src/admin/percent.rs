//! Names in the paths and queries of calls (RFC 3986 section 2.1).

/// Undoes percent-encoding; `None`: it is none, or no text.
pub(super) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        match byte {
            b'%' => {
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                bytes.push(u8::try_from(high * 16 + low).ok()?);
            }
            _ => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn what_is_encoded_is_decoded_once() {
        assert_eq!(decode("a%2Fb%20c%252f+").as_deref(), Some("a/b c%2f+"));
        for wrong in ["%", "%2", "%g0", "%ff"] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
    }
}
