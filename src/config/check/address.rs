//! Reads where an upstream is reached: a host and port, or the URL that a route has in the place of a name.

use std::net::SocketAddr;

use http::Uri;

use crate::config::file;
use crate::config::problem::{Invalid, quote};

/// What the address of a backend should be.
const BACKEND: &str = "a host and port such as `10.0.0.11:3000`";

/// Whether a route's upstream is a URL and not a name.
pub(super) fn is_url(text: &str) -> bool {
    text.contains("://")
}

/// A route's upstream that is written as a URL.
pub(super) struct Url {
    scheme: Scheme,
    /// The host and port of its backend.
    pub(super) address: String,
}

/// What a URL may begin with.
#[derive(Clone, Copy)]
enum Scheme {
    Http,
    Https,
    H2c,
}

impl Url {
    /// How its upstream is called: URLs that mean the same share one.
    pub(super) fn upstream_name(&self) -> String {
        match self.scheme {
            Scheme::Http => self.address.clone(),
            Scheme::Https => format!("https://{}", self.address),
            Scheme::H2c => format!("h2c://{}", self.address),
        }
    }

    /// What is different of it from other upstreams.
    pub(super) fn settings(&self) -> file::Upstream {
        let mut settings = file::Upstream::default();
        match self.scheme {
            Scheme::Http => {}
            Scheme::Https => settings.tls = Some(file::Tls::default()),
            Scheme::H2c => settings.protocol = file::Protocol::Http2,
        }
        settings
    }
}

/// Reads a URL that names an upstream.
pub(super) fn url(text: &str) -> Result<Url, Invalid> {
    const EXPECTED: &str = "a URL such as `http://127.0.0.1:3000`";
    let refuse = |what: &str| Invalid::new(format!("{} {what}", quote(text)), EXPECTED);
    let uri: Uri = text.parse().map_err(|_| refuse("is not a URL"))?;
    let (scheme, default_port) = match uri.scheme_str() {
        Some("http") => (Scheme::Http, 80),
        Some("https") => (Scheme::Https, 443),
        Some("h2c") => (Scheme::H2c, 80),
        _ => return Err(refuse("has another scheme than http, https and h2c")),
    };
    let Some(authority) = uri
        .authority()
        .filter(|authority| !authority.host().is_empty())
    else {
        return Err(refuse("has no host"));
    };
    if authority.as_str().contains('@') {
        return Err(refuse("has a user name or password"));
    }
    if uri.query().is_some() || !matches!(uri.path(), "" | "/") || text.contains('#') {
        return Err(refuse("has a path or query, which `rewrite` is for"));
    }
    let after_host = &authority.as_str()[authority.host().len()..];
    let port = match after_host.strip_prefix(':') {
        None => default_port,
        Some(port) => port
            .parse()
            .map_err(|_| refuse("has a port that is none"))?,
    };
    let address = format!("{}:{port}", authority.host().to_ascii_lowercase());
    split(&address).map_err(|_| refuse("has no proper host and port"))?;
    Ok(Url { scheme, address })
}

/// The host and port of a backend.
pub(super) fn split(text: &str) -> Result<(String, u16), Invalid> {
    let refuse = |what: &str| Invalid::new(format!("{} {what}", quote(text)), BACKEND);
    if is_url(text) {
        return Err(refuse("is a URL"));
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| refuse("has no port"))?;
    let port: u16 = port.parse().map_err(|_| refuse("has no proper port"))?;
    if port == 0 {
        return Err(refuse("has the port 0"));
    }
    if text.parse::<SocketAddr>().is_ok() {
        return Ok((host.to_owned(), port));
    }
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if host.is_empty() || host.len() > 253 || !host.bytes().all(word) {
        return Err(refuse("has no proper host"));
    }
    Ok((host.to_owned(), port))
}
