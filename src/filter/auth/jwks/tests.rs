//! Keys that come and go, with time passed in.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use futures_util::FutureExt;

use super::*;
use crate::filter::auth::jwt::ProviderSettings;

const SECOND: Duration = Duration::from_secs(1);

/// The key of RFC 7517 appendix A.1, under another name.
fn body(id: &str) -> Vec<u8> {
    format!(
        r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"{id}","use":"sig",
        "x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}}]}}"#
    )
    .into_bytes()
}

fn keys() -> (Arc<RemoteKeys>, Arc<Provider>) {
    keys_within(5 * SECOND)
}

fn keys_within(timeout: Duration) -> (Arc<RemoteKeys>, Arc<Provider>) {
    let config = JwksUrl {
        url: http::Uri::from_static("http://127.0.0.1/keys"),
        authorities: None,
        refresh: 300 * SECOND,
        min_refresh: 10 * SECOND,
        max_refresh: 3600 * SECOND,
        max_stale: 600 * SECOND,
        unknown_key_cooldown: 10 * SECOND,
        timeout,
        max_bytes: 1 << 20,
        cache_dir: None,
    };
    let provider = Provider::new(ProviderSettings::named("main"), None);
    let keys = RemoteKeys::new(&"main".into(), &config, &provider, Arc::default(), None);
    (keys, provider)
}

fn response(body: Option<Vec<u8>>) -> Response {
    Response {
        body,
        lifetime: None,
        validators: Validators {
            etag: Some("\"1\"".to_owned()),
            last_modified: None,
        },
    }
}

fn failure() -> Failure {
    Failure {
        result: JwksFetch::Connect,
        what: "nobody is there".to_owned(),
    }
}

fn ids(provider: &Provider) -> Vec<String> {
    let keys = provider.keys();
    let keys = keys.iter().flat_map(|keys| keys.keys());
    keys.map(|key| key.id().unwrap().to_owned()).collect()
}

#[test]
fn fetched_keys_are_used_and_bad_ones_change_nothing() {
    let (keys, provider) = keys();
    let (now, wall) = (Instant::now(), SystemTime::now());
    assert_eq!(keys.begin(now), Some(Validators::default()));
    assert_eq!(keys.begin(now), None, "one at a time");
    let saved = keys
        .finish(Ok(response(Some(body("a")))), now, wall)
        .unwrap();
    assert_eq!(ids(&provider), ["a"]);
    for (bad, result) in [
        (b"garbage".to_vec(), JwksFetch::Malformed),
        (br#"{"keys":[]}"#.to_vec(), JwksFetch::NoUsableKey),
        (vec![b' '; 2 << 20], JwksFetch::TooLarge),
    ] {
        let now = now + 300 * SECOND;
        let known = keys.begin(now).unwrap();
        assert_eq!(known.etag.as_deref(), Some("\"1\""));
        assert_eq!(keys.finish(Ok(response(Some(bad))), now, wall), None);
        let report = keys.report(now, wall);
        assert_eq!(report.last_error.unwrap().1.result, result);
        assert!(report.stale && report.fetched == Some(saved.fetched()));
        assert_eq!(ids(&provider), ["a"]);
        keys.lock()
            .schedule
            .succeeded(None, false, now - 300 * SECOND, 0.0);
    }
}

#[test]
fn an_unchanged_answer_is_a_success_and_keeps_the_keys() {
    let (keys, provider) = keys();
    let (now, wall) = (Instant::now(), SystemTime::now());
    keys.begin(now);
    keys.finish(Ok(response(Some(body("a")))), now, wall);
    let (later, then) = (now + 500 * SECOND, wall + 500 * SECOND);
    keys.begin(later).unwrap();
    let saved = keys.finish(Ok(response(None)), later, then).unwrap();
    assert_eq!(saved.keys.as_bytes(), body("a"));
    assert_eq!(ids(&provider), ["a"]);
    keys.expire(now + 1000 * SECOND);
    assert!(keys.has_keys());
    keys.expire(later + 600 * SECOND);
    assert!(!keys.has_keys() && keys.saved().is_none());
    let known = keys.begin(later + 600 * SECOND);
    assert_eq!(
        known,
        Some(Validators::default()),
        "the keys themselves are needed"
    );
}

#[test]
fn kept_keys_are_used_until_they_are_too_old() {
    let (before, _) = keys();
    let (now, wall) = (Instant::now(), SystemTime::now());
    before.begin(now);
    let saved = before
        .finish(Ok(response(Some(body("a")))), now, wall)
        .unwrap();
    let (late, provider) = keys();
    // They are due from when they were made.
    let now = Instant::now();
    let refused = late.restore(saved.clone(), now, wall + 600 * SECOND);
    assert_eq!(refused, Err(NotUsed::TooOld));
    assert!(provider.keys().is_none());
    late.restore(saved.clone(), now, wall + 500 * SECOND)
        .unwrap();
    assert_eq!(ids(&provider), ["a"]);
    assert!(
        late.begin(Instant::now()).unwrap().etag.is_some(),
        "it is asked for again at once"
    );
    late.expire(now + 101 * SECOND);
    assert!(!late.has_keys());
    let mut damaged = saved;
    damaged.keys.truncate(20);
    assert!(matches!(
        late.restore(damaged, now, wall),
        Err(NotUsed::Keys(_))
    ));
}

#[tokio::test]
async fn who_waits_is_woken_by_the_fetch_that_was_asked_for() {
    let (keys, _) = keys();
    let (now, wall) = (Instant::now(), SystemTime::now());
    let mut first = keys.without_keys(now).unwrap();
    assert_eq!(first.next().now_or_never(), None);
    keys.begin(now);
    keys.finish(Ok(response(Some(body("a")))), now, wall);
    assert!(first.next().await.is_some());
    assert_eq!(first.next().await, None);
    let mut waiter = keys.unknown_key(now).unwrap();
    assert!(keys.wanted().now_or_never().is_some());
    assert_eq!(waiter.next().now_or_never(), None);
    keys.begin(now).unwrap();
    keys.finish(Err(failure()), now, wall);
    assert!(waiter.next().await.is_some());
    assert_eq!(waiter.next().await, None);
    drop((first, waiter));
    assert_eq!(keys.waiting.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn kept_keys_wake_whoever_waits_for_the_first_fetch() {
    let (before, _) = keys();
    let (now, wall) = (Instant::now(), SystemTime::now());
    before.begin(now);
    let saved = before
        .finish(Ok(response(Some(body("a")))), now, wall)
        .unwrap();
    let (keys, _) = keys();
    let mut waiter = keys.without_keys(now).unwrap();
    keys.restore(saved, now, wall).unwrap();
    assert!(waiter.next().await.is_some());
}

#[test]
fn only_so_many_wait() {
    let (keys, _) = keys();
    let now = Instant::now();
    let waiters: Vec<_> = std::iter::from_fn(|| keys.without_keys(now)).collect();
    assert_eq!(waiters.len(), 1000);
    drop(waiters);
    assert!(keys.without_keys(now).is_some());
}

#[tokio::test]
async fn nobody_waits_longer_than_a_fetch_may_take() {
    let (keys, _) = keys_within(Duration::from_millis(1));
    let mut waiter = keys.without_keys(Instant::now()).unwrap();
    assert_eq!(waiter.next().await, None);
}

#[test]
fn a_provider_that_takes_over_knows_what_is_known() {
    let (keys, provider) = keys();
    let (now, wall) = (Instant::now(), SystemTime::now());
    keys.begin(now);
    keys.finish(Ok(response(Some(body("a")))), now, wall);
    let heir = Provider::new(ProviderSettings::named("main"), provider.keys());
    let later = RemoteKeys::new(
        &"main".into(),
        &keys.config,
        &heir,
        Arc::default(),
        Some(&keys),
    );
    assert!(later.begin(Instant::now()).unwrap().etag.is_some());
    later.expire(now + 600 * SECOND);
    assert_eq!(ids(&heir), Vec::<String>::new());
}
