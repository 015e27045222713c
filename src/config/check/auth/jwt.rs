//! Checks providers of tokens. The keys themselves are read by `filter::auth`.

use std::collections::HashMap;

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::texts;
use crate::config::check::Checker;
use crate::config::file::{self, SecretEncoding};
use crate::config::model::{Jwks, JwksUrl, JwtProvider, Scheme, SchemeKind, SecretBytes};
use crate::config::problem::Invalid;
use crate::config::scalar::Secret;
use crate::config::tree::Path;

impl Checker<'_> {
    pub(super) fn jwt_provider(
        &mut self,
        written: &file::JwtProvider,
        at: &Path<'_>,
    ) -> Option<JwtProvider> {
        let sources = self.sources(&written.token, &at.key("token"));
        let secrets = self.secrets(written, at);
        let jwks = match &written.jwks {
            Some(jwks) => self.jwks(jwks, &at.key("jwks")).map(Some),
            None => Some(None),
        };
        let has_key = written.jwks.is_some() || has_key_of_its_own(written);
        if !has_key && self.is_whole(at) {
            self.refuse(at, "has no key, expected `jwks`, `public_key` or `secret`");
            return None;
        }
        let has_own = has_key_of_its_own(written);
        if has_own && written.jwks.as_ref().is_some_and(|jwks| jwks.url.is_some()) {
            let what = "stands beside `public_key` or `secret`, expected one or the other";
            self.refuse(&at.key("jwks"), what);
        }
        for (key, empty) in [
            ("issuer", written.issuer.iter().any(str::is_empty)),
            ("audience", written.audience.iter().any(str::is_empty)),
        ] {
            if empty {
                let what = "has an empty text, expected one, or the key left out";
                self.refuse(&at.key(key), what);
            }
        }
        if written.types.is_empty() {
            self.refuse(&at.key("types"), "is empty, expected at least one type");
        }
        let roles_claim = self.claim(&written.roles_claim, &at.key("roles_claim"));
        Some(JwtProvider {
            issuers: written.issuer.iter().map(str::to_owned).collect(),
            audiences: written.audience.iter().map(str::to_owned).collect(),
            algorithms: written
                .algorithms
                .iter()
                .map(|(_, algorithm)| name(*algorithm))
                .collect(),
            pem: pem(written, at),
            secrets: secrets?,
            jwks: jwks?,
            clock_skew: written.clock_skew.0,
            require_expiry: written.require_expiry,
            required_claims: texts(&written.required_claims),
            types: texts(&written.types),
            roles_claim: roles_claim?,
            sources: sources?,
            max_token_bytes: written.max_token_size.0 as usize,
        })
    }

    /// Two providers of one issuer are told apart by their audiences; without any, nothing tells them
    /// apart.
    pub(super) fn one_owner_of_each_issuer(&mut self, schemes: &[Option<Scheme>]) {
        let mut owners: HashMap<(&str, &[String]), &Scheme> = HashMap::new();
        for scheme in schemes.iter().flatten() {
            let SchemeKind::Jwt(provider) = &scheme.kind else {
                continue;
            };
            for issuer in &provider.issuers {
                let first = owners.insert((issuer, &provider.audiences), scheme);
                if let Some(first) = first.filter(|first| first.key != scheme.key) {
                    self.warnings.push(format!(
                        "{}: has an issuer and audiences of `{}` ({}) too; a route that accepts both \
                         asks the first",
                        scheme.key, first.name, first.key
                    ));
                }
            }
        }
    }

    fn secrets(
        &mut self,
        written: &file::JwtProvider,
        at: &Path<'_>,
    ) -> Option<Vec<(String, SecretBytes)>> {
        let list = at.key("secrets");
        let mut found = Vec::new();
        if let Some(secret) = &written.secret {
            let at = at.key("secret");
            let bytes = self.accept(&at, decode(secret, written.secret_encoding));
            found.push(bytes.map(|bytes| (at.to_string(), bytes)));
        }
        for (index, secret) in written.secrets.iter() {
            let at = list.item(index);
            let bytes = self.accept(&at, decode(secret, written.secret_encoding));
            found.push(bytes.map(|bytes| (at.to_string(), bytes)));
        }
        found.into_iter().collect()
    }

    fn jwks(&mut self, written: &file::Jwks, at: &Path<'_>) -> Option<Jwks> {
        match (&written.url, &written.file) {
            (Some(url), None) => {
                let url = self.jwks_url(url, written, at)?;
                Some(Jwks::Url(Box::new(url)))
            }
            (None, Some(file)) => {
                let at = at.key("file");
                let read = self.read_bounded(file, "a file with a JSON Web Key Set");
                let bytes = self.accept(&at, read)?;
                Some(Jwks::File {
                    key: at.to_string(),
                    path: self.source.base.join(file),
                    bytes,
                })
            }
            _ => {
                if self.is_whole(at) {
                    let what = "says not one place, expected one of `url` and `file`";
                    self.refuse(at, what);
                }
                None
            }
        }
    }

    fn jwks_url(&mut self, text: &str, written: &file::Jwks, at: &Path<'_>) -> Option<JwksUrl> {
        let url = self.accept(&at.key("url"), url(text))?;
        let plain = url.scheme_str() == Some("http");
        if plain && !written.insecure && !is_loopback(&url) {
            self.refuse(
                &at.key("url"),
                "is not encrypted, so that whoever is between could make tokens; expected `https`, \
                 or `insecure: true`",
            );
            return None;
        }
        let authorities = match &written.ca {
            _ if plain => None,
            Some(file) => Some(self.bundle(file, &at.key("ca"))?),
            None => Some(self.system_authorities(&at.key("url"))?),
        };
        if written.min_refresh.0 > written.max_refresh.0 {
            let what = "is longer than `max_refresh`, expected it to be shorter";
            self.refuse(&at.key("min_refresh"), what);
        }
        if written.max_stale.0 < 2 * written.min_refresh.0 {
            let what = "is less than twice `min_refresh`, so that one fetch that fails would cost the \
                        keys; expected it to be longer";
            self.refuse(&at.key("max_stale"), what);
        }
        Some(JwksUrl {
            url,
            authorities,
            refresh: written.refresh.0,
            min_refresh: written.min_refresh.0,
            max_refresh: written.max_refresh.0,
            max_stale: written.max_stale.0,
            unknown_key_cooldown: written.unknown_key_cooldown.0,
            timeout: written.timeout.0,
            max_bytes: written.max_size.0 as usize,
            cache_dir: written
                .cache_dir
                .as_ref()
                .map(|folder| self.source.base.join(folder)),
        })
    }
}

fn has_key_of_its_own(written: &file::JwtProvider) -> bool {
    written.public_key.is_some()
        || written.secret.is_some()
        || !written.public_keys.is_empty()
        || !written.secrets.is_empty()
}

fn pem(written: &file::JwtProvider, at: &Path<'_>) -> Vec<(String, String)> {
    let list = at.key("public_keys");
    let one = written.public_key.iter();
    let one = one.map(|text| (at.key("public_key").to_string(), text.clone()));
    let many = written.public_keys.iter();
    let many = many.map(|(index, text)| (list.item(index).to_string(), text.clone()));
    one.chain(many).collect()
}

fn name(algorithm: file::JwtAlgorithm) -> &'static str {
    use file::JwtAlgorithm::*;
    match algorithm {
        HS256 => "HS256",
        HS384 => "HS384",
        HS512 => "HS512",
        RS256 => "RS256",
        RS384 => "RS384",
        RS512 => "RS512",
        PS256 => "PS256",
        PS384 => "PS384",
        PS512 => "PS512",
        ES256 => "ES256",
        ES384 => "ES384",
        EdDSA => "EdDSA",
    }
}

fn url(text: &str) -> Result<http::Uri, Invalid> {
    const EXPECTED: &str = "a URL such as `https://id.example.com/.well-known/jwks.json`";
    let url: http::Uri = text
        .parse()
        .map_err(|_| Invalid::new("is no URL".to_owned(), EXPECTED))?;
    let known = matches!(url.scheme_str(), Some("http" | "https"));
    let has_user = url
        .authority()
        .is_some_and(|one| one.as_str().contains('@'));
    if !known || has_user || url.host().is_none_or(str::is_empty) {
        return Err(Invalid::new("is no URL of a key set".to_owned(), EXPECTED));
    }
    Ok(url)
}

fn is_loopback(url: &http::Uri) -> bool {
    let host = url.host().unwrap_or_default();
    let address: Option<std::net::IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    host == "localhost" || address.is_some_and(|address| address.is_loopback())
}

/// The bytes of a secret. What is wrong with it never shows it.
fn decode(secret: &Secret, encoding: SecretEncoding) -> Result<SecretBytes, Invalid> {
    let text = secret.reveal();
    let refused = |expected: &str| Invalid::new("cannot be decoded".to_owned(), expected);
    let bytes = match encoding {
        SecretEncoding::Text => text.as_bytes().to_vec(),
        SecretEncoding::Base64 => {
            let config = GeneralPurposeConfig::new()
                .with_decode_padding_mode(DecodePaddingMode::Indifferent)
                .with_decode_allow_trailing_bits(false);
            let alphabet = match text.contains(['-', '_']) {
                true => &URL_SAFE,
                false => &STANDARD,
            };
            let decoded = GeneralPurpose::new(alphabet, config).decode(text);
            decoded.map_err(|_| refused("Base64"))?
        }
        SecretEncoding::Hex => {
            hex(text).ok_or_else(|| refused("hexadecimal digits, two a byte"))?
        }
    };
    Ok(SecretBytes(bytes))
}

/// The bytes that these digits are.
pub(super) fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    let pair = |pair: &[u32]| (pair[0] * 16 + pair[1]) as u8;
    Some(digits.chunks_exact(2).map(pair).collect())
}
