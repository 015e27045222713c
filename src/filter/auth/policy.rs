//! What a route asks of its clients, and whether one of them meets it.

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;

use super::ask::{self, Ask, Outcome};
use super::credential::{self, Shown};
use super::identity::Identity;
use super::{Auth, claim};
use crate::config::model::{AuthPolicy, ClaimMatch, CredentialSource};
use crate::metrics::{AuthError, AuthMethod};
use crate::reply::AuthRefusal;

/// What a route asks of its clients.
pub struct Policy {
    asks: Vec<Ask>,
    config: AuthPolicy,
    /// The scopes with spaces between them, for whoever lacks one.
    scope: Option<Arc<str>>,
    /// Credentials that backends do not get.
    hidden: Vec<CredentialSource>,
}

/// Who is let in.
#[derive(Clone, Debug)]
pub enum Grant {
    /// A client that proved who it is.
    Identified(Arc<Identity>),
    /// A client that showed nothing, where that is allowed.
    Anonymous,
}

impl Policy {
    /// Of a route.
    pub fn compile(config: &AuthPolicy, auth: &Auth) -> Self {
        let schemes: Vec<_> = config
            .schemes
            .iter()
            .filter_map(|index| auth.schemes.get(*index))
            .collect();
        let hidden = schemes.iter().filter(|scheme| !scheme.forward);
        Self {
            hidden: hidden
                .flat_map(|scheme| scheme.sources().to_vec())
                .collect(),
            asks: ask::compile(&schemes, config.all),
            scope: (!config.scopes.is_empty()).then(|| config.scopes.join(" ").into()),
            config: config.clone(),
        }
    }

    /// Whether what is open is ended when the credential expires.
    pub fn closes_on_expiry(&self) -> bool {
        self.config.close_on_expiry
    }

    /// Finds out who calls.
    pub async fn authenticate(
        &self,
        auth: &Auth,
        shown: Shown<'_>,
        now: SystemTime,
    ) -> Result<Grant, AuthRefusal> {
        let outcome = match self.config.all {
            true => self.ask_all(auth, shown, now).await,
            false => self.ask_any(auth, shown, now).await,
        };
        match outcome {
            Some(Ok(identity)) => {
                auth.metrics.succeeded(identity.method);
                Ok(Grant::Identified(Arc::new(identity)))
            }
            Some(Err((method, error))) => {
                auth.metrics.failed(method, error);
                Err(self.refusal(error))
            }
            None if self.config.optional => Ok(Grant::Anonymous),
            None => {
                let method = self.asks.first().map_or(AuthMethod::Jwt, Ask::method);
                auth.metrics.failed(method, AuthError::Missing);
                Err(self.refusal(AuthError::Missing))
            }
        }
    }

    /// The first scheme that accepts the client. Without one, what the first said that was shown
    /// anything.
    async fn ask_any(&self, auth: &Auth, shown: Shown<'_>, now: SystemTime) -> Outcome {
        let mut refused = None;
        for ask in &self.asks {
            match ask.ask(auth, shown, now).await {
                Some(Err(error)) => {
                    refused.get_or_insert(error);
                }
                Some(Ok(identity)) => return Some(Ok(identity)),
                None => {}
            }
        }
        refused.map(Err)
    }

    /// All schemes must accept the client. One that was shown nothing refuses it, unless none was.
    async fn ask_all(&self, auth: &Auth, shown: Shown<'_>, now: SystemTime) -> Outcome {
        let mut identity: Option<Identity> = None;
        let mut missing = None;
        for ask in &self.asks {
            match (ask.ask(auth, shown, now).await, &mut identity) {
                (Some(Err(error)), _) => return Some(Err(error)),
                (Some(Ok(first)), None) => identity = Some(first),
                (Some(Ok(further)), Some(identity)) => identity.and(further),
                (None, _) => {
                    missing.get_or_insert((ask.method(), AuthError::Missing));
                }
            }
        }
        match (identity, missing) {
            (Some(_), Some(missing)) => Some(Err(missing)),
            (identity, _) => identity.map(Ok),
        }
    }

    /// Whether somebody may do this. `path_param` looks parameters of the path up.
    pub fn authorise<'a>(
        &self,
        auth: &Auth,
        grant: &Grant,
        path_param: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<(), AuthRefusal> {
        let Grant::Identified(identity) = grant else {
            // The configuration asks nothing more of clients that may be anonymous.
            return Ok(());
        };
        self.lacks(identity, path_param).map_or(Ok(()), |error| {
            auth.metrics.failed(identity.method, error);
            Err(self.refusal(error))
        })
    }

    fn lacks<'a>(
        &self,
        identity: &Identity,
        path_param: impl Fn(&str) -> Option<&'a str>,
    ) -> Option<AuthError> {
        let wanted = &self.config;
        let has_scope = |scope: &String| identity.scopes().any(|one| one == scope);
        if !wanted.scopes.iter().all(has_scope) {
            return Some(AuthError::InsufficientScope);
        }
        let has_role = |role: &String| identity.roles().any(|one| one == role);
        if !wanted.roles.is_empty() && !wanted.roles.iter().any(has_role) {
            return Some(AuthError::InsufficientRole);
        }
        let holds = wanted.claims.iter().all(|condition| {
            let param = match &condition.is {
                ClaimMatch::PathParam(name) => path_param(name),
                _ => None,
            };
            claim::holds(condition, identity.claim(&condition.claim), param)
        });
        (!holds).then_some(AuthError::ClaimMismatch)
    }

    /// Takes the credentials that backends do not get out of a request.
    pub fn strip(&self, headers: &mut HeaderMap) {
        credential::strip(headers, &self.hidden);
    }

    fn refusal(&self, error: AuthError) -> AuthRefusal {
        AuthRefusal {
            error,
            challenges: Arc::clone(&self.config.challenges),
            scope: self.scope.clone(),
        }
    }
}
