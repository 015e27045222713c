//! What the connections to an upstream's backends have in common: who may vouch for a backend, and
//! what the gateway shows of itself.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use pingora_core::connectors::ConnectorOptions;
use pingora_core::protocols::tls::CaType;
use pingora_core::upstreams::peer::{HttpPeer, Scheme};
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};

use crate::config::model::{Der, UpstreamTls};

/// A certificate that vouches for nothing: its key was thrown away. Pingora needs one authority to
/// build on even where nobody is verified.
const NOBODY: &[u8] = include_bytes!("nobody.der");

/// A file without certificates, so that Pingora's connectors do not read those of the system, once
/// for each worker and health check, and do not panic where they are damaged.
pub const NO_AUTHORITIES: &str = "/dev/null";

/// TLS towards the backends of one upstream.
pub struct BackendTls {
    authorities: Arc<CaType>,
    client: Option<Arc<CertKey>>,
    verify: bool,
    fingerprint: u64,
}

impl BackendTls {
    /// Takes over what was checked.
    pub fn new(config: &UpstreamTls) -> Self {
        let mut hasher = DefaultHasher::new();
        config.authorities.hash(&mut hasher);
        config.verify.hash(&mut hasher);
        if let Some(client) = &config.client {
            (&client.chain, &client.key).hash(&mut hasher);
        }
        let client = config.client.as_ref();
        Self {
            authorities: intern(&config.authorities),
            client: client
                .map(|client| Arc::new(CertKey::new(client.chain.clone(), client.key.clone()))),
            verify: config.verify,
            fingerprint: hasher.finish(),
        }
    }

    /// Differs when any of the settings does: connections must not be shared then. Pingora itself
    /// does not regard the authorities, and of a client's certificate the serial number alone.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Makes a peer one that is reached by TLS and must be called `name`.
    pub fn encrypt(&self, peer: &mut HttpPeer, name: &str) {
        peer.scheme = Scheme::HTTPS;
        // Without a name Pingora verifies nothing. An address is never empty.
        peer.sni = match (name, peer._address.as_inet()) {
            ("", Some(address)) => address.ip().to_string(),
            ("", None) => "invalid".to_owned(),
            (name, _) => name.to_owned(),
        };
        peer.options.ca = Some(Arc::clone(&self.authorities));
        peer.options.verify_cert = self.verify;
        peer.options.verify_hostname = self.verify;
        peer.client_cert_key = self.client.clone();
    }
}

/// Settings of a connector that trusts nobody but those whom a peer names.
pub fn connector_options() -> ConnectorOptions {
    let mut options = ConnectorOptions::new(1);
    options.ca_file = Some(NO_AUTHORITIES.to_owned());
    options
}

/// Authorities in use, so that upstreams with the same ones share them: those of a system take some
/// hundred KiB.
static INTERNED: Mutex<Vec<Weak<CaType>>> = Mutex::new(Vec::new());

fn intern(certificates: &[Der]) -> Arc<CaType> {
    let mut interned = INTERNED.lock().unwrap_or_else(PoisonError::into_inner);
    interned.retain(|known| known.strong_count() > 0);
    let wanted = || certificates.iter().map(Vec::as_slice);
    let wanted: Vec<&[u8]> = match certificates {
        [] => vec![NOBODY],
        _ => wanted().collect(),
    };
    let is_same = |known: &Arc<CaType>| {
        let raw = known.iter().map(|known| known.borrow_raw_cert().as_slice());
        raw.eq(wanted.iter().copied())
    };
    if let Some(known) = interned.iter().filter_map(Weak::upgrade).find(is_same) {
        return known;
    }
    // `config` has parsed each of them in the same way, so Pingora's function cannot panic.
    let parsed = wanted
        .iter()
        .map(|der| WrappedX509::new(der.to_vec(), parse_x509));
    let parsed: Arc<CaType> = parsed.collect();
    interned.push(Arc::downgrade(&parsed));
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;
    use pingora_core::upstreams::peer::Peer;

    fn settings(verify: bool, authorities: Vec<Der>) -> UpstreamTls {
        UpstreamTls {
            authorities: Arc::from(authorities),
            client: None,
            verify,
        }
    }

    #[test]
    fn a_peer_is_never_without_a_name() {
        let tls = BackendTls::new(&settings(true, vec![NOBODY.to_vec()]));
        for (name, sni) in [("", "127.0.0.1"), ("users.internal", "users.internal")] {
            let mut peer = HttpPeer::new("127.0.0.1:443", false, String::new());
            tls.encrypt(&mut peer, name);
            assert_eq!(peer.sni(), sni);
            assert!(peer.is_tls() && peer.verify_cert() && peer.verify_hostname());
            assert!(
                peer.get_ca()
                    .is_some_and(|authorities| !authorities.is_empty())
            );
        }
    }

    #[test]
    fn whoever_verifies_nobody_has_an_authority_all_the_same() {
        let tls = BackendTls::new(&settings(false, Vec::new()));
        let mut peer = HttpPeer::new("127.0.0.1:443", false, String::new());
        tls.encrypt(&mut peer, "a");
        assert!(!peer.verify_cert() && peer.options.ca.is_some_and(|ca| ca.len() == 1));
    }

    #[test]
    fn the_same_authorities_are_held_once_and_other_settings_are_told_apart() {
        let one = BackendTls::new(&settings(true, vec![NOBODY.to_vec()]));
        let same = BackendTls::new(&settings(true, vec![NOBODY.to_vec()]));
        let lax = BackendTls::new(&settings(false, vec![NOBODY.to_vec()]));
        assert!(Arc::ptr_eq(&one.authorities, &same.authorities));
        assert_eq!(one.fingerprint(), same.fingerprint());
        assert_ne!(one.fingerprint(), lax.fingerprint());
    }
}
