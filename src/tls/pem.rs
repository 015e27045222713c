//! PEM files: certificates, private keys and authorities. What is wrong is told without what is in
//! them.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Largest file: room for some hundred authorities.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// The bytes of a file that is not too large.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: io::Error| format!("cannot be read: {error}");
    // Opening a pipe would wait for whoever writes to it.
    if !std::fs::metadata(path).map_err(cannot)?.is_file() {
        return Err("cannot be read: not a regular file".into());
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(cannot)?;
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(cannot)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!(
            "is too large, expected at most {MAX_FILE_BYTES} bytes"
        ));
    }
    Ok(bytes)
}

/// Every certificate of a file; at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|_| "is damaged, expected certificates in PEM")?;
    if found.is_empty() {
        return Err("holds no certificate, expected at least one in PEM".into());
    }
    Ok(found)
}

/// The first private key of a file.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    const EXPECTED: &str = "expected one in PEM (PKCS#8, PKCS#1 or SEC1), not encrypted";
    let bytes = read(path)?;
    let has = |text: &[u8]| memchr::memmem::find(&bytes, text).is_some();
    if has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") {
        return Err(format!("holds an encrypted private key, {EXPECTED}"));
    }
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Ok(key),
        // The cause may quote a line of the file.
        Err(_) if has(b"PRIVATE KEY-----") => {
            Err(format!("holds a damaged private key, {EXPECTED}"))
        }
        Err(_) => Err(format!("holds no private key, {EXPECTED}")),
    }
}

/// The authorities of a file, and the bytes that tell them from others.
pub(super) fn authorities(
    path: &Path,
) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), String> {
    let certificates = certificates(path)?;
    let mut roots = RootCertStore::empty();
    for (index, certificate) in certificates.iter().enumerate() {
        roots.add(certificate.clone()).map_err(|error| {
            format!(
                "holds a certificate (number {}) that is no authority: {error}",
                index + 1
            )
        })?;
    }
    Ok((roots, certificates))
}
