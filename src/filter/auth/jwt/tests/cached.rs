//! The cache: what it may answer, and what it may not.

use std::sync::Arc;

use serde_json::json;

use super::super::*;
use super::maker::*;

fn cache() -> TokenCache {
    TokenCache::new(CacheLimits::default()).unwrap()
}

fn good() -> String {
    token(Algorithm::Hs256, json!({}), good_claims())
}

#[test]
fn a_good_token_is_answered_from_the_cache() {
    let (cache, providers, token) = (cache(), provider(), good());
    assert!(cache.get(&token, &providers, now()).is_none());
    let first = remembered(&cache, &token, &providers, now()).unwrap();
    let second = remembered(&cache, &token, &providers, now()).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(cache.len(), 1);
    assert!(!format!("{cache:?}").contains("alice"));
}

#[test]
fn nothing_bad_is_kept() {
    let (cache, providers, token) = (cache(), provider(), good());
    let (signed, _) = token.rsplit_once('.').unwrap();
    let expired = with(good_claims(), "exp", json!(NOW - 100));
    for bad in [
        format!("{signed}.AAAA"),
        "x".into(),
        super::maker::token(Algorithm::Hs256, json!({}), expired),
    ] {
        assert!(remembered(&cache, &bad, &providers, now()).is_err());
        assert!(cache.is_empty());
    }
}

#[test]
fn a_cached_token_ends_with_its_time() {
    let (cache, providers, token) = (cache(), provider(), good());
    remembered(&cache, &token, &providers, now()).unwrap();
    assert!(cache.get(&token, &providers, at(NOW + 329)).is_some());
    let error = remembered(&cache, &token, &providers, at(NOW + 330)).unwrap_err();
    assert_eq!(error, TokenError::Expired);
    assert!(cache.is_empty());
    // A clock that was set back makes a token one of the future.
    remembered(&cache, &token, &providers, now()).unwrap();
    let error = remembered(&cache, &token, &providers, at(NOW - 1000)).unwrap_err();
    assert_eq!(error, TokenError::NotYetValid);
}

#[test]
fn a_cached_token_ends_with_its_key() {
    let id = |id: &str| json!({ "kid": id });
    let keys = [secret(1).jwk(id("a")), secret(2).jwk(id("b"))];
    let providers = [Provider::new(settings("main"), Some(set(&keys)))];
    let signed = |byte: u8, kid: &str| {
        let header = json!({ "alg": "HS256", "kid": kid }).to_string();
        raw(
            &secret(byte),
            Algorithm::Hs256,
            &header,
            &good_claims().to_string(),
        )
    };
    let (leaving, staying) = (signed(1, "a"), signed(2, "b"));
    let cache = cache();
    remembered(&cache, &leaving, &providers, now()).unwrap();
    let before = remembered(&cache, &staying, &providers, now()).unwrap();
    let next = json!({ "keys": [secret(2).jwk(id("b")), secret(3).jwk(id("c"))] });
    providers[0].publish(KeySet::parse(next.to_string().as_bytes()).unwrap());
    let error = remembered(&cache, &leaving, &providers, now()).unwrap_err();
    assert_eq!(error, TokenError::UnknownKey { provider: 0 });
    let after = cache.get(&staying, &providers, now()).unwrap();
    assert!(Arc::ptr_eq(&before, &after));
    providers[0].withdraw();
    let error = remembered(&cache, &staying, &providers, now()).unwrap_err();
    assert_eq!(error, TokenError::ProviderUnavailable { provider: 0 });
}

#[test]
fn a_token_that_is_good_for_some_is_not_thereby_good_for_others() {
    let (cache, token) = (cache(), good());
    let providers = provider();
    remembered(&cache, &token, &providers, now()).unwrap();
    let other = ProviderSettings {
        issuers: vec!["https://else.test".into()],
        ..settings("else")
    };
    let other = Provider::new(other, Some(every_key()));
    let strict = ProviderSettings {
        audiences: vec!["admin".into()],
        ..settings("strict")
    };
    let strict = Provider::new(strict, Some(every_key()));
    for (list, expected) in [
        (vec![Arc::clone(&other)], Some("wrong_issuer")),
        (vec![strict], Some("wrong_audience")),
        (vec![], Some("wrong_issuer")),
        // Another list has to judge for itself, even if it comes to the same.
        (vec![Arc::clone(&providers[0]), Arc::clone(&other)], None),
        (vec![other, Arc::clone(&providers[0])], None),
        // As after a reload that changed something.
        (provider(), None),
    ] {
        assert!(cache.get(&token, &list, now()).is_none());
        let error = remembered(&cache, &token, &list, now()).err();
        assert_eq!(error.map(|error| error.kind().as_str()), expected);
    }
    // As after a reload that changed nothing.
    let same = vec![Arc::clone(&providers[0])];
    assert!(cache.get(&token, &same, now()).is_some());
}

#[test]
fn a_flood_of_good_tokens_stays_in_bounds() {
    let limits = CacheLimits {
        entries: 64,
        bytes: 64 * 4096,
    };
    let cache = TokenCache::new(limits).unwrap();
    let providers = provider();
    let numbered = |number: usize| {
        let claims = with(good_claims(), "jti", json!(number.to_string()));
        token(Algorithm::Hs256, json!({}), claims)
    };
    let kept = numbered(0);
    for number in 0..500 {
        remembered(&cache, &numbered(number), &providers, now()).unwrap();
        // What is used stays.
        assert!(cache.get(&kept, &providers, now()).is_some(), "{number}");
        assert!(cache.len() <= 64);
    }
    assert!(cache.len() >= 32, "{}", cache.len());
}

#[test]
fn large_tokens_take_the_place_of_several_or_none() {
    let providers = provider();
    let sized = |items: usize, number: usize| {
        let claims = with(good_claims(), "x", json!(vec![number; items]));
        token(Algorithm::Hs256, json!({}), claims)
    };
    // One set, room for some small ones.
    let cache = TokenCache::new(CacheLimits {
        entries: 16,
        bytes: 30_000,
    })
    .unwrap();
    remembered(&cache, &sized(1000, 0), &providers, now()).unwrap();
    assert!(cache.is_empty());
    for number in 0..16 {
        remembered(&cache, &sized(1, number), &providers, now()).unwrap();
    }
    let small = cache.len();
    assert!(small > 4, "{small}");
    remembered(&cache, &sized(100, 0), &providers, now()).unwrap();
    assert!(cache.len() < small && cache.get(&sized(100, 0), &providers, now()).is_some());
    // None at all is possible, too.
    let none = TokenCache::new(CacheLimits {
        entries: 0,
        bytes: 0,
    })
    .unwrap();
    remembered(&none, &good(), &providers, now()).unwrap();
    assert!(none.is_empty());
}
