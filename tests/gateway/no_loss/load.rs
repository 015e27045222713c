//! What all clients share: where to connect, when to send, what to ask, and when to stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsConnector;

use super::tally::{Fault, Tally};

/// The name in the certificate.
pub const SERVER_NAME: &str = "gateway.test";

/// How long a connection may take until it can be used.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// How often a client that waits long looks whether it is to end.
const STOP_INTERVAL: Duration = Duration::from_millis(200);

/// A plain or an encrypted connection.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A listener of the gateway.
#[derive(Clone)]
pub struct Endpoint {
    address: SocketAddr,
    /// The certificate to trust; `None` for plain connections.
    roots: Option<Arc<RootCertStore>>,
}

impl Endpoint {
    /// A plain listener.
    pub fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            roots: None,
        }
    }

    /// A listener with TLS and this certificate.
    pub fn tls(address: SocketAddr, certificate: CertificateDer<'static>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(certificate).expect("a certificate");
        Self {
            address,
            roots: Some(Arc::new(roots)),
        }
    }

    /// Connects, and shakes hands where there is TLS. Nothing is resumed: a configuration of its
    /// own for each connection has no tickets.
    pub async fn connect(&self, protocols: &[&[u8]]) -> Result<Box<dyn Io>, Fault> {
        let connecting = tokio::time::timeout(CONNECT_DEADLINE, self.dial(protocols));
        connecting
            .await
            .unwrap_or_else(|_| Err(Fault::failed("no connection in time")))
    }

    async fn dial(&self, protocols: &[&[u8]]) -> Result<Box<dyn Io>, Fault> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let Some(roots) = &self.roots else {
            return Ok(Box::new(stream));
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(Fault::failed)?
            .with_root_certificates(Arc::clone(roots))
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from(SERVER_NAME).map_err(Fault::failed)?;
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Box::new(connector.connect(name, stream).await?))
    }
}

/// A request of which the answer can be told from every other.
pub struct Work {
    number: u64,
    /// The body; empty for a GET.
    pub body: String,
}

impl Work {
    /// The target.
    pub fn path(&self) -> String {
        format!("/load/{}", self.number)
    }

    /// The request as HTTP/1.1.
    pub fn http1(&self) -> Vec<u8> {
        let path = self.path();
        match self.body.as_str() {
            "" => format!("GET {path} HTTP/1.1\r\nHost: {SERVER_NAME}\r\n\r\n"),
            body => format!(
                "POST {path} HTTP/1.1\r\nHost: {SERVER_NAME}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ),
        }
        .into_bytes()
    }

    /// Whether this is the answer to this request, as the backend gives it.
    pub fn check(&self, body: &[u8]) -> Result<(), Fault> {
        let wanted = super::backend::answer(&self.path(), self.body.len());
        match body == wanted.as_bytes() {
            true => Ok(()),
            false => Err(Fault::failed(format!(
                "{} was answered with {:?}",
                self.path(),
                String::from_utf8_lossy(&body[..body.len().min(40)])
            ))),
        }
    }
}

/// The state that all clients share.
pub struct Load {
    /// The counters.
    pub tally: Tally,
    stopping: AtomicBool,
    requests: AtomicU64,
    confirmed: AtomicU64,
}

impl Load {
    /// Nothing counted, nothing confirmed.
    pub fn new() -> Self {
        Self {
            tally: Tally::new(),
            stopping: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
        }
    }

    /// The next request: one in three has a body, and cannot be sent twice.
    pub fn work(&self) -> Work {
        let number = self.requests.fetch_add(1, Ordering::SeqCst);
        let body = match number % 3 {
            0 => "x".repeat(4096),
            _ => String::new(),
        };
        Work { number, body }
    }

    /// The next request, with a body of this length.
    pub fn upload(&self, length: usize) -> Work {
        let number = self.requests.fetch_add(1, Ordering::SeqCst);
        Work {
            number,
            body: "x".repeat(length),
        }
    }

    /// Waits until this time; sooner when the load ends, and then `false`.
    pub async fn wait_until(&self, due: Instant) -> bool {
        while !self.is_stopping() && Instant::now() < due {
            sleep_until(due.min(Instant::now() + STOP_INTERVAL)).await;
        }
        !self.is_stopping()
    }

    /// The newest configuration that is known to serve.
    pub fn confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::SeqCst)
    }

    /// From now on, new connections must be served by this configuration.
    pub fn confirm(&self, generation: u64) {
        self.confirmed.store(generation, Ordering::SeqCst);
    }

    /// Whether an answer is as new as it must be.
    pub fn check_generation(&self, got: u64, confirmed: u64) -> Result<(), Fault> {
        match got >= confirmed {
            true => Ok(()),
            false => Err(Fault::failed(format!(
                "served by configuration {got} after {confirmed} was confirmed"
            ))),
        }
    }

    /// Lets the clients finish what they do and end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// Whether clients begin nothing more.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}

/// When requests are due: at a constant rate, however long the answers take. A latency counts from
/// here, so that waiting behind a late answer is not hidden.
pub struct Schedule {
    due: Instant,
    interval: Duration,
}

impl Schedule {
    /// The `index`th of `count` clients that together send `rate` requests a second.
    pub fn shared(rate: u32, count: u32, index: u32) -> Self {
        let interval = Duration::from_secs(1) * count / rate;
        Self {
            due: Instant::now() + interval * index / count,
            interval,
        }
    }

    /// One client that sends a request every `interval`.
    pub fn every(interval: Duration) -> Self {
        Self {
            due: Instant::now(),
            interval,
        }
    }

    /// The time of the next request; `None` when there is to be no more.
    pub fn next(&mut self, load: &Load) -> Option<Instant> {
        self.due += self.interval;
        (!load.is_stopping()).then_some(self.due)
    }
}
