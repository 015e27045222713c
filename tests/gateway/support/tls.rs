//! Certificates made for a test, and a client that speaks TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use tempfile::TempDir;

use super::client::Response;
use super::wait::DEADLINE;
use super::wire::{Headers, find};

/// An authority that issues certificates, and a folder that holds them.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// A certificate with its key, both in PEM.
pub struct Issued {
    /// The certificate.
    pub cert: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// A new one; its own certificate is `ca.pem` in its folder.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "Test authority");
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("write");
        Self { issuer, folder }
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A certificate for these names and addresses.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.issue_with(names, |_| {})
    }

    /// The same, with a change.
    pub fn issue_with(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = DistinguishedName::new();
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued {
            cert: cert.pem(),
            key: key.serialize_pem(),
        }
    }

    /// A client's certificate with this common name.
    pub fn issue_client(&self, name: &str) -> Issued {
        self.issue_with(&[], |params| {
            params.distinguished_name.push(DnType::CommonName, name);
        })
    }

    /// Puts a certificate for these names into the folder, as `NAME.crt` and `NAME.key`.
    pub fn store(&self, name: &str, names: &[&str]) {
        self.issue(names).store(self.folder(), name);
    }

    /// A configuration with the listener `main` on these certificates of the folder, and these
    /// further settings of `tls`; one route to this backend.
    pub fn config(&self, certificates: &[&str], settings: &str, origin: SocketAddr) -> String {
        let folder = self.folder().display();
        let entries: Vec<String> = certificates
            .iter()
            .map(|name| format!("{{ cert: {folder}/{name}.crt, key: {folder}/{name}.key }}"))
            .collect();
        format!(
            "listeners:
  - name: main
    address: 127.0.0.1:0
    tls:
      certificates: [{}]
{settings}
routes: [{{ name: all, upstream: 'http://{origin}' }}]",
            entries.join(", ")
        )
    }

    /// A client that trusts this authority alone.
    pub fn client(&self) -> Setup {
        Setup {
            roots: vec![self.issuer.der().clone()],
            only: None,
            alpn: Vec::new(),
            own: None,
        }
    }
}

impl Issued {
    /// Writes it as `NAME.crt` and `NAME.key`.
    pub fn store(&self, folder: &Path, name: &str) {
        std::fs::write(folder.join(format!("{name}.crt")), &self.cert).expect("write");
        std::fs::write(folder.join(format!("{name}.key")), &self.key).expect("write");
    }
}

/// What a client offers and accepts.
#[derive(Clone)]
pub struct Setup {
    roots: Vec<CertificateDer<'static>>,
    only: Option<&'static rustls::SupportedProtocolVersion>,
    alpn: Vec<Vec<u8>>,
    own: Option<(String, String)>,
}

impl Setup {
    /// TLS 1.2 alone.
    pub fn tls12(mut self) -> Self {
        self.only = Some(&TLS12);
        self
    }

    /// TLS 1.3 alone.
    pub fn tls13(mut self) -> Self {
        self.only = Some(&TLS13);
        self
    }

    /// Offers these application protocols.
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.alpn = protocols
            .iter()
            .map(|one| one.as_bytes().to_vec())
            .collect();
        self
    }

    /// Shows this certificate when asked.
    pub fn showing(mut self, own: &Issued) -> Self {
        self.own = Some((own.cert.clone(), own.key.clone()));
        self
    }

    /// The settings; connections with the same value resume each other's sessions.
    pub fn config(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for root in &self.roots {
            roots.add(root.clone()).expect("an authority");
        }
        let versions = match self.only {
            Some(version) => vec![version],
            None => vec![&TLS13, &TLS12],
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&versions)
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match &self.own {
            Some((cert, key)) => {
                let cert = CertificateDer::from_pem_slice(cert.as_bytes()).expect("PEM");
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
                builder
                    .with_client_auth_cert(vec![cert], key)
                    .expect("a certificate")
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        Arc::new(config)
    }

    /// Connects and shakes hands; asks for this name, or for none when it is an address.
    pub fn connect(&self, address: SocketAddr, name: &str) -> io::Result<TlsClient> {
        TlsClient::connect(address, name, &self.config())
    }
}

/// A connection through TLS.
pub struct TlsClient {
    stream: StreamOwned<ClientConnection, TcpStream>,
    buffer: Vec<u8>,
}

impl TlsClient {
    /// Connects and shakes hands with these settings.
    pub fn connect(
        address: SocketAddr,
        name: &str,
        config: &Arc<ClientConfig>,
    ) -> io::Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.set_write_timeout(Some(DEADLINE))?;
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(session, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        let buffer = Vec::new();
        Ok(Self { stream, buffer })
    }

    /// The session, for what was negotiated.
    pub fn session(&self) -> &ClientConnection {
        &self.stream.conn
    }

    /// Whether an earlier session was taken up again.
    pub fn is_resumed(&self) -> bool {
        self.stream.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The certificate that the gateway showed.
    pub fn shown(&self) -> Vec<u8> {
        let shown = self.stream.conn.peer_certificates().expect("certificates");
        shown[0].to_vec()
    }

    /// Sends these bytes.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("send");
        self.stream.flush().expect("flush");
    }

    /// Sends a GET for this host and path and reads the answer.
    #[track_caller]
    pub fn get(&mut self, host: &str, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        self.read_response().expect("a response")
    }

    /// Reads a response with its body, which has a length or ends with the connection.
    pub fn read_response(&mut self) -> io::Result<Response> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if self.fill()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.trim_end().split("\r\n");
        let first = lines.next().unwrap_or_default();
        let (version, rest) = first.split_once(' ').expect("a status line");
        let fields = lines.map(|line| line.split_once(": ").expect("a field"));
        let headers = Headers(
            fields
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        );
        let body = match headers.get("content-length") {
            Some(length) => self.exact(length.parse().expect("a length"))?,
            None => self.read_to_end()?,
        };
        Ok(Response {
            status: rest[..3].parse().expect("a status"),
            version: version.to_owned(),
            headers,
            body,
            interim: Vec::new(),
        })
    }

    /// Reads until the gateway says that nothing more comes; an end without that is an error.
    pub fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        while self.fill()? > 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    fn exact(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            if self.fill()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 16 * 1024];
        let read = self.stream.read(&mut chunk)?;
        self.buffer.extend_from_slice(&chunk[..read]);
        Ok(read)
    }
}
