//! Checks how the backends of an upstream are probed.

use std::time::Duration;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue, Method, header};

use super::Checker;
use super::header::header_name;
use crate::config::file;
use crate::config::model::{GrpcQuestion, HealthCheck, HttpQuestion, Pace, Question};
use crate::config::problem::{Invalid, quote};
use crate::config::tree::Path;

/// Below it probes would be a load of their own.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);
/// What only a probe by HTTP has.
const ONLY_HTTP: [&str; 4] = ["method", "headers", "expected_statuses", "expected_body"];
/// Fields that frame a probe, or that it has anyway.
const OWN: [HeaderName; 6] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
    header::UPGRADE,
];

impl Checker<'_> {
    pub(super) fn health_check(
        &mut self,
        written: &file::HealthCheck,
        at: &Path<'_>,
    ) -> Option<HealthCheck> {
        let host = written.host.as_deref().map(probe_host).transpose();
        let host = self.accept(&at.key("host"), host);
        self.fits_the_question(written, at);
        let pace = self.pace(written, at);
        let question = match (&written.path, &written.grpc) {
            (Some(path), _) => Question::Http(self.http_question(written, path, host?, at)?),
            (None, Some(grpc)) => Question::Grpc(GrpcQuestion {
                host: host?,
                service: self.service(&grpc.service, at)?,
                accept_unimplemented: grpc.accept_unimplemented,
            }),
            (None, None) => Question::Connection,
        };
        Some(HealthCheck {
            question,
            port: written.port,
            pace,
            starts_healthy: match written.initial {
                file::InitialHealth::Healthy => true,
                file::InitialHealth::Unhealthy => false,
            },
        })
    }

    /// Keys that would do nothing are refused: whoever wrote them meant something else.
    fn fits_the_question(&mut self, written: &file::HealthCheck, at: &Path<'_>) {
        if written.grpc.is_some() && written.path.is_some() {
            let grpc = at.key("grpc");
            self.refuse(&grpc, "stands beside `path`, expected one of the two");
        }
        if written.path.is_none() && !self.is_written(&at.key("path")) {
            let host = at.key("host");
            if written.host.is_some() && !self.is_written(&at.key("grpc")) {
                self.refuse(
                    &host,
                    "has no effect without `path` or `grpc`, expected one of them, too",
                );
            }
            for key in ONLY_HTTP {
                let key = at.key(key);
                if self.is_written(&key) {
                    self.refuse(&key, "has no effect without `path`, expected that, too");
                }
            }
        }
    }

    fn pace(&mut self, written: &file::HealthCheck, at: &Path<'_>) -> Pace {
        let interval = written.interval.0;
        let mut timeout = written.timeout.0;
        if timeout > interval {
            let key = at.key("timeout");
            if self.is_written(&key) {
                self.refuse(&key, "is longer than `interval`, expected at most that");
            }
            timeout = interval;
        }
        let usual = (interval / 5).max(LEAST_INTERVAL).min(interval);
        let fast_interval = written.fast_interval.as_ref().map_or(usual, |one| one.0);
        if fast_interval > interval {
            let key = at.key("fast_interval");
            self.refuse(&key, "is longer than `interval`, expected at most that");
        }
        Pace {
            interval,
            fast_interval,
            timeout,
            unhealthy_after: written.unhealthy_after,
            healthy_after: written.healthy_after,
        }
    }

    fn http_question(
        &mut self,
        written: &file::HealthCheck,
        path: &str,
        host: Option<String>,
        at: &Path<'_>,
    ) -> Option<HttpQuestion> {
        let path = self.accept(&at.key("path"), probe_path(path));
        let method = written.method.as_deref().map_or(Ok(Method::GET), method);
        let method = self.accept(&at.key("method"), method);
        let headers = self.probe_headers(written, &at.key("headers"));
        let statuses = at.key("expected_statuses");
        if written.expected_statuses.is_empty() {
            self.refuse(&statuses, "is empty, expected at least one status or range");
        }
        let body = at.key("expected_body");
        if written.expected_body.as_deref() == Some("") {
            self.refuse(&body, "is empty, expected a text, or no such key");
        }
        if written.expected_body.is_some() && method == Some(Method::HEAD) {
            self.refuse(&body, "is never sent in answer to HEAD, expected GET");
        }
        Some(HttpQuestion {
            method: method?,
            path: path?,
            host,
            headers: headers?,
            expected_statuses: written
                .expected_statuses
                .iter()
                .map(|(_, range)| range.0)
                .collect(),
            expected_body: written.expected_body.clone(),
        })
    }

    fn probe_headers(
        &mut self,
        written: &file::HealthCheck,
        at: &Path<'_>,
    ) -> Option<Vec<(HeaderName, HeaderValue)>> {
        let mut headers = Vec::new();
        for (name, text) in &written.headers {
            let at = at.key(name);
            let name = self.key_accept(&at, header_name(name).and_then(addable));
            let value = HeaderValue::from_str(text).map_err(|_| {
                Invalid::new(format!("{} is no value of a field", quote(text)), "one")
            });
            headers.push(name.zip(self.accept(&at, value)));
        }
        headers.into_iter().collect()
    }

    /// The name of a gRPC service, as the protocol's messages have it.
    fn service(&mut self, text: &str, at: &Path<'_>) -> Option<String> {
        let byte = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte);
        let is_sound = text.len() <= 255 && text.bytes().all(byte);
        let refused = || {
            let detail = format!("{} is not the name of a service", quote(text));
            Invalid::new(detail, "one such as `users.v1.Users`")
        };
        let service = is_sound.then(|| text.to_owned()).ok_or_else(refused);
        self.accept(&at.key("grpc").key("service"), service)
    }
}

fn addable(name: HeaderName) -> Result<HeaderName, Invalid> {
    if OWN.contains(&name) {
        let detail = format!("{} is not for a probe to choose", quote(name.as_str()));
        return Err(Invalid::new(detail, "another field, or `host`"));
    }
    Ok(name)
}

fn method(text: &str) -> Result<Method, Invalid> {
    match text {
        "GET" => Ok(Method::GET),
        "HEAD" => Ok(Method::HEAD),
        "POST" => Ok(Method::POST),
        "OPTIONS" => Ok(Method::OPTIONS),
        _ => Err(Invalid::new(
            format!("{} is no method for a probe", quote(text)),
            "GET, HEAD, POST or OPTIONS",
        )),
    }
}

/// A path as a probe can send it, by HTTP/1.1 and HTTP/2.
fn probe_path(path: &str) -> Result<String, Invalid> {
    let visible = path
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if path.starts_with('/') && visible && path.parse::<PathAndQuery>().is_ok() {
        return Ok(path.to_owned());
    }
    Err(Invalid::new(
        format!("{} is not a path", quote(path)),
        "one such as `/health`",
    ))
}

/// A host as a probe can send it: as `Host`, and as an authority. Whoever asks has no name there.
fn probe_host(host: &str) -> Result<String, Invalid> {
    let is_sound = |parsed: Authority| {
        let name = parsed.host();
        !name.is_empty() && (name.len() == host.len() || parsed.port_u16().is_some())
    };
    if !host.contains('@') && host.parse::<Authority>().is_ok_and(is_sound) {
        return Ok(host.to_owned());
    }
    Err(Invalid::new(
        format!("{} is not a host", quote(host)),
        "one such as `users.internal`",
    ))
}
