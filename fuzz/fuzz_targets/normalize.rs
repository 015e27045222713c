//! The path normaliser: its result is a fixed point without anything that a reader could take for
//! something else.

#![no_main]

use edge_gateway::listener::normalize::normalize;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|target: &str| {
    // What the gate lets through to it.
    if !target
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#')
    {
        return;
    }
    let Ok(once) = normalize(target, false) else {
        return;
    };
    let again = normalize(once.as_str(), false).expect("a normal target is a good one");
    assert!(
        !again.changed,
        "{} becomes {}",
        once.as_str(),
        again.as_str()
    );
    assert_eq!((again.path(), again.query()), (once.path(), once.query()));
    assert_eq!(again.is_ambiguous(), once.is_ambiguous());
    let path = once.path();
    assert!(path.starts_with('/') && path.is_ascii());
    assert!(!path.contains("//") && !path.contains('\\'));
    assert!(
        !path
            .split('/')
            .any(|segment| segment == "." || segment == "..")
    );
    assert!(!path.bytes().any(|byte| byte <= b' ' || byte == 0x7f));
    for (at, _) in path.match_indices('%') {
        let value = u8::from_str_radix(&path[at + 1..at + 3], 16).expect("two digits");
        assert!(value >= b' ' && value != 0x7f, "an encoded control byte");
        assert!(!value.is_ascii_alphanumeric() && !b"-._~".contains(&value));
    }
    if !once.is_ambiguous() {
        // Whatever a backend decodes further, it finds no way up.
        let decoded = path
            .replace("%2F", "/")
            .replace("%5C", "/")
            .replace("%3B", ";");
        let climbs = |segment: &str| segment.split(';').next() == Some("..");
        assert!(!decoded.split('/').any(climbs), "{path}");
    }
});
