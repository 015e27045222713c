//! The header gate: what it lets through can be read in one way only.

#![no_main]

use edge_gateway::listener::framing::Framing;
use edge_gateway::listener::head::{Bounds, end_of_head, hopeless, judge, leading_empty_lines};
use libfuzzer_sys::fuzz_target;

const BOUNDS: Bounds = Bounds {
    bytes: 32 * 1024,
    fields: 100,
    target_bytes: 8 * 1024,
    strict_paths: true,
};

fuzz_target!(|bytes: &[u8]| {
    let skipped = leading_empty_lines(bytes).unwrap_or(0);
    let bytes = &bytes[skipped..];
    let Some(end) = end_of_head(bytes, 0) else {
        return;
    };
    for searched in [end / 2, end.saturating_sub(1)] {
        assert_eq!(end_of_head(bytes, searched), Some(end));
    }
    let head = &bytes[..end];
    let Ok(judged) = judge(head, &BOUNDS) else {
        return;
    };
    for cut in [1, end / 2, end - 1] {
        assert!(
            !hopeless(&head[..cut], 0),
            "a good header never looks hopeless"
        );
    }
    let text: Vec<&[u8]> = head[..end - 4].split(|byte| *byte == b'\n').collect();
    let mut lengths = Vec::new();
    let mut encodings = Vec::new();
    let mut hosts = Vec::new();
    for (at, line) in text.iter().enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert!(!line.contains(&b'\r') && !line.contains(&0));
        if at == 0 {
            assert!(line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0"));
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':').expect("a field");
        let name = line[..colon].to_ascii_lowercase();
        assert!(!name.is_empty() && !name.iter().any(u8::is_ascii_whitespace));
        let value = line[colon + 1..].trim_ascii().to_ascii_lowercase();
        match name.as_slice() {
            b"content-length" => lengths.push(value),
            b"transfer-encoding" => encodings.push(value),
            b"host" => hosts.push(value),
            _ => {}
        }
    }
    assert!(lengths.len() + encodings.len() <= 1 && hosts.len() <= 1);
    match judged.framing {
        Framing::Chunked(_) => assert_eq!(encodings, [b"chunked".to_vec()]),
        Framing::Length(length) => {
            let stated = std::str::from_utf8(&lengths[0]).expect("digits");
            assert_eq!(stated.parse(), Ok(length));
        }
        Framing::Done | Framing::Tunnel => {
            assert!(encodings.is_empty());
            assert!(
                lengths
                    .first()
                    .is_none_or(|length| length.iter().all(|byte| *byte == b'0'))
            );
        }
    }
    assert!(!judged.target.is_ambiguous());
    // The request as the backend will see it passes the gate again, unchanged.
    let line_end = head.iter().position(|byte| *byte == b'\n').expect("a line");
    let method = head.split(|byte| *byte == b' ').next().expect("a method");
    let version = &head[line_end - 9..];
    let again = [
        method,
        b" ",
        judged.target.as_str().as_bytes(),
        b" ",
        version,
    ]
    .concat();
    let twice = judge(&again, &BOUNDS).expect("a judged header is a good one");
    assert_eq!(twice.framing, judged.framing);
    assert_eq!(twice.target.as_str(), judged.target.as_str());
    assert!(!twice.target.changed);
});
