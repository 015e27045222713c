//! Tokens: nobody but who knows the secret makes a good one, and what is accepted of those that are
//! signed says what another reader of the same bytes reads.

#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use edge_gateway::filter::auth::jwt::{
    AlgorithmSet, Key, KeySet, Provider, ProviderSettings, verify,
};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

const SECRET: [u8; 64] = [7; 64];
const NOW: u64 = 1_750_000_000;

static PROVIDERS: LazyLock<[Arc<Provider>; 1]> = LazyLock::new(|| {
    let algorithms = AlgorithmSet::shared_secret();
    let key = Key::from_secret(&SECRET, algorithms, None).unwrap();
    let settings = ProviderSettings {
        algorithms,
        ..ProviderSettings::named("main")
    };
    [Provider::new(
        settings,
        Some(KeySet::of(vec![key]).unwrap().into()),
    )]
});

fuzz_target!(|bytes: &[u8]| {
    let now = UNIX_EPOCH + Duration::from_secs(NOW);
    let _ = KeySet::parse(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(verify(text, &*PROVIDERS, now).is_err());
        let _ = Key::from_pem(text, AlgorithmSet::public_key(), None);
    }
    // Header and payload, each as it comes, well signed.
    let Some(split) = bytes.iter().position(|byte| *byte == b'\n') else {
        return;
    };
    let (header, payload) = (&bytes[..split], &bytes[split + 1..]);
    let signed = [header, payload]
        .map(|part| URL_SAFE_NO_PAD.encode(part))
        .join(".");
    let key = hmac::Key::new(hmac::HMAC_SHA256, &SECRET);
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes()));
    let Ok(verified) = verify(&format!("{signed}.{signature}"), &*PROVIDERS, now) else {
        return;
    };
    let header: Map<String, Value> = serde_json::from_slice(header).unwrap();
    assert_eq!(header["alg"], "HS256");
    assert!(!header.contains_key("crit") && !header.contains_key("jwk"));
    let claims: Map<String, Value> = serde_json::from_slice(payload).unwrap();
    assert_eq!(verified.claims, claims);
    assert!(claims["exp"].as_f64().unwrap() > NOW as f64 - 31.0);
});
