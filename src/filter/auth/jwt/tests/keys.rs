//! Keys as they are given, and what becomes of sets of them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::*;
use super::maker::*;
use super::vectors::foreign;

const ANY: fn() -> AlgorithmSet = || Algorithm::ALL.into_iter().collect();

fn refused(jwk: &Value) -> KeyError {
    // A good key keeps the set usable.
    let good = secret(1).jwk(json!({}));
    let set = set(&[good, jwk.clone()]);
    assert_eq!(set.keys().len(), 1, "{jwk}");
    let [(reason, 1)] = set.skipped().reasons() else {
        panic!("{:?} for {jwk}", set.skipped());
    };
    *reason
}

#[test]
fn jwks_that_are_of_no_use_are_skipped_with_their_reason() {
    let [oct, rsa, p256, _, ed25519] = &*PAIRS;
    let short = Pair::Secret(vec![1; 31]).jwk(json!({}));
    let flat = encode([0xff; 255]);
    let mut even = [0xff; 256];
    even[255] = 0xfe;
    for (jwk, reason) in [
        (rsa.jwk(json!({ "use": "enc" })), KeyError::OtherUse),
        (rsa.jwk(json!({ "key_ops": ["sign"] })), KeyError::OtherUse),
        (rsa.jwk(json!({ "key_ops": "verify" })), KeyError::Damaged),
        (rsa.jwk(json!({ "alg": "RSA-OAEP" })), KeyError::NoAlgorithm),
        (rsa.jwk(json!({ "alg": "HS256" })), KeyError::NoAlgorithm),
        (rsa.jwk(json!({ "alg": 7 })), KeyError::Damaged),
        (rsa.jwk(json!({ "kty": "rsa" })), KeyError::UnsupportedKind),
        (rsa.jwk(json!({ "kty": "oct" })), KeyError::Damaged),
        (rsa.jwk(json!({ "d": "AQAB" })), KeyError::Private),
        (rsa.jwk(json!({ "kid": 1 })), KeyError::Damaged),
        (rsa.jwk(json!({ "n": flat })), KeyError::WeakRsa),
        (
            rsa.jwk(json!({ "n": encode([0xff; 1025]) })),
            KeyError::WeakRsa,
        ),
        (rsa.jwk(json!({ "n": encode(even) })), KeyError::WeakRsa),
        (rsa.jwk(json!({ "n": "" })), KeyError::WeakRsa),
        (rsa.jwk(json!({ "n": "not base64url!" })), KeyError::Damaged),
        (rsa.jwk(json!({ "e": "AQ" })), KeyError::WeakRsa),
        (rsa.jwk(json!({ "e": "Ag" })), KeyError::WeakRsa),
        (
            rsa.jwk(json!({ "e": encode([1, 0, 0, 0, 1]) })),
            KeyError::WeakRsa,
        ),
        (rsa.jwk(json!({ "e": "AQAB=" })), KeyError::Damaged),
        (p256.jwk(json!({ "alg": "ES384" })), KeyError::NoAlgorithm),
        (p256.jwk(json!({ "crv": "P-384" })), KeyError::Damaged),
        (
            p256.jwk(json!({ "crv": "P-521" })),
            KeyError::UnsupportedKind,
        ),
        (
            p256.jwk(json!({ "crv": "secp256k1" })),
            KeyError::UnsupportedKind,
        ),
        (p256.jwk(json!({ "x": encode([1; 32]) })), KeyError::Damaged),
        (p256.jwk(json!({ "y": encode([1; 31]) })), KeyError::Damaged),
        (
            ed25519.jwk(json!({ "crv": "Ed448" })),
            KeyError::UnsupportedKind,
        ),
        (
            ed25519.jwk(json!({ "crv": "X25519" })),
            KeyError::UnsupportedKind,
        ),
        (
            ed25519.jwk(json!({ "x": encode([1; 31]) })),
            KeyError::Damaged,
        ),
        (oct.jwk(json!({ "alg": "RS256" })), KeyError::NoAlgorithm),
        (short, KeyError::ShortSecret),
        (json!({}), KeyError::Damaged),
        (json!("key"), KeyError::Damaged),
    ] {
        assert_eq!(refused(&jwk), reason, "{jwk}");
    }
}

#[test]
fn an_algorithm_and_a_use_bind_a_key() {
    let rsa = &PAIRS[1];
    let bound = json!({ "alg": "PS256", "use": "sig", "key_ops": ["verify"], "x5t": "x" });
    let keys = set(&[rsa.jwk(bound)]);
    for algorithm in Algorithm::ALL {
        assert_eq!(
            keys.keys()[0].fits(algorithm),
            algorithm == Algorithm::Ps256
        );
    }
}

#[test]
fn a_sign_byte_before_a_modulus_is_no_part_of_it() {
    let rsa = &PAIRS[1];
    let plain = rsa.jwk(json!({}));
    let Pair::Rsa(pair) = rsa else { unreachable!() };
    let der = aws_lc_rs::signature::KeyPair::public_key(pair).as_ref();
    let padded = rsa.jwk(json!({ "n": encode(&der[8..9 + 256]) }));
    assert_ne!(plain, padded);
    // Equal keys are kept once.
    assert_eq!(set(&[plain, padded]).keys().len(), 1);
}

#[test]
fn a_set_that_is_none_is_refused() {
    for text in [
        "",
        "[]",
        "{}",
        "null",
        "<html>",
        r#"{"keys":{}}"#,
        r#"{"keys":[],"keys":[]}"#,
        r#"{"kty":"oct","k":"AAAA"}"#,
    ] {
        let error = KeySet::parse(text.as_bytes()).unwrap_err();
        assert_eq!(error, KeySetError::NotAKeySet, "{text}");
    }
    let error = KeySet::parse(br#"{"keys":[{"kty":"x"},{}]}"#).unwrap_err();
    assert_eq!(error, KeySetError::NoUsableKey(2));
    assert_eq!(
        KeySet::parse(br#"{"keys":[]}"#).unwrap_err(),
        KeySetError::NoUsableKey(0)
    );
    let large = vec![b' '; key_set::MAX_KEY_SET_BYTES + 1];
    assert_eq!(KeySet::parse(&large).unwrap_err(), KeySetError::TooLarge);
}

#[test]
fn a_set_has_at_most_a_hundred_keys() {
    let jwks: Vec<_> = (0..120).map(|byte| secret(byte).jwk(json!({}))).collect();
    let set = set(&jwks);
    assert_eq!(set.keys().len(), 100);
    assert_eq!(set.skipped().reasons(), [(KeyError::TooMany, 20)]);
    assert_eq!(set.skipped().total(), 20);
}

#[test]
fn secrets_are_as_long_as_the_hash() {
    let fitting = |length: usize| -> Vec<Algorithm> {
        let key = Key::from_secret(&vec![1; length], ANY(), None);
        let key = key.as_ref();
        let fits = |algorithm: &Algorithm| key.is_ok_and(|key| key.fits(*algorithm));
        Algorithm::ALL.into_iter().filter(fits).collect()
    };
    assert_eq!(fitting(31), []);
    assert_eq!(fitting(32), Algorithm::ALL[..1]);
    assert_eq!(fitting(48), Algorithm::ALL[..2]);
    assert_eq!(fitting(64), Algorithm::ALL[..3]);
    let short = Key::from_secret(&[1; 31], ANY(), None).unwrap_err();
    assert_eq!(short, KeyError::ShortSecret);
    let public = Key::from_secret(&[1; 64], AlgorithmSet::public_key(), None).unwrap_err();
    assert_eq!(public, KeyError::NoAlgorithm);
}

#[test]
fn a_key_in_pem_is_no_secret() {
    let pem = PAIRS[1].pem();
    let error = Key::from_secret(pem.as_bytes(), ANY(), None).unwrap_err();
    assert_eq!(error, KeyError::PemAsSecret);
    assert!(error.to_string().contains("HMAC with a public key"));
    let indented = format!("  {pem}");
    let error = Key::from_secret(indented.as_bytes(), ANY(), None).unwrap_err();
    assert_eq!(error, KeyError::PemAsSecret);
}

#[test]
fn pem_that_holds_no_public_key_is_refused() {
    let foreign = foreign();
    let text = |form: &str| foreign["pem"][form].as_str().unwrap().to_owned();
    let error = |pem: &str| Key::from_pem(pem, ANY(), None).unwrap_err();
    assert_eq!(error(""), KeyError::NoPem);
    assert_eq!(error("a shared secret of many letters"), KeyError::NoPem);
    assert_eq!(error(&text("weak")), KeyError::WeakRsa);
    assert_eq!(error(&text("secp256k1")), KeyError::UnsupportedKind);
    for kind in [
        "PRIVATE KEY",
        "RSA PRIVATE KEY",
        "EC PRIVATE KEY",
        "ENCRYPTED PRIVATE KEY",
    ] {
        assert_eq!(error(&pem(kind, &[1, 2, 3])), KeyError::Private);
        let behind = text("rsa") + &pem(kind, &[1, 2, 3]);
        assert_eq!(error(&behind), KeyError::Private);
    }
    for kind in ["PUBLIC KEY", "RSA PUBLIC KEY", "CERTIFICATE"] {
        assert_eq!(error(&pem(kind, &[1, 2, 3])), KeyError::Damaged);
    }
    assert_eq!(
        error(&pem("CERTIFICATE REQUEST", &[1])),
        KeyError::UnsupportedKind
    );
    let cut = text("rsa").replace("-----END PUBLIC KEY-----", "");
    assert_eq!(error(&cut), KeyError::Damaged);
    let garbled = text("rsa").replace("MIIB", "!!!!");
    assert_eq!(error(&garbled), KeyError::Damaged);
}

#[test]
fn several_keys_of_a_pem_file_are_all_used_and_named() {
    let foreign = foreign();
    let both = ["p256", "rsa"].map(|form| foreign["pem"][form].as_str().unwrap());
    let keys = Key::from_pem(&both.concat(), ANY(), Some("k")).unwrap();
    assert_eq!(keys.len(), 2);
    assert!(keys.iter().all(|key| key.id() == Some("k")));
    assert!(keys[0].fits(Algorithm::Es256) && keys[1].fits(Algorithm::Rs512));
    let only = [Algorithm::Es256].into_iter().collect();
    let error = Key::from_pem(&both.concat(), only, None).unwrap_err();
    assert_eq!(error, KeyError::NoAlgorithm);
}

#[test]
fn keys_say_nothing_of_themselves() {
    let key = Key::from_secret(&[b'x'; 64], ANY(), Some("k")).unwrap();
    let shown = format!("{key:?}");
    assert!(!shown.contains("xxx") && !shown.contains("120"), "{shown}");
}

#[test]
fn a_token_with_an_id_is_for_the_keys_with_it() {
    let (one, other) = (secret(1), secret(2));
    let id = |id: &str| json!({ "kid": id });
    let judge = |keys: &[Value], kid: Option<&str>| {
        let providers = [Provider::new(settings("main"), Some(set(keys)))];
        let mut header = json!({ "alg": "HS256" });
        if let Some(kid) = kid {
            header["kid"] = kid.into();
        }
        let claims = good_claims().to_string();
        let token = raw(&one, Algorithm::Hs256, &header.to_string(), &claims);
        label(verify(&token, &providers, now()))
    };
    assert_eq!(
        judge(&[other.jwk(id("b")), one.jwk(id("a"))], Some("a")),
        "good"
    );
    assert_eq!(judge(&[other.jwk(id("b")), one.jwk(id("a"))], None), "good");
    assert_eq!(
        judge(&[other.jwk(id("b")), one.jwk(id("a"))], Some("b")),
        "bad_signature"
    );
    assert_eq!(
        judge(&[other.jwk(id("b")), one.jwk(id("a"))], Some("c")),
        "unknown_key"
    );
    assert_eq!(
        judge(&[other.jwk(id("b")), one.jwk(id("a"))], Some("A")),
        "unknown_key"
    );
    // The same id twice: both are tried.
    assert_eq!(
        judge(&[other.jwk(id("a")), one.jwk(id("a"))], Some("a")),
        "good"
    );
    // A key without an id is that of any token, unless another is.
    assert_eq!(judge(&[one.jwk(json!({}))], Some("a")), "good");
    assert_eq!(
        judge(&[one.jwk(json!({})), other.jwk(id("a"))], Some("a")),
        "bad_signature"
    );
    // What has the id is for another algorithm.
    assert_eq!(
        judge(&[PAIRS[1].jwk(id("a")), one.jwk(id("b"))], Some("a")),
        "unsupported_algorithm"
    );
    assert_eq!(
        judge(&[PAIRS[1].jwk(id("a"))], None),
        "unsupported_algorithm"
    );
}

#[test]
fn only_some_keys_are_tried() {
    let jwks: Vec<_> = (0..20).map(|byte| secret(byte).jwk(json!({}))).collect();
    let providers = [Provider::new(settings("main"), Some(set(&jwks)))];
    let judge = |byte: u8| {
        let claims = good_claims().to_string();
        let token = raw(
            &secret(byte),
            Algorithm::Hs256,
            r#"{"alg":"HS256"}"#,
            &claims,
        );
        label(verify(&token, &providers, now()))
    };
    assert_eq!(judge(key_set::MAX_TRIED as u8 - 1), "good");
    assert_eq!(judge(key_set::MAX_TRIED as u8), "bad_signature");
}

#[test]
fn a_key_that_stays_is_the_same_and_one_that_leaves_is_marked() {
    let id = |id: &str| json!({ "kid": id });
    let first = set(&[secret(1).jwk(id("a")), secret(2).jwk(id("b"))]);
    let provider = Provider::new(settings("main"), Some(Arc::clone(&first)));
    // The second key stays, the first gets another name.
    let text = json!({ "keys": [secret(2).jwk(id("b")), secret(1).jwk(id("c"))] }).to_string();
    provider.publish(KeySet::parse(text.as_bytes()).unwrap());
    let second = provider.keys().unwrap();
    assert!(Arc::ptr_eq(&first.keys()[1], &second.keys()[0]));
    assert!(!second.keys()[0].is_removed() && !second.keys()[1].is_removed());
    assert!(first.keys()[0].is_removed());
    // A key that comes back is a new one: what was known through the old one stays forgotten.
    let text = json!({ "keys": [secret(1).jwk(id("a"))] }).to_string();
    provider.publish(KeySet::parse(text.as_bytes()).unwrap());
    assert!(first.keys()[0].is_removed() && !provider.keys().unwrap().keys()[0].is_removed());
    let last = provider.keys().unwrap();
    provider.withdraw();
    assert!(provider.keys().is_none() && last.keys()[0].is_removed());
}
