//! Fills the variables of a template in.

use std::fmt::Write;

use serde_json::Value;

use super::auth::Identity;
use super::headers::Facts;
use crate::config::pattern::{Part, Template, Variable};
use crate::tls::ClientCert;

/// Adds the template, filled in, to `out`.
pub fn render(out: &mut String, template: &Template, facts: &Facts<'_>) {
    for part in template.parts() {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Variable(variable) => push_variable(out, variable, facts),
        }
    }
}

/// Adds the value of one variable to `out`; nothing when it has none.
pub fn push_variable(out: &mut String, variable: &Variable, facts: &Facts<'_>) {
    let text = match variable {
        Variable::ClientIp => {
            // Writing to a string does not fail.
            let _ = write!(out, "{}", facts.client_ip);
            return;
        }
        Variable::Header(name) => {
            if let Some(value) = facts.headers.get(name) {
                // Values of old are no UTF-8; what cannot be text becomes the replacement character.
                out.push_str(&String::from_utf8_lossy(value.as_bytes()));
            }
            return;
        }
        Variable::PathParam(name) => (facts.path_param)(name).unwrap_or_default(),
        Variable::RequestId => facts.request_id,
        Variable::Route => facts.route,
        Variable::Method => facts.method.as_str(),
        Variable::Host => facts.host,
        Variable::Path => facts.path,
        Variable::Query => facts.query,
        Variable::Scheme => facts.scheme,
        Variable::Upstream => facts.upstream,
        Variable::TlsVersion => facts.tls.map_or("", |tls| tls.version),
        Variable::ClientCertSubject => certificate(facts, |cert| &cert.subject),
        Variable::ClientCertNames => certificate(facts, |cert| &cert.names),
        Variable::ClientCertFingerprint => certificate(facts, |cert| &cert.fingerprint),
        Variable::ClientCertSerial => certificate(facts, |cert| &cert.serial),
        Variable::AuthSubject => identity(facts, Identity::subject),
        Variable::AuthScheme => identity(facts, |identity| &identity.scheme),
        Variable::AuthIssuer => identity(facts, Identity::issuer),
        Variable::AuthScopes => return push_words(out, facts.identity.map(Identity::scopes)),
        Variable::AuthRoles => return push_words(out, facts.identity.map(Identity::roles)),
        Variable::Claim(path) => {
            let claim = facts.identity.and_then(|identity| identity.claim(path));
            if let Some(claim) = claim {
                push_claim(out, claim);
            }
            return;
        }
    };
    out.push_str(text);
}

/// A part of who calls; empty when nobody proved it.
fn identity<'a>(facts: &Facts<'a>, part: impl Fn(&'a Identity) -> &'a str) -> &'a str {
    facts.identity.map_or("", part)
}

/// Adds words with spaces between them.
fn push_words<'a>(out: &mut String, words: Option<impl Iterator<Item = &'a str>>) {
    for (place, word) in words.into_iter().flatten().enumerate() {
        if place > 0 {
            out.push(' ');
        }
        out.push_str(word);
    }
}

/// Adds a claim: single values as they are, lists and objects as JSON.
fn push_claim(out: &mut String, claim: &Value) {
    match claim {
        Value::Null => {}
        Value::String(text) => out.push_str(text),
        other => {
            // Writing to a string does not fail.
            let _ = write!(out, "{other}");
        }
    }
}

/// A part of the client's certificate; empty without one.
fn certificate<'a>(facts: &Facts<'a>, part: impl Fn(&'a ClientCert) -> &'a str) -> &'a str {
    facts
        .tls
        .and_then(|tls| tls.client_cert.as_ref())
        .map_or("", part)
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;
    use crate::filter::fixture::{self, facts};

    fn rendered(variable: Variable, request: &fixture::Request) -> String {
        let mut out = String::from("kept ");
        let parts = vec![
            Part::Text("<".into()),
            Part::Variable(variable),
            Part::Text(">".into()),
        ];
        render(&mut out, &Template::new(parts), &facts(request));
        out
    }

    #[test]
    fn every_variable_has_its_value() {
        let request = fixture::Request::get("/users/7")
            .query("a=1")
            .param("id", "7")
            .header("x-tenant", "blue");
        let header = |name| Variable::Header(HeaderName::from_static(name));
        let param = |name: &str| Variable::PathParam(name.to_owned());
        for (variable, expected) in [
            (Variable::ClientIp, "192.0.2.1"),
            (Variable::RequestId, "id-1"),
            (Variable::Route, "users"),
            (Variable::Method, "GET"),
            (Variable::Host, "a.test"),
            (Variable::Path, "/users/7"),
            (Variable::Query, "a=1"),
            (Variable::Scheme, "http"),
            (Variable::Upstream, "backend"),
            (Variable::TlsVersion, ""),
            (Variable::ClientCertSubject, ""),
            (Variable::AuthSubject, ""),
            (Variable::AuthScopes, ""),
            (Variable::Claim("tenant".to_owned()), ""),
            (param("id"), "7"),
            (param("other"), ""),
            (header("x-tenant"), "blue"),
            (header("x-other"), ""),
        ] {
            let shown = format!("{variable:?}");
            assert_eq!(
                rendered(variable, &request),
                format!("kept <{expected}>"),
                "{shown}"
            );
        }
    }
}
