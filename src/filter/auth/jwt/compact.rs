//! The compact form of a signed token (RFC 7515 section 7.1) and its header (section 4).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::claims::media_type;
use super::{Algorithm, MAX_TOKEN_BYTES, TokenError, json};

/// Header parameters that bring a key along or say where one is. Believing them would let whoever
/// wrote the token choose the key (RFC 8725 section 3.5).
const OWN_KEY: [&str; 4] = ["jwk", "jku", "x5c", "x5u"];

/// A token taken apart. Nothing of it is to be believed.
#[derive(Debug)]
pub(super) struct Compact<'t> {
    pub algorithm: Algorithm,
    pub key_id: Option<String>,
    pub typ: Option<String>,
    pub claims: Map<String, Value>,
    /// What is signed: the first two parts and the dot between them.
    pub signed: &'t [u8],
    pub signature: Vec<u8>,
}

/// Takes a token apart.
pub(super) fn parse(token: &str) -> Result<Compact<'_>, TokenError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::TooLarge);
    }
    let parts = TokenError::Malformed("it has not three parts");
    let (signed, signature) = token.rsplit_once('.').ok_or(parts.clone())?;
    let (header, payload) = signed.split_once('.').ok_or(parts.clone())?;
    if payload.contains('.') {
        return Err(parts);
    }
    let mut header = object(header, "the header")?;
    let algorithm = check(&header)?;
    Ok(Compact {
        algorithm,
        key_id: text(&mut header, "kid")?,
        typ: text(&mut header, "typ")?,
        claims: object(payload, "the payload")?,
        signed: signed.as_bytes(),
        signature: decode(signature, "the signature is not base64url")?,
    })
}

/// Base64url without padding and without stray bits at the end, so that a token has one spelling.
fn decode(part: &str, otherwise: &'static str) -> Result<Vec<u8>, TokenError> {
    let malformed = |_| TokenError::Malformed(otherwise);
    URL_SAFE_NO_PAD.decode(part).map_err(malformed)
}

fn object(part: &str, which: &'static str) -> Result<Map<String, Value>, TokenError> {
    let (encoding, content) = match which {
        "the header" => (
            "the header is not base64url",
            "the header is not a JSON object with distinct members",
        ),
        _ => (
            "the payload is not base64url",
            "the payload is not a JSON object with distinct members",
        ),
    };
    let bytes = decode(part, encoding)?;
    json::object(&bytes).ok_or(TokenError::Malformed(content))
}

/// What a header must not say, and its algorithm.
fn check(header: &Map<String, Value>) -> Result<Algorithm, TokenError> {
    let has = |name: &str| header.contains_key(name);
    if OWN_KEY.into_iter().any(has) {
        return Err(TokenError::Malformed("the header brings a key of its own"));
    }
    if has("enc") || has("zip") {
        return Err(TokenError::Malformed("it is encrypted or compressed"));
    }
    // No extension is known here, and one has to be refused then (RFC 7515 section 4.1.11). `b64`
    // (RFC 7797) has to be listed there, and would change what is signed.
    if has("crit") || has("b64") {
        return Err(TokenError::Malformed("the header asks for an extension"));
    }
    match header.get("cty") {
        // RFC 7519 section 5.2: a token inside of a token.
        Some(Value::String(content)) if media_type(content).eq_ignore_ascii_case("JWT") => {
            return Err(TokenError::WrongType);
        }
        Some(Value::String(_)) | None => {}
        Some(_) => return Err(TokenError::Malformed("`cty` is not a string")),
    }
    match header.get("alg") {
        Some(Value::String(name)) => Algorithm::parse(name).ok_or(TokenError::UnsupportedAlgorithm),
        _ => Err(TokenError::Malformed("`alg` is not a string")),
    }
}

fn text(header: &mut Map<String, Value>, name: &'static str) -> Result<Option<String>, TokenError> {
    match header.get_mut(name).map(Value::take) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(TokenError::Malformed(match name {
            "kid" => "`kid` is not a string",
            _ => "`typ` is not a string",
        })),
    }
}
