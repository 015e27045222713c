//! What forgers try: algorithms that do not belong, keys brought along, tokens taken apart wrongly.

use serde_json::{Value, json};

use super::super::*;
use super::maker::*;

fn judged(token: &str) -> &'static str {
    label(verify(token, &provider(), now()))
}

fn with_header(header: &str) -> &'static str {
    let token = raw(
        &PAIRS[0],
        Algorithm::Hs256,
        header,
        &good_claims().to_string(),
    );
    judged(&token)
}

#[test]
fn every_algorithm_goes_round() {
    for algorithm in Algorithm::ALL {
        let verified = verify(
            &token(algorithm, json!({}), good_claims()),
            &provider(),
            now(),
        );
        let verified = verified.unwrap();
        assert_eq!(verified.algorithm, algorithm);
        assert!(verified.key.fits(algorithm));
        assert_eq!(&*verified.provider_name, "main");
    }
}

#[test]
fn a_key_of_one_kind_verifies_nothing_of_another() {
    for (key, signed) in Algorithm::ALL
        .into_iter()
        .flat_map(|key| Algorithm::ALL.into_iter().map(move |signed| (key, signed)))
    {
        // Bound to one algorithm, the key is not even for others of its own kind.
        let bound = pair(key).jwk(json!({ "alg": key.name() }));
        let providers = [Provider::new(settings("main"), Some(set(&[bound])))];
        let token = token(signed, json!({}), good_claims());
        let expected = if key == signed {
            "good"
        } else {
            "unsupported_algorithm"
        };
        assert_eq!(
            label(verify(&token, &providers, now())),
            expected,
            "{key:?} {signed:?}"
        );
    }
}

#[test]
fn what_the_provider_does_not_list_is_refused_before_any_key_is_asked() {
    let settings = ProviderSettings {
        algorithms: [Algorithm::Rs256].into_iter().collect(),
        ..settings("main")
    };
    // Not even keys are needed.
    let providers = [Provider::new(settings, None)];
    for algorithm in Algorithm::ALL {
        let expected = match algorithm {
            Algorithm::Rs256 => "provider_unavailable",
            _ => "unsupported_algorithm",
        };
        let token = token(algorithm, json!({}), good_claims());
        assert_eq!(label(verify(&token, &providers, now())), expected);
    }
}

#[test]
fn a_public_key_is_no_secret() {
    let pem = PAIRS[1].pem();
    let keys = Key::from_pem(&pem, Algorithm::ALL.into_iter().collect(), None).unwrap();
    let providers = [Provider::new(
        settings("main"),
        Some(KeySet::of(keys).unwrap().into()),
    )];
    for secret in [
        pem.as_bytes(),
        pem.trim().as_bytes(),
        pem.trim_end().as_bytes(),
    ] {
        let pair = Pair::Secret(secret.to_vec());
        for algorithm in &Algorithm::ALL[..3] {
            let header = json!({ "alg": algorithm.name() }).to_string();
            let token = raw(&pair, *algorithm, &header, &good_claims().to_string());
            assert_eq!(
                label(verify(&token, &providers, now())),
                "unsupported_algorithm"
            );
        }
    }
}

#[test]
fn no_spelling_of_none_is_accepted() {
    for name in ["none", "None", "NONE", "nOnE", "none ", " none", "", "null"] {
        let header = encode(json!({ "alg": name }).to_string());
        let payload = encode(good_claims().to_string());
        for signature in ["", "AA", "bm9uZQ"] {
            let token = format!("{header}.{payload}.{signature}");
            assert_eq!(judged(&token), "unsupported_algorithm", "{name}");
        }
    }
}

#[test]
fn headers_that_bring_a_key_or_ask_for_more_are_refused() {
    let jwk = PAIRS[0].jwk(json!({}));
    for (name, value) in [
        ("jwk", jwk),
        ("jwk", Value::Null),
        ("jku", json!("https://id.test/keys")),
        ("x5c", json!(["MIIB"])),
        ("x5u", json!("https://id.test/chain")),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("crit", json!("exp")),
        ("crit", json!(["http://example.com/unknown"])),
        ("crit", json!(["b64"])),
        ("crit", Value::Null),
        ("b64", json!(false)),
        ("b64", json!(true)),
        ("zip", json!("DEF")),
        ("enc", json!("A128GCM")),
        ("kid", json!(1)),
        ("kid", Value::Null),
        ("typ", json!(["JWT"])),
        ("cty", json!(1)),
    ] {
        let token = token(Algorithm::Hs256, json!({ name: value }), good_claims());
        assert_eq!(judged(&token), "malformed", "{name}: {value}");
    }
    let both = json!({ "crit": ["x"], "x": 1 });
    assert_eq!(
        judged(&token(Algorithm::Hs256, both, good_claims())),
        "malformed"
    );
    for harmless in ["x5t", "x5t#S256", "nonce", "client_id"] {
        let token = token(Algorithm::Hs256, json!({ harmless: "x" }), good_claims());
        assert_eq!(judged(&token), "good", "{harmless}");
    }
}

#[test]
fn headers_are_one_strict_object() {
    assert_eq!(with_header(r#" {"alg" : "HS256"} "#), "good");
    for header in [
        r#"{"alg":"HS256","alg":"HS256"}"#,
        r#"{"alg":"none","alg":"HS256"}"#,
        r#"{"alg":"HS256","\u0061lg":"none"}"#,
        r#"{"alg":"HS256"}{"#,
        r#"{"alg":"HS256"},"#,
        r#"["HS256"]"#,
        r#""HS256""#,
        r#"{"alg":["HS256"]}"#,
        r#"{"alg":null}"#,
        r#"{"Alg":"HS256"}"#,
        "{}",
        "",
    ] {
        assert_eq!(with_header(header), "malformed", "{header}");
    }
    let deep = format!(
        r#"{{"alg":"HS256","x":{}{}}}"#,
        "[".repeat(2000),
        "]".repeat(2000)
    );
    assert_eq!(with_header(&deep), "malformed");
    assert_eq!(with_header(r#"{"alg":"hs256"}"#), "unsupported_algorithm");
    assert_eq!(
        with_header(r#"{"alg":"HS256\u0000"}"#),
        "unsupported_algorithm"
    );
}

#[test]
fn tokens_have_three_parts_in_strict_base64url() {
    let good = token(Algorithm::Hs256, json!({}), good_claims());
    assert_eq!(judged(&good), "good");
    let [header, payload, signature] = &good.split('.').collect::<Vec<_>>()[..] else {
        panic!("three parts")
    };
    for bad in [
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        "a.b.c".into(),
        format!("{header}.{payload}"),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.x"),
        format!("{header}..{payload}.{signature}"),
        // A token that is encrypted has five.
        format!("{header}.{payload}.{payload}.{payload}.{signature}"),
        format!("{header}.{payload}.{signature}="),
        format!("{header}=.{payload}.{signature}"),
        format!("{good} "),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{header}.{payload}\n.{signature}"),
        format!("{header}.{payload}.{signature}%00"),
        format!("Bearer {good}"),
        "é.é.é".into(),
    ] {
        assert_eq!(judged(&bad), "malformed", "{bad}");
    }
    // A digest of 32 bytes leaves two bits of the last letter unused.
    let last = signature.chars().last().unwrap();
    let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let next = letters.find(last).unwrap() + 1;
    let stray = format!("{}{}", &good[..good.len() - 1], &letters[next..=next]);
    assert_eq!(judged(&stray), "malformed");
    assert_eq!(judged(&format!("{header}.{payload}.")), "bad_signature");
    let too_large = "a".repeat(MAX_TOKEN_BYTES + 1);
    assert_eq!(
        verify(&too_large, &provider(), now()).unwrap_err(),
        TokenError::TooLarge
    );
}

#[test]
fn signatures_of_other_lengths_are_refused() {
    for algorithm in Algorithm::ALL {
        let token = token(algorithm, json!({}), good_claims());
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let bytes =
            base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, signature)
                .unwrap();
        let zeros = vec![0; bytes.len()];
        let longer = [bytes.as_slice(), &[0]].concat();
        let before = [&[0], bytes.as_slice()].concat();
        for other in [
            &bytes[..bytes.len() - 1],
            &bytes[1..],
            &longer,
            &before,
            &zeros,
            &[],
        ] {
            let token = format!("{signed}.{}", encode(other));
            assert_eq!(
                judged(&token),
                "bad_signature",
                "{algorithm:?} {}",
                other.len()
            );
        }
    }
    // ECDSA in DER, as X.509 writes it, is not what RFC 7518 section 3.4 asks for.
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let pair = Pair::P256(pair);
    let keys = set(&[pair.jwk(json!({}))]);
    let token = raw(
        &pair,
        Algorithm::Es256,
        r#"{"alg":"ES256"}"#,
        &good_claims().to_string(),
    );
    let providers = [Provider::new(settings("main"), Some(keys))];
    assert_eq!(label(verify(&token, &providers, now())), "bad_signature");
}
