//! What is measured of a listener's TLS: handshakes, and the certificates themselves.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use prometheus::proto::MetricFamily;

use super::family::Family;
use super::label::{Counts, Label, label};
use super::listener::ListenerMetrics;
use super::{catalogue, lock};

label! {
    /// Why a handshake was not completed.
    HandshakeFailure {
        /// It was not over in time.
        Timeout = "timeout",
        /// The client spoke plain HTTP.
        PlainHttp = "plain_http",
        /// The client left.
        Disconnected = "disconnected",
        /// What came was no handshake, or broke its rules.
        Malformed = "malformed",
        /// No version, cipher or signature in common.
        Incompatible = "incompatible",
        /// No application protocol in common.
        NoProtocol = "no_application_protocol",
        /// The client has to show a certificate and showed none.
        CertificateMissing = "client_certificate_missing",
        /// The client's certificate is not accepted.
        CertificateRefused = "client_certificate_refused",
        /// The client refused, above all our certificate.
        ClientAlert = "client_alert",
    }
}

label! {
    /// The version that a handshake ended with.
    TlsVersionLabel {
        /// TLS 1.2
        V1_2 = "TLSv1.2",
        /// TLS 1.3
        V1_3 = "TLSv1.3",
    }
}

impl TlsVersionLabel {
    fn of(version: &str) -> Self {
        if version == Self::V1_2.as_str() {
            Self::V1_2
        } else {
            Self::V1_3
        }
    }
}

/// What is measured of a listener's TLS.
#[derive(Default)]
pub struct TlsMetrics {
    full: Counts<{ TlsVersionLabel::ALL.len() }>,
    resumed: Counts<{ TlsVersionLabel::ALL.len() }>,
    failed: Counts<{ HandshakeFailure::ALL.len() }>,
    reloaded: AtomicU64,
    reload_failed: AtomicU64,
    expiries: Mutex<Vec<(Box<str>, i64)>>,
}

impl TlsMetrics {
    /// Counts a handshake that was completed, by its version, and whether a session was resumed.
    pub fn completed(&self, version: &str, resumed: bool) {
        let counts = if resumed { &self.resumed } else { &self.full };
        counts.inc(TlsVersionLabel::of(version));
    }

    /// Counts a handshake that was not.
    pub fn failed(&self, cause: HandshakeFailure) {
        self.failed.inc(cause);
    }

    /// Counts a change of the certificate files, and whether they could be used.
    pub fn reloaded(&self, success: bool) {
        let counter = if success {
            &self.reloaded
        } else {
            &self.reload_failed
        };
        counter.fetch_add(1, Relaxed);
    }

    /// States which names have a certificate, and when it ends, in seconds since 1970.
    pub fn set_expiries(&self, expiries: Vec<(Box<str>, i64)>) {
        *lock(&self.expiries) = expiries;
    }
}

/// Adds the families of all listeners.
pub(super) fn collect(
    namespace: &str,
    held: &[(Arc<str>, Arc<ListenerMetrics>)],
    out: &mut Vec<MetricFamily>,
) {
    let mut completed = Family::new(namespace, &catalogue::TLS_HANDSHAKES);
    let mut failed = Family::new(namespace, &catalogue::TLS_HANDSHAKE_FAILURES);
    let mut reloads = Family::new(namespace, &catalogue::TLS_CERTIFICATE_RELOADS);
    let mut expiry = Family::new(namespace, &catalogue::TLS_CERTIFICATE_EXPIRY);
    for (listener, metrics) in held {
        let own = ("listener", &**listener);
        let tls = metrics.tls();
        for (resumed, counts) in [("false", &tls.full), ("true", &tls.resumed)] {
            for (version, count) in counts.read::<TlsVersionLabel>() {
                completed.count(&[own, ("resumed", resumed), ("version", version)], count);
            }
        }
        for (cause, count) in tls.failed.read::<HandshakeFailure>() {
            failed.count(&[own, ("reason", cause)], count);
        }
        let expiries = lock(&tls.expiries);
        if expiries.is_empty() {
            continue;
        }
        reloads.count(
            &[own, ("result", "failure")],
            tls.reload_failed.load(Relaxed),
        );
        reloads.count(&[own, ("result", "success")], tls.reloaded.load(Relaxed));
        for (name, not_after) in expiries.iter() {
            expiry.gauge(&[own, ("server_name", name)], *not_after);
        }
    }
    out.extend([completed, failed, reloads, expiry].map(Family::finish));
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Metrics, render};
    use super::*;

    #[test]
    fn shows_what_was_counted() {
        let metrics = Metrics::new("gateway");
        let listener = metrics.listener("main");
        let page = || String::from_utf8_lossy(&render(&metrics, Format::Text).1).into_owned();
        assert!(!page().contains("_tls_"));
        listener.tls().completed("TLSv1.3", true);
        listener.tls().failed(HandshakeFailure::PlainHttp);
        listener.tls().reloaded(false);
        listener.tls().set_expiries(vec![("a.test".into(), 7)]);
        let text = page();
        for line in [
            "gateway_tls_handshakes_total{listener=\"main\",resumed=\"true\",version=\"TLSv1.3\"} 1",
            "gateway_tls_handshake_failures_total{listener=\"main\",reason=\"plain_http\"} 1",
            "gateway_tls_certificate_reloads_total{listener=\"main\",result=\"failure\"} 1",
            "gateway_tls_certificate_reloads_total{listener=\"main\",result=\"success\"} 0",
            "gateway_tls_certificate_expiry_timestamp_seconds{listener=\"main\",server_name=\"a.test\"} 7",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} in\n{text}");
        }
    }
}
