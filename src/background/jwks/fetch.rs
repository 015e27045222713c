//! Fetches one key set over HTTP/1.1: one request on a connection of its own, bounded in time and in
//! size.
//!
//! No redirect is followed: whoever can answer one would choose where keys come from. No proxy of the
//! environment is used. Nothing of what comes is quoted in what is told of it.

use std::error::Error as _;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::Builder;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config::model::JwksUrl;
use crate::filter::auth::jwks::{Failure, Response, Validators, lifetime};
use crate::metrics::JwksFetch;

/// Largest header of a response.
const MAX_HEADER_BYTES: usize = 64 * 1024;
/// Addresses of one host that are tried.
const MAX_ADDRESSES: usize = 4;
/// Longest validator that is kept.
const MAX_VALIDATOR_BYTES: usize = 1024;

/// What asks one URL.
pub(super) struct Client {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timeout: Duration,
    max_bytes: usize,
    /// What is being done, for whoever is told that it took too long.
    step: Mutex<&'static str>,
}

impl Client {
    /// Prepares for a URL. The error is what is wrong with it.
    pub(super) fn new(config: &JwksUrl) -> Result<Self, Failure> {
        let host = config.url.host().unwrap_or_default();
        let host = host.trim_matches(['[', ']']).to_owned();
        let encrypted = config.url.scheme_str() == Some("https");
        let default_port = if encrypted { 443 } else { 80 };
        let tls = encrypted.then(|| tls(config, &host)).transpose();
        let tls = tls.map_err(|what| failure(JwksFetch::Tls, what))?;
        Ok(Self {
            port: config.url.port_u16().unwrap_or(default_port),
            uri: config.url.clone(),
            host,
            tls,
            timeout: config.timeout,
            max_bytes: config.max_bytes,
            step: Mutex::new(""),
        })
    }

    /// Fetches once.
    pub(super) async fn fetch(&self, known: &Validators) -> Result<Response, Failure> {
        let fetched = timeout(self.timeout, self.exchange(known)).await;
        fetched.unwrap_or_else(|_| {
            let step = *self.step.lock().unwrap_or_else(PoisonError::into_inner);
            let within = humantime::format_duration(self.timeout);
            Err(failure(
                JwksFetch::Timeout,
                format!("{step} took longer than {within}"),
            ))
        })
    }

    async fn exchange(&self, known: &Validators) -> Result<Response, Failure> {
        let stream = self.connect().await?;
        let Some((connector, name)) = &self.tls else {
            return self.ask(stream, known).await;
        };
        self.step("the TLS handshake");
        let stream = connector.connect(name.clone(), stream).await;
        let stream = stream.map_err(|error| {
            failure(JwksFetch::Tls, format!("the TLS handshake failed: {error}"))
        })?;
        self.ask(stream, known).await
    }

    /// A connection to one of the host's addresses. Each gets its share of the time.
    async fn connect(&self) -> Result<TcpStream, Failure> {
        self.step("looking the host up");
        let found = tokio::net::lookup_host((&*self.host, self.port)).await;
        let addresses: Vec<SocketAddr> = match found {
            Ok(found) => found.take(MAX_ADDRESSES).collect(),
            Err(error) => {
                let what = format!("the host cannot be looked up: {error}");
                return Err(failure(JwksFetch::Resolve, what));
            }
        };
        self.step("connecting");
        let share = self.timeout / (addresses.len() as u32 + 1);
        let mut last = failure(JwksFetch::Resolve, "the host has no address".to_owned());
        for address in addresses {
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => {
                    last = failure(
                        JwksFetch::Connect,
                        format!("no connection to {address}: {error}"),
                    );
                }
                Err(_) => {
                    let within = humantime::format_duration(share);
                    let what = format!("no connection to {address} within {within}");
                    last = failure(JwksFetch::Timeout, what);
                }
            }
        }
        Err(last)
    }

    async fn ask<S>(&self, stream: S, known: &Validators) -> Result<Response, Failure>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.step("waiting for the response");
        let mut builder = Builder::new();
        builder.max_buf_size(MAX_HEADER_BYTES);
        let made = builder.handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = made.map_err(|error| broken(&error))?;
        // Ended when this function is left or dropped, and the connection with it.
        let mut connections = JoinSet::new();
        connections.spawn(connection);
        let response = sender.send_request(self.request(known)?).await;
        let response = response.map_err(|error| broken(&error))?;
        let (head, body) = response.into_parts();
        let has_asked = known.etag.is_some() || known.last_modified.is_some();
        let is_known = head.status == StatusCode::NOT_MODIFIED && has_asked;
        let body = if is_known {
            None
        } else {
            judge(head.status, &head.headers)?;
            self.step("reading the response");
            Some(self.read(body).await?)
        };
        let mut validators = Validators {
            etag: validator(&head.headers, header::ETAG),
            last_modified: validator(&head.headers, header::LAST_MODIFIED),
        };
        if is_known && validators == Validators::default() {
            validators = known.clone();
        }
        Ok(Response {
            body,
            lifetime: lifetime(&head.headers, SystemTime::now()),
            validators,
        })
    }

    fn request(&self, known: &Validators) -> Result<Request<String>, Failure> {
        let target = self
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        let host = self
            .uri
            .authority()
            .map_or("", |authority| authority.as_str());
        let mut request = Request::get(target)
            .header(header::HOST, host)
            .header(
                header::USER_AGENT,
                concat!("gateway/", env!("CARGO_PKG_VERSION")),
            )
            .header(header::ACCEPT, "application/jwk-set+json, application/json")
            .header(header::ACCEPT_ENCODING, "identity")
            .header(header::CONNECTION, "close");
        // They may come from a file: what is no value of a field is left out.
        let field = |text: &Option<String>| HeaderValue::from_str(text.as_deref()?).ok();
        if let Some(etag) = field(&known.etag) {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        if let Some(last_modified) = field(&known.last_modified) {
            request = request.header(header::IF_MODIFIED_SINCE, last_modified);
        }
        let request = request.body(String::new());
        request.map_err(|error| failure(JwksFetch::Broken, format!("no request: {error}")))
    }

    /// Reads no more than is allowed.
    async fn read(&self, body: Incoming) -> Result<Vec<u8>, Failure> {
        let too_large = || {
            let what = format!(
                "the response is larger than `max_size`, {} bytes",
                self.max_bytes
            );
            failure(JwksFetch::TooLarge, what)
        };
        if body.size_hint().lower() > self.max_bytes as u64 {
            return Err(too_large());
        }
        let mut read = Vec::new();
        let mut body = pin!(body);
        while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
            let frame = frame.map_err(|error| broken(&error))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if data.len() > self.max_bytes - read.len() {
                return Err(too_large());
            }
            read.extend_from_slice(&data);
        }
        Ok(read)
    }

    fn step(&self, step: &'static str) {
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = step;
    }
}

fn tls(config: &JwksUrl, host: &str) -> Result<(TlsConnector, ServerName<'static>), String> {
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|_| "the host is no name that a certificate can have".to_owned())?;
    let mut roots = RootCertStore::empty();
    // The configuration has read them; the system may have some that are of no use.
    for authority in config.authorities.iter().flat_map(|all| all.iter()) {
        let _ = roots.add(CertificateDer::from(authority.as_slice()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let mut tls = builder.with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((TlsConnector::from(Arc::new(tls)), name))
}

/// Whether a response may hold keys at all.
fn judge(status: StatusCode, headers: &HeaderMap) -> Result<(), Failure> {
    if status.is_redirection() {
        let what = format!(
            "the answer is {}: redirects are not followed, expected the URL that they lead to",
            status.as_u16()
        );
        return Err(failure(JwksFetch::Redirect, what));
    }
    if status != StatusCode::OK {
        return Err(failure(
            JwksFetch::Status,
            format!("the answer is {}", status.as_u16()),
        ));
    }
    let content_type = headers.get(header::CONTENT_TYPE);
    let content_type = content_type
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let content_type = content_type.split(';').next().unwrap_or_default().trim();
    let json = ["application/json", "application/jwk-set+json"];
    if !json
        .iter()
        .any(|known| content_type.eq_ignore_ascii_case(known))
    {
        let what = "the response's content type is not `application/json` or \
                    `application/jwk-set+json`";
        return Err(failure(JwksFetch::ContentType, what.to_owned()));
    }
    let plain = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|value| !plain(value))
    {
        let what = "the response is compressed, which was not asked for";
        return Err(failure(JwksFetch::ContentType, what.to_owned()));
    }
    Ok(())
}

fn validator(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    (value.len() <= MAX_VALIDATOR_BYTES).then(|| value.to_owned())
}

fn broken(error: &hyper::Error) -> Failure {
    let cause = error
        .source()
        .map(|cause| format!(": {cause}"))
        .unwrap_or_default();
    failure(
        JwksFetch::Broken,
        format!("no whole response came: {error}{cause}"),
    )
}

fn failure(result: JwksFetch, what: String) -> Failure {
    Failure { result, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, fields: &[(&'static str, &'static str)]) -> Option<JwksFetch> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        let status = StatusCode::from_u16(status).unwrap_or_default();
        judge(status, &headers).err().map(|failure| failure.result)
    }

    #[test]
    fn only_json_is_read() {
        for good in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/jwk-set+json",
        ] {
            assert_eq!(judged(200, &[("content-type", good)]), None, "{good}");
        }
        for bad in [
            "text/html",
            "text/plain",
            "application/jsonp",
            "application/octet-stream",
            "",
        ] {
            let refused = judged(200, &[("content-type", bad)]);
            assert_eq!(refused, Some(JwksFetch::ContentType), "{bad}");
        }
        assert_eq!(judged(200, &[]), Some(JwksFetch::ContentType));
        let packed = [
            ("content-type", "application/json"),
            ("content-encoding", "gzip"),
        ];
        assert_eq!(judged(200, &packed), Some(JwksFetch::ContentType));
    }

    #[test]
    fn only_one_status_is_a_success() {
        let json = ("content-type", "application/json");
        for status in [301, 302, 303, 304, 307, 308] {
            assert_eq!(judged(status, &[json]), Some(JwksFetch::Redirect));
        }
        for status in [201, 204, 206, 401, 404, 429, 500, 503] {
            assert_eq!(judged(status, &[json]), Some(JwksFetch::Status));
        }
    }
}
