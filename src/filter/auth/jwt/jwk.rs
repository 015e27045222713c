//! One key as JSON (RFC 7517, RFC 7518 section 6, RFC 8037 section 2).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::key::Parts;
use super::{Algorithm, AlgorithmSet, Key, KeyError};

type Members = Map<String, Value>;

/// The key, for the algorithm that it names or else for all that fit it.
pub(super) fn key(members: &Members) -> Result<Key, KeyError> {
    let kind = text(members, "kty")?.ok_or(KeyError::Damaged)?;
    let id = text(members, "kid")?;
    may_verify(members)?;
    // `oct` has no public part; of the others, `d` is what only the signer may have.
    if kind != "oct" && members.contains_key("d") {
        return Err(KeyError::Private);
    }
    let algorithms = match text(members, "alg")? {
        None => Algorithm::ALL.into_iter().collect::<AlgorithmSet>(),
        Some(name) => match Algorithm::parse(name) {
            Some(algorithm) => [algorithm].into_iter().collect(),
            None => return Err(KeyError::NoAlgorithm),
        },
    };
    match kind {
        "RSA" => {
            let (modulus, exponent) = (&bytes(members, "n")?, &bytes(members, "e")?);
            Key::new(&Parts::Rsa { modulus, exponent }, algorithms, id)
        }
        "EC" => match text(members, "crv")? {
            Some("P-256") => {
                let point = &point(members, 32)?;
                Key::new(&Parts::P256 { point }, algorithms, id)
            }
            Some("P-384") => {
                let point = &point(members, 48)?;
                Key::new(&Parts::P384 { point }, algorithms, id)
            }
            _ => Err(KeyError::UnsupportedKind),
        },
        "OKP" if text(members, "crv")? == Some("Ed25519") => {
            let public = &bytes(members, "x")?;
            Key::new(&Parts::Ed25519 { public }, algorithms, id)
        }
        "oct" => {
            let secret = &bytes(members, "k")?;
            Key::new(&Parts::Secret { secret }, algorithms, id)
        }
        _ => Err(KeyError::UnsupportedKind),
    }
}

/// RFC 7517 sections 4.2 and 4.3: what the key is for, where it says so.
fn may_verify(members: &Members) -> Result<(), KeyError> {
    if text(members, "use")?.is_some_and(|purpose| purpose != "sig") {
        return Err(KeyError::OtherUse);
    }
    match members.get("key_ops") {
        None => Ok(()),
        Some(Value::Array(operations)) => {
            let verifies = |operation: &Value| operation == "verify";
            let verifies = operations.iter().any(verifies);
            if verifies {
                Ok(())
            } else {
                Err(KeyError::OtherUse)
            }
        }
        Some(_) => Err(KeyError::Damaged),
    }
}

/// RFC 7518 section 6.2.1.2: both coordinates have the full size of the field.
fn point(members: &Members, coordinate: usize) -> Result<Vec<u8>, KeyError> {
    let (x, y) = (bytes(members, "x")?, bytes(members, "y")?);
    if x.len() != coordinate || y.len() != coordinate {
        return Err(KeyError::Damaged);
    }
    Ok([&[4], x.as_slice(), &y].concat())
}

fn bytes(members: &Members, name: &str) -> Result<Vec<u8>, KeyError> {
    let encoded = text(members, name)?.ok_or(KeyError::Damaged)?;
    URL_SAFE_NO_PAD
        .decode(encoded)
        .map_err(|_| KeyError::Damaged)
}

fn text<'m>(members: &'m Members, name: &str) -> Result<Option<&'m str>, KeyError> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(KeyError::Damaged),
    }
}
