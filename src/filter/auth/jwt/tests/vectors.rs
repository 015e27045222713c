//! Examples of RFC 7515 appendix A, RFC 7519, RFC 8037 and RFC 7520, and tokens that another
//! implementation has signed (`foreign.json`).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::super::*;
use super::maker::*;

/// The payload of most examples. It expired in 2011.
const JOE: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb\
                   290Ijp0cnVlfQ";
const BEFORE_ITS_END: i64 = 1_300_819_379;

fn joes(keys: Value) -> Vec<std::sync::Arc<Provider>> {
    let settings = ProviderSettings {
        issuers: vec!["joe".into()],
        algorithms: Algorithm::ALL.into_iter().collect(),
        ..ProviderSettings::named("joe")
    };
    vec![Provider::new(settings, Some(set(&[keys])))]
}

fn accepted_until_its_end(header: &str, signature: &str, keys: Value) {
    let token = format!("{header}.{JOE}.{signature}");
    let providers = joes(keys);
    let verified = verify(&token, &providers, at(BEFORE_ITS_END)).unwrap();
    assert_eq!(verified.issuer.as_deref(), Some("joe"));
    assert_eq!(verified.claims["http://example.com/is_root"], true);
    assert_eq!(verified.expires_at.unwrap().seconds(), 1_300_819_380);
    let error = verify(&token, &providers, at(BEFORE_ITS_END + 31)).unwrap_err();
    assert_eq!(error, TokenError::Expired);
}

#[test]
fn rfc_7515_a_1_and_rfc_7519_3_1_hmac() {
    accepted_until_its_end(
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
        "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        json!({
            "kty": "oct",
            "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1\
                  Z9CAow",
        }),
    );
}

#[test]
fn rfc_7515_a_2_rsa() {
    accepted_until_its_end(
        "eyJhbGciOiJSUzI1NiJ9",
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2F\
         p5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBM\
         Hlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2\
         w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        json!({
            "kty": "RSA", "e": "AQAB",
            "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJ\
                  PMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0\
                  LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uD\
                  Zlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2\
                  PAcDTW9gb54h4FRWyuXpoQ",
        }),
    );
}

#[test]
fn rfc_7515_a_3_p_256() {
    accepted_until_its_end(
        "eyJhbGciOiJFUzI1NiJ9",
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        json!({
            "kty": "EC", "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        }),
    );
}

#[test]
fn rfc_7515_a_4_p_521_is_not_accepted() {
    let token = "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYa\
                 RI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHw\
                 JjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn";
    let error = verify(token, &provider(), now()).unwrap_err();
    assert_eq!(error, TokenError::UnsupportedAlgorithm);
}

#[test]
fn rfc_7515_a_5_and_rfc_7519_6_1_unsecured() {
    let token = format!("eyJhbGciOiJub25lIn0.{JOE}.");
    let error = verify(&token, &provider(), at(BEFORE_ITS_END)).unwrap_err();
    assert_eq!(error, TokenError::UnsupportedAlgorithm);
}

/// A signature over what is no JSON, so that only the key can be asked.
fn signed(jwk: Value, algorithm: Algorithm, signed: &str, signature: &str) {
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let key = &set(&[jwk]).keys()[0].clone();
    assert!(key.verify(algorithm, signed.as_bytes(), &signature));
    let other = format!("{signed}A");
    assert!(!key.verify(algorithm, other.as_bytes(), &signature));
}

#[test]
fn rfc_8037_a_4_ed25519() {
    signed(
        json!({
            "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        }),
        Algorithm::EdDsa,
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
    );
}

#[test]
fn rfc_7520_4_2_rsa_pss() {
    signed(
        json!({
            "kty": "RSA", "kid": "bilbo.baggins@hobbiton.example", "use": "sig", "e": "AQAB",
            "n": "n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0\
                  VEiZQHz_AJmSCpMaJMRBSFKrKb2wqVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBord\
                  aZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD1NNLYD5lFHpPI9bTwJlsde3uhGqC0ZCuEHg8lhzw\
                  OHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_qixoR7jig3__kRhuaxwU\
                  kRz5iaiQkqgc5gHdrNP5zw",
        }),
        Algorithm::Ps384,
        "eyJhbGciOiJQUzM4NCIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.SXTigJlzIGEgZGFuZ\
         2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwg\
         YW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h\
         0IGJlIHN3ZXB0IG9mZiB0by4",
        "cu22eBqkYDKgIlTpzDXGvaFfz6WGoz7fUDcfT0kkOy42miAh2qyBzk1xEsnk2IpN6-tPid6VrklHkqsGqDqHCdP6O8\
         TTB5dDDItllVo6_1OLPpcbUrhiUSMxbbXUvdvWXzg-UD8biiReQFlfz28zGWVsdiNAUf8ZnyPEgVFn442ZdNqiVJRmB\
         qrYRXe8P_ijQ7p8Vdz0TTrxUeT3lm8d9shnr2lfJT8ImUjvAA2Xez2Mlp8cBE5awDzT0qI0n6uiP1aCN_2_jLAeQTlq\
         RHtfa64QQSUmFAAjVKPbByi7xho0uTOcbH510a6GYmJUAfmWjwZ6oD4ifKo8DYM-X72Eaw",
    );
}

pub fn foreign() -> Value {
    serde_json::from_str(include_str!("foreign.json")).unwrap()
}

#[test]
fn what_another_implementation_has_signed_is_accepted() {
    let foreign = foreign();
    let jwks = KeySet::parse(foreign["jwks"].to_string().as_bytes()).unwrap();
    let providers = [Provider::new(settings("jwks"), Some(jwks.into()))];
    for algorithm in Algorithm::ALL {
        let token = foreign["tokens"][algorithm.name()].as_str().unwrap();
        let verified = verify(token, &providers, now()).unwrap();
        assert_eq!(verified.algorithm, algorithm);
        assert_eq!(verified.subject.as_deref(), Some("alice"));
        assert_eq!(verified.claims["aud"], "api");
    }
}

#[test]
fn keys_in_every_form_of_pem_accept_what_another_implementation_has_signed() {
    let foreign = foreign();
    for (form, algorithms) in [
        ("rsa", "RS256 RS384 RS512 PS256 PS384 PS512"),
        ("pkcs1", "RS256 PS512"),
        ("certificate", "RS384 PS256"),
        ("p256", "ES256"),
        ("p384", "ES384"),
        ("ed25519", "EdDSA"),
    ] {
        let pem = foreign["pem"][form].as_str().unwrap();
        let keys = Key::from_pem(pem, AlgorithmSet::public_key(), None).unwrap();
        let keys = KeySet::of(keys).unwrap();
        let providers = [Provider::new(settings(form), Some(keys.into()))];
        for algorithm in algorithms.split(' ') {
            let token = foreign["tokens"][algorithm].as_str().unwrap();
            assert_eq!(
                label(verify(token, &providers, now())),
                "good",
                "{form} {algorithm}"
            );
        }
    }
}
