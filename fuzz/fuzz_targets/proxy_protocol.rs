//! The PROXY protocol: what was found does not depend on how the bytes came, and is within them.

#![no_main]

use edge_gateway::listener::proxy_protocol::{Parsed, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    let mut end = 0;
    // Growing byte by byte, the answer changes once, from "incomplete" to what it stays.
    while end < bytes.len() && parse(&bytes[..end]) == Ok(Parsed::Incomplete) {
        end += 1;
    }
    assert_eq!(parse(&bytes[..end]), whole);
    if let Ok(Parsed::Header { length, .. }) = whole {
        assert_eq!(length, end, "found as soon as it was there");
        assert_eq!(parse(&bytes[..length]), whole);
    }
});
