//! What is measured of authentication: attempts by method and result.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus::proto::MetricFamily;

use super::catalogue;
use super::family::Family;
use super::label::{Counts, Label, label};

label! {
    /// A way of proving who one is.
    AuthMethod {
        /// A JSON Web Token.
        Jwt = "jwt",
        /// An API key.
        ApiKey = "api_key",
        /// A user name and a password.
        Basic = "basic",
        /// A certificate.
        ClientCert = "client_cert",
    }
}

label! {
    /// Why a client was not let in: the `error_type` of bodies, logs and metrics.
    AuthError {
        /// It showed nothing.
        Missing = "missing",
        /// It showed more than one thing of a kind.
        Ambiguous = "ambiguous",
        /// What it showed is not of the form that it should have.
        Malformed = "malformed",
        /// What it showed is longer than allowed.
        TooLarge = "too_large",
        /// The algorithm is not accepted.
        UnsupportedAlgorithm = "unsupported_algorithm",
        /// The signature is not the key's.
        BadSignature = "bad_signature",
        /// Its time is over.
        Expired = "expired",
        /// Its time has not come.
        NotYetValid = "not_yet_valid",
        /// It is from somebody else.
        WrongIssuer = "wrong_issuer",
        /// It is for somebody else.
        WrongAudience = "wrong_audience",
        /// It is a token for another purpose.
        WrongType = "wrong_type",
        /// A claim that it must have is not there.
        MissingClaim = "missing_claim",
        /// The key of its signature, or the API key, is not known.
        UnknownKey = "unknown_key",
        /// Name and password do not belong together.
        WrongPassword = "wrong_password",
        /// The certificate is not one of those that are accepted.
        WrongCertificate = "wrong_certificate",
        /// It was taken back.
        Revoked = "revoked",
        /// It does not have a scope that is needed.
        InsufficientScope = "insufficient_scope",
        /// It has none of the roles that are needed.
        InsufficientRole = "insufficient_role",
        /// A claim is not what it has to be.
        ClaimMismatch = "claim_mismatch",
        /// The keys of the provider are not known.
        ProviderUnavailable = "provider_unavailable",
        /// There is too much to check at the moment.
        Overloaded = "overloaded",
    }
}

/// Attempts of each method.
#[derive(Default)]
pub struct AuthMetrics {
    succeeded: Counts<{ AuthMethod::ALL.len() }>,
    failed: [Counts<{ AuthError::ALL.len() }>; AuthMethod::ALL.len()],
    cache_hits: AtomicU64,
    cache_misses: AtomicU64,
}

impl AuthMetrics {
    /// Counts a client that was accepted.
    pub fn succeeded(&self, method: AuthMethod) {
        self.succeeded.inc(method);
    }

    /// Counts a client that was not.
    pub fn failed(&self, method: AuthMethod, error: AuthError) {
        if let Some(counts) = self.failed.get(method.index()) {
            counts.inc(error);
        }
    }

    /// Counts a credential that was looked for among those found good before.
    pub fn looked_up(&self, found: bool) {
        let counter = match found {
            true => &self.cache_hits,
            false => &self.cache_misses,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Its families.
    pub(super) fn collect(&self, namespace: &str, out: &mut Vec<MetricFamily>) {
        let mut attempts = Family::new(namespace, &catalogue::AUTH_ATTEMPTS);
        let mut count = |error: &str, method: &str, result: &str, count: u64| {
            let labels = [
                ("error_type", error),
                ("method", method),
                ("result", result),
            ];
            attempts.count(&labels, count);
        };
        for (method, failed) in AuthMethod::ALL.iter().zip(&self.failed) {
            for (error, failures) in failed.read::<AuthError>() {
                count(error, method.as_str(), "failure", failures);
            }
        }
        for (method, successes) in self.succeeded.read::<AuthMethod>() {
            count("", method, "success", successes);
        }
        let mut cache = Family::new(namespace, &catalogue::AUTH_CACHE);
        let lookups = [
            ("hit", self.cache_hits.load(Relaxed)),
            ("miss", self.cache_misses.load(Relaxed)),
        ];
        for (result, count) in lookups.into_iter().filter(|(_, count)| *count > 0) {
            cache.count(&[("result", result)], count);
        }
        out.extend([attempts, cache].map(Family::finish));
    }
}
