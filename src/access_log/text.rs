//! A line for people at a terminal. Whatever a client sent is printable ASCII in it.

use super::{Record, escape, json, redact};

/// Long enough for any name that fits beside the rest.
const NAME_BYTES: usize = 256;

/// Appends a line.
pub(super) fn write(out: &mut Vec<u8>, record: &Record<'_>, time: &str) {
    out.extend_from_slice(time.as_bytes());
    out.push(b' ');
    padded(out, 3, |out| {
        out.extend_from_slice(itoa::Buffer::new().format(record.status_code).as_bytes());
    });
    out.push(b' ');
    padded(out, 7, |out| escape::word(out, record.method.as_bytes()));
    out.push(b' ');
    padded(out, 40, |out| target(out, record));
    out.push(b' ');
    padded(out, 10, |out| {
        json::millis(out, record.duration);
        out.extend_from_slice(b"ms");
    });
    out.push(b' ');
    padded(out, 28, |out| backend(out, record));
    out.push(b' ');
    match record.client_ip {
        Some(address) => json::ip(out, address),
        None => out.push(b'-'),
    }
    if let Some(error_type) = record.error_type {
        out.push(b' ');
        escape::word(out, error_type.as_bytes());
    }
    out.push(b'\n');
}

fn target(out: &mut Vec<u8>, record: &Record<'_>) {
    let (path, query) = json::split(record.path_and_query);
    escape::word(out, json::cut(record.host, NAME_BYTES));
    escape::word(out, path);
    if let Some(query) = query {
        out.push(b'?');
        redact::pieces(query, |piece| escape::word(out, piece));
    }
}

fn backend(out: &mut Vec<u8>, record: &Record<'_>) {
    match (record.backend_service, record.backend) {
        (Some(service), backend) => {
            escape::word(out, service.as_bytes());
            if let Some(backend) = backend {
                out.push(b'/');
                escape::word(out, backend.as_bytes());
            }
        }
        (None, _) => out.push(b'-'),
    }
}

/// Fills up with spaces to a width.
fn padded(out: &mut Vec<u8>, width: usize, write: impl FnOnce(&mut Vec<u8>)) {
    let end = out.len() + width;
    write(out);
    if out.len() < end {
        out.resize(end, b' ');
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn is_aligned_and_lets_no_escape_through() {
        let mut out = Vec::new();
        let record = Record {
            method: "GET",
            host: b"a.example",
            path_and_query: b"/\x1b[2J\n/x?token=s3cr3t&q=\x07",
            status_code: 200,
            duration: Duration::from_micros(1_500),
            backend_service: Some("users"),
            backend: Some("10.0.0.1:80"),
            client_ip: Some([127, 0, 0, 1].into()),
            ..Record::default()
        };
        write(&mut out, &record, "2026-01-02T03:04:05.678Z");
        let expected = "2026-01-02T03:04:05.678Z 200 GET     a.example/%1B[2J%0A/x?token=***&q=%07    \
                        1.500ms    users/10.0.0.1:80            127.0.0.1\n";
        assert_eq!(String::from_utf8_lossy(&out), expected);
        assert!(
            !out.iter()
                .any(|byte| byte.is_ascii_control() && *byte != b'\n')
        );
    }
}
