//! The small languages of the configuration: hosts, paths and templates with variables.

mod host;
mod origin;
mod path;
mod template;

pub use origin::{Origin, OriginPattern};
pub(super) use path::regex;

use std::fmt;

/// Which hosts a route answers to. Compared without case, port and trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This host alone, in lower case.
    Exact(String),
    /// One or more labels in front of this suffix: `*.example.com` is kept as `example.com`.
    Wildcard(String),
}

/// Which paths a route answers to.
#[derive(Clone, Debug)]
pub enum PathPattern {
    /// Segments, matched one by one: `/users/:id`, `/static/*`, `/files/*rest`.
    Segments {
        /// The segments between the slashes, the empty last one of a trailing slash included.
        segments: Vec<Segment>,
        /// What may follow them.
        tail: Tail,
    },
    /// An expression that must match the whole path.
    Regex(regex::Regex),
}

/// One segment of a path pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    /// This text.
    Literal(String),
    /// Any one non-empty segment, kept under this name.
    Param(String),
}

/// What may follow the segments of a path pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Tail {
    /// Nothing: the path ends there.
    End,
    /// `/*`: nothing, or a slash and anything (`/a/*` matches `/a`, `/a/` and `/a/b/c`).
    Prefix,
    /// `/*name`: the same, what follows the slash being kept under this name.
    CatchAll(String),
}

/// A text with variables, such as `users-{path.id}`; `{{` and `}}` are the braces themselves.
///
/// Braces, not `${…}`: that is how the file refers to the environment.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

/// A piece of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text as it is.
    Text(String),
    /// The value of a variable.
    Variable(Variable),
}

/// What a [`Template`] can refer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Variable {
    /// `client_ip`: the client's address.
    ClientIp,
    /// `request_id`
    RequestId,
    /// `route`: the route's name.
    Route,
    /// `method`
    Method,
    /// `host`: the host asked for, without its port.
    Host,
    /// `path`: the path asked for, before any rewrite.
    Path,
    /// `query`: the query as it was, without the question mark.
    Query,
    /// `scheme`: `http` or `https`.
    Scheme,
    /// `path.NAME`: a path parameter; empty when the route's path has no such one.
    PathParam(String),
    /// `header.NAME`: a request header; empty when it is not there.
    Header(http::HeaderName),
    /// `upstream`: the upstream chosen; empty before that.
    Upstream,
    /// The version of TLS, such as `TLSv1.3`; empty on plain connections.
    TlsVersion,
    /// The subject of the client's certificate; empty without.
    ClientCertSubject,
    /// The alternative names of the client's certificate.
    ClientCertNames,
    /// The SHA-256 of the client's certificate.
    ClientCertFingerprint,
    /// The serial number of the client's certificate.
    ClientCertSerial,
    /// `auth.subject`: who calls; empty when nobody proved it, as all of the following.
    AuthSubject,
    /// `auth.scheme`: the scheme that accepted the client.
    AuthScheme,
    /// `auth.issuer`: who issued the token.
    AuthIssuer,
    /// `auth.scopes`: with spaces between them.
    AuthScopes,
    /// `auth.roles`: with spaces between them.
    AuthRoles,
    /// `claim.NAME`: a claim of the token; dots lead into objects. Lists and objects are JSON.
    Claim(String),
}

impl Template {
    /// Makes a template of its parts.
    pub fn new(parts: Vec<Part>) -> Self {
        Self { parts }
    }

    /// The parts in order.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The text, when there is no variable in it.
    pub fn as_text(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }
}

impl fmt::Debug for Template {
    /// Shows the variables but not the text, which may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Template(")?;
        for part in &self.parts {
            match part {
                Part::Text(_) => f.write_str("…")?,
                Part::Variable(variable) => write!(f, "{{{variable:?}}}")?,
            }
        }
        f.write_str(")")
    }
}
