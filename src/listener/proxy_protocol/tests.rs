//! Headers of both versions, good, cut, and broken.

use super::*;

/// A header of version 2 with this command, family and block.
fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut header = V2_BEGIN.to_vec();
    header.extend([0x20 | command, family]);
    header.extend((block.len() as u16).to_be_bytes());
    header.extend(block);
    header
}

const IPV4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x11, 0x5c, 0x01, 0xbb];

fn client(text: &str) -> Source {
    Source::Client(text.parse().unwrap_or_else(|_| panic!("{text}")))
}

/// The header followed by other bytes is found at every length, and never before it is whole.
#[track_caller]
fn assert_header(header: &[u8], source: Source) {
    let mut bytes = header.to_vec();
    bytes.extend(b"GET / HTTP/1.1\r\n");
    for end in 0..header.len() {
        let parsed = parse(&bytes[..end]);
        assert_eq!(parsed, Ok(Parsed::Incomplete), "{end} of {}", header.len());
    }
    let length = header.len();
    for end in length..bytes.len() {
        assert_eq!(
            parse(&bytes[..end]),
            Ok(Parsed::Header { length, source }),
            "{}",
            bytes[..end].escape_ascii()
        );
    }
}

#[test]
fn lines_name_the_client() {
    assert_header(
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4444 443\r\n",
        client("192.0.2.7:4444"),
    );
    assert_header(
        b"PROXY TCP6 2001:db8::7 2001:db8::1 65535 0\r\n",
        client("[2001:db8::7]:65535"),
    );
    assert_header(
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        client("255.255.255.255:65535"),
    );
}

#[test]
fn an_unknown_client_is_the_peer() {
    assert_header(b"PROXY UNKNOWN\r\n", Source::Peer);
    let longest = b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
                    ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    assert_eq!(longest.len(), V1_BYTES);
    assert_header(longest, Source::Peer);
}

#[test]
fn broken_lines_are_refused() {
    for line in [
        "PROXY TCP4 192.0.2.7 198.51.100.1 4444 443\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 4444 443\rX",
        "PROXY TCP4 192.0.2.7 198.51.100.1 4444\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 4444 443 \r\n",
        "PROXY TCP4  192.0.2.7 198.51.100.1 4444 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 4444 65536\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 +444 443\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 04444 443\r\n",
        "PROXY TCP4 192.0.2.07 198.51.100.1 4444 443\r\n",
        "PROXY TCP4 192.0.2.256 198.51.100.1 4444 443\r\n",
        "PROXY TCP4 192.0.2 198.51.100.1 4444 443\r\n",
        "PROXY TCP4 2001:db8::7 2001:db8::1 4444 443\r\n",
        "PROXY TCP6 192.0.2.7 198.51.100.1 4444 443\r\n",
        "PROXY UDP4 192.0.2.7 198.51.100.1 4444 443\r\n",
        "PROXY tcp4 192.0.2.7 198.51.100.1 4444 443\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY \r\n",
        "proxy TCP4 192.0.2.7 198.51.100.1 4444 443\r\n",
        "PROXY\tTCP4 192.0.2.7 198.51.100.1 4444 443\r\n",
        "GET / HTTP/1.1\r\n",
        "\u{16}\u{3}\u{1}",
    ] {
        let parsed = parse(line.as_bytes());
        assert!(parsed.is_err(), "{}: {parsed:?}", line.escape_debug());
    }
    let mut endless = b"PROXY UNKNOWN ".to_vec();
    endless.resize(V1_BYTES - 1, b'x');
    assert_eq!(parse(&endless), Ok(Parsed::Incomplete));
    endless.push(b'x');
    assert!(parse(&endless).is_err());
    endless[V1_BYTES - 1] = b'\r';
    assert!(parse(&endless).is_err(), "no room for the line feed");
}

#[test]
fn binary_headers_name_the_client() {
    assert_header(&binary(1, 0x11, &IPV4), client("192.0.2.7:4444"));
    let mut ipv6 = [0u8; 36];
    ipv6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    ipv6[15] = 7;
    ipv6[32..34].copy_from_slice(&4444u16.to_be_bytes());
    assert_header(&binary(1, 0x21, &ipv6), client("[2001:db8::7]:4444"));
}

#[test]
fn a_balancers_own_connection_is_the_peers() {
    assert_header(&binary(0, 0x00, b""), Source::Peer);
    assert_header(&binary(0, 0x11, &IPV4), Source::Peer);
    assert_header(&binary(0, 0xff, b"whatever"), Source::Peer);
    assert_header(&binary(1, 0x00, b""), Source::Peer);
}

#[test]
fn extensions_are_skipped() {
    let mut block = IPV4.to_vec();
    block.extend(b"\x01\x00\x02h2\x02\x00\x0bexample.com\x20\x00\x00\x04\x00\x03\0\0\0");
    assert_header(&binary(1, 0x11, &block), client("192.0.2.7:4444"));
    block.extend(b"\x02\x00\x05abc");
    assert!(parse(&binary(1, 0x11, &block)).is_err(), "cut short");
}

#[test]
fn a_checksum_must_be_right() {
    // The value of RFC 3720 appendix B.4 for 32 zeros.
    assert_eq!(crc32c(&[0; 32], &(0..0)), 0x8a91_36aa);
    let mut block = IPV4.to_vec();
    block.extend(b"\x01\x00\x02h2\x03\x00\x04\0\0\0\0");
    let place = V2_FIXED_BYTES + 20..V2_FIXED_BYTES + 24;
    let checksum = crc32c(&binary(1, 0x11, &block), &place).to_be_bytes();
    block[20..].copy_from_slice(&checksum);
    assert_header(&binary(1, 0x11, &block), client("192.0.2.7:4444"));
    for bit in 0..8 * block.len() {
        let mut broken = block.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        let parsed = parse(&binary(1, 0x11, &broken));
        // Without its type, the checksum is an extension that nobody knows.
        if !(136..144).contains(&bit) {
            let kept = matches!(parsed, Ok(Parsed::Header { .. }));
            assert!(!kept, "bit {bit}: {parsed:?}");
        }
    }
    let mut short = IPV4.to_vec();
    short.extend(b"\x03\x00\x03\0\0\0");
    assert!(parse(&binary(1, 0x11, &short)).is_err());
}

#[test]
fn broken_binary_headers_are_refused() {
    let mut version = binary(1, 0x11, &IPV4);
    version[12] = 0x11;
    for header in [
        version,
        binary(2, 0x11, &IPV4),
        binary(1, 0x11, &IPV4[..11]),
        binary(1, 0x21, &IPV4),
        binary(1, 0x12, &IPV4),
        binary(1, 0x22, &[0; 36]),
        binary(1, 0x31, &[0; 216]),
        binary(1, 0x32, &[0; 216]),
        binary(1, 0x01, &IPV4),
        binary(1, 0x13, &IPV4),
        binary(1, 0x00, b"\x01\x00"),
    ] {
        let parsed = parse(&header);
        assert!(parsed.is_err(), "{}: {parsed:?}", header.escape_ascii());
    }
    // Refused before so much is waited for.
    let huge = binary(1, 0x11, &vec![0; V2_BYTES]);
    assert_eq!(
        parse(&huge[..V2_FIXED_BYTES]),
        Err(Malformed("header too large"))
    );
    assert!(parse(b"\r\n\r\nG").is_err());
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>, text in "PROXY [A-Z46]{0,7} [0-9a-f:. ]{0,60}\r?\n?") {
        let _ = parse(&bytes);
        let _ = parse(text.as_bytes());
        let mut header = V2_BEGIN.to_vec();
        header.extend(&bytes);
        if let Ok(Parsed::Header { length, .. }) = parse(&header) {
            proptest::prop_assert!(length <= header.len());
        }
    }
}
