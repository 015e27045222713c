//! Header rules: add, set and remove, with variables.

use std::net::IpAddr;

use http::{HeaderMap, Method};

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
    /// The request's header.
    pub headers: &'a HeaderMap,
    /// Looks a path parameter up by name.
    pub path_param: &'a dyn Fn(&str) -> Option<&'a str>,
}
