//! Public keys in PEM (RFC 7468): SubjectPublicKeyInfo, PKCS#1, and certificates.

use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
    OID_SIG_ED25519,
};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};
use x509_parser::public_key::RSAPublicKey;

use super::key::Parts;
use super::{AlgorithmSet, Key, KeyError};

/// Every key of a text; at least one.
pub(super) fn keys(
    text: &str,
    algorithms: AlgorithmSet,
    id: Option<&str>,
) -> Result<Vec<Key>, KeyError> {
    let keys: Vec<_> = Pem::iter_from_buffer(text.as_bytes())
        .map(|block| key(&block.map_err(|_| KeyError::Damaged)?, algorithms, id))
        .collect::<Result<_, _>>()?;
    if keys.is_empty() {
        Err(KeyError::NoPem)
    } else {
        Ok(keys)
    }
}

fn key(block: &Pem, algorithms: AlgorithmSet, id: Option<&str>) -> Result<Key, KeyError> {
    let der = block.contents.as_slice();
    match block.label.as_str() {
        "PUBLIC KEY" => {
            let (rest, info) =
                SubjectPublicKeyInfo::from_der(der).map_err(|_| KeyError::Damaged)?;
            whole(rest)?;
            from_info(&info, algorithms, id)
        }
        "RSA PUBLIC KEY" => from_rsa(der, algorithms, id),
        "CERTIFICATE" => {
            let (rest, certificate) =
                X509Certificate::from_der(der).map_err(|_| KeyError::Damaged)?;
            whole(rest)?;
            from_info(certificate.public_key(), algorithms, id)
        }
        label if label.ends_with("PRIVATE KEY") => Err(KeyError::Private),
        _ => Err(KeyError::UnsupportedKind),
    }
}

fn whole(rest: &[u8]) -> Result<(), KeyError> {
    if rest.is_empty() {
        Ok(())
    } else {
        Err(KeyError::Damaged)
    }
}

fn from_rsa(der: &[u8], algorithms: AlgorithmSet, id: Option<&str>) -> Result<Key, KeyError> {
    let (rest, key) = RSAPublicKey::from_der(der).map_err(|_| KeyError::Damaged)?;
    whole(rest)?;
    let (modulus, exponent) = (key.modulus, key.exponent);
    Key::new(&Parts::Rsa { modulus, exponent }, algorithms, id)
}

fn from_info(
    info: &SubjectPublicKeyInfo<'_>,
    algorithms: AlgorithmSet,
    id: Option<&str>,
) -> Result<Key, KeyError> {
    let bytes: &[u8] = &info.subject_public_key.data;
    let kind = &info.algorithm.algorithm;
    if *kind == OID_PKCS1_RSAENCRYPTION {
        return from_rsa(bytes, algorithms, id);
    }
    if *kind == OID_SIG_ED25519 {
        return Key::new(&Parts::Ed25519 { public: bytes }, algorithms, id);
    }
    if *kind != OID_KEY_TYPE_EC_PUBLIC_KEY {
        return Err(KeyError::UnsupportedKind);
    }
    let curve = info.algorithm.parameters.as_ref();
    let curve = curve.and_then(|curve| curve.as_oid().ok());
    match curve {
        Some(curve) if curve == OID_EC_P256 => {
            Key::new(&Parts::P256 { point: bytes }, algorithms, id)
        }
        Some(curve) if curve == OID_NIST_EC_P384 => {
            Key::new(&Parts::P384 { point: bytes }, algorithms, id)
        }
        _ => Err(KeyError::UnsupportedKind),
    }
}
