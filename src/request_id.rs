//! What a request is called in headers, refusals and logs.

use http::HeaderValue;

/// The longest identifier taken over from a trusted proxy.
const MAX_BYTES: usize = 128;

/// An identifier: 32 hexadecimal digits, or what a trusted proxy chose.
#[derive(Clone, Debug)]
pub enum RequestId {
    /// Made here.
    Own([u8; 32]),
    /// Taken over.
    Given(Box<str>),
}

impl RequestId {
    /// A new one. It is unique, not secret.
    pub fn generate() -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let random = fastrand::u128(..).to_be_bytes();
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(random) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        Self::Own(text)
    }

    /// Takes over one that a trusted proxy chose, if it can stand in a header and a log line.
    pub fn adopt(value: &HeaderValue) -> Option<Self> {
        let text = value.to_str().ok()?;
        let fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte);
        let good = !text.is_empty() && text.len() <= MAX_BYTES && text.bytes().all(fit);
        good.then(|| Self::Given(text.into()))
    }

    /// As text: letters, digits and `-_.:/+=@` only.
    pub fn as_str(&self) -> &str {
        match self {
            // Hexadecimal digits are ASCII.
            Self::Own(text) => std::str::from_utf8(text).unwrap_or_default(),
            Self::Given(text) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_differ_and_are_plain() {
        let (one, other) = (RequestId::generate(), RequestId::generate());
        assert_ne!(one.as_str(), other.as_str());
        assert!(one.as_str().bytes().all(|byte| byte.is_ascii_hexdigit()));
    }

    #[test]
    fn only_harmless_identifiers_are_taken_over() {
        let adopt = |text: &'static str| {
            RequestId::adopt(&HeaderValue::from_static(text)).map(|id| id.as_str().to_owned())
        };
        assert_eq!(adopt("1-5e2f:a/b"), Some("1-5e2f:a/b".to_owned()));
        assert_eq!(adopt(""), None);
        assert_eq!(adopt("a b"), None);
        assert_eq!(adopt("a\"b"), None);
        let long: &'static str = Box::leak("x".repeat(129).into_boxed_str());
        assert_eq!(adopt(long), None);
    }
}
