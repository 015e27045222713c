//! How a template is written: `users-{path.id}`.

use http::HeaderName;

use super::path::is_parameter_name;
use super::{Part, Template, Variable};
use crate::config::problem::{Invalid, quote, suggestion};

const EXPECTED: &str = "a text with variables such as `{client_ip}`, and `{{` or `}}` for braces";

const NAMES: [&str; 22] = [
    "client_ip",
    "request_id",
    "route",
    "method",
    "host",
    "path",
    "query",
    "scheme",
    "upstream",
    "tls_version",
    "client_cert_subject",
    "client_cert_names",
    "client_cert_fingerprint",
    "client_cert_serial",
    "auth.subject",
    "auth.scheme",
    "auth.issuer",
    "auth.scopes",
    "auth.roles",
    "claim.NAME",
    "path.NAME",
    "header.NAME",
];

impl Template {
    /// Reads a text with variables.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let refuse = |what: String| Invalid::new(format!("{} {what}", quote(text)), EXPECTED);
        if text.chars().any(char::is_control) {
            return Err(refuse("has a control character".into()));
        }
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let (brace, after) = rest[at..].split_at(1);
            if let Some(after) = after.strip_prefix(brace) {
                plain.push_str(brace);
                rest = after;
                continue;
            }
            if brace == "}" {
                return Err(refuse("has a `}` that closes nothing".into()));
            }
            let Some((name, after)) = after.split_once('}') else {
                return Err(refuse("has a `{` that is not closed".into()));
            };
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Variable(variable(name).map_err(refuse)?));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self::new(parts))
    }
}

fn variable(name: &str) -> Result<Variable, String> {
    Ok(match name {
        "client_ip" => Variable::ClientIp,
        "request_id" => Variable::RequestId,
        "route" => Variable::Route,
        "method" => Variable::Method,
        "host" => Variable::Host,
        "path" => Variable::Path,
        "query" => Variable::Query,
        "scheme" => Variable::Scheme,
        "upstream" => Variable::Upstream,
        "tls_version" => Variable::TlsVersion,
        "client_cert_subject" => Variable::ClientCertSubject,
        "client_cert_names" => Variable::ClientCertNames,
        "client_cert_fingerprint" => Variable::ClientCertFingerprint,
        "client_cert_serial" => Variable::ClientCertSerial,
        "auth.subject" => Variable::AuthSubject,
        "auth.scheme" => Variable::AuthScheme,
        "auth.issuer" => Variable::AuthIssuer,
        "auth.scopes" => Variable::AuthScopes,
        "auth.roles" => Variable::AuthRoles,
        _ => return named(name).ok_or_else(|| unknown(name)),
    })
}

fn named(name: &str) -> Option<Variable> {
    if let Some(parameter) = name.strip_prefix("path.") {
        return is_parameter_name(parameter).then(|| Variable::PathParam(parameter.to_owned()));
    }
    if let Some(claim) = name.strip_prefix("claim.") {
        return (!claim.is_empty()).then(|| Variable::Claim(claim.to_owned()));
    }
    let header = name.strip_prefix("header.")?;
    HeaderName::from_bytes(header.as_bytes())
        .ok()
        .map(Variable::Header)
}

fn unknown(name: &str) -> String {
    let near = suggestion(name, NAMES);
    let near = if near.is_empty() {
        near
    } else {
        format!(", {near}")
    };
    format!("has the unknown variable {}{near}", quote(name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // A test that cannot go on has failed.
    use super::*;

    fn text(text: &str) -> Part {
        Part::Text(text.into())
    }

    #[test]
    fn variables_and_text_alternate() {
        let template = Template::parse("u-{path.id}{header.X-Trace}-{{x}}").unwrap();
        let header = Variable::Header(HeaderName::from_static("x-trace"));
        assert_eq!(
            template.parts(),
            [
                text("u-"),
                Part::Variable(Variable::PathParam("id".into())),
                Part::Variable(header),
                text("-{x}"),
            ]
        );
        assert_eq!(Template::parse("").unwrap().as_text(), Some(""));
        assert_eq!(
            Template::parse("plain {{}}").unwrap().as_text(),
            Some("plain {}")
        );
    }

    #[test]
    fn every_name_is_known() {
        for name in NAMES {
            assert!(Template::parse(&format!("{{{name}}}")).is_ok(), "{name}");
        }
    }

    #[test]
    fn an_unknown_variable_is_refused_with_the_nearest_known_one() {
        let error = Template::parse("{clientip}").unwrap_err();
        assert!(
            error
                .detail
                .ends_with("unknown variable `clientip`, did you mean `client_ip`?")
        );
        for wrong in [
            "{",
            "}",
            "{}",
            "a{b",
            "{path.}",
            "{header.a b}",
            "{path.1x}",
            "a\r\nb",
            "\u{0}",
        ] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
    }
}
