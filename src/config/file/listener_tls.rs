//! What is written below `listeners[].tls`.

use std::time::Duration as StdDuration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::scalar::{Duration, List};

/// See [`super::Listener::tls`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// The certificates; at least one. A client gets the one for the name that it asks for: an exact
    /// name before a wildcard, and the first certificate when no name fits or none was sent. The
    /// names are those in the certificates. The files are read again when they change.
    #[schemars(extend("examples" = [[{ "cert": "tls/tls.crt", "key": "tls/tls.key" }]]))]
    pub certificates: List<CertificateFiles>,
    /// Whether clients have to show a certificate. A certificate's own `client_auth` takes its
    /// place for that certificate's names.
    pub client_auth: Option<ClientAuth>,
    /// The oldest version of TLS that is spoken.
    #[serde(default)]
    pub min_version: TlsVersion,
    /// How clients come back without a whole handshake.
    #[serde(default)]
    pub session_tickets: SessionTickets,
    /// Tells browsers to use `https` alone: the `Strict-Transport-Security` header on every
    /// response. When left out, it is not sent.
    pub hsts: Option<Hsts>,
    /// Whether HTTP/2 is offered to clients (by ALPN).
    #[serde(default = "super::enabled")]
    pub http2: bool,
}

/// One certificate of [`ListenerTls::certificates`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// A PEM file with the certificate, and behind it those that lead to the root. A relative path
    /// begins at the configuration's folder.
    pub cert: String,
    /// A PEM file with the private key (PKCS#8, PKCS#1 or SEC1), not encrypted.
    pub key: String,
    /// Whether clients that ask for a name of this certificate have to show one of their own.
    pub client_auth: Option<ClientAuth>,
}

/// See [`ListenerTls::client_auth`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientAuth {
    /// Whether a client certificate is asked for.
    pub mode: ClientAuthMode,
    /// A PEM file with the authorities whose certificates are accepted. Not with `none`.
    pub ca: Option<String>,
}

/// See [`ClientAuth::mode`].
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthMode {
    /// The handshake fails without a valid one.
    Required,
    /// A client may show none; one that it shows must be valid.
    Optional,
    /// None is asked for.
    None,
}

/// See [`ListenerTls::min_version`].
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
pub enum TlsVersion {
    /// TLS 1.2 and 1.3.
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3 alone.
    #[serde(rename = "1.3")]
    V1_3,
}

/// See [`ListenerTls::session_tickets`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SessionTickets {
    /// Whether session tickets are given out. Without, every connection is a whole handshake.
    pub enabled: bool,
    /// A file with the keys of the tickets, so that instances accept each other's: a line for each
    /// key, 64 hexadecimal digits. The first one encrypts, all of them decrypt. It is read again
    /// when it changes. When left out, keys are random and change every six hours.
    pub file: Option<String>,
}

/// See [`ListenerTls::hsts`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Hsts {
    /// How long browsers remember it. `0s` makes them forget.
    #[schemars(extend("x-min" = "0s"))]
    pub max_age: Duration,
    /// Whether it holds for all names below the host, too.
    pub include_subdomains: bool,
    /// Whether browsers may ship with it. Hard to take back.
    pub preload: bool,
}

/// See [`super::Listener::https_redirect`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum HttpsRedirect {
    /// `true`: to the port 443, which the URL leaves out.
    Enabled(bool),
    /// To another port.
    To(HttpsPort),
}

/// See [`HttpsRedirect::To`].
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpsPort {
    /// The port that clients reach by `https`.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: u16,
}

impl Default for SessionTickets {
    fn default() -> Self {
        Self {
            enabled: true,
            file: None,
        }
    }
}

impl Default for Hsts {
    fn default() -> Self {
        Self {
            max_age: Duration(StdDuration::from_secs(365 * 24 * 60 * 60)),
            include_subdomains: false,
            preload: false,
        }
    }
}

impl Default for HttpsRedirect {
    fn default() -> Self {
        Self::Enabled(false)
    }
}
