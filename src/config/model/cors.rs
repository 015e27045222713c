//! What `cors` means: who may call from a web page, and what the page sees.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};

use crate::config::pattern::OriginPattern;

/// A policy.
#[derive(Clone, Debug)]
pub struct Cors {
    /// Whose pages may.
    pub origins: Origins,
    /// What they may ask for; `Any` is what the route answers.
    pub methods: Listed<Method>,
    /// Which request headers they may send.
    pub headers: Listed<HeaderName>,
    /// Which response headers they may read.
    pub expose: Listed<HeaderName>,
    /// Whether they may call with credentials; never together with [`Origins::Any`].
    pub credentials: bool,
    /// Whether pages of a public network may call.
    pub private_network: bool,
    /// How long a browser may remember what it was allowed.
    pub max_age: Duration,
}

/// Whose pages may call.
#[derive(Clone, Debug)]
pub enum Origins {
    /// Everybody's.
    Any,
    /// Those that match one of these; never empty.
    Listed(Arc<[OriginPattern]>),
}

/// Some or all of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed<T> {
    /// All of them.
    Any,
    /// These.
    Only(Vec<T>),
}

impl Cors {
    /// What may be asked for on a route that answers these methods; none means all.
    pub fn methods_of(&self, answered: &[Method]) -> Listed<Method> {
        match &self.methods {
            Listed::Any if answered.is_empty() => Listed::Any,
            Listed::Any => Listed::Only(answered.to_vec()),
            Listed::Only(listed) => {
                let is_answered =
                    |method: &&Method| answered.is_empty() || has_method(answered, method);
                Listed::Only(listed.iter().filter(is_answered).cloned().collect())
            }
        }
    }
}

/// Whether a method is among these; GET includes HEAD.
pub fn has_method(methods: &[Method], method: &Method) -> bool {
    methods.contains(method) || (*method == Method::HEAD && methods.contains(&Method::GET))
}
