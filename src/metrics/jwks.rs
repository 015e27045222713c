//! What is measured of key sets that are fetched: fetches, the keys in use, and who waited for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use prometheus::proto::MetricFamily;

use super::catalogue;
use super::family::Family;
use super::label::{Counts, Label, label};

label! {
    /// What a fetch of a key set came to.
    JwksFetch {
        /// There are keys.
        Success = "success",
        /// They are those that were fetched before.
        NotModified = "not_modified",
        /// The host has no address.
        Resolve = "resolve",
        /// There was no connection.
        Connect = "connect",
        /// The handshake failed.
        Tls = "tls",
        /// It took too long.
        Timeout = "timeout",
        /// What came was no whole response.
        Broken = "broken",
        /// It leads to another place.
        Redirect = "redirect",
        /// Another status than 200.
        Status = "status",
        /// It is not said to be JSON.
        ContentType = "content_type",
        /// It is larger than allowed.
        TooLarge = "too_large",
        /// It is no key set.
        Malformed = "malformed",
        /// None of its keys is of use.
        NoUsableKey = "no_usable_key",
    }
}

/// What is measured of one provider's key set.
#[derive(Default)]
pub struct JwksMetrics {
    fetches: Counts<{ JwksFetch::ALL.len() }>,
    keys: AtomicI64,
    fetched: AtomicI64,
    waits: AtomicU64,
}

impl JwksMetrics {
    /// Counts a fetch.
    pub fn fetched(&self, result: JwksFetch) {
        self.fetches.inc(result);
    }

    /// States how many keys are in use, and when they were last fetched, in seconds since 1970.
    pub fn set_keys(&self, keys: usize, fetched: i64) {
        self.keys
            .store(keys.try_into().unwrap_or(i64::MAX), Relaxed);
        self.fetched.store(fetched, Relaxed);
    }

    /// Counts a request that waits because it does not know a key.
    pub fn waits(&self) {
        self.waits.fetch_add(1, Relaxed);
    }
}

/// Adds the families of all providers.
pub(super) fn collect(
    namespace: &str,
    held: &[(Arc<str>, Arc<JwksMetrics>)],
    out: &mut Vec<MetricFamily>,
) {
    let mut fetches = Family::new(namespace, &catalogue::JWKS_FETCHES);
    let mut keys = Family::new(namespace, &catalogue::JWKS_KEYS);
    let mut fetched = Family::new(namespace, &catalogue::JWKS_FETCHED);
    let mut waits = Family::new(namespace, &catalogue::JWKS_WAITS);
    for (provider, metrics) in held {
        let own = ("provider", &**provider);
        for (result, count) in metrics.fetches.read::<JwksFetch>() {
            fetches.count(&[own, ("result", result)], count);
        }
        keys.gauge(&[own], metrics.keys.load(Relaxed));
        let at = metrics.fetched.load(Relaxed);
        if at > 0 {
            fetched.gauge(&[own], at);
        }
        waits.count(&[own], metrics.waits.load(Relaxed));
    }
    out.extend([fetches, keys, fetched, waits].map(Family::finish));
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Metrics, render};
    use super::*;

    #[test]
    fn shows_what_was_counted() {
        let metrics = Metrics::new("gateway");
        let main = metrics.jwks("main");
        let page = || String::from_utf8_lossy(&render(&metrics, Format::Text).1).into_owned();
        assert!(page().contains("gateway_jwks_keys{provider=\"main\"} 0\n"));
        assert!(!page().contains("gateway_jwks_fetched_timestamp_seconds{"));
        main.fetched(JwksFetch::NoUsableKey);
        main.set_keys(3, 1_800_000_000);
        main.waits();
        let text = page();
        for line in [
            "gateway_jwks_fetches_total{provider=\"main\",result=\"no_usable_key\"} 1",
            "gateway_jwks_keys{provider=\"main\"} 3",
            "gateway_jwks_fetched_timestamp_seconds{provider=\"main\"} 1800000000",
            "gateway_jwks_unknown_key_waits_total{provider=\"main\"} 1",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} in\n{text}");
        }
        drop(main);
        assert!(!page().contains("jwks"), "it goes with its provider");
    }
}
