//! What verifying a token costs beside the bare check of its signature, and what it costs when the
//! token is known. `cargo bench --bench jwt` prints a table.
//!
//! What is compared is measured in turns, and of many turns the shortest counts: on a machine that
//! does other things as well, the others measure these.

#![allow(clippy::unwrap_used, reason = "a bench may fail by panicking")]

use std::hash::Hasher;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, KeyPair, ParsedPublicKey, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use edge_gateway::filter::auth::jwt::{
    AlgorithmSet, CacheLimits, Key, KeySet, Provider, ProviderSettings, TokenCache, verify,
};
use serde_json::json;
use siphasher::sip128::{Hasher128, SipHasher24};

/// As in the gateway: claims are many small pieces.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Tokens in use at the same time.
const CLIENTS: usize = 1_000;
const TURNS: usize = 1_000;
const NOW: u64 = 1_750_000_000;

/// Something to measure: called with the number of the call.
type Work<'w> = Box<dyn FnMut(usize) + 'w>;

/// Checks a signature of a message.
type Bare = Box<dyn Fn(&[u8], &[u8]) -> bool>;

struct Case {
    name: &'static str,
    tokens: Vec<String>,
    provider: Arc<Provider>,
    bare: Bare,
}

fn main() {
    println!(
        "{:<8}{:>12}{:>12}{:>8}{:>12}",
        "", "bare", "uncached", "ratio", "cached"
    );
    for case in [hs256(), rs256(), es256()] {
        table(&case);
    }
    let token = es256().tokens.swap_remove(0);
    hashes(token.as_bytes());
}

fn table(case: &Case) {
    let now = UNIX_EPOCH + Duration::from_secs(NOW);
    let providers = [Arc::clone(&case.provider)];
    let cache = TokenCache::new(CacheLimits::default()).unwrap();
    let parts: Vec<_> = case.tokens.iter().map(|token| apart(token)).collect();
    for token in &case.tokens {
        let verified = Arc::new(verify(token, &providers, now).unwrap());
        cache.insert(token, &providers, &verified);
    }
    let [bare, uncached, cached] = shortest([
        Box::new(|turn| {
            let (signed, signature) = &parts[turn % CLIENTS];
            assert!((case.bare)(black_box(signed), black_box(signature)));
        }),
        Box::new(|turn| {
            let token = black_box(&case.tokens[turn % CLIENTS]);
            assert!(verify(token, &providers, now).is_ok());
        }),
        Box::new(|turn| {
            let token = black_box(&case.tokens[turn % CLIENTS]);
            assert!(cache.get(token, &providers, now).is_some());
        }),
    ]);
    let ratio = uncached / bare;
    println!(
        "{:<8}{bare:>9.2} µs{uncached:>9.2} µs{ratio:>8.2}{cached:>9.3} µs",
        case.name
    );
}

/// What the key of a cache entry costs.
fn hashes(token: &[u8]) {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
    let [sip, mac] = shortest([
        Box::new(|_| {
            let mut hasher = SipHasher24::new_with_key(&[7; 16]);
            hasher.write(black_box(token));
            black_box(hasher.finish128());
        }),
        Box::new(|_| {
            black_box(hmac::sign(&key, black_box(token)));
        }),
    ]);
    println!(
        "\na token of {} bytes: SipHash-2-4-128 {sip:.3} µs, HMAC-SHA256 {mac:.3} µs",
        token.len()
    );
}

/// The shortest mean of a turn for each, in microseconds.
fn shortest<const N: usize>(mut works: [Work<'_>; N]) -> [f64; N] {
    // Few, so that a turn often ends before anybody else gets the processor.
    const CALLS: usize = 20;
    let mut best = [f64::MAX; N];
    for turn in 0..TURNS {
        for (work, best) in works.iter_mut().zip(&mut best) {
            let begin = Instant::now();
            (0..CALLS).for_each(|call| work(turn * CALLS + call));
            *best = best.min(begin.elapsed().as_secs_f64() * 1e6 / CALLS as f64);
        }
    }
    best
}

fn apart(token: &str) -> (Vec<u8>, Vec<u8>) {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    (signed.into(), URL_SAFE_NO_PAD.decode(signature).unwrap())
}

fn tokens(algorithm: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> Vec<String> {
    let header = json!({ "alg": algorithm, "typ": "JWT", "kid": "2025-05" }).to_string();
    let token = |client: usize| {
        let claims = json!({
            "iss": "https://id.example.com/realms/main", "aud": ["api", "account"],
            "sub": format!("2f6ac5a1-7f0d-4f5c-9d7c-{client:012}"),
            "jti": format!("c0a8f7e2-53b1-4d3b-8f6d-{client:012}"),
            "iat": NOW - 60, "nbf": NOW - 60, "exp": NOW + 3600, "azp": "web",
            "scope": "openid profile email orders.read orders.write",
            "realm_access": { "roles": ["user", "offline_access"] },
            "name": "A Person", "email": "person@example.com", "email_verified": true,
        });
        let claims = claims.to_string();
        let signed = [header.as_str(), &claims]
            .map(|part| URL_SAFE_NO_PAD.encode(part))
            .join(".");
        let signature = URL_SAFE_NO_PAD.encode(sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    };
    (0..CLIENTS).map(token).collect()
}

fn provider(algorithms: AlgorithmSet, keys: KeySet) -> Arc<Provider> {
    let settings = ProviderSettings {
        issuers: vec!["https://id.example.com/realms/main".into()],
        audiences: vec!["api".into()],
        algorithms,
        ..ProviderSettings::named("main")
    };
    Provider::new(settings, Some(keys.into()))
}

fn hs256() -> Case {
    let secret = [7; 32];
    let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
    let own = Key::from_secret(&secret, AlgorithmSet::shared_secret(), Some("2025-05")).unwrap();
    Case {
        name: "HS256",
        tokens: tokens("HS256", |message| {
            hmac::sign(&key, message).as_ref().to_vec()
        }),
        provider: provider(
            AlgorithmSet::shared_secret(),
            KeySet::of(vec![own]).unwrap(),
        ),
        bare: Box::new(move |message, tag| hmac::verify(&key, message, tag).is_ok()),
    }
}

fn rs256() -> Case {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let public = pair.public_key().as_ref();
    // In PKCS#1, the modulus of 2048 bits is behind 9 bytes.
    let modulus = URL_SAFE_NO_PAD.encode(&public[9..9 + 256]);
    let jwks = json!({ "keys": [{
        "kty": "RSA", "kid": "2025-05", "use": "sig", "n": modulus, "e": "AQAB",
    }] });
    let key = ParsedPublicKey::new(&signature::RSA_PKCS1_2048_8192_SHA256, public).unwrap();
    let random = SystemRandom::new();
    Case {
        name: "RS256",
        tokens: tokens("RS256", |message| {
            let mut out = vec![0; pair.public_modulus_len()];
            pair.sign(&signature::RSA_PKCS1_SHA256, &random, message, &mut out)
                .unwrap();
            out
        }),
        provider: provider(
            AlgorithmSet::public_key(),
            KeySet::parse(jwks.to_string().as_bytes()).unwrap(),
        ),
        bare: Box::new(move |message, signature| key.verify_sig(message, signature).is_ok()),
    }
}

fn es256() -> Case {
    let pair = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = pair.public_key().as_ref();
    let jwks = json!({ "keys": [{
        "kty": "EC", "crv": "P-256", "kid": "2025-05", "use": "sig",
        "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..]),
    }] });
    let key = ParsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).unwrap();
    let random = SystemRandom::new();
    Case {
        name: "ES256",
        tokens: tokens("ES256", |message| {
            pair.sign(&random, message).unwrap().as_ref().to_vec()
        }),
        provider: provider(
            AlgorithmSet::public_key(),
            KeySet::parse(jwks.to_string().as_bytes()).unwrap(),
        ),
        bare: Box::new(move |message, signature| key.verify_sig(message, signature).is_ok()),
    }
}
