//! Headers that tell backends who calls.

use http::{HeaderMap, HeaderName};

use crate::config::pattern::{Part, Template};
use crate::filter::headers::{Facts, header_value};
use crate::filter::template;

/// The headers and how they are filled in.
#[derive(Debug, Default)]
pub struct IdentityHeaders(Vec<(HeaderName, Template)>);

impl IdentityHeaders {
    /// Prepares them.
    pub fn compile(rules: &[(HeaderName, Template)]) -> Self {
        Self(rules.to_vec())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts them into a request for a backend. What the client sent under their names goes, whoever it
    /// is; one whose variables are all empty is not sent.
    pub fn apply(&self, facts: &Facts<'_>, headers: &mut HeaderMap) {
        for (name, _) in &self.0 {
            headers.remove(name);
        }
        if facts.identity.is_none() {
            return;
        }
        let mut text = String::new();
        for (name, value) in &self.0 {
            if is_empty(value, facts, &mut text) {
                continue;
            }
            text.clear();
            template::render(&mut text, value, facts);
            headers.insert(name, header_value(&text));
        }
    }
}

fn is_empty(value: &Template, facts: &Facts<'_>, scratch: &mut String) -> bool {
    scratch.clear();
    let mut variables = 0;
    for part in value.parts() {
        if let Part::Variable(variable) = part {
            variables += 1;
            template::push_variable(scratch, variable, facts);
        }
    }
    variables > 0 && scratch.is_empty()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

    use std::sync::Arc;

    use super::*;
    use crate::filter::auth::identity::{Identity, Known};
    use crate::filter::fixture::{self, facts};
    use crate::metrics::AuthMethod;

    fn headers() -> IdentityHeaders {
        let rules = [
            ("x-user", "{auth.subject}"),
            ("x-scopes", "{auth.scopes}"),
            ("x-roles", "{auth.roles}"),
            ("x-gateway", "yes"),
        ];
        let rules: Vec<_> = rules
            .into_iter()
            .map(|(name, text)| {
                (
                    HeaderName::from_static(name),
                    Template::parse(text).unwrap(),
                )
            })
            .collect();
        IdentityHeaders::compile(&rules)
    }

    fn forged() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for name in ["x-user", "x-roles", "x-gateway", "x-other"] {
            headers.append(name, "forged".parse().unwrap());
            headers.append(name, "twice".parse().unwrap());
        }
        headers
    }

    #[test]
    fn backends_are_told_what_was_proved() {
        let known = Known {
            subject: "alice\r\nx: y".into(),
            scopes: ["a".into(), "b".into()].into(),
            ..Known::default()
        };
        let identity = Identity::known(&"keys".into(), AuthMethod::ApiKey, Arc::new(known));
        let request = fixture::Request::get("/");
        let mut facts = facts(&request);
        facts.identity = Some(&identity);
        let mut sent = forged();
        headers().apply(&facts, &mut sent);
        assert_eq!(sent["x-user"], "alice__x: y");
        assert_eq!(sent["x-scopes"], "a b");
        assert_eq!(sent["x-gateway"], "yes");
        assert!(!sent.contains_key("x-roles"));
        assert_eq!(sent.get_all("x-user").iter().count(), 1);
        assert_eq!(sent.get_all("x-other").iter().count(), 2);
    }

    #[test]
    fn what_clients_claim_themselves_never_arrives() {
        let request = fixture::Request::get("/");
        let mut sent = forged();
        headers().apply(&facts(&request), &mut sent);
        assert_eq!(
            sent.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["x-other"]
        );
    }
}
