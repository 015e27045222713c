//! What a listener's TLS settings mean.

use std::path::PathBuf;

use http::HeaderValue;

/// TLS towards the clients of a listener.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerTls {
    /// By server name; never empty. The first is the default.
    pub certificates: Vec<CertificateFiles>,
    /// Whether TLS 1.2 is spoken beside 1.3.
    pub tls12: bool,
    /// How sessions are resumed.
    pub tickets: Tickets,
    /// The `Strict-Transport-Security` of every response.
    pub hsts: Option<HeaderValue>,
    /// Whether HTTP/2 is offered.
    pub http2: bool,
}

/// A certificate, its key, and what the clients that ask for it have to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, in PEM.
    pub cert: PathBuf,
    /// The private key, in PEM.
    pub key: PathBuf,
    /// The client's certificate; `None` when none is asked for.
    pub client_auth: Option<ClientAuth>,
}

/// The certificate that a client has to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// Whether it may show none.
    pub required: bool,
    /// Who may have signed it, in PEM.
    pub ca: PathBuf,
    /// The key of the configuration that names `ca`, below the listener's `tls`.
    pub ca_key: String,
}

/// How sessions are resumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tickets {
    /// Not at all.
    Off,
    /// By tickets under keys of this process.
    Random,
    /// By tickets under the keys of a file.
    File(PathBuf),
}
