//! Header rules: add, set and remove, with variables.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::auth::Identity;
use super::template;
use crate::config::model::HeaderRules;
use crate::config::pattern::Template;
use crate::tls::TlsFacts;

/// What a template may refer to.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The client's address, behind trusted proxies.
    pub client_ip: IpAddr,
    /// This request's id.
    pub request_id: &'a str,
    /// The route's name.
    pub route: &'a str,
    /// The method.
    pub method: &'a Method,
    /// The host asked for, without port.
    pub host: &'a str,
    /// The normalised path, before any rewrite.
    pub path: &'a str,
    /// The query as it was, without its question mark.
    pub query: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The upstream chosen, empty before that.
    pub upstream: &'a str,
    /// Who calls, once that is proved.
    pub identity: Option<&'a Identity>,
    /// What the handshake said; `None` on plain connections.
    pub tls: Option<&'a TlsFacts>,
    /// The request's header.
    pub headers: &'a HeaderMap,
    /// Looks a path parameter up by name.
    pub path_param: &'a (dyn Fn(&str) -> Option<&'a str> + Sync),
}

/// Header rules, ready to be applied.
#[derive(Debug, Default)]
pub struct HeaderFilter {
    remove: Box<[HeaderName]>,
    set: Box<[(HeaderName, Value)]>,
    add: Box<[(HeaderName, Value)]>,
}

/// The value of a rule.
#[derive(Debug)]
enum Value {
    /// The same for every request.
    Fixed(HeaderValue),
    /// Different for every request.
    Template(Template),
}

impl HeaderFilter {
    /// Prepares rules; values without variables are made here, once.
    pub fn compile(rules: &HeaderRules) -> Self {
        Self {
            remove: rules.remove.iter().cloned().collect(),
            set: rules.set.iter().map(compile_rule).collect(),
            add: rules.add.iter().map(compile_rule).collect(),
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Applies the rules: removals first, then sets, then adds.
    pub fn apply(&self, facts: &Facts<'_>, target: &mut HeaderMap) {
        // Holds no memory before the first template is rendered into it.
        let mut scratch = String::new();
        for name in &self.remove {
            target.remove(name);
        }
        for (name, value) in &self.set {
            target.insert(name.clone(), value.render(facts, &mut scratch));
        }
        for (name, value) in &self.add {
            target.append(name.clone(), value.render(facts, &mut scratch));
        }
    }
}

impl Value {
    fn render(&self, facts: &Facts<'_>, scratch: &mut String) -> HeaderValue {
        match self {
            Self::Fixed(value) => value.clone(),
            Self::Template(template) => {
                scratch.clear();
                template::render(scratch, template, facts);
                header_value(scratch)
            }
        }
    }
}

fn compile_rule((name, template): &(HeaderName, Template)) -> (HeaderName, Value) {
    let value = match template.as_text() {
        Some(text) => Value::Fixed(header_value(text)),
        None => Value::Template(template.clone()),
    };
    (name.clone(), value)
}

/// A header value of any text. Bytes that no header may hold become `_`, so that no value can end
/// its line.
pub(super) fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| {
        let allowed = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        let safe: Vec<u8> = text
            .bytes()
            .map(|byte| if allowed(byte) { byte } else { b'_' })
            .collect();
        // Only bytes that are allowed are left, so the empty value is never used.
        HeaderValue::from_bytes(&safe).unwrap_or_else(|_| HeaderValue::from_static(""))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

    use super::*;
    use crate::config::pattern::{Part, Variable};
    use crate::filter::fixture::{self, facts};

    const X_A: HeaderName = HeaderName::from_static("x-a");
    const X_B: HeaderName = HeaderName::from_static("x-b");

    fn text(text: &str) -> Template {
        Template::new(vec![Part::Text(text.to_owned())])
    }

    fn variable(variable: Variable) -> Template {
        Template::new(vec![Part::Variable(variable)])
    }

    fn apply(rules: HeaderRules, request: &fixture::Request, target: &mut HeaderMap) {
        HeaderFilter::compile(&rules).apply(&facts(request), target);
    }

    fn values(headers: &HeaderMap, name: &HeaderName) -> Vec<Vec<u8>> {
        let values = headers.get_all(name).iter();
        values.map(|value| value.as_bytes().to_vec()).collect()
    }

    #[test]
    fn removes_then_sets_then_adds() {
        let rules = HeaderRules {
            remove: vec![X_A],
            set: vec![(X_A, text("set")), (X_B, text("set"))],
            add: vec![(X_A, text("added"))],
        };
        let mut headers = HeaderMap::new();
        for value in ["one", "two"] {
            headers.append(X_A, HeaderValue::from_static(value));
            headers.append(X_B, HeaderValue::from_static(value));
        }
        apply(rules, &fixture::Request::get("/"), &mut headers);
        assert_eq!(values(&headers, &X_A), [b"set".as_slice(), b"added"]);
        assert_eq!(values(&headers, &X_B), [b"set"]);
    }

    #[test]
    fn fixed_values_are_made_once() {
        let rules = HeaderRules {
            set: vec![(X_A, text("a")), (X_B, variable(Variable::Method))],
            ..HeaderRules::default()
        };
        let filter = HeaderFilter::compile(&rules);
        assert!(!filter.is_empty());
        assert!(matches!(filter.set[0].1, Value::Fixed(_)));
        assert!(matches!(filter.set[1].1, Value::Template(_)));
        assert!(HeaderFilter::compile(&HeaderRules::default()).is_empty());
    }

    #[test]
    fn no_variable_can_end_a_line() {
        let rules = HeaderRules {
            set: vec![(X_A, variable(Variable::PathParam("id".to_owned())))],
            add: vec![(X_B, text("a\r\nSet-Cookie: b"))],
            ..HeaderRules::default()
        };
        let request = fixture::Request::get("/").param("id", "a\r\nX: é\u{7f}\0\tb");
        let mut headers = HeaderMap::new();
        apply(rules, &request, &mut headers);
        assert_eq!(values(&headers, &X_A), ["a__X: é__\tb".as_bytes()]);
        assert_eq!(values(&headers, &X_B), [b"a__Set-Cookie: b"]);
    }
}
