//! Has a route's policy find out who calls, and tells the backend.

use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::{Map, Value, json};

use super::failure::Failure;
use super::receive::request_of;
use super::{Context, Gateway, cors};
use crate::context::AuthState;
use crate::filter::auth::watch::Why;
use crate::filter::auth::{Grant, Identity, Policy, Shown};
use crate::listener::exchange::Exchange;
use crate::message::Response;
use crate::metrics::AuthError;
use crate::reply::{AuthRefusal, Rejection};
use crate::route::Route;

/// Lets the client in, or says why not.
pub(super) async fn admit(
    exchange: &Exchange,
    context: &mut Context,
    route: &Route,
) -> Result<(), Rejection> {
    let Some(policy) = &route.auth else {
        return Ok(());
    };
    let snapshot = context.snapshot.clone();
    let auth = &snapshot.auth;
    let shown = shown(exchange, context);
    // On the heap, so that requests that nobody asks for a token do not make room for it.
    let judged = Box::pin(policy.authenticate(auth, shown, SystemTime::now())).await;
    let judged = judged.and_then(|grant| {
        let request = request_of(exchange, context);
        let path_param = |name: &str| context.params.get(name, request.path);
        policy.authorise(auth, &grant, path_param).map(|()| grant)
    });
    match judged {
        Ok(Grant::Identified(identity)) => {
            context.auth = AuthState::Succeeded;
            context.identity = Some(identity);
            Ok(())
        }
        Ok(Grant::Anonymous) => Ok(()),
        Err(refusal) => Err(refused(context, refusal)),
    }
}

/// A response that is longer can take its time.
const LONG_BYTES: u64 = 1 << 20;

/// Sees to it that what may go on for long, a WebSocket or a stream, ends with the token that it was
/// begun with.
pub(super) fn watch(response: &Response, exchange: &mut Exchange, context: &Context) {
    let Some(identity) = &context.identity else {
        return;
    };
    let length = response.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let is_short = length.is_some_and(|length: u64| length <= LONG_BYTES);
    if is_short && response.status != StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    let policy = context.route.as_ref().and_then(|route| route.auth.as_ref());
    let with_expiry = policy.is_some_and(Policy::closes_on_expiry);
    if let Some(watch) = identity.watch(context.snapshot.auth.revocations(), with_expiry) {
        exchange.ending.set(watch);
    }
}

/// The refusal that stands for such an end.
pub(super) fn ended(why: Why) -> Rejection {
    Rejection::Auth(AuthRefusal {
        error: match why {
            Why::Revoked => AuthError::Revoked,
            Why::Expired => AuthError::Expired,
        },
        challenges: Vec::new().into(),
        scope: None,
    })
}

fn refused(context: &mut Context, refusal: AuthRefusal) -> Rejection {
    context.auth = AuthState::Failed;
    Rejection::Auth(refusal)
}

fn shown<'a>(exchange: &'a Exchange, context: &'a Context) -> Shown<'a> {
    let tls = context.tls.as_ref();
    Shown {
        headers: &exchange.request.headers,
        client_cert: tls.and_then(|tls| tls.client_cert.as_ref()),
    }
}

/// Tells the backend who calls, and takes from the request what it is not to see.
pub(super) fn tell_backend(
    exchange: &Exchange,
    context: &Context,
    route: &Route,
    headers: &mut HeaderMap,
) {
    if let Some(policy) = &route.auth {
        policy.strip(headers);
    }
    let told = &context.snapshot.auth.identity_headers;
    if !told.is_empty() {
        let received = request_of(exchange, context);
        context.with_facts(&received, |facts| told.apply(facts, headers));
    }
}

impl Gateway {
    /// Answers if the request asks what its token says.
    pub(super) async fn answer_validation(
        &self,
        exchange: &mut Exchange,
        context: &mut Context,
    ) -> Result<bool, Failure> {
        let snapshot = context.snapshot.clone();
        let Some(validate) = &snapshot.auth.validate else {
            return Ok(false);
        };
        let request = request_of(exchange, context);
        if request.path != &*validate.path {
            return Ok(false);
        }
        cors::note(exchange, context);
        if self.answer_preflight(exchange, context).await? {
            return Ok(true);
        }
        let request = request_of(exchange, context);
        if !matches!(*request.method, Method::GET | Method::HEAD | Method::POST) {
            let allow = HeaderValue::from_static("GET, HEAD, POST");
            let rejection = Rejection::MethodNotAllowed(allow);
            return Err(Failure::Refused(rejection));
        }
        let shown = shown(exchange, context);
        let judged = validate
            .policy
            .authenticate(&snapshot.auth, shown, SystemTime::now());
        match Box::pin(judged).await {
            Ok(Grant::Identified(identity)) => {
                context.auth = AuthState::Succeeded;
                let body = format!("{}\n", description(&identity));
                let mut response = Response::new(StatusCode::OK);
                let json = HeaderValue::from_static("application/json");
                response.insert(header::CONTENT_TYPE, json);
                let no_store = HeaderValue::from_static("no-store");
                response.insert(header::CACHE_CONTROL, no_store);
                self.answer(exchange, context, response, Bytes::from(body))
                    .await?;
            }
            // Nobody is let in there without a token.
            Ok(Grant::Anonymous) => return Ok(false),
            Err(refusal) => {
                return Err(Failure::Refused(refused(context, refusal)));
            }
        }
        Ok(true)
    }
}

/// What a token says, for whoever holds it.
fn description(identity: &Identity) -> Value {
    let mut said = Map::new();
    said.insert("valid".to_owned(), true.into());
    said.insert("provider".to_owned(), (*identity.scheme).into());
    said.insert("subject".to_owned(), identity.subject().into());
    let verified = identity.verified();
    if let Some(issuer) = verified.and_then(|verified| verified.issuer.as_deref()) {
        said.insert("issuer".to_owned(), issuer.into());
    }
    if let Some(expires) = verified.and_then(|verified| verified.expires_at) {
        said.insert("expires_at".to_owned(), expires.seconds().into());
    }
    said.insert(
        "scopes".to_owned(),
        json!(identity.scopes().collect::<Vec<_>>()),
    );
    said.insert(
        "roles".to_owned(),
        json!(identity.roles().collect::<Vec<_>>()),
    );
    Value::Object(said)
}
