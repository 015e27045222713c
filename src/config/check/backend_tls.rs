//! Checks TLS towards backends: reads its certificates and keys, so that what is wrong with them is
//! a problem of the configuration and not of the first request.

use std::io::Read;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::Checker;
use super::FileSource;
use super::upstream::Encryption;
use crate::config::file;
use crate::config::model::{ClientCertificate, Der, UpstreamTls};
use crate::config::problem::{Invalid, quote};
use crate::config::tree::Path;

/// Largest file of certificates, keys or users; the system's own bundle has a quarter of it.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
const AUTHORITIES: &str = "a PEM file with the certificates of authorities";
const CERTIFICATE: &str = "a PEM file with a certificate";
const KEY: &str = "a PEM file with an unencrypted private key";
const NAME: &str = "a host name or IP address";

impl Checker<'_> {
    /// Checks an upstream's `tls`. The outer `None`: it is not sound.
    pub(super) fn encryption(
        &mut self,
        written: Option<&file::Tls>,
        at: &Path<'_>,
    ) -> Option<Option<UpstreamTls>> {
        let Some(written) = written else {
            return Some(None);
        };
        if !written.verify {
            self.warnings.push(format!(
                "{at}: `verify` is false: nobody checks who the backends are, and whoever is between \
                 can read and change everything"
            ));
            self.idle(at, &["ca"], "with `verify: false`");
        }
        let authorities = match &written.ca {
            Some(file) => self.bundle(file, &at.key("ca")),
            None if written.verify => self.system_authorities(at),
            None => Some(Arc::from([])),
        };
        let client = self.client_certificate(written, at);
        Some(Some(UpstreamTls {
            authorities: authorities?,
            client: client?,
            verify: written.verify,
        }))
    }

    /// The name that a backend's certificate must have.
    pub(super) fn server_name(
        &mut self,
        encryption: Encryption<'_>,
        host: &str,
        at: &Path<'_>,
    ) -> Option<Arc<str>> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        match encryption {
            Encryption::Plain => Some(Arc::from("")),
            Encryption::Named(name, _) if fits_certificates(name) => Some(Arc::from(name)),
            // Refused once, where it is written.
            Encryption::Named(..) => None,
            Encryption::OwnName if fits_certificates(host) => Some(Arc::from(host)),
            Encryption::OwnName => {
                let detail = format!("{} is no name that a certificate can have", quote(host));
                self.accept(at, Err(Invalid::new(detail, "`tls.server_name` beside it")))
            }
        }
    }

    /// Checks the name that is written for all backends.
    pub(super) fn written_server_name(&mut self, encryption: Encryption<'_>) {
        if let Encryption::Named(name, tls) = encryption
            && !fits_certificates(name)
        {
            let detail = format!("{} is no name that a certificate can have", quote(name));
            let _: Option<()> =
                self.accept(&tls.key("server_name"), Err(Invalid::new(detail, NAME)));
        }
    }

    pub(super) fn bundle(&mut self, file: &str, at: &Path<'_>) -> Option<Arc<[Der]>> {
        let read = self.read_bounded(file, AUTHORITIES);
        let text = self.accept(at, read)?;
        let bundle = certificates(&text, file, AUTHORITIES).and_then(|found| {
            let unfit = found.iter().position(|der| !is_authority(der));
            match unfit {
                None => Ok(found),
                Some(place) => Err(Invalid::new(
                    format!(
                        "{}: certificate {} in it cannot be read",
                        quote(file),
                        place + 1
                    ),
                    AUTHORITIES,
                )),
            }
        });
        let bundle = self.accept(at, bundle)?;
        self.warn_of_expiry(&bundle, at);
        Some(Arc::from(bundle))
    }

    /// What the system trusts, read once for all upstreams. A certificate that cannot be read is
    /// left out: it is not the configuration's.
    pub(super) fn system_authorities(&mut self, at: &Path<'_>) -> Option<Arc<[Der]>> {
        let env = self.source.env;
        let found = self.system_authorities.get_or_insert_with(|| {
            let found = env
                .system_authorities()
                .map_err(|error| error.to_string())?;
            let found: Arc<[Der]> = found.into_iter().filter(|der| is_authority(der)).collect();
            if found.is_empty() {
                return Err("there are none".to_owned());
            }
            Ok(found)
        });
        match found.clone() {
            Ok(found) => Some(found),
            Err(cause) => {
                self.refuse(
                    at,
                    format!(
                        "needs the authorities that the system trusts, but {cause}; expected the \
                         package `ca-certificates`, or `ca` with a file"
                    ),
                );
                None
            }
        }
    }

    fn client_certificate(
        &mut self,
        written: &file::Tls,
        at: &Path<'_>,
    ) -> Option<Option<ClientCertificate>> {
        let (cert, key) = match (&written.client_cert, &written.client_key) {
            (None, None) => return Some(None),
            (Some(cert), Some(key)) => (cert, key),
            (Some(_), None) => {
                self.refuse(
                    &at.key("client_cert"),
                    "stands alone, expected `client_key`",
                );
                return None;
            }
            (None, Some(_)) => {
                self.refuse(
                    &at.key("client_key"),
                    "stands alone, expected `client_cert`",
                );
                return None;
            }
        };
        let cert_at = at.key("client_cert");
        let chain = self
            .read_bounded(cert, CERTIFICATE)
            .and_then(|text| certificates(&text, cert, CERTIFICATE));
        let chain = self.accept(&cert_at, chain);
        let key_at = at.key("client_key");
        let der = self
            .read_bounded(key, KEY)
            .and_then(|text| private_key(&text, key));
        let der = self.accept(&key_at, der);
        let (chain, der) = (chain?, der?);
        let pair = belong_together(&chain, &der).map_err(|cause| {
            Invalid::new(
                format!("{}: {cause}", quote(key)),
                "the private key of `client_cert`",
            )
        });
        self.accept(&key_at, pair)?;
        self.warn_of_expiry(&chain[..1], &cert_at);
        let key = der.secret_der().to_vec();
        Some(Some(ClientCertificate { chain, key }))
    }

    fn warn_of_expiry(&mut self, certificates: &[Der], at: &Path<'_>) {
        let expired = certificates.iter().filter(|der| has_expired(der)).count();
        if expired > 0 {
            let of = certificates.len();
            let what = match of {
                1 => "the certificate has expired".to_owned(),
                _ => format!("{expired} of {of} certificates in it have expired"),
            };
            self.warnings.push(format!("{at}: {what}"));
        }
    }

    /// What is in a file whose path begins at the folder of the configuration.
    pub(super) fn read_bounded(&mut self, file: &str, expected: &str) -> Result<Vec<u8>, Invalid> {
        self.read_at_most(MAX_FILE_BYTES, file, expected)
    }

    /// The same, with a bound of its own.
    pub(super) fn read_at_most(
        &mut self,
        most: u64,
        file: &str,
        expected: &str,
    ) -> Result<Vec<u8>, Invalid> {
        let path = self.source.base.join(file);
        let invalid = |what: String| Invalid::new(format!("{}: {what}", quote(file)), expected);
        let cannot = |error: std::io::Error| invalid(error.to_string());
        let (source, opened) = FileSource::open(&path);
        self.files.push(source);
        let opened = opened.map_err(cannot)?;
        let mut bytes = Vec::new();
        // One byte more than is allowed tells a file that is too large from one that fits.
        let mut bounded = opened.take(most + 1);
        bounded.read_to_end(&mut bytes).map_err(cannot)?;
        if bytes.len() as u64 > most {
            return Err(invalid(format!("is larger than {most} bytes")));
        }
        Ok(bytes)
    }
}

fn certificates(text: &[u8], file: &str, expected: &str) -> Result<Vec<Der>, Invalid> {
    let invalid = |what: &str| Invalid::new(format!("{} {what}", quote(file)), expected);
    let found: Result<Vec<Der>, _> = CertificateDer::pem_slice_iter(text)
        .map(|item| item.map(|der| der.to_vec()))
        .collect();
    let found = found.map_err(|_| invalid("has a certificate that is damaged"))?;
    if found.is_empty() {
        return Err(invalid("has no certificate in it"));
    }
    if found
        .iter()
        .any(|der| x509_parser::parse_x509_certificate(der).is_err())
    {
        return Err(invalid("has a certificate that is damaged"));
    }
    Ok(found)
}

fn private_key(text: &[u8], file: &str) -> Result<PrivateKeyDer<'static>, Invalid> {
    PrivateKeyDer::from_pem_slice(text)
        .map_err(|_| Invalid::new(format!("{} has no private key in it", quote(file)), KEY))
}

/// Whether the key is that of the first certificate, and of a kind that can be used.
fn belong_together(chain: &[Der], key: &PrivateKeyDer<'static>) -> Result<(), String> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    // Whoever uses the key later on knows nothing but its bytes.
    let key = PrivateKeyDer::try_from(key.secret_der().to_vec())
        .map_err(|_| "is a key of an unknown kind".to_owned())?;
    let chain = chain.iter().cloned().map(CertificateDer::from).collect();
    match rustls::sign::CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err("is not the key of the certificate".to_owned())
        }
        Err(_) => Err("is a key that cannot be used".to_owned()),
    }
}

/// Whether this can be a trust anchor, here and where Pingora reads it.
fn is_authority(der: &[u8]) -> bool {
    let mut store = rustls::RootCertStore::empty();
    store.add(CertificateDer::from(der)).is_ok() && x509_parser::parse_x509_certificate(der).is_ok()
}

fn has_expired(der: &[u8]) -> bool {
    let now = x509_parser::time::ASN1Time::now();
    x509_parser::parse_x509_certificate(der)
        .is_ok_and(|(_, certificate)| certificate.validity().not_after < now)
}

/// Whether a certificate can be checked against this name, as it stands.
///
/// Pingora puts `-` in the place of `_` in the first label of a longer name: another name would be
/// asked for than the one that is written.
fn fits_certificates(name: &str) -> bool {
    let (first, rest) = name.split_once('.').unwrap_or((name, ""));
    let is_altered = first.contains('_') && rest.contains('.');
    !is_altered && ServerName::try_from(name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::fits_certificates;

    #[test]
    fn names_are_asked_for_as_they_are_written_or_not_at_all() {
        for name in [
            "a",
            "a.b.c",
            "10.0.0.1",
            "::1",
            "my_service",
            "a-b.example.com",
        ] {
            assert!(fits_certificates(name), "{name}");
        }
        for name in ["", "a_b.example.com", "a b", "*.example.com", "a..b", "é"] {
            assert!(!fits_certificates(name), "{name}");
        }
    }
}
