//! What the handshake of a connection said; read once, and shared by its requests.

use std::sync::Arc;

use http::HeaderValue;
use rustls::{CipherSuite, HandshakeKind, ProtocolVersion, ServerConnection};

use super::client_cert::ClientCert;
use super::terminator::Terminator;

/// What the handshake of a TLS connection said.
#[derive(Debug)]
pub struct TlsFacts {
    /// The name the client asked for.
    pub server_name: Option<Box<str>>,
    /// The version, such as `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite, by its registered name.
    pub cipher: &'static str,
    /// Whether an earlier session was taken up again.
    pub resumed: bool,
    /// The client's certificate, when it showed one.
    pub client_cert: Option<ClientCert>,
    /// Whether HTTP/2 was agreed on.
    pub http2: bool,
    /// The settings under which the handshake was made. The connection stays with them.
    terminator: Arc<Terminator>,
}

impl TlsFacts {
    /// Of a connection whose handshake is complete.
    pub fn of(connection: &ServerConnection, terminator: Arc<Terminator>) -> Self {
        let certificate = connection.peer_certificates().and_then(<[_]>::first);
        Self {
            server_name: connection.server_name().map(Into::into),
            version: connection.protocol_version().map_or("unknown", version),
            cipher: connection
                .negotiated_cipher_suite()
                .map_or("unknown", |suite| cipher(suite.suite())),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            client_cert: certificate.and_then(|der| ClientCert::parse(der)),
            http2: connection.alpn_protocol() == Some(b"h2"),
            terminator,
        }
    }

    /// Whether a request for this host (in lower case, without port) belongs to a certificate whose
    /// clients have to show something else than this handshake asked for.
    ///
    /// Otherwise a client could shake hands under a name that asks for nothing, and then ask for
    /// the host that does (RFC 9110 section 7.4).
    pub fn is_misdirected(&self, host: &str) -> bool {
        let asked = self.server_name.as_deref();
        self.terminator.several_policies()
            && !host.is_empty()
            && self.terminator.policy(Some(host)) != self.terminator.policy(asked)
    }

    /// The `Strict-Transport-Security` of responses on this connection.
    pub fn hsts(&self) -> Option<&HeaderValue> {
        self.terminator.hsts()
    }
}

fn version(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        _ => "unknown",
    }
}

/// rustls writes the suites of TLS 1.3 with a name of its own.
fn cipher(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or("unknown"),
    }
}
