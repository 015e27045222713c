//! Which parts of a query are secrets.

/// Names that are secrets as a whole, also as a member such as `login[code]`.
const NAMES: [&[u8]; 16] = [
    b"key",
    b"code",
    b"apikey",
    b"api_key",
    b"api-key",
    b"access_key",
    b"auth",
    b"authorization",
    b"jwt",
    b"otp",
    b"pin",
    b"pwd",
    b"sid",
    b"sig",
    b"session",
    b"assertion",
];

/// Parts that make any name a secret.
const PARTS: [&[u8]; 7] = [
    b"token",
    b"secret",
    b"passw",
    b"credential",
    b"signature",
    b"session",
    b"samlre",
];

/// The longest name that is looked at; what is longer counts as a secret.
const NAME_BYTES: usize = 64;

/// What stands for a secret.
const MASK: &[u8] = b"***";

/// Calls `write` with the pieces of a query in which secrets are masked.
pub(super) fn pieces(query: &[u8], mut write: impl FnMut(&[u8])) {
    for parameter in query.split_inclusive(|byte| matches!(byte, b'&' | b';')) {
        let (pair, end) = match parameter.split_last() {
            Some((b'&' | b';', pair)) => (pair, &parameter[pair.len()..]),
            _ => (parameter, &parameter[..0]),
        };
        match memchr::memchr(b'=', pair) {
            Some(at) if is_secret(&pair[..at]) => {
                write(&pair[..=at]);
                write(MASK);
            }
            _ => write(pair),
        }
        write(end);
    }
}

/// Whether a parameter's name, as it is written in the query, says that its value is a secret.
fn is_secret(written: &[u8]) -> bool {
    let mut decoded = [0; NAME_BYTES];
    let Some(name) = decode(written, &mut decoded) else {
        return true;
    };
    let mut members = name.split(|byte| matches!(byte, b'[' | b']' | b'.'));
    members.any(|member| NAMES.contains(&member))
        || PARTS.iter().any(|part| contains(name, part))
        || name.ends_with(b"_key")
        || name.ends_with(b"-key")
}

/// The name without percent-encoding and in lower case, when it fits.
fn decode<'a>(written: &[u8], decoded: &'a mut [u8; NAME_BYTES]) -> Option<&'a [u8]> {
    let mut length = 0;
    let mut rest = written;
    while let Some((&first, after)) = rest.split_first() {
        let (byte, after) = match (first, after) {
            (b'%', [high, low, after @ ..]) => match (nibble(*high), nibble(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (first, rest.get(1..)?),
            },
            _ => (first, after),
        };
        *decoded.get_mut(length)? = byte.to_ascii_lowercase();
        length += 1;
        rest = after;
    }
    // Some servers ignore white space around a name.
    Some(decoded.get(..length)?.trim_ascii())
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(query: &str) -> String {
        let mut out = Vec::new();
        pieces(query.as_bytes(), |piece| out.extend_from_slice(piece));
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn masks_secrets_however_they_are_written() {
        for name in [
            "token",
            "password",
            "secret",
            "key",
            "code",
            "access_token",
            "api_key",
            "API-Key",
            "Client_Secret",
            "X-Amz-Signature",
            "user[password]",
            "login.code",
            "refreshToken",
            "%74oken",
            "pass%77ord",
            "KE%59",
            "%5Bkey%5D",
            "+",
            "sessionid",
            "aws_access_key",
        ] {
            let masked = redacted(&format!("a=1&{name}=s3cr3t&b=2"));
            let expected = if name == "+" { "s3cr3t" } else { "***" };
            assert_eq!(masked, format!("a=1&{name}={expected}&b=2"));
        }
    }

    #[test]
    fn leaves_the_rest_as_it_is() {
        for query in [
            "",
            "a",
            "a=1",
            "&&",
            "a=1;b=2&",
            "keyword=x&zip_code=1&monkey=2",
            "token",
            "=x",
            "a=token=1",
            "%zz=1&%=2&%4=3",
        ] {
            assert_eq!(redacted(query), query);
        }
        assert_eq!(redacted("token=a=b;c=d"), "token=***;c=d");
    }

    #[test]
    fn a_name_too_long_to_look_at_is_a_secret() {
        let name = "n".repeat(NAME_BYTES + 1);
        assert_eq!(redacted(&format!("{name}=v")), format!("{name}=***"));
    }
}
