//! Where a body ends: the same wherever the reads fall, and as a plain reader of RFC 9112 says.

#![no_main]

use edge_gateway::listener::framing::{Chunk, Framing};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = (usize::from(input.0).max(1), input.1);
    let whole = taken(bytes, bytes.len().max(1));
    assert_eq!(taken(bytes, piece), whole, "pieces of {piece}");
    if let Ok(Some(end)) = whole {
        assert_eq!(reference(bytes), Some(end));
    }
    if let Some(end) = reference(bytes) {
        // What is refused though a plain reader takes it must exceed a bound.
        let bounded = end > 256
            || bytes[..end]
                .windows(15)
                .any(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        assert!(
            whole == Ok(Some(end)) || bounded,
            "{}",
            bytes.escape_ascii()
        );
    }
});

/// How many bytes belong to the body, fed in pieces; `None` while it goes on.
fn taken(bytes: &[u8], piece: usize) -> Result<Option<usize>, ()> {
    let mut framing = Framing::Chunked(Chunk::START);
    let mut total = 0;
    for bytes in bytes.chunks(piece) {
        total += framing.advance(bytes).map_err(|_| ())?;
    }
    Ok(framing.is_done().then_some(total))
}

/// The end of a chunked body by the grammar of RFC 9112 section 7.1, read line by line.
fn reference(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = line(bytes, &mut at)?;
        let digits = line
            .iter()
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        let extension = &line[digits..];
        let good = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
        if digits == 0
            || !(extension.is_empty() || extension[0] == b';')
            || !extension.iter().all(good)
        {
            return None;
        }
        let size = usize::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()?;
        if size == 0 {
            break;
        }
        if bytes.get(at.checked_add(size)?..at.checked_add(size + 2)?)? != b"\r\n" {
            return None;
        }
        at += size + 2;
    }
    loop {
        let line = line(bytes, &mut at)?;
        if line.is_empty() {
            return Some(at);
        }
        let good = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
        if !is_token(line[0]) || !line.iter().all(good) {
            return None;
        }
    }
}

fn line<'a>(bytes: &'a [u8], at: &mut usize) -> Option<&'a [u8]> {
    let rest = &bytes[*at..];
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    *at += end + 2;
    Some(&rest[..end])
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
