//! Who calls, as routes, backends and logs name it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::jwt::{NumericDate, Verified, claim_path};
use super::revocation::{Bearer, Revocations};
use super::watch::Watch;
use crate::metrics::AuthMethod;

/// Who calls, and how that was proved.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The scheme that accepted the client.
    pub scheme: Arc<str>,
    /// The way of proving it.
    pub method: AuthMethod,
    who: Who,
    /// What further schemes granted, where several had to accept the client.
    further: Vec<Who>,
}

#[derive(Clone, Debug)]
enum Who {
    /// The subject of a token.
    Token(Arc<Verified>),
    /// One that the configuration knows.
    Known(Arc<Known>),
}

/// A client that the configuration knows: the owner of a key, a user, a certificate.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// What it is called.
    pub subject: Box<str>,
    /// What it may do.
    pub scopes: Box<[Box<str>]>,
    /// What it is.
    pub roles: Box<[Box<str>]>,
    /// When that ends.
    pub expires: Option<SystemTime>,
}

impl Identity {
    /// Of a client that the configuration knows.
    pub fn known(scheme: &Arc<str>, method: AuthMethod, known: Arc<Known>) -> Self {
        Self {
            scheme: Arc::clone(scheme),
            method,
            who: Who::Known(known),
            further: Vec::new(),
        }
    }

    /// Of a token.
    pub fn token(scheme: &Arc<str>, verified: Arc<Verified>) -> Self {
        Self {
            scheme: Arc::clone(scheme),
            method: AuthMethod::Jwt,
            who: Who::Token(verified),
            further: Vec::new(),
        }
    }

    /// Adds what another scheme grants the same client.
    pub fn and(&mut self, other: Self) {
        self.further.push(other.who);
        self.further.extend(other.further);
    }

    /// What the client is called.
    pub fn subject(&self) -> &str {
        self.who.subject()
    }

    /// Who issued the token; empty without one.
    pub fn issuer(&self) -> &str {
        let verified = self.verified();
        verified
            .and_then(|one| one.issuer.as_deref())
            .unwrap_or_default()
    }

    /// What the token says, if it was one.
    pub fn verified(&self) -> Option<&Arc<Verified>> {
        self.all().find_map(|who| match who {
            Who::Token(verified) => Some(verified),
            Who::Known(_) => None,
        })
    }

    /// What it may do.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.all().flat_map(Who::scopes).map(|scope| &**scope)
    }

    /// What it is.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.all().flat_map(Who::roles).map(|role| &**role)
    }

    /// A claim of the token; dots lead into objects.
    pub fn claim(&self, path: &str) -> Option<&Value> {
        claim_path::find(&self.verified()?.claims, path)
    }

    /// When what was shown ends.
    pub fn expires(&self) -> Option<NumericDate> {
        self.all().filter_map(Who::expires).min()
    }

    /// Sees when what was begun with what was shown has to end: when it is revoked, and where
    /// `with_expiry`, when it ends. `None`: never.
    pub fn watch(&self, list: &Arc<Revocations>, with_expiry: bool) -> Option<Watch> {
        let ends = self.expires().filter(|_| with_expiry);
        let ends = ends.map(|ends| {
            let left = ends.millis() - NumericDate::from(SystemTime::now()).millis();
            Instant::now() + Duration::from_millis(u64::try_from(left).unwrap_or(0))
        });
        let mut tokens = self.all().filter_map(Who::token).peekable();
        (tokens.peek().is_some() || ends.is_some()).then(|| Watch::new(list, tokens, ends))
    }

    fn all(&self) -> impl Iterator<Item = &Who> {
        std::iter::once(&self.who).chain(&self.further)
    }
}

impl Who {
    fn token(&self) -> Option<Bearer<'_>> {
        match self {
            Self::Token(token) => Some(Bearer::of(token)),
            Self::Known(_) => None,
        }
    }

    fn subject(&self) -> &str {
        match self {
            Self::Token(token) => token.subject.as_deref().unwrap_or_default(),
            Self::Known(known) => &known.subject,
        }
    }

    fn scopes(&self) -> &[Box<str>] {
        match self {
            Self::Token(token) => &token.scopes,
            Self::Known(known) => &known.scopes,
        }
    }

    fn roles(&self) -> &[Box<str>] {
        match self {
            Self::Token(token) => &token.roles,
            Self::Known(known) => &known.roles,
        }
    }

    fn expires(&self) -> Option<NumericDate> {
        match self {
            Self::Token(token) => token.expires_at.map(|_| token.accepted_until()),
            Self::Known(known) => known.expires.map(NumericDate::from),
        }
    }
}

/// The words of a configuration, for [`Known`].
pub fn words(words: &[String]) -> Box<[Box<str>]> {
    words.iter().map(|word| word.as_str().into()).collect()
}
