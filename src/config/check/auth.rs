//! Checks `auth`: schemes, what routes ask for, and what backends are told.

mod basic;
mod jwt;
mod keys;
mod listed;
mod password_hash;
mod policy;

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderName;
use http::header;

pub use self::keys::expiry;
use super::Checker;
use super::header::header_name;
use super::process::label;
use crate::config::file::{self, OneOrMany};
use crate::config::model::{self, Auth, CredentialSource, Scheme, SchemeKind};
use crate::config::pattern::regex;
use crate::config::problem::{Invalid, quote};
use crate::config::scalar::List;
use crate::config::tree::Path;

/// What routes need to know of the schemes.
pub(super) struct Schemes {
    /// Indexes by name.
    pub indexes: HashMap<String, usize>,
    /// What each answers to a client that showed nothing: the value of `WWW-Authenticate`.
    pub challenges: Vec<String>,
    /// Which of them are providers of tokens.
    pub tokens: Vec<bool>,
    /// Whether one of them is not sound, so that the absence of a name is no further problem.
    pub broken: bool,
}

/// Words that mean something else where a scheme is named.
const RESERVED: [&str; 1] = ["none"];

impl Checker<'_> {
    /// Checks `auth` without its `default`, which [`Checker::default_policy`] does.
    pub(super) fn auth(&mut self, written: &file::Auth) -> (Option<Auth>, Schemes) {
        let root = Path::Root;
        let at = root.key("auth");
        let mut found = Found::default();
        self.each(&written.jwt, &at, "jwt", |checker, one, at| {
            let kind = checker.jwt_provider(one, at);
            let kind = kind.map(|kind| SchemeKind::Jwt(Box::new(kind)));
            checker.scheme(&mut found, &one.name, one.forward, kind, at);
        });
        self.each(&written.api_keys, &at, "api_keys", |checker, one, at| {
            let kind = checker.api_keys(one, at).map(SchemeKind::ApiKeys);
            checker.scheme(&mut found, &one.name, one.forward, kind, at);
        });
        self.each(&written.basic, &at, "basic", |checker, one, at| {
            let kind = checker.basic(one, at).map(SchemeKind::Basic);
            checker.scheme(&mut found, &one.name, one.forward, kind, at);
        });
        self.each(
            &written.client_cert,
            &at,
            "client_cert",
            |checker, one, at| {
                let kind = checker.client_cert(one, at).map(SchemeKind::ClientCert);
                checker.scheme(&mut found, &one.name, true, kind, at);
            },
        );
        self.one_owner_of_each_issuer(&found.schemes);
        let realm = self.accept(&at.key("realm"), realm(&written.realm));
        let schemes = found.known(realm.as_deref().unwrap_or_default());
        let headers = self.identity_headers(written, &at.key("identity_headers"));
        let validate = self.validate(&written.validate, &schemes, &at.key("validate"));
        let auth = (|| {
            realm?;
            Some(Auth {
                schemes: found.schemes.into_iter().collect::<Option<_>>()?,
                identity_headers: headers?,
                cache_entries: written.cache.entries as usize,
                validate: validate?,
            })
        })();
        (auth, schemes)
    }

    fn each<T>(
        &mut self,
        written: &Option<OneOrMany<T>>,
        at: &Path<'_>,
        key: &str,
        mut check: impl FnMut(&mut Self, &T, &Path<'_>),
    ) {
        let list = at.key(key);
        for (index, one) in written.iter().flat_map(OneOrMany::iter) {
            match index {
                Some(index) => check(self, one, &list.item(index)),
                None => check(self, one, &list),
            }
        }
    }

    fn scheme(
        &mut self,
        found: &mut Found,
        name: &str,
        forward: bool,
        kind: Option<SchemeKind>,
        at: &Path<'_>,
    ) {
        let name_at = at.key("name");
        let sound = self.accept(&name_at, scheme_name(name)).is_some();
        if let Some(other) = found.indexes.get(name) {
            let shown = self.shown(&name_at, name);
            let what = format!(
                "{shown} is the name of {} too, expected a unique one",
                found.keys[*other]
            );
            self.refuse(&name_at, what);
            found.schemes.push(None);
        } else {
            found.indexes.insert(name.to_owned(), found.schemes.len());
            found
                .schemes
                .push(kind.filter(|_| sound).map(|kind| Scheme {
                    name: name.into(),
                    key: at.to_string(),
                    forward,
                    kind,
                }));
        }
        found.keys.push(at.to_string());
    }

    fn client_cert(
        &mut self,
        written: &file::ClientCertScheme,
        at: &Path<'_>,
    ) -> Option<model::ClientCertScheme> {
        let mut expression = |text: &Option<String>, key: &str| match text {
            Some(text) => self.accept(&at.key(key), regex(text)).map(Some),
            None => Some(None),
        };
        let subject = expression(&written.subject, "subject");
        let names = expression(&written.names, "names");
        Some(model::ClientCertScheme {
            subject: subject?,
            names: names?,
            scopes: texts(&written.scopes),
            roles: texts(&written.roles),
        })
    }

    /// Where a credential is looked for; at least one place.
    fn sources(
        &mut self,
        written: &List<file::CredentialSource>,
        at: &Path<'_>,
    ) -> Option<Vec<CredentialSource>> {
        if written.is_empty() {
            self.refuse(at, "is empty, expected at least one place");
            return None;
        }
        let mut sources = Vec::new();
        for (index, one) in written.iter() {
            let source = self.source(one, &at.item(index));
            if source.is_some() && sources.contains(&source) {
                self.refuse(&at.item(index), "is there twice, expected it once");
            }
            sources.push(source);
        }
        sources.into_iter().collect()
    }

    fn source(
        &mut self,
        written: &file::CredentialSource,
        at: &Path<'_>,
    ) -> Option<CredentialSource> {
        match (&written.header, &written.cookie) {
            (Some(name), None) => {
                let name = self.accept(&at.key("header"), header_name(name))?;
                let scheme = match &written.scheme {
                    Some(scheme) => Some(self.accept(&at.key("scheme"), token(scheme))?),
                    None if name == header::AUTHORIZATION => Some("Bearer".to_owned()),
                    None => None,
                };
                if name == header::COOKIE {
                    self.refuse(&at.key("header"), "is `cookie`, expected the key `cookie`");
                    return None;
                }
                Some(CredentialSource::Header { name, scheme })
            }
            (None, Some(cookie)) => {
                if written.scheme.is_some() {
                    let what = "stands beside `cookie`, expected it beside `header`";
                    self.refuse(&at.key("scheme"), what);
                }
                let name = self.accept(&at.key("cookie"), token(cookie))?;
                Some(CredentialSource::Cookie(name))
            }
            _ => {
                if self.is_whole(at) {
                    let what = "says not one place, expected one of `header` and `cookie`";
                    self.refuse(at, what);
                }
                None
            }
        }
    }

    fn identity_headers(
        &mut self,
        written: &file::Auth,
        at: &Path<'_>,
    ) -> Option<Vec<(HeaderName, crate::config::pattern::Template)>> {
        let rules = self.header_values(&written.identity_headers, None, at)?;
        let forbidden = [header::HOST, header::AUTHORIZATION, header::COOKIE];
        for (name, _) in &rules {
            if forbidden.contains(name) {
                let what = "is what requests are made of, expected a header such as `x-user`";
                self.refuse(&at.key(name.as_str()), what);
            }
        }
        Some(rules)
    }

    /// The outer `None`: it is not sound.
    fn validate(
        &mut self,
        written: &file::Validate,
        schemes: &Schemes,
        at: &Path<'_>,
    ) -> Option<Option<model::Validate>> {
        if !written.enabled {
            return Some(None);
        }
        let path = &written.path;
        let plain = path.starts_with('/') && !path.contains(['?', '#', '*', ':', '%', ' ']);
        if !plain {
            let shown = self.shown(&at.key("path"), path);
            let what = format!("{shown} is no plain path, expected one such as `/api/validate`");
            self.refuse(&at.key("path"), what);
            return None;
        }
        let list = at.key("any_of");
        let mut chosen = Vec::new();
        for (index, name) in written.any_of.iter() {
            let item = list.item(index);
            let found = self.scheme_index(name, schemes, &item)?;
            if !schemes.tokens[found] {
                let shown = self.shown(&item, name);
                let what = format!("{shown} has no tokens, expected a provider of `auth.jwt`");
                self.refuse(&item, what);
                return None;
            }
            chosen.push(found);
        }
        if written.any_of.is_empty() {
            let tokens = schemes.tokens.iter().enumerate();
            chosen = tokens
                .filter(|(_, is)| **is)
                .map(|(index, _)| index)
                .collect();
        }
        Some((!chosen.is_empty()).then(|| model::Validate {
            path: path.clone(),
            policy: policy::any_of(chosen, schemes),
        }))
    }
}

/// The schemes found so far.
#[derive(Default)]
struct Found {
    schemes: Vec<Option<Scheme>>,
    keys: Vec<String>,
    indexes: HashMap<String, usize>,
}

impl Found {
    fn known(&self, realm: &str) -> Schemes {
        let schemes = &self.schemes;
        let kinds = || {
            schemes
                .iter()
                .map(|scheme| scheme.as_ref().map(|one| &one.kind))
        };
        Schemes {
            indexes: self.indexes.clone(),
            challenges: kinds().map(|kind| challenge(kind, realm)).collect(),
            tokens: kinds()
                .map(|kind| matches!(kind, Some(SchemeKind::Jwt(_))))
                .collect(),
            broken: schemes.iter().any(Option::is_none),
        }
    }
}

/// RFC 9110 section 11.6.1, RFC 6750 section 3, RFC 7617 section 2.1. Schemes that no standard names
/// are named here.
fn challenge(kind: Option<&SchemeKind>, realm: &str) -> String {
    match kind {
        Some(SchemeKind::ApiKeys(_)) => format!("ApiKey realm=\"{realm}\""),
        Some(SchemeKind::Basic(_)) => format!("Basic realm=\"{realm}\", charset=\"UTF-8\""),
        Some(SchemeKind::ClientCert(_)) => format!("ClientCertificate realm=\"{realm}\""),
        Some(SchemeKind::Jwt(_)) | None => format!("Bearer realm=\"{realm}\""),
    }
}

pub(super) fn texts(list: &List<String>) -> Vec<String> {
    list.iter().map(|(_, text)| text.clone()).collect()
}

fn scheme_name(name: &str) -> Result<(), Invalid> {
    label(name)?;
    if RESERVED.contains(&name) {
        let detail = format!("{} means that nothing is asked for", quote(name));
        return Err(Invalid::new(detail, "another name"));
    }
    Ok(())
}

/// A text that can stand between the quotes of a header without being escaped.
fn realm(text: &str) -> Result<Arc<str>, Invalid> {
    let fits = |c: char| c == ' ' || c.is_ascii_graphic() && !matches!(c, '"' | '\\');
    if text.chars().all(fits) && text.len() <= 128 {
        return Ok(text.into());
    }
    Err(Invalid::new(
        format!("{} cannot stand in a header", quote(text)),
        "at most 128 visible ASCII characters, neither `\"` nor `\\`",
    ))
}

/// A word as RFC 9110 section 5.6.2 has it.
fn token(text: &str) -> Result<String, Invalid> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if !text.is_empty() && text.chars().all(fits) {
        return Ok(text.to_owned());
    }
    Err(Invalid::new(
        format!("{} is no word", quote(text)),
        "letters, digits and signs such as `-` and `_`",
    ))
}
