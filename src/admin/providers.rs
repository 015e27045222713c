//! What `/status` says of the providers of tokens and their keys.

use std::time::{Instant, SystemTime};

use serde_json::{Map, Value, json};

use crate::filter::auth::Auth;
use crate::filter::auth::jwks::{RemoteKeys, Report};
use crate::filter::auth::jwt::{Algorithm, Key, KeySet, Provider};

/// Every provider with the keys that it has now, never the keys themselves.
pub(super) fn of(auth: &Auth) -> Vec<Value> {
    let providers = auth.providers();
    providers
        .map(|(provider, remote)| of_provider(provider, remote.map(|one| &**one)))
        .collect()
}

fn of_provider(provider: &Provider, remote: Option<&RemoteKeys>) -> Value {
    let mut said = Map::new();
    said.insert("name".to_owned(), (*provider.settings().name).into());
    let keys = provider.keys();
    let listed = keys.iter().flat_map(|keys| keys.keys());
    let listed: Vec<Value> = listed.map(|key| of_key(key)).collect();
    said.insert("keys".to_owned(), listed.into());
    said.insert(
        "skipped".to_owned(),
        keys.map_or(json!([]), |keys| of_skipped(&keys)),
    );
    if let Some(remote) = remote {
        said.insert("url".to_owned(), without_query(remote).into());
        let report = remote.report(Instant::now(), SystemTime::now());
        said.extend(of_report(&report));
    }
    Value::Object(said)
}

fn of_key(key: &Key) -> Value {
    let fits = Algorithm::ALL
        .into_iter()
        .filter(|algorithm| key.fits(*algorithm));
    let names: Vec<&str> = fits.map(Algorithm::name).collect();
    json!({ "kid": key.id(), "algorithms": names })
}

fn of_skipped(keys: &KeySet) -> Value {
    let reasons = keys.skipped().reasons().iter();
    let reasons =
        reasons.map(|(reason, count)| json!({ "reason": reason.to_string(), "count": count }));
    reasons.collect()
}

/// A query may hold what gives access.
fn without_query(remote: &RemoteKeys) -> String {
    let url = remote.config.url.to_string();
    url.split('?').next().unwrap_or_default().to_owned()
}

fn of_report(report: &Report) -> Map<String, Value> {
    let time = |at: SystemTime| humantime::format_rfc3339_seconds(at).to_string();
    let error = report.last_error.as_ref().map(|(at, failure)| {
        json!({ "time": time(*at), "result": failure.result.as_str(), "problem": failure.what })
    });
    let said = json!({
        "fetched_at": report.fetched.map(time),
        "next_fetch_at": time(report.next_fetch),
        "stale": report.stale,
        "last_error": error,
    });
    match said {
        Value::Object(said) => said,
        _ => Map::new(),
    }
}
