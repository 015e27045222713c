//! One key that verifies: parsed once, for the algorithms that it may be used with and no others.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::digest::{self, SHA256, SHA256_OUTPUT_LEN};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{self, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents};

use super::{Algorithm, AlgorithmSet};

/// Smallest and largest RSA modulus, in bits. RFC 7518 section 3.3 asks for 2048; beyond 8192 one
/// signature takes longer to verify than a request should.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Why a key is not used. Messages never quote the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum KeyError {
    /// What was given is not a key as its kind is written.
    #[error("is damaged")]
    Damaged,
    /// A private key stands where a public one belongs.
    #[error("is a private key, expected a public key")]
    Private,
    /// Its kind or curve is not used here.
    #[error("is of a kind that is not supported, expected RSA, P-256, P-384 or Ed25519")]
    UnsupportedKind,
    /// It is for encryption, or for signing only.
    #[error("is not meant for verifying signatures")]
    OtherUse,
    /// None of the algorithms asked for fits it.
    #[error("fits none of the algorithms")]
    NoAlgorithm,
    /// An RSA key that is too weak, too large or oddly made.
    #[error("is an RSA key of a size or exponent that is not accepted, expected 2048 to 8192 bits")]
    WeakRsa,
    /// A secret shorter than the hash of every algorithm asked for.
    #[error("is too short, expected at least 32 bytes for HS256, 48 for HS384, 64 for HS512")]
    ShortSecret,
    /// A key in PEM stands where a secret belongs: whoever knows the public key could sign.
    #[error("is a key in PEM, expected a secret: HMAC with a public key proves nothing")]
    PemAsSecret,
    /// No PEM block is there.
    #[error("holds no public key, expected PEM (PUBLIC KEY, RSA PUBLIC KEY or CERTIFICATE)")]
    NoPem,
    /// There are more than are kept.
    #[error("is one too many")]
    TooMany,
}

/// What a key is made of, as its kind is written.
pub(super) enum Parts<'k> {
    /// Big-endian numbers.
    Rsa {
        modulus: &'k [u8],
        exponent: &'k [u8],
    },
    /// An uncompressed point: 4, then both coordinates.
    P256 {
        point: &'k [u8],
    },
    /// An uncompressed point: 4, then both coordinates.
    P384 {
        point: &'k [u8],
    },
    Ed25519 {
        public: &'k [u8],
    },
    Secret {
        secret: &'k [u8],
    },
}

enum Material {
    /// Large, since it holds the states of the hash.
    Secret(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

/// One key that verifies.
pub struct Key {
    id: Option<Box<str>>,
    /// One parsed form for each algorithm that the key may be used with.
    forms: Box<[(Algorithm, Material)]>,
    /// Tells it from every other key, use and name.
    fingerprint: [u8; SHA256_OUTPUT_LEN],
    removed: AtomicBool,
}

impl Key {
    /// A shared secret, for those of the algorithms whose hash is not longer than it
    /// (RFC 7518 section 3.2).
    pub fn from_secret(
        secret: &[u8],
        algorithms: AlgorithmSet,
        id: Option<&str>,
    ) -> Result<Self, KeyError> {
        if memchr::memmem::find(secret, b"-----BEGIN ").is_some() {
            return Err(KeyError::PemAsSecret);
        }
        Self::new(&Parts::Secret { secret }, algorithms, id)
    }

    /// Every public key of a PEM text, for those of the algorithms that fit it. Of a certificate only
    /// the key counts, neither its dates nor who signed it.
    pub fn from_pem(
        pem: &str,
        algorithms: AlgorithmSet,
        id: Option<&str>,
    ) -> Result<Vec<Self>, KeyError> {
        super::pem::keys(pem, algorithms, id)
    }

    pub(super) fn new(
        parts: &Parts<'_>,
        algorithms: AlgorithmSet,
        id: Option<&str>,
    ) -> Result<Self, KeyError> {
        let fitting = parts.algorithms();
        let forms: Vec<_> = fitting
            .iter()
            .filter(|algorithm| algorithms.contains(**algorithm))
            .map(|algorithm| Ok((*algorithm, parts.form(*algorithm)?)))
            .collect::<Result<_, _>>()?;
        if forms.is_empty() {
            let short = matches!(parts, Parts::Secret { .. })
                && Algorithm::ALL[..3]
                    .iter()
                    .any(|hs| algorithms.contains(*hs));
            return Err(if short {
                KeyError::ShortSecret
            } else {
                KeyError::NoAlgorithm
            });
        }
        Ok(Self {
            id: id.map(Into::into),
            fingerprint: fingerprint(parts, &forms, id),
            forms: forms.into(),
            removed: AtomicBool::new(false),
        })
    }

    /// Its name, the `kid` of tokens.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Whether it may be used with an algorithm.
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        self.forms.iter().any(|(own, _)| *own == algorithm)
    }

    /// Whether its provider no longer has it.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    pub(super) fn mark_removed(&self) {
        self.removed.store(true, Ordering::Release);
    }

    /// Whether both are the same key with the same name for the same use.
    pub(super) fn equals(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }

    /// Whether it has signed a message with an algorithm.
    pub(super) fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let form = self.forms.iter().find(|(own, _)| *own == algorithm);
        match form {
            // Compares in constant time, and lengths too.
            Some((_, Material::Secret(key))) => hmac::verify(key, message, signature).is_ok(),
            Some((_, Material::Public(key))) => key.verify_sig(message, signature).is_ok(),
            None => false,
        }
    }
}

impl fmt::Debug for Key {
    /// Without the key, which may be a secret.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithms: Vec<_> = self.forms.iter().map(|(algorithm, _)| algorithm).collect();
        out.debug_struct("Key")
            .field("id", &self.id)
            .field("algorithms", &algorithms)
            .finish_non_exhaustive()
    }
}

impl Parts<'_> {
    /// The algorithms that fit.
    fn algorithms(&self) -> &'static [Algorithm] {
        match self {
            Parts::Rsa { .. } => &Algorithm::ALL[3..9],
            Parts::P256 { .. } => &[Algorithm::Es256],
            Parts::P384 { .. } => &[Algorithm::Es384],
            Parts::Ed25519 { .. } => &[Algorithm::EdDsa],
            Parts::Secret { secret } => {
                &Algorithm::ALL[..match secret.len() {
                    0..32 => 0,
                    32..48 => 1,
                    48..64 => 2,
                    _ => 3,
                }]
            }
        }
    }

    fn form(&self, algorithm: Algorithm) -> Result<Material, KeyError> {
        let public = match self {
            Parts::Secret { secret } => {
                let hash = match algorithm {
                    Algorithm::Hs384 => hmac::HMAC_SHA384,
                    Algorithm::Hs512 => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                return Ok(Material::Secret(Box::new(hmac::Key::new(hash, secret))));
            }
            Parts::Rsa { modulus, exponent } => rsa(modulus, exponent, algorithm)?,
            Parts::P256 { point } => elliptic(&signature::ECDSA_P256_SHA256_FIXED, point, 32)?,
            Parts::P384 { point } => elliptic(&signature::ECDSA_P384_SHA384_FIXED, point, 48)?,
            Parts::Ed25519 { public } => {
                // The parser would take a key in DER for one as well.
                if public.len() != 32 {
                    return Err(KeyError::Damaged);
                }
                ParsedPublicKey::new(&signature::ED25519, public).map_err(|_| KeyError::Damaged)?
            }
        };
        Ok(Material::Public(public))
    }
}

fn elliptic(
    algorithm: &'static signature::EcdsaVerificationAlgorithm,
    point: &[u8],
    coordinate: usize,
) -> Result<ParsedPublicKey, KeyError> {
    if point.len() != 1 + 2 * coordinate || point.first() != Some(&4) {
        return Err(KeyError::Damaged);
    }
    // Refuses what is not on the curve.
    ParsedPublicKey::new(algorithm, point).map_err(|_| KeyError::Damaged)
}

fn rsa(modulus: &[u8], exponent: &[u8], algorithm: Algorithm) -> Result<ParsedPublicKey, KeyError> {
    let parameters: &'static RsaParameters = match algorithm {
        Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
        _ => &signature::RSA_PKCS1_2048_8192_SHA256,
    };
    // Some issuers write the sign byte of DER although RFC 7518 section 6.3.1.1 forbids it.
    let (n, e) = (without_zeros(modulus), without_zeros(exponent));
    let bits = n
        .first()
        .map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    // An exponent of 1 makes every text its own signature; above 32 bits none is in use, and
    // verification grows slow.
    let usable_exponent = e.len() <= 4 && e != [1] && e.last().is_some_and(|last| last % 2 == 1);
    if !RSA_BITS.contains(&bits) || !usable_exponent || n.last().is_none_or(|last| last % 2 == 0) {
        return Err(KeyError::WeakRsa);
    }
    RsaPublicKeyComponents { n, e }
        .to_parsed_public_key(parameters)
        .map_err(|_| KeyError::Damaged)
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let first = number.iter().position(|byte| *byte != 0);
    &number[first.unwrap_or(number.len())..]
}

fn fingerprint(
    parts: &Parts<'_>,
    forms: &[(Algorithm, Material)],
    id: Option<&str>,
) -> [u8; SHA256_OUTPUT_LEN] {
    let mut hash = digest::Context::new(&SHA256);
    let mut add = |part: &[u8]| {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    // The algorithms tell the kinds apart.
    for (algorithm, _) in forms {
        add(algorithm.name().as_bytes());
    }
    add(&[u8::from(id.is_some())]);
    add(id.unwrap_or_default().as_bytes());
    match parts {
        Parts::Rsa { modulus, exponent } => {
            add(without_zeros(modulus));
            add(without_zeros(exponent));
        }
        Parts::P256 { point: bytes }
        | Parts::P384 { point: bytes }
        | Parts::Ed25519 { public: bytes }
        | Parts::Secret { secret: bytes } => add(bytes),
    }
    let mut out = [0; SHA256_OUTPUT_LEN];
    out.copy_from_slice(hash.finish().as_ref());
    out
}
