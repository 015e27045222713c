//! A request to try policies on, in tests.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderMap, HeaderName, Method};

use super::headers::Facts;

/// What a test says about a request.
pub(crate) struct Request {
    host: &'static str,
    path: &'static str,
    query: &'static str,
    headers: HeaderMap,
    param: (&'static str, &'static str),
}

impl Request {
    pub(crate) fn get(path: &'static str) -> Self {
        Self {
            host: "a.test",
            path,
            query: "",
            headers: HeaderMap::new(),
            param: ("", ""),
        }
    }

    pub(crate) fn host(self, host: &'static str) -> Self {
        Self { host, ..self }
    }

    pub(crate) fn query(self, query: &'static str) -> Self {
        Self { query, ..self }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        let name = HeaderName::from_static(name);
        self.headers.append(name, value.try_into().unwrap());
        self
    }

    pub(crate) fn param(self, name: &'static str, value: &'static str) -> Self {
        Self {
            param: (name, value),
            ..self
        }
    }
}

/// The facts of a request from 192.0.2.1 over HTTP to the route `users`.
pub(crate) fn facts<'a>(request: &'a Request) -> Facts<'a> {
    let (name, value): (_, &'a str) = request.param;
    let param = move |asked: &str| (asked == name).then_some(value);
    Facts {
        client_ip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        request_id: "id-1",
        route: "users",
        method: &Method::GET,
        host: request.host,
        path: request.path,
        query: request.query,
        scheme: "http",
        upstream: "backend",
        identity: None,
        tls: None,
        headers: &request.headers,
        // The closure must live as long as the request; a few bytes in a test are no loss.
        path_param: Box::leak(Box::new(param)),
    }
}
