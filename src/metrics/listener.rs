//! What is measured of a listener: its connections and what they carry.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use prometheus::proto::MetricFamily;

use super::catalogue;
use super::family::Family;
use super::label::{Counts, Label, label};
use super::tls::{self, TlsMetrics};

label! {
    /// Why the gateway closed a client's connection, or did not take it.
    ConnectionClose {
        /// Too many connections are open.
        Limit = "limit",
        /// It waited for a request, and made room for others, or for memory.
        Evicted = "evicted",
        /// The client has too many connections open.
        ClientLimit = "client_limit",
        /// A load balancer did not say, or not well, who its client is.
        ProxyProtocol = "proxy_protocol",
        /// The TLS handshake was not over in time.
        HandshakeTimeout = "handshake_timeout",
        /// The TLS handshake failed.
        HandshakeFailed = "handshake_failed",
        /// The request header did not come in time.
        HeaderTimeout = "header_timeout",
        /// The request header was too large.
        HeaderTooLarge = "header_too_large",
        /// No further request came.
        IdleTimeout = "idle_timeout",
        /// The request body stopped coming.
        BodyTimeout = "body_timeout",
        /// The request body came too slowly.
        BodyTooSlow = "body_too_slow",
        /// The client did not read the response.
        WriteTimeout = "write_timeout",
        /// What came was not HTTP, or ambiguous.
        ParseError = "parse_error",
        /// The process is ending.
        Drain = "drain",
        /// More HTTP/2 streams were reset by the client than a reader needs.
        ResetFlood = "reset_flood",
        /// The client made the gateway reset streams again and again.
        ProvokedResetFlood = "provoked_reset_flood",
        /// More HTTP/2 PING frames than measuring needs.
        PingFlood = "ping_flood",
        /// HTTP/2 settings changed again and again.
        SettingsFlood = "settings_flood",
        /// More HTTP/2 priority frames than requests explain.
        PriorityFlood = "priority_flood",
        /// HTTP/2 frames that carry nothing.
        EmptyFrameFlood = "empty_frame_flood",
        /// More HTTP/2 WINDOW_UPDATE frames than the data sent explains.
        WindowUpdateFlood = "window_update_flood",
        /// HTTP/2 frames of types that nobody knows.
        UnknownFrameFlood = "unknown_frame_flood",
        /// Another excess on an HTTP/2 connection: header blocks in too many pieces, above all.
        Http2Excess = "http2_excess",
    }
}

/// What is measured of a listener.
#[derive(Default)]
pub struct ListenerMetrics {
    in_flight: AtomicI64,
    active: AtomicI64,
    accepted: AtomicU64,
    closed: Counts<{ ConnectionClose::ALL.len() }>,
    tls: TlsMetrics,
    http2_active: AtomicI64,
    http2_streams: AtomicU64,
}

impl ListenerMetrics {
    /// Counts a request as in flight until the guard is dropped.
    pub fn request(self: &Arc<Self>) -> InFlightGuard {
        self.in_flight.fetch_add(1, Relaxed);
        InFlightGuard(Arc::clone(self))
    }

    /// Counts an accepted connection as open until the guard is dropped.
    pub fn connection(self: &Arc<Self>) -> ConnectionGuard {
        self.accepted.fetch_add(1, Relaxed);
        self.active.fetch_add(1, Relaxed);
        ConnectionGuard(Arc::clone(self))
    }

    /// Counts a connection on which HTTP/2 is spoken as open until the guard is dropped.
    pub fn http2_connection(self: &Arc<Self>) -> Http2Guard {
        self.http2_active.fetch_add(1, Relaxed);
        Http2Guard(Arc::clone(self))
    }

    /// Counts a request that came as an HTTP/2 stream.
    pub fn http2_stream(&self) {
        self.http2_streams.fetch_add(1, Relaxed);
    }

    /// Counts a connection that the gateway closes or refuses.
    pub fn closed(&self, reason: ConnectionClose) {
        self.closed.inc(reason);
    }

    /// What is measured of its handshakes and certificates.
    pub fn tls(&self) -> &TlsMetrics {
        &self.tls
    }

    /// Connections that are open.
    pub fn active(&self) -> i64 {
        self.active.load(Relaxed)
    }
}

/// A request while it is handled.
pub struct InFlightGuard(Arc<ListenerMetrics>);

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// A client connection while it is open.
pub struct ConnectionGuard(Arc<ListenerMetrics>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

/// A connection while HTTP/2 is spoken on it.
pub struct Http2Guard(Arc<ListenerMetrics>);

impl Drop for Http2Guard {
    fn drop(&mut self) {
        self.0.http2_active.fetch_sub(1, Relaxed);
    }
}

/// Adds the families of all listeners.
pub(super) fn collect(
    namespace: &str,
    held: &[(Arc<str>, Arc<ListenerMetrics>)],
    out: &mut Vec<MetricFamily>,
) {
    let mut in_flight = Family::new(namespace, &catalogue::REQUESTS_IN_FLIGHT);
    let mut active = Family::new(namespace, &catalogue::CONNECTIONS_ACTIVE);
    let mut accepted = Family::new(namespace, &catalogue::CONNECTIONS);
    let mut closed = Family::new(namespace, &catalogue::CONNECTIONS_CLOSED);
    let mut http2_active = Family::new(namespace, &catalogue::HTTP2_CONNECTIONS_ACTIVE);
    let mut http2_streams = Family::new(namespace, &catalogue::HTTP2_STREAMS);
    for (listener, metrics) in held {
        let own = ("listener", &**listener);
        in_flight.gauge(&[own], metrics.in_flight.load(Relaxed));
        active.gauge(&[own], metrics.active.load(Relaxed));
        accepted.count(&[own], metrics.accepted.load(Relaxed));
        http2_active.gauge(&[own], metrics.http2_active.load(Relaxed));
        http2_streams.count(&[own], metrics.http2_streams.load(Relaxed));
        for (reason, count) in metrics.closed.read::<ConnectionClose>() {
            closed.count(&[own, ("reason", reason)], count);
        }
    }
    out.extend([in_flight, active, accepted, closed].map(Family::finish));
    tls::collect(namespace, held, out);
    out.extend([http2_active, http2_streams].map(Family::finish));
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Metrics, render};
    use super::*;

    #[test]
    fn gauges_are_given_back_on_drop() {
        let metrics = Metrics::new("gateway");
        let listener = metrics.listener("0.0.0.0:8080");
        let connection = listener.connection();
        drop(listener.request());
        let request = listener.request();
        listener.closed(ConnectionClose::HeaderTimeout);
        let text = String::from_utf8_lossy(&render(&metrics, Format::Text).1).into_owned();
        for line in [
            "gateway_http_requests_in_flight{listener=\"0.0.0.0:8080\"} 1",
            "gateway_connections_active{listener=\"0.0.0.0:8080\"} 1",
            "gateway_connections_total{listener=\"0.0.0.0:8080\"} 1",
            "gateway_connections_closed_total{listener=\"0.0.0.0:8080\",reason=\"header_timeout\"} 1",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} in\n{text}");
        }
        drop((connection, request));
        assert_eq!(listener.active(), 0);
    }
}
