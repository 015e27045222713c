//! What tokens claim, and which provider is asked.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::*;
use super::maker::*;

fn signed(claims: Value) -> String {
    token(Algorithm::Hs256, json!({}), claims)
}

fn judged(claims: Value) -> &'static str {
    label(verify(&signed(claims), &provider(), now()))
}

fn claim(name: &str, value: Value) -> &'static str {
    judged(with(good_claims(), name, value))
}

fn by(settings: ProviderSettings, claims: Value) -> Result<Verified, TokenError> {
    verify(
        &signed(claims),
        &[Provider::new(settings, Some(every_key()))],
        now(),
    )
}

#[test]
fn expiry_is_exact_and_skewed() {
    // At `exp` itself the token is over (RFC 7519 section 4.1.4); 30 seconds are granted.
    for (value, expected) in [
        (json!(NOW + 1), "good"),
        (json!(NOW - 29), "good"),
        (json!(NOW - 30), "expired"),
        (json!(NOW as f64 - 29.5), "good"),
        (json!(NOW as f64 - 30.5), "expired"),
        (json!(0), "expired"),
        (json!(-1), "expired"),
        (json!(i64::MIN), "expired"),
        (json!(-1e300), "expired"),
        (json!(i64::MAX), "good"),
        (json!(u64::MAX), "good"),
        (json!(1e300), "good"),
        (json!((NOW + 1).to_string()), "malformed"),
        (json!(null), "malformed"),
        (json!(true), "malformed"),
        (json!([NOW + 1]), "malformed"),
        (json!({}), "malformed"),
    ] {
        assert_eq!(claim("exp", value.clone()), expected, "{value}");
    }
    assert_eq!(judged(without(good_claims(), "exp")), "missing_claim");
    let settings = ProviderSettings {
        require_expiry: false,
        ..settings("main")
    };
    let verified = by(settings, without(good_claims(), "exp")).unwrap();
    assert_eq!(verified.accepted_until(), NumericDate::MAX);
}

#[test]
fn a_number_that_json_does_not_know_is_no_time() {
    for number in [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "0x7fffffff",
        "1_000",
        ".5",
        "01",
    ] {
        let payload = good_claims()
            .to_string()
            .replacen(&(NOW + 300).to_string(), number, 1);
        assert!(payload.contains(number));
        let token = raw(&PAIRS[0], Algorithm::Hs256, r#"{"alg":"HS256"}"#, &payload);
        assert_eq!(
            label(verify(&token, &provider(), now())),
            "malformed",
            "{number}"
        );
    }
}

#[test]
fn tokens_of_the_future_wait() {
    for name in ["nbf", "iat"] {
        for (value, expected) in [
            (json!(NOW), "good"),
            (json!(NOW + 30), "good"),
            (json!(NOW + 31), "not_yet_valid"),
            (json!(NOW as f64 + 30.5), "not_yet_valid"),
            (json!(1e300), "not_yet_valid"),
            (json!(u64::MAX), "not_yet_valid"),
            (json!(-5), "good"),
            (json!(-1e300), "good"),
            (json!("0"), "malformed"),
            (json!(null), "malformed"),
        ] {
            assert_eq!(claim(name, value.clone()), expected, "{name} {value}");
        }
    }
    assert_eq!(judged(without(good_claims(), "iat")), "good");
}

#[test]
fn skew_is_the_providers() {
    let skewed = |seconds| ProviderSettings {
        clock_skew: Duration::from_secs(seconds),
        ..settings("main")
    };
    let old = with(good_claims(), "exp", json!(NOW - 59));
    assert_eq!(label(by(skewed(60), old.clone())), "good");
    assert_eq!(label(by(skewed(59), old)), "expired");
    let just = with(good_claims(), "exp", json!(NOW));
    assert_eq!(label(by(skewed(0), just)), "expired");
    let endless = ProviderSettings {
        clock_skew: Duration::MAX,
        ..settings("main")
    };
    assert_eq!(
        label(by(endless, with(good_claims(), "exp", json!(0)))),
        "good"
    );
}

#[test]
fn audiences_are_a_string_or_strings() {
    for (value, expected) in [
        (json!("api"), "good"),
        (json!(["other", "api"]), "good"),
        (json!("API"), "wrong_audience"),
        (json!("api "), "wrong_audience"),
        (json!("ap"), "wrong_audience"),
        (json!(["other"]), "wrong_audience"),
        (json!([]), "wrong_audience"),
        (json!(["api", 1]), "malformed"),
        (json!([["api"]]), "malformed"),
        (json!({ "api": true }), "malformed"),
        (json!(null), "malformed"),
        (json!(1), "malformed"),
    ] {
        assert_eq!(claim("aud", value.clone()), expected, "{value}");
    }
    let missing = by(settings("main"), without(good_claims(), "aud")).unwrap_err();
    assert_eq!(missing, TokenError::MissingClaim("aud".into()));
    let any = ProviderSettings {
        audiences: Vec::new(),
        ..settings("main")
    };
    assert_eq!(
        label(by(any.clone(), without(good_claims(), "aud"))),
        "good"
    );
    assert_eq!(
        label(by(any, with(good_claims(), "aud", json!("other")))),
        "good"
    );
}

#[test]
fn names_are_strings() {
    for name in ["iss", "sub", "jti"] {
        for value in [json!(1), json!(null), json!(["https://id.test"]), json!({})] {
            assert_eq!(claim(name, value.clone()), "malformed", "{name} {value}");
        }
    }
    assert_eq!(
        judged(without(without(good_claims(), "sub"), "jti")),
        "good"
    );
}

#[test]
fn required_claims_are_there_and_not_null() {
    let settings = ProviderSettings {
        required_claims: vec!["tenant".into()],
        ..settings("main")
    };
    assert_eq!(
        by(settings.clone(), good_claims()).unwrap_err(),
        TokenError::MissingClaim("tenant".into())
    );
    let null = with(good_claims(), "tenant", Value::Null);
    assert_eq!(label(by(settings.clone(), null)), "missing_claim");
    for value in [json!(""), json!(false), json!("a")] {
        assert_eq!(
            label(by(settings.clone(), with(good_claims(), "tenant", value))),
            "good"
        );
    }
}

#[test]
fn types_are_those_of_the_provider() {
    let typed = |types: &TokenTypes, header: Value| {
        let token = token(Algorithm::Hs256, header, good_claims());
        let settings = ProviderSettings {
            types: types.clone(),
            ..settings("main")
        };
        label(verify(
            &token,
            &[Provider::new(settings, Some(every_key()))],
            now(),
        ))
    };
    let default = TokenTypes::default();
    let access = TokenTypes {
        accepted: vec!["application/at+jwt".into()],
        absent: false,
    };
    for (header, by_default, as_access) in [
        (json!({}), "good", "wrong_type"),
        (json!({ "typ": "JWT" }), "good", "wrong_type"),
        (json!({ "typ": "jwt" }), "good", "wrong_type"),
        (json!({ "typ": "application/jwt" }), "good", "wrong_type"),
        (json!({ "typ": "at+jwt" }), "good", "good"),
        (json!({ "typ": "AT+JWT" }), "good", "good"),
        (json!({ "typ": "Application/at+jwt" }), "good", "good"),
        (json!({ "typ": "text/at+jwt" }), "wrong_type", "wrong_type"),
        (
            json!({ "typ": "application/application/jwt" }),
            "wrong_type",
            "wrong_type",
        ),
        (json!({ "typ": "logout+jwt" }), "wrong_type", "wrong_type"),
        (json!({ "typ": "dpop+jwt" }), "wrong_type", "wrong_type"),
        (json!({ "typ": "" }), "wrong_type", "wrong_type"),
        (json!({ "cty": "JWT" }), "wrong_type", "wrong_type"),
        (
            json!({ "cty": "application/jwt" }),
            "wrong_type",
            "wrong_type",
        ),
        (json!({ "cty": "json" }), "good", "wrong_type"),
    ] {
        assert_eq!(typed(&default, header.clone()), by_default, "{header}");
        assert_eq!(typed(&access, header.clone()), as_access, "{header}");
    }
}

#[test]
fn payloads_are_one_strict_object() {
    let judge = |payload: &str| {
        let token = raw(&PAIRS[0], Algorithm::Hs256, r#"{"alg":"HS256"}"#, payload);
        label(verify(&token, &provider(), now()))
    };
    let good = good_claims().to_string();
    assert_eq!(judge(&good), "good");
    let twice = good.replacen('{', r#"{"sub":"root","#, 1);
    let escaped = good.replacen('{', r#"{"\u0073ub":"root","#, 1);
    let nested = good.replacen('{', r#"{"x":{"a":1,"a":2},"#, 1);
    let deep = format!(r#"{{"x":{}{},"#, "[".repeat(500), "]".repeat(500));
    let deep = good.replacen('{', &deep, 1);
    for bad in [
        &twice, &escaped, &nested, &deep, "[]", "\"\"", "null", "", "{", "{}x",
    ] {
        assert_eq!(judge(bad), "malformed", "{bad}");
    }
    assert_eq!(judge("{}"), "missing_claim");
}

#[test]
fn what_was_verified_is_handed_on() {
    let claims = with(good_claims(), "roles", json!(["admin", 1, "ops"]));
    let claims = with(claims, "scp", json!(["write", "delete all"]));
    let verified = by(settings("main"), claims.clone()).unwrap();
    assert_eq!(verified.subject.as_deref(), Some("alice"));
    assert_eq!(verified.token_id.as_deref(), Some("t-1"));
    assert_eq!(verified.issued_at.unwrap().millis(), (NOW - 60) * 1000);
    assert_eq!(verified.expires_at.unwrap().seconds(), NOW + 300);
    assert_eq!(verified.accepted_until().seconds(), NOW + 330);
    assert_eq!(verified.roles, ["admin".into(), "ops".into()].into());
    let scopes: Vec<_> = verified.scopes.iter().map(|scope| &**scope).collect();
    assert_eq!(scopes, ["read", "write", "delete", "all"]);
    assert_eq!(Value::Object(verified.claims.clone()), claims);
    assert!(!format!("{verified:?}").contains("alice"));
    let nested = ProviderSettings {
        roles_claim: ClaimPath::new("realm_access.roles"),
        ..settings("main")
    };
    let claims = with(good_claims(), "realm_access", json!({ "roles": "admin" }));
    assert_eq!(
        by(nested.clone(), claims).unwrap().roles,
        ["admin".into()].into()
    );
    assert!(by(nested, good_claims()).unwrap().roles.is_empty());
    for odd in [json!(1), json!({ "read": true }), json!(null)] {
        let verified = by(settings("main"), with(good_claims(), "scope", odd)).unwrap();
        assert!(verified.scopes.is_empty());
    }
}

fn provider_of(name: &str, issuers: &[&str], key: Option<&Pair>) -> Arc<Provider> {
    let settings = ProviderSettings {
        issuers: issuers.iter().map(|issuer| (*issuer).to_owned()).collect(),
        audiences: Vec::new(),
        ..settings(name)
    };
    Provider::new(
        settings,
        key.map(|key| set(&[key.jwk(json!({ "kid": name }))])),
    )
}

fn issued(by: &Pair, issuer: Option<&str>) -> String {
    let claims = without(good_claims(), "iss");
    let claims = issuer.map_or(claims.clone(), |issuer| with(claims, "iss", json!(issuer)));
    raw(
        by,
        Algorithm::Hs256,
        r#"{"alg":"HS256"}"#,
        &claims.to_string(),
    )
}

#[test]
fn the_issuer_decides_who_is_asked() {
    let (one, two, any) = (secret(1), secret(2), secret(3));
    let providers = [
        provider_of("one", &["https://one.test", "https://uno.test"], Some(&one)),
        provider_of("any", &[], Some(&any)),
        provider_of("two", &["https://two.test"], Some(&two)),
    ];
    let name = |token: &str| match verify(token, &providers, now()) {
        Ok(verified) => providers[verified.provider].settings().name.to_string(),
        Err(error) => error.kind().as_str().into(),
    };
    assert_eq!(name(&issued(&one, Some("https://one.test"))), "one");
    assert_eq!(name(&issued(&one, Some("https://uno.test"))), "one");
    assert_eq!(name(&issued(&two, Some("https://two.test"))), "two");
    assert_eq!(name(&issued(&any, Some("https://else.test"))), "any");
    assert_eq!(name(&issued(&any, None)), "any");
    // One provider cannot speak for another.
    assert_eq!(
        name(&issued(&two, Some("https://one.test"))),
        "bad_signature"
    );
    assert_eq!(
        name(&issued(&any, Some("https://one.test"))),
        "bad_signature"
    );
    assert_eq!(
        name(&issued(&one, Some("https://else.test"))),
        "bad_signature"
    );
    assert_eq!(
        name(&issued(&one, Some("https://one.test/"))),
        "bad_signature"
    );
    let only = &providers[..1];
    let error = |token: &str| verify(token, only, now()).unwrap_err();
    assert_eq!(
        error(&issued(&one, Some("https://else.test"))),
        TokenError::WrongIssuer
    );
    assert_eq!(
        error(&issued(&one, None)),
        TokenError::MissingClaim("iss".into())
    );
    assert_eq!(error(&issued(&one, Some(""))), TokenError::WrongIssuer);
    assert_eq!(
        verify(&issued(&one, None), &[], now())
            .unwrap_err()
            .kind()
            .as_str(),
        "missing_claim"
    );
}

#[test]
fn of_several_providers_of_an_issuer_one_suffices_and_the_nearest_says_why_not() {
    let (one, two) = (secret(1), secret(2));
    let here = &["https://one.test"][..];
    let providers = [
        provider_of("one", here, Some(&one)),
        provider_of("two", here, Some(&two)),
    ];
    let token = issued(&two, Some("https://one.test"));
    assert_eq!(verify(&token, &providers, now()).unwrap().provider, 1);
    let late = verify(&token, &providers, at(NOW + 10_000)).unwrap_err();
    assert_eq!(late, TokenError::Expired);
    let foreign = issued(&secret(3), Some("https://one.test"));
    assert_eq!(label(verify(&foreign, &providers, now())), "bad_signature");
    // One that cannot be judged may be the right one.
    let providers = [
        provider_of("one", here, Some(&one)),
        provider_of("two", here, None),
    ];
    let error = verify(&token, &providers, now()).unwrap_err();
    assert_eq!(error, TokenError::ProviderUnavailable { provider: 1 });
    assert_eq!(error.kind().as_str(), "provider_unavailable");
}
