//! The configuration: whatever is written, it is understood or refused with problems.

#![no_main]

use std::path::Path;

use edge_gateway::config::{FixedEnv, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // A folder without files, so that a `file:` reference finds nothing.
    let nowhere = Path::new("/nonexistent");
    match parse(text, "fuzz", nowhere, &FixedEnv::default()) {
        Ok(loaded) => assert!(!loaded.config.listeners.is_empty()),
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
});
