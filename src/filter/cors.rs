//! Which web pages of other origins may call, and what their browsers are told: the CORS protocol of
//! the Fetch standard (<https://fetch.spec.whatwg.org/#http-cors-protocol>) and its extension for
//! private networks (<https://wicg.github.io/private-network-access/>).
//!
//! It protects users of browsers, not backends: whoever has no browser sends what they like.

use std::sync::Arc;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::config::model::{self, Listed, Origins, has_method};
use crate::config::pattern::{Origin, OriginPattern};
use crate::reply::CorsError;

const ALLOW_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-allow-private-network");
const REQUEST_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-request-private-network");

/// What a route with a policy says itself, so that a browser never sees two answers.
const OWN: [HeaderName; 7] = [
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
    ALLOW_PRIVATE_NETWORK,
];

/// Request headers that a preflight may name. Browsers ask for those that a page sets; each is looked
/// for among those that are allowed.
const MAX_REQUESTED: usize = 100;

const TRUE: HeaderValue = HeaderValue::from_static("true");
const EVERYBODY: HeaderValue = HeaderValue::from_static("*");

/// A policy, with what it says prepared.
#[derive(Debug)]
pub struct Cors {
    /// `None`: everybody.
    origins: Option<Arc<[OriginPattern]>>,
    methods: Allowed<Method>,
    headers: Allowed<HeaderName>,
    expose: Option<HeaderValue>,
    credentials: bool,
    private_network: bool,
    max_age: HeaderValue,
}

/// Some or all of a kind.
#[derive(Debug)]
enum Allowed<T> {
    Any,
    /// These, and how they are told.
    Only(Vec<T>, HeaderValue),
}

/// How far the exchange with a browser has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// The request itself.
    #[default]
    Request,
    /// The question whether it may be sent.
    Preflight,
    /// The same, and it may.
    Granted,
}

/// The method that a preflight asks about: the question of a browser whether a request may be sent.
/// `None`: the request is none. Another use of OPTIONS names no method.
pub fn preflight(method: &Method, headers: &HeaderMap) -> Option<Method> {
    if *method != Method::OPTIONS || !headers.contains_key(ORIGIN) {
        return None;
    }
    let asked = single(headers, &ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(asked.as_bytes()).ok()
}

impl<T> Allowed<T> {
    fn new(listed: Listed<T>, name: fn(&T) -> &str) -> Self {
        match listed {
            Listed::Any => Self::Any,
            Listed::Only(some) => {
                let told = join(some.iter().map(name));
                Self::Only(some, told)
            }
        }
    }
}

impl Cors {
    /// Prepares a policy for a route that answers these methods; none means all.
    pub fn compile(config: &model::Cors, answered: &[Method]) -> Self {
        Self {
            origins: match &config.origins {
                Origins::Any => None,
                Origins::Listed(patterns) => Some(Arc::clone(patterns)),
            },
            methods: Allowed::new(config.methods_of(answered), Method::as_str),
            headers: Allowed::new(config.headers.clone(), HeaderName::as_str),
            expose: match &config.expose {
                Listed::Any => Some(EVERYBODY),
                Listed::Only(none) if none.is_empty() => None,
                Listed::Only(names) => Some(join(names.iter().map(HeaderName::as_str))),
            },
            credentials: config.credentials,
            private_network: config.private_network,
            max_age: HeaderValue::from(config.max_age.as_secs()),
        }
    }

    /// Whether the request that a preflight asks about may be sent.
    pub fn judge(&self, preflight: &HeaderMap, method: &Method) -> Result<(), CorsError> {
        if !self.admits(preflight) {
            return Err(CorsError::Origin);
        }
        if let Allowed::Only(methods, _) = &self.methods
            && !has_method(methods, method)
        {
            return Err(CorsError::Method);
        }
        if !self.admits_headers(preflight) {
            return Err(CorsError::Header);
        }
        if is_from_public(preflight) && !self.private_network {
            return Err(CorsError::PrivateNetwork);
        }
        Ok(())
    }

    /// Whether pages of the request's origin may call.
    fn admits(&self, request: &HeaderMap) -> bool {
        let Some(patterns) = &self.origins else {
            return true;
        };
        let origin = single(request, &ORIGIN).and_then(|origin| origin.to_str().ok());
        let origin = match origin {
            None => return false,
            Some("null") => None,
            Some(text) => match Origin::parse(text) {
                None => return false,
                origin => origin,
            },
        };
        let origin = origin.as_ref();
        patterns.iter().any(|pattern| pattern.matches(origin))
    }

    /// Whether all headers may be sent that a preflight names, separated by commas.
    fn admits_headers(&self, preflight: &HeaderMap) -> bool {
        let values = preflight.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter();
        let names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        let names = names
            .map(<[u8]>::trim_ascii)
            .filter(|name| !name.is_empty());
        let is_allowed = |name: &[u8]| match &self.headers {
            Allowed::Any => HeaderName::from_bytes(name).is_ok(),
            Allowed::Only(allowed, _) => allowed
                .iter()
                .any(|one| one.as_str().as_bytes().eq_ignore_ascii_case(name)),
        };
        let mut count = 0;
        names
            .inspect(|_| count += 1)
            .take(MAX_REQUESTED + 1)
            .all(is_allowed)
            && count <= MAX_REQUESTED
    }

    /// Puts what the policy says into a response, in the place of what a backend says.
    pub fn apply(&self, request: &HeaderMap, stage: Stage, response: &mut HeaderMap) {
        for name in &OWN {
            response.remove(name);
        }
        if stage != Stage::Request {
            self.vary_preflight(response);
        }
        if self.origins.is_some() {
            // Also for a request without: a cache might show its response to a page.
            vary(response, "Origin");
        }
        if !self.admits(request) {
            return;
        }
        let origin = match &self.origins {
            None => Some(EVERYBODY),
            Some(_) => request.get(ORIGIN).cloned(),
        };
        if let Some(origin) = origin {
            response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        }
        if self.credentials {
            response.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        match (stage, &self.expose) {
            (Stage::Request, Some(names)) => {
                response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, names.clone());
            }
            (Stage::Granted, _) => self.grant(request, response),
            _ => {}
        }
    }

    /// What the answer to a preflight depends on. That is no news to a browser, but a cache may be in
    /// between.
    fn vary_preflight(&self, response: &mut HeaderMap) {
        vary(response, "Access-Control-Request-Method");
        vary(response, "Access-Control-Request-Headers");
        if self.private_network {
            vary(response, "Access-Control-Request-Private-Network");
        }
    }

    /// What may be sent. Where everything may, what was asked for is repeated: a `*` is no wildcard
    /// for a request with credentials, and never means `Authorization`.
    fn grant(&self, preflight: &HeaderMap, response: &mut HeaderMap) {
        let methods = match &self.methods {
            Allowed::Any => preflight.get(ACCESS_CONTROL_REQUEST_METHOD).cloned(),
            Allowed::Only(_, told) => Some(told.clone()),
        };
        if let Some(methods) = methods {
            response.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
        }
        match &self.headers {
            Allowed::Only(names, told) if !names.is_empty() => {
                response.insert(ACCESS_CONTROL_ALLOW_HEADERS, told.clone());
            }
            Allowed::Only(..) => {}
            Allowed::Any => {
                for names in preflight.get_all(ACCESS_CONTROL_REQUEST_HEADERS) {
                    response.append(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
                }
            }
        }
        if is_from_public(preflight) {
            response.insert(ALLOW_PRIVATE_NETWORK, TRUE);
        }
        response.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
    }
}

/// The value of a field that there is exactly one of.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn is_from_public(preflight: &HeaderMap) -> bool {
    single(preflight, &REQUEST_PRIVATE_NETWORK).is_some_and(|value| value == "true")
}

fn join<'a>(names: impl Iterator<Item = &'a str>) -> HeaderValue {
    let text = names.collect::<Vec<_>>().join(", ");
    // Names and methods are tokens, so the value is always good.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// States that the response depends on a request field, unless it is stated already.
fn vary(response: &mut HeaderMap, name: &'static str) {
    let values = response.get_all(VARY).iter();
    let mut words = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let is_stated = words.any(|word| {
        let word = word.trim_ascii();
        word == b"*" || word.eq_ignore_ascii_case(name.as_bytes())
    });
    if is_stated {
        return;
    }
    // One line where there was one: not everybody reads a second.
    let line = single(response, &VARY).and_then(|line| line.to_str().ok());
    let line = line.and_then(|line| HeaderValue::try_from(format!("{line}, {name}")).ok());
    match line {
        Some(line) => {
            response.insert(VARY, line);
        }
        None => {
            response.append(VARY, HeaderValue::from_static(name));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests;
