//! A line for machines: one JSON object.
//!
//! `message` repeats the essentials as logfmt, because the people on call search for
//! `status_code=5`, `auth_status=failure` and `latency` as well as through the keys.

use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use super::{Record, escape, redact};

/// A name is cut off here, so that one header cannot make a line of 32 KiB.
const NAME_BYTES: usize = 256;

/// A subject is cut off here; those in use are far shorter.
const SUBJECT_BYTES: usize = 1024;

/// The path is whole in its own key; the message is for reading.
const MESSAGE_PATH_BYTES: usize = 1024;

/// What a line takes besides what the client chose. Room for all of it is made at once.
const FIXED_BYTES: usize = 640;

/// Appends a line.
///
/// Each literal closes the value before it and opens the next, which halves the number of copies.
pub(super) fn write(out: &mut Vec<u8>, record: &Record<'_>, time: &str) {
    out.reserve(FIXED_BYTES + 2 * record.path_and_query.len());
    let (path, query) = split(record.path_and_query);
    put(out, b"{\"timestamp\":\"");
    out.extend_from_slice(time.as_bytes());
    match record.status_code {
        500.. => put(out, b"\",\"level\":\"ERROR\",\"message\":\""),
        _ => put(out, b"\",\"level\":\"INFO\",\"message\":\""),
    }
    let duration = Millis::of(record.duration);
    let of_backend = record.backend_duration.map(Millis::of);
    message(out, record, path, &duration, of_backend.as_ref());
    put(out, b"\",\"request_id\":\"");
    escape::json(out, record.request_id.as_bytes());
    put(out, b"\",\"route\":\"");
    escape::json(out, record.route.as_bytes());
    put(out, b"\",\"method\":\"");
    escape::json(out, record.method.as_bytes());
    put(out, b"\",\"host\":\"");
    escape::json(out, cut(record.host, NAME_BYTES));
    put(out, b"\",\"path\":\"");
    escape::json(out, path);
    if let Some(query) = query {
        put(out, b"\",\"query\":\"");
        redact::pieces(query, |piece| escape::json(out, piece));
    }
    put(out, b"\",\"protocol\":\"");
    escape::json(out, record.protocol.as_bytes());
    put(out, b"\",\"status_code\":");
    number(out, record.status_code.into());
    put(out, b",\"duration_ms\":");
    out.extend_from_slice(duration.as_bytes());
    backend(out, record, of_backend.as_ref());
    client(out, record);
    outcome(out, record);
}

/// The path, and the query without its question mark.
pub(super) fn split(path_and_query: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b'?', path_and_query) {
        Some(at) => (&path_and_query[..at], path_and_query.get(at + 1..)),
        None => (path_and_query, None),
    }
}

fn message(
    out: &mut Vec<u8>,
    record: &Record<'_>,
    path: &[u8],
    duration: &Millis,
    of_backend: Option<&Millis>,
) {
    escape::word(out, record.method.as_bytes());
    out.push(b' ');
    escape::word(out, cut(path, MESSAGE_PATH_BYTES));
    put(out, b" status_code=");
    number(out, record.status_code.into());
    put(out, b" auth_status=");
    out.extend_from_slice(record.auth_status.as_str().as_bytes());
    put(out, b" duration_ms=");
    out.extend_from_slice(duration.as_bytes());
    if let Some(latency) = of_backend {
        put(out, b" backend_latency_ms=");
        out.extend_from_slice(latency.as_bytes());
    }
    if let Some(error_type) = record.error_type {
        put(out, b" error_type=");
        escape::word(out, error_type.as_bytes());
    }
}

fn backend(out: &mut Vec<u8>, record: &Record<'_>, duration: Option<&Millis>) {
    put(out, b",\"backend_service\":");
    text_or_null(out, record.backend_service.map(str::as_bytes));
    put(out, b",\"backend\":");
    text_or_null(out, record.backend.map(str::as_bytes));
    put(out, b",\"backend_duration_ms\":");
    match duration {
        Some(duration) => out.extend_from_slice(duration.as_bytes()),
        None => put(out, b"null"),
    }
}

fn client(out: &mut Vec<u8>, record: &Record<'_>) {
    match record.client_ip {
        Some(address) => {
            put(out, b",\"client_ip\":\"");
            ip(out, address);
            put(out, b"\",\"user_agent\":");
        }
        None => put(out, b",\"client_ip\":null,\"user_agent\":"),
    }
    let agent = record.user_agent.map(|agent| cut(agent, NAME_BYTES));
    text_or_null(out, agent);
    if let Some(version) = record.tls_version {
        put(out, b",\"tls_version\":\"");
        escape::json(out, version.as_bytes());
        out.push(b'"');
    }
    if let Some(subject) = record.client_cert_subject {
        put(out, b",\"client_cert_subject\":\"");
        escape::json(out, cut(subject.as_bytes(), SUBJECT_BYTES));
        out.push(b'"');
    }
}

fn outcome(out: &mut Vec<u8>, record: &Record<'_>) {
    put(out, b",\"bytes_in\":");
    number(out, record.bytes_in);
    put(out, b",\"bytes_out\":");
    number(out, record.bytes_out);
    put(out, b",\"retries\":");
    number(out, record.retries.into());
    if let Some(skipped) = record.retry_skipped {
        put(out, b",\"retry_skipped\":\"");
        escape::json(out, skipped.as_bytes());
        out.push(b'"');
    }
    put(out, b",\"auth_status\":\"");
    out.extend_from_slice(record.auth_status.as_str().as_bytes());
    if let Some(error_type) = record.error_type {
        put(out, b"\",\"error_type\":\"");
        escape::json(out, error_type.as_bytes());
    }
    match record.rate_limit_duration {
        // Nearly always: nobody had to be asked.
        Some(Duration::ZERO) => put(out, b"\",\"rate_limit_duration_ms\":0.000}\n"),
        Some(duration) => {
            put(out, b"\",\"rate_limit_duration_ms\":");
            out.extend_from_slice(Millis::of(duration).as_bytes());
            put(out, b"}\n");
        }
        None => put(out, b"\"}\n"),
    }
}

/// Appends a literal. Its length is part of its type, so that the copy is a few stores.
#[inline]
fn put<const N: usize>(out: &mut Vec<u8>, literal: &[u8; N]) {
    out.extend_from_slice(literal);
}

fn text_or_null(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        Some(value) => {
            out.push(b'"');
            escape::json(out, value);
            out.push(b'"');
        }
        None => put(out, b"null"),
    }
}

fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Milliseconds with three decimals, as text.
pub(super) struct Millis {
    text: [u8; 24],
    length: usize,
}

impl Millis {
    /// The duration; what exceeds half a million years is written as that.
    pub fn of(duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let (whole, fraction) = (micros / 1000, (micros % 1000) as u32);
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(whole).as_bytes();
        let digit = |of: u32| b'0' + (of % 10) as u8;
        let mut text = [b'.'; 24];
        // 64 bits of microseconds have at most 17 digits before the point.
        for (place, digit) in text.iter_mut().zip(digits) {
            *place = *digit;
        }
        let end = digits.len() + 4;
        text[end - 3..end].copy_from_slice(&[
            digit(fraction / 100),
            digit(fraction / 10),
            digit(fraction),
        ]);
        Self { text, length: end }
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..self.length]
    }
}

/// The address; the common kind without the machinery of formatting.
pub(super) fn ip(out: &mut Vec<u8>, address: IpAddr) {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [first, rest @ ..] = address.octets();
            number(out, first.into());
            for octet in rest {
                out.push(b'.');
                number(out, octet.into());
            }
        }
        // Writing to a vector cannot fail.
        IpAddr::V6(address) => drop(write!(out, "{address}")),
    }
}

pub(super) fn cut(bytes: &[u8], at_most: usize) -> &[u8] {
    bytes.get(..at_most).unwrap_or(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::AuthStatus;
    use super::*;

    fn line(record: &Record<'_>) -> String {
        let mut out = Vec::new();
        write(&mut out, record, "2026-01-02T03:04:05.678Z");
        String::from_utf8(out).unwrap()
    }

    fn failed() -> Record<'static> {
        Record {
            request_id: "r-1",
            route: "users",
            method: "GET",
            host: b"api.example.com",
            path_and_query: b"/x?token=abc&page=2",
            protocol: "HTTP/1.1",
            status_code: 502,
            duration: Duration::from_micros(12_034),
            client_ip: Some([192, 0, 2, 7].into()),
            user_agent: Some(b"curl/8"),
            tls_version: None,
            client_cert_subject: None,
            bytes_in: 0,
            bytes_out: 97,
            backend_service: Some("users"),
            backend: Some("10.0.0.11:3000"),
            backend_duration: Some(Duration::from_millis(11)),
            retries: 1,
            retry_skipped: None,
            auth_status: AuthStatus::None,
            rate_limit_duration: None,
            error_type: Some("connect"),
        }
    }

    #[test]
    fn has_the_keys_of_the_contract() {
        let expected = concat!(
            r#"{"timestamp":"2026-01-02T03:04:05.678Z","level":"ERROR","#,
            r#""message":"GET /x status_code=502 auth_status=none duration_ms=12.034 backend_latency_ms=11.000 error_type=connect","#,
            r#""request_id":"r-1","route":"users","method":"GET","host":"api.example.com","path":"/x","#,
            r#""query":"token=***&page=2","protocol":"HTTP/1.1","status_code":502,"duration_ms":12.034,"#,
            r#""backend_service":"users","backend":"10.0.0.11:3000","backend_duration_ms":11.000,"#,
            r#""client_ip":"192.0.2.7","user_agent":"curl/8","bytes_in":0,"bytes_out":97,"retries":1,"#,
            r#""auth_status":"none","error_type":"connect"}"#,
            "\n"
        );
        assert_eq!(line(&failed()), expected);
    }

    #[test]
    fn says_what_limits_took() {
        for (micros, end) in [(1500, "1.500"), (0, "0.000")] {
            let line = line(&Record {
                rate_limit_duration: Some(Duration::from_micros(micros)),
                ..failed()
            });
            let end = format!(r#""error_type":"connect","rate_limit_duration_ms":{end}}}"#);
            assert!(line.trim_end().ends_with(&end), "{line}");
        }
    }

    #[test]
    fn says_how_the_connection_was_made() {
        let line = line(&Record {
            tls_version: Some("TLSv1.3"),
            client_cert_subject: Some("CN=\"a\\,b"),
            ..failed()
        });
        let expected = r#""tls_version":"TLSv1.3","client_cert_subject":"CN=\"a\\,b","bytes_in""#;
        assert!(line.contains(expected), "{line}");
    }

    #[test]
    fn an_ordinary_line_has_no_word_error() {
        let ordinary = line(&Record {
            status_code: 200,
            error_type: None,
            backend: None,
            ..failed()
        });
        assert!(!ordinary.to_lowercase().contains("error"));
        assert!(ordinary.contains("\"level\":\"INFO\"") && ordinary.contains("\"backend\":null"));
    }

    #[test]
    fn addresses_and_times_are_exact() {
        let mut out = Vec::new();
        ip(&mut out, "::ffff:127.0.0.1".parse().unwrap());
        out.push(b' ');
        ip(&mut out, "2001:db8::1".parse().unwrap());
        for micros in [0, 1_005, 999_999_999, u64::MAX] {
            out.push(b' ');
            out.extend_from_slice(Millis::of(Duration::from_micros(micros)).as_bytes());
        }
        let written = String::from_utf8(out).unwrap();
        assert_eq!(
            written,
            "127.0.0.1 2001:db8::1 0.000 1.005 999999.999 18446744073709551.615"
        );
    }

    fn lossy(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    proptest! {
        #[test]
        fn every_line_is_one_object_that_gives_back_what_was_put_in(
            method in "\\PC*",
            id in any::<String>(),
            host in proptest::collection::vec(any::<u8>(), 0..NAME_BYTES),
            path in proptest::collection::vec(any::<u8>().prop_filter("query", |b| *b != b'?'), 0..300),
            agent in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..NAME_BYTES)),
            status_code in any::<u16>(),
            bytes_in in any::<u64>(),
            micros in 0..u64::MAX / 1_000_000,
        ) {
            let line = line(&Record {
                request_id: &id,
                method: &method,
                host: &host,
                path_and_query: &path,
                user_agent: agent.as_deref(),
                status_code,
                bytes_in,
                duration: Duration::from_micros(micros),
                ..failed()
            });
            prop_assert_eq!(line.matches('\n').count(), 1);
            let value: Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(value["request_id"].as_str(), Some(&*id));
            prop_assert_eq!(value["method"].as_str(), Some(&*method));
            prop_assert_eq!(value["host"].as_str(), Some(&*lossy(&host)));
            prop_assert_eq!(value["path"].as_str(), Some(&*lossy(&path)));
            prop_assert_eq!(value["user_agent"].as_str().map(str::to_owned), agent.as_deref().map(lossy));
            prop_assert_eq!(value["status_code"].as_u64(), Some(status_code.into()));
            prop_assert_eq!(value["bytes_in"].as_u64(), Some(bytes_in));
            prop_assert!(value["duration_ms"].is_number());
            let status = format!(" status_code={status_code} ");
            prop_assert!(value["message"].as_str().unwrap().contains(&status));
        }
    }
}
