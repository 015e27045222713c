//! Makes tokens: keys of every kind, headers and claims as a test wants them.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::super::*;

/// Seconds since 1970 of the time that tests call now.
pub const NOW: i64 = 1_750_000_000;

pub fn at(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds as u64)
}

pub fn now() -> SystemTime {
    at(NOW)
}

/// What signs.
pub enum Pair {
    Secret(Vec<u8>),
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

pub fn secret(byte: u8) -> Pair {
    Pair::Secret(vec![byte; 64])
}

pub fn p256() -> Pair {
    Pair::P256(EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
}

/// One key of each kind, made once: RSA takes its time.
pub static PAIRS: LazyLock<[Pair; 5]> = LazyLock::new(|| {
    let p384 = EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    [
        secret(7),
        Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
        p256(),
        Pair::P384(p384),
        Pair::Ed25519(Ed25519KeyPair::generate().unwrap()),
    ]
});

/// The key that signs with an algorithm.
pub fn pair(algorithm: Algorithm) -> &'static Pair {
    let kind = match &algorithm.name()[..2] {
        "HS" => 0,
        "RS" | "PS" => 1,
        "ES" if algorithm == Algorithm::Es256 => 2,
        "ES" => 3,
        _ => 4,
    };
    &PAIRS[kind]
}

pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn pem(label: &str, der: &[u8]) -> String {
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        STANDARD.encode(der)
    )
}

impl Pair {
    pub fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Secret(secret) => {
                let hash = match algorithm {
                    Algorithm::Hs384 => hmac::HMAC_SHA384,
                    Algorithm::Hs512 => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                hmac::sign(&hmac::Key::new(hash, secret), message)
                    .as_ref()
                    .to_vec()
            }
            Self::Rsa(pair) => {
                let padding: &dyn signature::RsaEncoding = match algorithm {
                    Algorithm::Rs384 => &signature::RSA_PKCS1_SHA384,
                    Algorithm::Rs512 => &signature::RSA_PKCS1_SHA512,
                    Algorithm::Ps256 => &signature::RSA_PSS_SHA256,
                    Algorithm::Ps384 => &signature::RSA_PSS_SHA384,
                    Algorithm::Ps512 => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut out = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut out).unwrap();
                out
            }
            Self::P256(pair) | Self::P384(pair) => {
                pair.sign(&random, message).unwrap().as_ref().to_vec()
            }
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// The key that verifies, as JSON; with members of the caller's added.
    pub fn jwk(&self, more: Value) -> Value {
        let point = |pair: &EcdsaKeyPair, curve: &str| {
            let point = &pair.public_key().as_ref()[1..];
            let (x, y) = point.split_at(point.len() / 2);
            json!({ "kty": "EC", "crv": curve, "x": encode(x), "y": encode(y) })
        };
        let mut jwk = match self {
            Self::Secret(secret) => json!({ "kty": "oct", "k": encode(secret) }),
            Self::Rsa(pair) => {
                let der = pair.public_key().as_ref();
                // In PKCS#1, the modulus of 2048 bits is behind 9 bytes, the exponent at the end.
                json!({ "kty": "RSA", "n": encode(&der[9..9 + 256]), "e": "AQAB" })
            }
            Self::P256(pair) => point(pair, "P-256"),
            Self::P384(pair) => point(pair, "P-384"),
            Self::Ed25519(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key()) })
            }
        };
        for (name, value) in more.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        jwk
    }

    /// The public key in PEM.
    pub fn pem(&self) -> String {
        let der = match self {
            Self::Secret(_) => panic!("a secret has no public key"),
            Self::Rsa(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            Self::P256(pair) | Self::P384(pair) => {
                pair.public_key().as_der().unwrap().as_ref().to_vec()
            }
            Self::Ed25519(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
        };
        pem("PUBLIC KEY", &der)
    }
}

/// A token of header and payload as they are written.
pub fn raw(pair: &Pair, algorithm: Algorithm, header: &str, payload: &str) -> String {
    let signed = format!("{}.{}", encode(header), encode(payload));
    let signature = pair.sign(algorithm, signed.as_bytes());
    format!("{signed}.{}", encode(signature))
}

pub fn token(algorithm: Algorithm, header: Value, claims: Value) -> String {
    let mut whole = json!({ "alg": algorithm.name() });
    for (name, value) in header.as_object().unwrap() {
        whole[name] = value.clone();
    }
    raw(
        pair(algorithm),
        algorithm,
        &whole.to_string(),
        &claims.to_string(),
    )
}

/// Claims that every test provider accepts.
pub fn good_claims() -> Value {
    json!({
        "iss": "https://id.test", "sub": "alice", "aud": "api", "jti": "t-1",
        "iat": NOW - 60, "exp": NOW + 300, "scope": "read write",
    })
}

pub fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

pub fn without(mut claims: Value, name: &str) -> Value {
    claims.as_object_mut().unwrap().remove(name);
    claims
}

pub fn set(jwks: &[Value]) -> Arc<KeySet> {
    let text = json!({ "keys": jwks }).to_string();
    Arc::new(KeySet::parse(text.as_bytes()).unwrap())
}

/// A set of all the keys, without ids.
pub fn every_key() -> Arc<KeySet> {
    let jwks: Vec<_> = PAIRS.iter().map(|pair| pair.jwk(json!({}))).collect();
    set(&jwks)
}

pub fn settings(name: &str) -> ProviderSettings {
    ProviderSettings {
        issuers: vec!["https://id.test".into()],
        audiences: vec!["api".into()],
        algorithms: Algorithm::ALL.into_iter().collect(),
        ..ProviderSettings::named(name)
    }
}

/// A provider that has every key and accepts every algorithm.
pub fn provider() -> Vec<Arc<Provider>> {
    vec![Provider::new(settings("main"), Some(every_key()))]
}

/// As requests do it: what is remembered of a token, or what its signature and claims say.
pub fn remembered(
    cache: &TokenCache,
    token: &str,
    providers: &[Arc<Provider>],
    now: SystemTime,
) -> Result<Arc<Verified>, TokenError> {
    if let Some(known) = cache.get(token, providers, now) {
        return Ok(known);
    }
    let verified = Arc::new(verify(token, providers, now)?);
    cache.insert(token, providers, &verified);
    Ok(verified)
}

pub fn label(result: Result<Verified, TokenError>) -> &'static str {
    result.map_or_else(|error| error.kind().as_str(), |_| "good")
}
