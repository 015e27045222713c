//! What is remembered of a request that is over: metrics and the access log.

use std::time::Instant;

use http::{Version, header};

use super::{Context, Gateway};
use crate::access_log::{AuthStatus, Record};
use crate::context::AuthState;
use crate::listener::connection::{Refusals, Refused};
use crate::listener::exchange::Exchange;
use crate::metrics::{MethodLabel, RetrySkip};
use crate::request_id::RequestId;

/// The status of a request whose client left before it was answered, as nginx writes it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

impl Gateway {
    /// Records a request that became one.
    pub(super) fn record(&self, exchange: &Exchange, context: &Context) {
        if context.silent {
            return;
        }
        let now = Instant::now();
        let origin = &exchange.origin;
        // An interim response is no answer; 101 is the last one of its kind.
        let written = exchange.status().filter(|_| exchange.has_begun());
        let status = written.map_or(CLIENT_CLOSED_REQUEST, |status| status.as_u16());
        let duration = now - origin.received;
        let (bytes_in, bytes_out) = (exchange.body_read(), exchange.body_sent());
        let header = &exchange.request;
        let route = context.route.as_ref();
        route
            .map_or(&context.snapshot.no_route, |route| &route.metrics)
            .observe(
                MethodLabel::from(&header.method),
                status,
                duration,
                bytes_in,
                bytes_out,
            );
        let backend_duration = context
            .attempt
            .as_ref()
            .map(|attempt| now - attempt.started);
        if let (Some(attempt), Some(upstream)) = (&context.attempt, &context.upstream)
            && !attempt.recorded
        {
            let status = attempt.answered.unwrap_or(status);
            upstream.metrics.observe(status, now - attempt.started);
        }
        let Some(log) = &self.access_log else {
            return;
        };
        let label = context
            .rejection
            .as_ref()
            .map(|rejection| rejection.log_label());
        log.emit(&Record {
            request_id: context.request_id.as_str(),
            route: route.map_or("none", |route| &*route.name),
            method: header.method.as_str(),
            host: header
                .headers
                .get(header::HOST)
                .map_or(b"", |host| host.as_bytes()),
            path_and_query: origin.head.target.as_str().as_bytes(),
            protocol: protocol(header.version),
            status_code: status,
            duration,
            client_ip: Some(context.client_ip),
            user_agent: header
                .headers
                .get(header::USER_AGENT)
                .map(|value| value.as_bytes()),
            tls_version: context.tls.as_ref().map(|tls| tls.version),
            client_cert_subject: context
                .tls
                .as_ref()
                .and_then(|tls| tls.client_cert.as_ref())
                .map(|cert| &*cert.subject),
            bytes_in,
            bytes_out,
            backend_service: context.upstream.as_ref().map(|upstream| &*upstream.name),
            backend: context
                .attempt
                .as_ref()
                .map(|attempt| &*attempt.admitted.backend().name),
            backend_duration,
            retries: context.retries,
            retry_skipped: context.retry_skipped.map(RetrySkip::as_str),
            auth_status: match context.auth {
                AuthState::NotAsked => AuthStatus::None,
                AuthState::Succeeded => AuthStatus::Success,
                AuthState::Failed => AuthStatus::Failure,
            },
            rate_limit_duration: context.ledger.waited,
            error_type: context.error.or(label),
        });
    }
}

impl Refusals for Gateway {
    fn refused(&self, refused: &Refused<'_>) -> String {
        let request_id = RequestId::generate();
        let status = refused.rejection.status().as_u16();
        if let Some(counter) = self.refusals.get(refused.rejection.index()) {
            counter.inc();
        }
        let (method, target) = first_words(refused.bytes);
        let duration = refused.received.elapsed();
        let label = http::Method::from_bytes(method.as_bytes());
        let label = label.map_or(MethodLabel::Other, |method| MethodLabel::from(&method));
        let snapshot = self.live.load();
        snapshot.no_route.observe(label, status, duration, 0, 0);
        if let Some(log) = &self.access_log {
            log.emit(&Record {
                request_id: request_id.as_str(),
                route: "none",
                method,
                path_and_query: target,
                protocol: refused.protocol,
                status_code: status,
                duration,
                client_ip: Some(refused.peer.ip().to_canonical()),
                error_type: Some(refused.rejection.label()),
                ..Record::default()
            });
        }
        request_id.as_str().to_owned()
    }
}

/// The version as the access log writes it.
fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

/// Method and target of what may not be a request, for the log; `-` for what is no method.
fn first_words(bytes: &[u8]) -> (&str, &[u8]) {
    let line = bytes
        .split(|byte| matches!(byte, b'\r' | b'\n'))
        .next()
        .unwrap_or_default();
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let method = words.next().unwrap_or_default();
    let is_method =
        !method.is_empty() && method.len() <= 32 && method.iter().all(u8::is_ascii_alphabetic);
    let method = std::str::from_utf8(method).ok().filter(|_| is_method);
    let target = words.next().unwrap_or_default();
    (method.unwrap_or("-"), &target[..target.len().min(1024)])
}

#[cfg(test)]
mod tests {
    use super::first_words;

    #[test]
    fn whatever_came_yields_words_for_the_log() {
        assert_eq!(first_words(b"GET /a b\r\nx"), ("GET", &b"/a"[..]));
        assert_eq!(first_words(b"\x16\x03\x01"), ("-", &b""[..]));
        assert_eq!(first_words(b""), ("-", &b""[..]));
        assert_eq!(first_words(b"BREW\r\n\r\n"), ("BREW", &b""[..]));
    }
}
