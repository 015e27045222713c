//! The `Location` of a redirect.

use http::HeaderValue;

use super::host;
use super::rewrite::{is_path_byte, push_encoded};
use crate::config::model::Redirect;
use crate::config::pattern::{Part, Template, Variable};
use crate::filter::headers::Facts;
use crate::filter::template;

/// Builds the `Location`. `port` is the one the request was addressed to, if it named one.
///
/// `None` when the redirect needs the request's host and that is missing or no host: the request
/// is a bad one.
pub fn location(redirect: &Redirect, facts: &Facts<'_>, port: Option<u16>) -> Option<HeaderValue> {
    let mut url = String::with_capacity(facts.path.len() + facts.query.len() + 64);
    match host::for_url(redirect.host.as_deref().unwrap_or(facts.host)) {
        Some(host) => push_origin(&mut url, redirect, facts, &host, port),
        // Without a host only a reference relative to the request's origin is left.
        None if redirect.scheme.is_some() || redirect.port.is_some() => return None,
        None => {}
    }
    match &redirect.path {
        Some(template) => push_target(&mut url, template, facts),
        None => {
            push_path(&mut url, facts.path);
            push_query(&mut url, facts.query);
        }
    }
    // Everything that came from the request was encoded, so the value is always good.
    HeaderValue::try_from(url).ok()
}

fn push_origin(
    url: &mut String,
    redirect: &Redirect,
    facts: &Facts<'_>,
    host: &str,
    port: Option<u16>,
) {
    let scheme = redirect.scheme.as_deref().unwrap_or(facts.scheme);
    let origin_kept = scheme == facts.scheme && redirect.host.is_none();
    let port = redirect.port.or(port.filter(|_| origin_kept));
    let default = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    url.push_str(scheme);
    url.push_str("://");
    url.push_str(host);
    if let Some(port) = port.filter(|port| Some(*port) != default) {
        url.push(':');
        url.push_str(itoa::Buffer::new().format(port));
    }
}

/// The path and query of a template. A question mark in its own text begins the query; without one
/// the request's query stays.
fn push_target(url: &mut String, template: &Template, facts: &Facts<'_>) {
    let mut path = String::new();
    let mut query: Option<String> = None;
    let mut value = String::new();
    for part in template.parts() {
        match part {
            Part::Text(text) => push_text(&mut path, &mut query, text),
            Part::Variable(variable) => {
                value.clear();
                template::push_variable(&mut value, variable, facts);
                match &mut query {
                    None => push_encoded(&mut path, &value, is_path_byte),
                    Some(query) if *variable == Variable::Query => {
                        push_encoded(query, &value, is_query_byte);
                    }
                    Some(query) => push_encoded(query, &value, is_query_value_byte),
                }
            }
        }
    }
    push_path(url, &path);
    push_query(url, query.as_deref().unwrap_or(facts.query));
}

fn push_text(path: &mut String, query: &mut Option<String>, text: &str) {
    match query {
        Some(query) => query.push_str(text),
        None => match text.split_once('?') {
            None => path.push_str(text),
            Some((before, after)) => {
                path.push_str(before);
                *query = Some(after.to_owned());
            }
        },
    }
}

/// Adds a path with exactly one slash in front, so that no first segment is taken for a host.
/// Browsers read a backslash as a slash; it is percent-encoded with the rest.
fn push_path(url: &mut String, path: &str) {
    url.push('/');
    push_encoded(url, path.trim_start_matches('/'), is_path_byte);
}

fn push_query(url: &mut String, query: &str) {
    if !query.is_empty() {
        url.push('?');
        push_encoded(url, query, is_query_byte);
    }
}

/// What may stand in a query: as in a path, the question mark, and what clients send unencoded.
fn is_query_byte(byte: u8) -> bool {
    is_path_byte(byte) || b"?[]|^`{}\\".contains(&byte)
}

/// What may stand in one value of a query without ending it.
fn is_query_value_byte(byte: u8) -> bool {
    is_path_byte(byte) && !b"&=+;".contains(&byte)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::filter::fixture::{self, facts};

    fn redirect() -> Redirect {
        Redirect {
            status: StatusCode::MOVED_PERMANENTLY,
            scheme: None,
            host: None,
            port: None,
            path: None,
        }
    }

    fn https() -> Redirect {
        Redirect {
            scheme: Some("https".to_owned()),
            ..redirect()
        }
    }

    fn to_path(parts: Vec<Part>) -> Redirect {
        Redirect {
            path: Some(Template::new(parts)),
            ..redirect()
        }
    }

    fn text(text: &str) -> Part {
        Part::Text(text.to_owned())
    }

    fn built(redirect: &Redirect, facts: &Facts<'_>, port: Option<u16>) -> Option<String> {
        let value = location(redirect, facts, port)?;
        Some(value.to_str().unwrap_or("not ASCII").to_owned())
    }

    #[test]
    fn what_is_not_given_comes_from_the_request() {
        let request = fixture::Request::get("/a/b").query("x=1&y=%20");
        let facts = facts(&request);
        assert_eq!(
            built(&https(), &facts, None).as_deref(),
            Some("https://a.test/a/b?x=1&y=%20")
        );
        let other = Redirect {
            host: Some("b.test".to_owned()),
            ..redirect()
        };
        assert_eq!(
            built(&other, &facts, Some(8080)).as_deref(),
            Some("http://b.test/a/b?x=1&y=%20")
        );
    }

    #[test]
    fn ports_stay_only_with_scheme_and_host() {
        let request = fixture::Request::get("/");
        let facts = facts(&request);
        let port = |redirect: &Redirect| built(redirect, &facts, Some(8080));
        assert_eq!(port(&redirect()).as_deref(), Some("http://a.test:8080/"));
        assert_eq!(port(&https()).as_deref(), Some("https://a.test/"));
        let given = Redirect {
            port: Some(8443),
            ..https()
        };
        assert_eq!(port(&given).as_deref(), Some("https://a.test:8443/"));
        let usual = Redirect {
            port: Some(443),
            ..https()
        };
        assert_eq!(port(&usual).as_deref(), Some("https://a.test/"));
    }

    #[test]
    fn ipv6_hosts_get_brackets() {
        for host in ["::1", "[::1]"] {
            let request = fixture::Request::get("/x").host(host);
            let built = built(&https(), &facts(&request), None);
            assert_eq!(built.as_deref(), Some("https://[::1]/x"));
        }
    }

    #[test]
    fn a_host_that_is_none_is_not_repeated() {
        for host in ["", "a@evil.test", "a/b", "evil\\b"] {
            let request = fixture::Request::get("/x").host(host);
            let facts = facts(&request);
            assert_eq!(built(&https(), &facts, None), None, "{host:?}");
            let relative = built(&to_path(vec![text("/y")]), &facts, None);
            assert_eq!(relative.as_deref(), Some("/y"), "{host:?}");
        }
    }

    #[test]
    fn a_path_cannot_become_a_host() {
        for path in ["//evil.test/x", "///evil.test/x"] {
            let request = fixture::Request::get(path).host("");
            let kept = built(&redirect(), &facts(&request), None);
            assert_eq!(kept.as_deref(), Some("/evil.test/x"));
        }
        let request = fixture::Request::get("/")
            .header("x-next", "//evil.test")
            .host("");
        let next = Variable::Header(http::HeaderName::from_static("x-next"));
        let next = to_path(vec![Part::Variable(next)]);
        assert_eq!(
            built(&next, &facts(&request), None).as_deref(),
            Some("/evil.test")
        );
        let request = fixture::Request::get("/")
            .header("x-next", "/\\evil.test")
            .host("");
        assert_eq!(
            built(&next, &facts(&request), None).as_deref(),
            Some("/%5Cevil.test")
        );
    }

    #[test]
    fn a_template_sets_path_and_query() {
        let id = || Part::Variable(Variable::PathParam("id".to_owned()));
        let request = fixture::Request::get("/old/7")
            .param("id", "7")
            .query("a=1");
        let facts = facts(&request);
        let kept = to_path(vec![text("/new/"), id()]);
        assert_eq!(
            built(&kept, &facts, None).as_deref(),
            Some("http://a.test/new/7?a=1")
        );
        let own = to_path(vec![
            text("/new?id="),
            id(),
            text("&"),
            Part::Variable(Variable::Query),
        ]);
        assert_eq!(
            built(&own, &facts, None).as_deref(),
            Some("http://a.test/new?id=7&a=1")
        );
        let none = to_path(vec![text("/new?")]);
        assert_eq!(
            built(&none, &facts, None).as_deref(),
            Some("http://a.test/new")
        );
    }

    #[test]
    fn a_variable_cannot_leave_its_place() {
        let header = Variable::Header(http::HeaderName::from_static("x-next"));
        let request = fixture::Request::get("/").header("x-next", "a?b=c&d#e f\t%");
        let facts = facts(&request);
        let path = to_path(vec![text("/"), Part::Variable(header.clone())]);
        let built_path = built(&path, &facts, None);
        assert_eq!(
            built_path.as_deref(),
            Some("http://a.test/a%3Fb=c&d%23e%20f%09%25")
        );
        let query = to_path(vec![text("/?n="), Part::Variable(header)]);
        let built_query = built(&query, &facts, None);
        assert_eq!(
            built_query.as_deref(),
            Some("http://a.test/?n=a%3Fb%3Dc%26d%23e%20f%09%25")
        );
    }
}
