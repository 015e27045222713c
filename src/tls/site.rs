//! One certificate with its key and what its clients have to show, as rustls uses it.

use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::crypto::aws_lc_rs::cipher_suite as suite;
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CipherSuite, InconsistentKeys, ServerConfig, SupportedProtocolVersion, version};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::tickets::{TicketKeys, Ticketer};
use super::{names, pem};
use crate::config::Fault;
use crate::config::model::{CertificateFiles, ClientAuth};

/// What a client has to show, as a value that is the same on every instance.
pub(super) type Policy = [u8; 32];

/// One certificate, ready for handshakes.
pub(super) struct Site {
    /// Ciphers in our order.
    ours: Arc<ServerConfig>,
    /// Ciphers in the client's order.
    theirs: Arc<ServerConfig>,
    /// What its clients have to show.
    pub(super) policy: Policy,
    /// Its DNS names.
    pub(super) names: Vec<Box<str>>,
    /// When it becomes valid, and when that ends, in seconds since 1970.
    pub(super) validity: (i64, i64),
    /// Whether each certificate of the chain was issued by the next.
    pub(super) chain_in_order: bool,
}

/// What all certificates of a listener have in common.
pub(super) struct Common {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) versions: &'static [&'static SupportedProtocolVersion],
    pub(super) alpn: Vec<Vec<u8>>,
    pub(super) tickets: Option<Arc<TicketKeys>>,
}

impl Common {
    /// For these versions and application protocols.
    pub(super) fn new(tls12: bool, http2: bool, tickets: Option<Arc<TicketKeys>>) -> Self {
        let http1 = b"http/1.1".to_vec();
        Self {
            provider: Arc::new(CryptoProvider {
                cipher_suites: SUITES.to_vec(),
                ..provider::default_provider()
            }),
            versions: if tls12 { BOTH } else { ONLY_13 },
            alpn: match http2 {
                true => vec![b"h2".to_vec(), http1],
                false => vec![http1],
            },
            tickets,
        }
    }
}

const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
const ONLY_13: &[&SupportedProtocolVersion] = &[&version::TLS13];

/// In our order: all are strong, and the first ones are the cheapest where there is hardware for
/// AES.
const SUITES: &[rustls::SupportedCipherSuite] = &[
    suite::TLS13_AES_128_GCM_SHA256,
    suite::TLS13_AES_256_GCM_SHA384,
    suite::TLS13_CHACHA20_POLY1305_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

impl Site {
    /// Reads the files of one certificate. `key` is that of the configuration, below `tls`.
    pub(super) fn load(
        files: &CertificateFiles,
        key: &str,
        common: &Common,
    ) -> Result<Self, Vec<Fault>> {
        let chain = pem::certificates(&files.cert)
            .and_then(|chain| Chain::parse(&chain).map(|parsed| (chain, parsed)));
        let secret = pem::private_key(&files.key);
        let auth = Auth::load(files.client_auth.as_ref(), &common.provider);
        let fault = |key: String, path: &std::path::Path, what: String| Fault {
            key,
            path: Some(path.to_owned()),
            what,
        };
        let mut faults = Vec::new();
        if let Err(what) = &chain {
            faults.push(fault(format!("{key}.cert"), &files.cert, what.clone()));
        }
        if let Err(what) = &secret {
            faults.push(fault(format!("{key}.key"), &files.key, what.clone()));
        }
        if let (Err(what), Some(written)) = (&auth, &files.client_auth) {
            faults.push(fault(written.ca_key.clone(), &written.ca, what.clone()));
        }
        let (Ok((chain, parsed)), Ok(secret), Ok(auth)) = (chain, secret, auth) else {
            return Err(faults);
        };
        let certified = CertifiedKey::from_der(chain, secret, &common.provider)
            .map_err(|error| vec![unusable(files, key, &error)])?;
        parsed
            .into_site(certified, auth, common)
            .map_err(|what| vec![fault(format!("{key}.cert"), &files.cert, what)])
    }

    /// The settings of a handshake with a client that offers these ciphers.
    ///
    /// A client whose first choice is ChaCha20 has no hardware for AES and gets its own order.
    pub(super) fn config(&self, offered: &[CipherSuite]) -> &Arc<ServerConfig> {
        let prefers_chacha = matches!(
            offered.iter().find(|suite| !is_grease(**suite)),
            Some(
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
                    | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
                    | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
            )
        );
        if prefers_chacha {
            &self.theirs
        } else {
            &self.ours
        }
    }
}

/// Values that stand for nothing, sent so that servers get used to unknown ones (RFC 8701).
fn is_grease(suite: CipherSuite) -> bool {
    u16::from(suite) & 0x0f0f == 0x0a0a
}

/// Why certificate and key cannot be used together.
fn unusable(files: &CertificateFiles, key: &str, error: &rustls::Error) -> Fault {
    let (name, path, what) = match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => (
            "key",
            &files.key,
            "does not belong to the certificate, expected its private key".to_owned(),
        ),
        rustls::Error::InvalidCertificate(error) => (
            "cert",
            &files.cert,
            format!("holds a certificate that cannot be used: {error}"),
        ),
        // The cause may say more of the key than anybody should read.
        _ => (
            "key",
            &files.key,
            "holds a private key of an unknown kind, expected RSA of 2048 to 8192 bits, ECDSA on \
             P-256, P-384 or P-521, or Ed25519"
                .to_owned(),
        ),
    };
    Fault {
        key: format!("{key}.{name}"),
        path: Some(path.clone()),
        what,
    }
}

/// What is read off a chain before it is used.
struct Chain {
    names: Vec<Box<str>>,
    validity: (i64, i64),
    in_order: bool,
}

impl Chain {
    fn parse(chain: &[CertificateDer<'_>]) -> Result<Self, String> {
        let mut parsed = Vec::with_capacity(chain.len());
        for (index, der) in chain.iter().enumerate() {
            let (_, certificate) = X509Certificate::from_der(der)
                .map_err(|_| format!("holds a damaged certificate (number {})", index + 1))?;
            parsed.push(certificate);
        }
        let first = parsed.first().ok_or("holds no certificate")?;
        let validity = first.validity();
        Ok(Self {
            names: names::of(first),
            validity: (
                validity.not_before.timestamp(),
                validity.not_after.timestamp(),
            ),
            in_order: parsed
                .windows(2)
                .all(|pair| pair[0].issuer() == pair[1].subject()),
        })
    }

    fn into_site(self, key: CertifiedKey, auth: Auth, common: &Common) -> Result<Site, String> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&common.provider))
            .with_protocol_versions(common.versions)
            .map_err(|error| error.to_string())?;
        let builder = match auth.verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols.clone_from(&common.alpn);
        config.ignore_client_order = true;
        // Sessions are in tickets or nowhere: a table of them would be memory that clients fill.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // A client needs one to come back; each costs it and us.
        config.send_tls13_tickets = usize::from(common.tickets.is_some());
        if let Some(keys) = &common.tickets {
            config.ticketer = Arc::new(Ticketer {
                keys: Arc::clone(keys),
                binding: auth.policy,
            });
        }
        let mut theirs = config.clone();
        theirs.ignore_client_order = false;
        Ok(Site {
            ours: Arc::new(config),
            theirs: Arc::new(theirs),
            policy: auth.policy,
            names: self.names,
            validity: self.validity,
            chain_in_order: self.in_order,
        })
    }
}

/// What clients have to show.
struct Auth {
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    policy: Policy,
}

impl Auth {
    fn load(written: Option<&ClientAuth>, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        let Some(written) = written else {
            return Ok(Self {
                verifier: None,
                policy: policy(b"none", &[]),
            });
        };
        let (roots, certificates) = pem::authorities(&written.ca)?;
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let (mode, builder): (&[u8], _) = if written.required {
            (b"required", builder)
        } else {
            (b"optional", builder.allow_unauthenticated())
        };
        let verifier = builder
            .build()
            .map_err(|error| format!("cannot be used to verify clients: {error}"))?;
        Ok(Self {
            verifier: Some(verifier),
            policy: policy(mode, &certificates),
        })
    }
}

fn policy(mode: &[u8], authorities: &[CertificateDer<'_>]) -> Policy {
    let mut hash = digest::Context::new(&digest::SHA256);
    let parts = std::iter::once(mode).chain(authorities.iter().map(|der| der.as_ref()));
    for part in parts {
        // With the length, so that no two lists are the same bytes.
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut policy = [0; 32];
    policy.copy_from_slice(hash.finish().as_ref());
    policy
}
