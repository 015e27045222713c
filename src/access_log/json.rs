//! A line for machines: one JSON object.
//!
//! `message` repeats the essentials as logfmt, because the people on call search for
//! `status_code=5` and `auth_status=failure` as well as through the keys.

use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use super::{Record, escape, redact};

/// A name is cut off here, so that one header cannot make a line of 32 KiB.
const NAME_BYTES: usize = 256;

/// The path is whole in its own key; the message is for reading.
const MESSAGE_PATH_BYTES: usize = 1024;

/// Appends a line.
pub(super) fn write(out: &mut Vec<u8>, record: &Record<'_>, time: &str) {
    let (path, query) = split(record.path_and_query);
    out.extend_from_slice(b"{\"timestamp\":\"");
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(b"\",\"level\":\"");
    out.extend_from_slice(level(record.status_code));
    out.extend_from_slice(b"\",\"message\":\"");
    message(out, record, path);
    out.push(b'"');
    text(out, b"request_id", record.request_id.as_bytes());
    text(out, b"route", record.route.as_bytes());
    text(out, b"method", record.method.as_bytes());
    text(out, b"host", cut(record.host, NAME_BYTES));
    text(out, b"path", path);
    if let Some(query) = query {
        key(out, b"query");
        out.push(b'"');
        redact::pieces(query, |piece| escape::json(out, piece));
        out.push(b'"');
    }
    text(out, b"protocol", record.protocol.as_bytes());
    number(out, b"status_code", record.status_code.into());
    key(out, b"duration_ms");
    millis(out, record.duration);
    backend(out, record);
    client(out, record);
    number(out, b"bytes_in", record.bytes_in);
    number(out, b"bytes_out", record.bytes_out);
    number(out, b"retries", record.retries.into());
    text(out, b"auth_status", record.auth_status.as_str().as_bytes());
    if let Some(error_type) = record.error_type {
        text(out, b"error_type", error_type.as_bytes());
    }
    out.extend_from_slice(b"}\n");
}

/// The path, and the query without its question mark.
pub(super) fn split(path_and_query: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b'?', path_and_query) {
        Some(at) => (&path_and_query[..at], path_and_query.get(at + 1..)),
        None => (path_and_query, None),
    }
}

fn level(status_code: u16) -> &'static [u8] {
    if status_code >= 500 {
        b"ERROR"
    } else {
        b"INFO"
    }
}

fn message(out: &mut Vec<u8>, record: &Record<'_>, path: &[u8]) {
    escape::word(out, record.method.as_bytes());
    out.push(b' ');
    escape::word(out, cut(path, MESSAGE_PATH_BYTES));
    out.extend_from_slice(b" status_code=");
    out.extend_from_slice(itoa::Buffer::new().format(record.status_code).as_bytes());
    out.extend_from_slice(b" auth_status=");
    out.extend_from_slice(record.auth_status.as_str().as_bytes());
    out.extend_from_slice(b" duration_ms=");
    millis(out, record.duration);
    if let Some(error_type) = record.error_type {
        out.extend_from_slice(b" error_type=");
        escape::word(out, error_type.as_bytes());
    }
}

fn backend(out: &mut Vec<u8>, record: &Record<'_>) {
    optional(
        out,
        b"backend_service",
        record.backend_service.map(str::as_bytes),
    );
    optional(out, b"backend", record.backend.map(str::as_bytes));
    key(out, b"backend_duration_ms");
    match record.backend_duration {
        Some(duration) => millis(out, duration),
        None => out.extend_from_slice(b"null"),
    }
}

fn client(out: &mut Vec<u8>, record: &Record<'_>) {
    key(out, b"client_ip");
    match record.client_ip {
        Some(address) => {
            out.push(b'"');
            ip(out, address);
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
    let agent = record.user_agent.map(|agent| cut(agent, NAME_BYTES));
    optional(out, b"user_agent", agent);
}

fn key(out: &mut Vec<u8>, name: &[u8]) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name);
    out.extend_from_slice(b"\":");
}

fn text(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    key(out, name);
    out.push(b'"');
    escape::json(out, value);
    out.push(b'"');
}

fn optional(out: &mut Vec<u8>, name: &[u8], value: Option<&[u8]>) {
    match value {
        Some(value) => text(out, name, value),
        None => {
            key(out, name);
            out.extend_from_slice(b"null");
        }
    }
}

fn number(out: &mut Vec<u8>, name: &[u8], value: u64) {
    key(out, name);
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Milliseconds with three decimals.
pub(super) fn millis(out: &mut Vec<u8>, duration: Duration) {
    let whole = duration.as_secs().saturating_mul(1000);
    let whole = whole.saturating_add(duration.subsec_millis().into());
    out.extend_from_slice(itoa::Buffer::new().format(whole).as_bytes());
    let micros = duration.subsec_micros() % 1000;
    let digit = |of: u32| b'0' + (of % 10) as u8;
    out.extend_from_slice(&[b'.', digit(micros / 100), digit(micros / 10), digit(micros)]);
}

/// The address; the common kind without the machinery of formatting.
pub(super) fn ip(out: &mut Vec<u8>, address: IpAddr) {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [first, rest @ ..] = address.octets();
            out.extend_from_slice(itoa::Buffer::new().format(first).as_bytes());
            for octet in rest {
                out.push(b'.');
                out.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
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
            bytes_in: 0,
            bytes_out: 97,
            backend_service: Some("users"),
            backend: Some("10.0.0.11:3000"),
            backend_duration: Some(Duration::from_millis(11)),
            retries: 1,
            auth_status: AuthStatus::None,
            error_type: Some("connect"),
        }
    }

    #[test]
    fn has_the_keys_of_the_contract() {
        let expected = concat!(
            r#"{"timestamp":"2026-01-02T03:04:05.678Z","level":"ERROR","#,
            r#""message":"GET /x status_code=502 auth_status=none duration_ms=12.034 error_type=connect","#,
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
        for micros in [0, 1_005, 999_999_999] {
            out.push(b' ');
            millis(&mut out, Duration::from_micros(micros));
        }
        let written = String::from_utf8(out).unwrap();
        assert_eq!(written, "127.0.0.1 2001:db8::1 0.000 1.005 999999.999");
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
