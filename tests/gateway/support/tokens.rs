//! Tokens and the keys that sign them.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
};
use aws_lc_rs::{encoding::AsDer, encoding::PublicKeyX509Der, hmac};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::secrets;

/// A secret as long as HS256 wants it.
pub const SECRET: &str = "a secret of thirty-two bytes, ok";

/// Whoever signs tokens.
pub struct Signer {
    algorithm: &'static str,
    /// What its tokens name their key.
    pub key_id: Option<String>,
    key: Key,
}

enum Key {
    Secret(Box<hmac::Key>),
    Ecdsa(EcdsaKeyPair),
    Rsa(RsaKeyPair, bool),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    /// With a shared secret.
    pub fn hs256(secret: &str) -> Self {
        secrets::remember(secret);
        Self {
            algorithm: "HS256",
            key_id: None,
            key: Key::Secret(Box::new(hmac::Key::new(
                hmac::HMAC_SHA256,
                secret.as_bytes(),
            ))),
        }
    }

    /// With a fresh key on P-256.
    pub fn es256(key_id: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self::new("ES256", key_id, Key::Ecdsa(pair))
    }

    /// With a fresh key on P-384.
    pub fn es384(key_id: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        Self::new("ES384", key_id, Key::Ecdsa(pair))
    }

    /// With a fresh RSA key, PKCS#1.
    pub fn rs256(key_id: &str) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        Self::new("RS256", key_id, Key::Rsa(pair, false))
    }

    /// With a fresh RSA key, PSS.
    pub fn ps256(key_id: &str) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        Self::new("PS256", key_id, Key::Rsa(pair, true))
    }

    /// With a fresh Ed25519 key.
    pub fn ed25519(key_id: &str) -> Self {
        Self::new(
            "EdDSA",
            key_id,
            Key::Ed25519(Ed25519KeyPair::generate().unwrap()),
        )
    }

    fn new(algorithm: &'static str, key_id: &str, key: Key) -> Self {
        Self {
            algorithm,
            key_id: Some(key_id.to_owned()),
            key,
        }
    }

    /// A token with these claims and an `exp` in an hour, unless they have one.
    pub fn token(&self, mut claims: Value) -> String {
        if claims.get("exp").is_none() {
            claims["exp"] = (now() + 3600).into();
        }
        let mut header = json!({ "alg": self.algorithm, "typ": "JWT" });
        if let Some(id) = &self.key_id {
            header["kid"] = id.as_str().into();
        }
        self.sign(&header, &claims)
    }

    /// A token of exactly this header and these claims.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let input = format!("{}.{}", encode(header), encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.signature(input.as_bytes()));
        secrets::remember(&signature);
        format!("{input}.{signature}")
    }

    fn signature(&self, input: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Secret(key) => hmac::sign(key, input).as_ref().to_vec(),
            Key::Ecdsa(pair) => pair.sign(&random, input).unwrap().as_ref().to_vec(),
            Key::Ed25519(pair) => pair.sign(input).as_ref().to_vec(),
            Key::Rsa(pair, pss) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let padding: &dyn aws_lc_rs::signature::RsaEncoding = if *pss {
                    &RSA_PSS_SHA256
                } else {
                    &RSA_PKCS1_SHA256
                };
                pair.sign(padding, &random, input, &mut signature).unwrap();
                signature
            }
        }
    }

    /// The public key in PEM.
    pub fn public_pem(&self) -> String {
        let der: PublicKeyX509Der<'_> = match &self.key {
            Key::Secret(_) => panic!("a secret has no public part"),
            Key::Ecdsa(pair) => pair.public_key().as_der().unwrap(),
            Key::Rsa(pair, _) => pair.public_key().as_der().unwrap(),
            Key::Ed25519(pair) => pair.public_key().as_der().unwrap(),
        };
        let text = STANDARD.encode(der.as_ref());
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    }

    /// The public key as RFC 7517 has it.
    pub fn jwk(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match &self.key {
            Key::Secret(_) => panic!("a secret has no public part"),
            Key::Ecdsa(pair) => {
                // An uncompressed point: 4, then both coordinates.
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({ "kty": "EC", "crv": curve, "x": text(x), "y": text(y) })
            }
            Key::Rsa(pair, _) => {
                let public = pair.public_key();
                let modulus = public.modulus().big_endian_without_leading_zero();
                let exponent = public.exponent().big_endian_without_leading_zero();
                json!({ "kty": "RSA", "n": text(modulus), "e": text(exponent) })
            }
            Key::Ed25519(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key().as_ref()) })
            }
        };
        jwk["alg"] = self.algorithm.into();
        jwk["use"] = "sig".into();
        if let Some(id) = &self.key_id {
            jwk["kid"] = id.as_str().into();
        }
        jwk
    }
}

/// A key set of these signers' public keys.
pub fn key_set(signers: &[&Signer]) -> Value {
    json!({ "keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>() })
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}
