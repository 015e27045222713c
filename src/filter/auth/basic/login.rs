//! What stands behind `Basic`: a name and a password (RFC 7617 section 2).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::metrics::AuthError;

/// The longest text: far more than a name and a password take.
const MAX_BYTES: usize = 4 * 1024;

/// A name and a password. They are never shown.
pub struct Login {
    text: String,
    /// Where the colon is.
    colon: usize,
}

impl Login {
    /// Reads Base64 (RFC 4648 section 4, padded and canonical) of a name, a colon and a password in
    /// UTF-8 without control characters. The name is not empty.
    pub fn parse(text: &str) -> Result<Self, AuthError> {
        if text.len() > MAX_BYTES {
            return Err(AuthError::TooLarge);
        }
        let bytes = STANDARD.decode(text).map_err(|_| AuthError::Malformed)?;
        let text = String::from_utf8(bytes).map_err(|_| AuthError::Malformed)?;
        if text.chars().any(char::is_control) {
            return Err(AuthError::Malformed);
        }
        match text.find(':') {
            None | Some(0) => Err(AuthError::Malformed),
            Some(colon) => Ok(Self { text, colon }),
        }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.text[..self.colon]
    }

    /// The password; it may have colons.
    pub fn password(&self) -> &str {
        &self.text[self.colon + 1..]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

    use super::*;

    fn parse(text: &str) -> Result<(String, String), AuthError> {
        let login = Login::parse(text)?;
        Ok((login.name().to_owned(), login.password().to_owned()))
    }

    fn of(bytes: impl AsRef<[u8]>) -> Result<(String, String), AuthError> {
        parse(&STANDARD.encode(bytes))
    }

    fn pair(name: &str, password: &str) -> Result<(String, String), AuthError> {
        Ok((name.to_owned(), password.to_owned()))
    }

    #[test]
    fn the_examples_of_the_standard_are_read() {
        let example = parse("QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(example, pair("Aladdin", "open sesame"));
        // Section 2.1: a pound sign in UTF-8.
        assert_eq!(parse("dGVzdDoxMjPCow=="), pair("test", "123£"));
    }

    proptest::proptest! {
        #[test]
        fn what_is_read_is_what_was_written(bytes in proptest::collection::vec(0u8.., 0..64)) {
            if let Ok(login) = Login::parse(&STANDARD.encode(&bytes)) {
                let text = format!("{}:{}", login.name(), login.password());
                assert_eq!(text.as_bytes(), bytes);
                assert!(!login.name().is_empty() && !login.name().contains(':'));
            }
        }

        #[test]
        fn any_text_is_read_in_one_way_or_refused(text in ".*") {
            if let Ok(login) = Login::parse(&text) {
                let again = format!("{}:{}", login.name(), login.password());
                assert_eq!(STANDARD.encode(again), text);
            }
        }
    }

    #[test]
    fn the_first_colon_ends_the_name() {
        assert_eq!(of("a:b:c"), pair("a", "b:c"));
        assert_eq!(of("a:"), pair("a", ""));
        assert_eq!(of("a::"), pair("a", ":"));
    }

    #[test]
    fn anything_else_is_refused() {
        for bytes in [
            &b""[..],
            b":",
            b":password",
            b"name",
            b"a:b\0",
            b"a\n:b",
            b"a:b\x7f",
            "a:b\u{85}".as_bytes(),
            b"a:\xff",
            // The pound sign in Latin 1.
            b"test:123\xa3",
        ] {
            assert_eq!(of(bytes), Err(AuthError::Malformed), "{bytes:?}");
        }
        for text in [
            "QWxhZGRpbjpvcGVuIHNlc2FtZQ",
            "QWxhZGRpbjpvcGVuIHNlc2FtZQ=",
            "QWxhZGRpbjpvcGVuIHNlc2FtZR==",
            "QWxh ZGRpbjpvcGVuIHNlc2FtZQ==",
            "QWxhZGRpbjpvcGVuIHNlc2FtZQ==,",
            "dGVzdDoxMjPC_w==",
            "a:b",
            "====",
        ] {
            assert_eq!(parse(text), Err(AuthError::Malformed), "{text}");
        }
        let long = format!("a:{}", "x".repeat(MAX_BYTES));
        assert_eq!(of(long), Err(AuthError::TooLarge));
    }
}
