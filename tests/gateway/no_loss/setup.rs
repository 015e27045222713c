//! The gateway under load: its ports, its certificate, and a configuration for each generation.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tempfile::TempDir;

use super::load::SERVER_NAME;
use crate::support::Origin;

/// Below those that the kernel gives to clients, so that nobody takes a port between two owners.
const PORTS: std::ops::Range<u16> = 18_000..30_000;

/// Beyond the longest response, before what is left of an old process is cut.
const DRAIN_MARGIN: Duration = Duration::from_secs(10);

/// The backends, and how they are named in the configuration.
pub struct Backends<'a> {
    /// Two that share the requests by weight.
    pub pair: [&'a Origin; 2],
    /// The one for WebSockets.
    pub socket: &'a Origin,
    /// The one that takes its time.
    pub slow: &'a Origin,
}

/// Everything that stays the same through all generations.
pub struct Setup {
    directory: TempDir,
    /// The plain listener.
    pub plain: SocketAddr,
    /// The listener with TLS.
    pub tls: SocketAddr,
    /// The operators' listener.
    pub admin: SocketAddr,
    /// What it takes to change something there.
    pub token: &'static str,
    /// The certificate that clients trust.
    pub certificate: CertificateDer<'static>,
    drain: Duration,
    upstreams: String,
}

impl Setup {
    /// Makes a folder with a certificate and the first configuration.
    pub fn new(backends: &Backends<'_>, longest: Duration) -> Self {
        let directory = tempfile::tempdir().expect("a folder");
        let certified =
            rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()]).expect("a certificate");
        let store = |name: &str, text: String| {
            std::fs::write(directory.path().join(name), text).expect("write");
        };
        store("tls.crt", certified.cert.pem());
        store("tls.key", certified.signing_key.serialize_pem());
        let [plain, tls, admin] = free_addresses();
        let setup = Self {
            certificate: certified.cert.der().clone(),
            directory,
            plain,
            tls,
            admin,
            token: "no-loss",
            drain: longest + DRAIN_MARGIN,
            upstreams: upstreams(backends),
        };
        setup.write(1);
        setup
    }

    /// The configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.directory.path().join("gateway.yaml")
    }

    /// The access log, which all processes share.
    pub fn access_log(&self) -> PathBuf {
        self.directory.path().join("access.log")
    }

    /// How long an old process may take to end.
    pub fn drain(&self) -> Duration {
        self.drain
    }

    /// Puts the configuration of this generation in place of the last.
    pub fn write(&self, generation: u64) {
        let next = self.directory.path().join("next.yaml");
        std::fs::write(&next, self.text(generation)).expect("write");
        std::fs::rename(next, self.config_file()).expect("rename");
    }

    fn text(&self, generation: u64) -> String {
        let Self {
            plain,
            tls,
            admin,
            token,
            upstreams,
            ..
        } = self;
        let (first, second) = if generation.is_multiple_of(2) {
            (9, 1)
        } else {
            (1, 9)
        };
        let (drain, folder) = (self.drain.as_secs(), self.directory.path().display());
        format!(
            "server: {{ threads: 2, upgrade_socket: {folder}/upgrade.sock }}
listeners:
  - {{ name: plain, address: '{plain}' }}
  - name: tls
    address: '{tls}'
    tls: {{ certificates: [{{ cert: tls.crt, key: tls.key }}] }}
admin: {{ address: '{admin}', token: {token} }}
shutdown: {{ drain_timeout: {drain}s }}
access_log: {{ output: {folder}/access.log }}
{upstreams}
routes:
  - {{ name: socket, match: {{ path: /socket }}, upstream: socket }}
  - {{ name: slow, match: {{ path: /slow }}, upstream: slow }}
  - name: generation-{generation}
    match: {{ path: /generation/{generation} }}
    respond: {{ body: current }}
  - name: work
    match: {{ path: /load/* }}
    upstream: [{{ upstream: a, weight: {first} }}, {{ upstream: b, weight: {second} }}]
    headers: {{ response: {{ set: {{ x-generation: '{generation}' }} }} }}
"
        )
    }
}

fn upstreams(backends: &Backends<'_>) -> String {
    let [a, b] = backends.pair;
    let named = [
        ("a", a),
        ("b", b),
        ("socket", backends.socket),
        ("slow", backends.slow),
    ];
    let lines =
        named.map(|(name, origin)| format!("  {name}: {{ backends: ['{}'] }}", origin.address()));
    format!("upstreams:\n{}", lines.join("\n"))
}

/// Addresses that nobody has; the same port must be free for every process in turn.
fn free_addresses() -> [SocketAddr; 3] {
    let offset = u16::try_from(std::process::id() % 4000).unwrap_or(0) * 3;
    let mut held = Vec::new();
    let mut ports = PORTS.cycle().skip(usize::from(offset));
    while held.len() < 3 {
        let port = ports.next().expect("a port");
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            held.push(listener);
        }
    }
    let addresses: Vec<_> = held
        .iter()
        .map(|listener| listener.local_addr().expect("an address"))
        .collect();
    [addresses[0], addresses[1], addresses[2]]
}
