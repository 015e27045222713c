//! A route's conditions beside host and path: method, header, query.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, Method};

use super::router::Lookup;
use crate::config::model::{CertCondition, HeaderCondition, Match, QueryCondition, ValueMatch};
use crate::tls::ClientCert;

/// What a request must be, beside its host and path, to be a route's own.
#[derive(Debug)]
pub(super) struct Conditions {
    pub(super) methods: Methods,
    headers: Vec<HeaderCondition>,
    query: Vec<QueryCondition>,
    client_cert: Vec<CertCondition>,
}

impl Conditions {
    pub(super) fn compile(matcher: &Match) -> Self {
        Self {
            methods: Methods::compile(&matcher.methods),
            headers: matcher.headers.clone(),
            query: matcher.query.clone(),
            client_cert: matcher.client_cert.clone(),
        }
    }

    /// Whether every condition but the method holds.
    pub(super) fn hold(&self, lookup: &Lookup<'_>) -> bool {
        let header = |condition: &HeaderCondition| {
            header_holds(lookup.headers, &condition.name, &condition.value)
        };
        let query = |condition: &QueryCondition| query_holds(lookup.query, condition);
        let cert = |condition: &CertCondition| cert_holds(lookup.client_cert, condition);
        self.headers.iter().all(header)
            && self.query.iter().all(query)
            && self.client_cert.iter().all(cert)
    }
}

/// The methods a route answers. Those of the standard are a bit each.
#[derive(Debug)]
pub(super) struct Methods {
    named: Vec<Method>,
    /// The standard ones that are named.
    named_bits: u16,
    /// The same, and HEAD if GET is among them.
    answered_bits: u16,
}

impl Methods {
    fn compile(named: &[Method]) -> Self {
        let named_bits = named.iter().fold(0, |bits, method| bits | bit(method));
        let implied = if named_bits & GET == 0 { 0 } else { HEAD };
        Self {
            named: named.to_vec(),
            named_bits,
            answered_bits: named_bits | implied,
        }
    }

    /// Whether a request with this method is answered.
    pub(super) fn answer(&self, method: &Method) -> bool {
        self.named.is_empty()
            || match bit(method) {
                0 => self.named.contains(method),
                bit => self.answered_bits & bit != 0,
            }
    }

    /// Whether HEAD was written, not only implied by GET.
    pub(super) fn name_head(&self) -> bool {
        self.named_bits & HEAD != 0
    }

    /// The methods that are answered, for `Allow`; none when every method is.
    pub(super) fn answered(&self) -> impl Iterator<Item = &str> {
        let head = (self.answered_bits & HEAD != 0).then_some("HEAD");
        self.named.iter().map(Method::as_str).chain(head)
    }
}

const GET: u16 = 1;
const HEAD: u16 = 1 << 1;

/// The method's bit; 0 for methods outside the standard.
fn bit(method: &Method) -> u16 {
    match *method {
        Method::GET => GET,
        Method::HEAD => HEAD,
        Method::POST => 1 << 2,
        Method::PUT => 1 << 3,
        Method::DELETE => 1 << 4,
        Method::OPTIONS => 1 << 5,
        Method::PATCH => 1 << 6,
        Method::TRACE => 1 << 7,
        Method::CONNECT => 1 << 8,
        _ => 0,
    }
}

fn cert_holds(cert: Option<&ClientCert>, condition: &CertCondition) -> bool {
    match condition {
        CertCondition::Present => cert.is_some(),
        CertCondition::Absent => cert.is_none(),
        CertCondition::Subject(regex) => cert.is_some_and(|cert| regex.is_match(&cert.subject)),
        CertCondition::Names(regex) => cert.is_some_and(|cert| regex.is_match(&cert.names)),
    }
}

/// Any of the values of that name decides.
fn header_holds(headers: &HeaderMap, name: &HeaderName, expected: &ValueMatch) -> bool {
    let mut values = headers.get_all(name).iter();
    match expected {
        ValueMatch::Present => values.next().is_some(),
        ValueMatch::Absent => values.next().is_none(),
        ValueMatch::Exact(text) => values.any(|value| value.as_bytes() == text.as_bytes()),
        ValueMatch::Regex(regex) => {
            // A value that is not text matches no expression.
            let matches = |bytes| std::str::from_utf8(bytes).is_ok_and(|text| regex.is_match(text));
            values.any(|value| matches(value.as_bytes()))
        }
    }
}

/// Any occurrence of the parameter decides.
fn query_holds(query: &str, condition: &QueryCondition) -> bool {
    let mut values = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(|(name, _)| decoded_eq(name, &condition.name))
        .map(|(_, value)| value);
    match &condition.value {
        ValueMatch::Present => values.next().is_some(),
        ValueMatch::Absent => values.next().is_none(),
        ValueMatch::Exact(text) => values.any(|value| decoded_eq(value, text)),
        ValueMatch::Regex(regex) => values.any(|value| regex.is_match(&decoded_text(value))),
    }
}

fn decoded_eq(raw: &str, expected: &str) -> bool {
    decoded(raw.as_bytes()).eq(expected.bytes())
}

/// The decoded value; bytes that are no text become the replacement character.
fn decoded_text(raw: &str) -> Cow<'_, str> {
    if !raw.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(raw);
    }
    let bytes: Vec<u8> = decoded(raw.as_bytes()).collect();
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// The bytes of a form-encoded text. A percent sign without two digits stands for itself.
fn decoded(raw: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let mut rest = raw;
    std::iter::from_fn(move || {
        let (byte, after) = match *rest {
            [] => return None,
            [b'%', high, low, ..] => match (digit(high), digit(low)) {
                (Some(high), Some(low)) => (high << 4 | low, 3),
                _ => (b'%', 1),
            },
            [b'+', ..] => (b' ', 1),
            [byte, ..] => (byte, 1),
        };
        rest = &rest[after..];
        Some(byte)
    })
}

fn digit(byte: u8) -> Option<u8> {
    // A hexadecimal digit is below 16.
    char::from(byte).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

    use http::HeaderValue;
    use regex::Regex;

    use super::*;

    fn query(raw: &str, name: &str, value: ValueMatch) -> bool {
        let name = name.to_owned();
        query_holds(raw, &QueryCondition { name, value })
    }

    fn exact(text: &str) -> ValueMatch {
        ValueMatch::Exact(text.to_owned())
    }

    fn regex(text: &str) -> ValueMatch {
        ValueMatch::Regex(Regex::new(text).unwrap())
    }

    #[test]
    fn query_is_compared_after_decoding() {
        assert!(query("q=a%20b", "q", exact("a b")));
        assert!(query("q=a+b", "q", exact("a b")));
        assert!(query("q=a%2Bb", "q", exact("a+b")));
        assert!(query("%71=1", "q", exact("1")));
        assert!(query("q=100%", "q", exact("100%")));
        assert!(query("q=%zz", "q", exact("%zz")));
        assert!(query("q=%c3%a9", "q", exact("é")));
        assert!(query("q=caf%C3%A9", "q", regex("^café$")));
        assert!(!query("q=a%20b", "q", exact("a%20b")));
    }

    #[test]
    fn any_occurrence_in_the_query_decides() {
        assert!(query("v=1&v=2", "v", exact("2")));
        assert!(query("v=1&v=2", "v", regex("^2$")));
        assert!(!query("v=1&w=2", "v", exact("2")));
        assert!(query("a&v", "v", ValueMatch::Present));
        assert!(query("a&v", "v", exact("")));
        assert!(!query("a&v=", "v", ValueMatch::Absent));
        assert!(query("", "v", ValueMatch::Absent));
        assert!(!query("&&", "", ValueMatch::Present));
    }

    #[test]
    fn any_value_of_a_header_decides() {
        let name = HeaderName::from_static("x-version");
        let mut headers = HeaderMap::new();
        assert!(header_holds(&headers, &name, &ValueMatch::Absent));
        assert!(!header_holds(&headers, &name, &ValueMatch::Present));
        headers.append(&name, HeaderValue::from_static("1"));
        headers.append(&name, HeaderValue::from_static("beta-2"));
        assert!(header_holds(&headers, &name, &ValueMatch::Present));
        assert!(!header_holds(&headers, &name, &ValueMatch::Absent));
        assert!(header_holds(&headers, &name, &exact("beta-2")));
        assert!(!header_holds(&headers, &name, &exact("beta")));
        assert!(header_holds(&headers, &name, &regex("beta")));
        assert!(!header_holds(&headers, &name, &regex("^2$")));
    }

    #[test]
    fn a_certificate_is_judged_by_what_it_says() {
        let cert = ClientCert {
            subject: "CN=app,OU=payments".into(),
            names: "DNS:app.test".into(),
            fingerprint: "".into(),
            serial: "".into(),
        };
        let expression = |text| Regex::new(text).unwrap();
        let subject = CertCondition::Subject(expression("(^|,)OU=payments(,|$)"));
        let names = CertCondition::Names(expression("^DNS:other$"));
        assert!(cert_holds(Some(&cert), &CertCondition::Present));
        assert!(!cert_holds(Some(&cert), &CertCondition::Absent));
        assert!(cert_holds(Some(&cert), &subject));
        assert!(!cert_holds(Some(&cert), &names));
        assert!(!cert_holds(None, &CertCondition::Present));
        assert!(cert_holds(None, &CertCondition::Absent));
        assert!(!cert_holds(None, &subject));
    }

    #[test]
    fn get_implies_head_and_nothing_else_is_implied() {
        let methods = Methods::compile(&[Method::GET]);
        assert!(methods.answer(&Method::GET) && methods.answer(&Method::HEAD));
        assert!(!methods.answer(&Method::OPTIONS) && !methods.answer(&Method::POST));
        assert!(!methods.name_head());
        let purge = Method::from_bytes(b"PURGE").unwrap();
        assert!(!methods.answer(&purge));
        assert!(Methods::compile(std::slice::from_ref(&purge)).answer(&purge));
        assert!(Methods::compile(&[]).answer(&purge));
    }
}
