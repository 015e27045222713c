//! Writing text that others chose so that it stays inside its place.

/// Appends bytes as the inside of a JSON string. What is not UTF-8 becomes U+FFFD.
pub(super) fn json(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.iter().all(|&byte| is_plain(byte)) {
        out.extend_from_slice(bytes);
        return;
    }
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            json_char(out, c);
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// Whether a byte stands for itself in JSON and moves no terminal.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

fn json_char(out: &mut Vec<u8>, c: char) {
    match c {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        // Every control character is below U+00A0, so two digits are enough.
        c if c.is_control() => {
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&hex(c as u32 as u8));
        }
        c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// Appends bytes as one printable ASCII word: everything else is percent-encoded, and so are quotes
/// and backslashes. A word can neither end early nor carry a terminal's escape sequence.
pub(super) fn word(out: &mut Vec<u8>, bytes: &[u8]) {
    let fits = |byte: &u8| is_plain(*byte) && *byte != b' ';
    if bytes.iter().all(fits) {
        out.extend_from_slice(bytes);
        return;
    }
    for byte in bytes {
        if fits(byte) {
            out.push(*byte);
        } else {
            out.push(b'%');
            out.extend_from_slice(&hex(*byte).map(|digit| digit.to_ascii_uppercase()));
        }
    }
}

fn hex(byte: u8) -> [u8; 2] {
    let digit = |nibble: u8| match nibble {
        0..=9 => b'0' + nibble,
        _ => b'a' + nibble - 10,
    };
    [digit(byte >> 4), digit(byte & 15)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: fn(&mut Vec<u8>, &[u8]), bytes: &[u8]) -> String {
        let mut out = Vec::new();
        write(&mut out, bytes);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn json_strings_cannot_be_left() {
        for (bytes, expected) in [
            (&b"plain /x?y"[..], "plain /x?y"),
            (b"\",\"level\":\"x", "\\\",\\\"level\\\":\\\"x"),
            (b"a\\b\r\n\t", "a\\\\b\\r\\n\\t"),
            (b"\x00\x1b[31m\x7f", "\\u0000\\u001b[31m\\u007f"),
            ("é\u{9b}".as_bytes(), "é\\u009b"),
            (b"a\xff\xfeb", "a\u{fffd}\u{fffd}b"),
        ] {
            assert_eq!(written(json, bytes), expected);
        }
    }

    #[test]
    fn words_have_no_spaces_controls_or_quotes() {
        assert_eq!(written(word, b"/a%20b~"), "/a%20b~");
        assert_eq!(
            written(word, b"/x status_code=200\n\x1b[2J"),
            "/x%20status_code=200%0A%1B[2J"
        );
        assert_eq!(written(word, "\"é\\".as_bytes()), "%22%C3%A9%5C");
    }
}
