//! What operators can change at run time: they must show a token, and it is written down who did
//! what.
//!
//! Only the bearer token lets a call through, which no browser adds by itself, so a foreign page
//! cannot make an operator's browser call.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use http::header::{ALLOW, AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use pingora_core::protocols::http::ServerSession;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::answer::{json, refuse};
use super::revocations::{self, Unfit};
use super::{backends, circuit};
use crate::background::reload::{Outcome, Reloader, Switched, Trigger};
use crate::background::revocations::{Revoker, Shared, Time};
use crate::config::Secret;
use crate::filter::maintenance::Switches;
use crate::metrics::{AdminCall, Metrics};
use crate::snapshot::{Live, Snapshot};
use crate::telemetry;

/// Far more than a call has to say; a token may be in it.
const MAX_BODY: usize = 24 * 1024;

/// For the body of a call.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Reload,
    Maintenance,
    Revocations,
    Circuit,
    Drain,
}

impl Call {
    /// The call behind a path.
    pub fn at(path: &str) -> Option<Self> {
        match path {
            "/reload" => Some(Self::Reload),
            "/maintenance" => Some(Self::Maintenance),
            "/revocations" => Some(Self::Revocations),
            _ if path.starts_with("/revocations/") => Some(Self::Revocations),
            _ if circuit::upstream_of(path).is_some() => Some(Self::Circuit),
            _ if backends::named(path).is_some() => Some(Self::Drain),
            _ => None,
        }
    }

    fn allowed(self) -> &'static str {
        match self {
            Self::Reload => "POST",
            Self::Maintenance | Self::Circuit => "GET, HEAD, POST",
            Self::Revocations => "GET, HEAD, POST, DELETE",
            Self::Drain => "POST, DELETE",
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reload => "reload",
            Self::Maintenance => "maintenance",
            Self::Revocations => "revocations",
            Self::Circuit => "circuit breaker",
            Self::Drain => "drain",
        })
    }
}

/// Carries out the calls.
pub struct Control {
    live: Arc<Live>,
    pub(super) reloader: Arc<Reloader>,
    revoker: Arc<Revoker>,
    metrics: Arc<Metrics>,
}

/// Why a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is no way to call this.
    WrongMethod(Call),
    /// There is no token, so nobody may.
    NoToken,
    /// None was shown, or another.
    WrongToken,
    /// Its body is too slow, too large or broken.
    BodyIncomplete,
    /// Its body does not say what is wanted.
    BodyNotUnderstood,
    /// There is no route of the name in it.
    NoSuchRoute,
    /// There is no upstream of the name in its path.
    NoSuchUpstream,
    /// Its body does not say where the circuit is wanted.
    NoState,
    /// There is no backend of the name in its path.
    NoSuchBackend,
    /// It does not say what to revoke, or to take back.
    Revocation(Unfit),
    /// Another process is in charge by now; here it would be lost.
    HandedOver,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WrongMethod(_) => "wrong method",
            Self::NoToken => "admin.token is not configured",
            Self::WrongToken => "no token, or a wrong one",
            Self::BodyIncomplete => "the body did not arrive in time, or is too large",
            Self::BodyNotUnderstood => "the body is not understood",
            Self::NoSuchRoute => "there is no such route",
            Self::NoSuchUpstream => "there is no such upstream",
            Self::NoState => "the body does not say a state",
            Self::NoSuchBackend => "there is no such backend",
            Self::Revocation(_) => "it does not say what is revoked",
            Self::HandedOver => "another process is in charge",
        })
    }
}

/// The body of a call to `/maintenance`.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct SwitchMaintenance {
    enabled: bool,
    route: Option<String>,
}

impl Control {
    /// Over what runs.
    pub fn new(
        live: Arc<Live>,
        reloader: Arc<Reloader>,
        revoker: Arc<Revoker>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            live,
            reloader,
            revoker,
            metrics,
        }
    }

    /// Answers a call, whatever its method.
    pub(super) async fn answer(
        &self,
        call: Call,
        session: &mut ServerSession,
    ) -> Response<Vec<u8>> {
        let method = &session.req_header().method;
        if matches!(*method, Method::GET | Method::HEAD)
            && let Some(shown) = self.show(call, &session.req_header().uri)
        {
            return shown;
        }
        let peer = session
            .client_addr()
            .and_then(|addr| addr.as_inet().copied());
        let peer = Peer(peer);
        let is_lifted = *method == Method::DELETE;
        let done = match self.admit(call, session).await {
            Err(refusal) => Err(refusal),
            Ok(_) if call == Call::Reload => self.reload(&peer).await,
            Ok(_) if call == Call::Drain => self.drain(&peer, session).await,
            Ok(_) if is_lifted => self.lift(&peer, session).await,
            Ok(body) if call == Call::Revocations => self.revoke(&peer, &body).await,
            Ok(body) if call == Call::Circuit => {
                let path = session.req_header().uri.path();
                self.hold(&peer, path, &body).await
            }
            Ok(body) => self.switch(&peer, &body).await,
        };
        match done {
            Ok((result, response)) => {
                self.metrics.admin_call(result);
                response
            }
            Err(refusal) => {
                // Limited: whoever has no token must not be able to fill a disk.
                log::warn!(target: telemetry::ADMIN, "{call} refused to {peer}: {refusal}");
                if !matches!(refusal, Refusal::WrongMethod(_)) {
                    self.metrics.admin_call(AdminCall::Refused);
                }
                if refusal == Refusal::HandedOver {
                    // The next connection leads to the process that is in charge.
                    session.set_keepalive(None);
                }
                refuse_caller(refusal)
            }
        }
    }

    /// The body of a call that may be carried out.
    async fn admit(&self, call: Call, session: &mut ServerSession) -> Result<Vec<u8>, Refusal> {
        let method = &session.req_header().method;
        let is_at_root = session.req_header().uri.path().rfind('/') == Some(0);
        let is_known = match call {
            // What is posted is named in the body, what is taken back in the path or query.
            Call::Revocations if !is_at_root => *method == Method::DELETE,
            Call::Revocations => matches!(*method, Method::POST | Method::DELETE),
            Call::Drain => matches!(*method, Method::POST | Method::DELETE),
            Call::Reload | Call::Maintenance | Call::Circuit => *method == Method::POST,
        };
        if !is_known {
            return Err(Refusal::WrongMethod(call));
        }
        let token = self.live.load().admin_token.clone();
        authorise(token.as_ref(), &session.req_header().headers)?;
        read_body(session).await.ok_or(Refusal::BodyIncomplete)
    }

    async fn reload(&self, peer: &Peer) -> Result<(AdminCall, Response<Vec<u8>>), Refusal> {
        log::info!("admin: {peer} asks for a reload");
        let reloader = Arc::clone(&self.reloader);
        let reload = tokio::task::spawn_blocking(move || reloader.reload(Trigger::Admin));
        match reload.await {
            Ok(outcome) => of_reload(outcome),
            Err(_) => Ok(broke_off()),
        }
    }

    async fn switch(
        &self,
        peer: &Peer,
        body: &[u8],
    ) -> Result<(AdminCall, Response<Vec<u8>>), Refusal> {
        let wanted: SwitchMaintenance =
            serde_json::from_slice(body).map_err(|_| Refusal::BodyNotUnderstood)?;
        let (on, route) = (wanted.enabled, wanted.route.clone());
        let reloader = Arc::clone(&self.reloader);
        let switch =
            tokio::task::spawn_blocking(move || reloader.switch_maintenance(on, route.as_deref()));
        match switch.await {
            Ok(Switched::Done) => {
                let what = wanted.route.as_deref().unwrap_or("everything");
                let state = if on { "on" } else { "off" };
                log::warn!("admin: {peer} switches maintenance of {what:?} {state}");
                let now = json(StatusCode::OK, &maintenance(&self.live.load()));
                Ok((AdminCall::Done, now))
            }
            Ok(Switched::NoRoute) => Err(Refusal::NoSuchRoute),
            Ok(Switched::HandedOver) => Err(Refusal::HandedOver),
            Err(_) => Ok(broke_off()),
        }
    }
}

/// Calls about circuits.
impl Control {
    async fn hold(
        &self,
        peer: &Peer,
        path: &str,
        body: &[u8],
    ) -> Result<(AdminCall, Response<Vec<u8>>), Refusal> {
        let name = circuit::upstream_of(path).ok_or(Refusal::NoSuchUpstream)?;
        let wanted = circuit::Wanted::read(body);
        let reloader = Arc::clone(&self.reloader);
        let held = tokio::task::spawn_blocking(move || {
            reloader.in_charge(|snapshot| {
                let done = hold(snapshot, &name, wanted);
                done.map(|(state, shown)| (name, state, shown))
            })
        });
        match held.await {
            Ok(None) => Err(Refusal::HandedOver),
            Ok(Some(Err(refusal))) => Err(refusal),
            Ok(Some(Ok((name, state, shown)))) => {
                log::warn!("admin: {peer} sets the circuit of {name:?} to {state}");
                Ok((AdminCall::Done, json(StatusCode::OK, &shown)))
            }
            Err(_) => Ok(broke_off()),
        }
    }
}

/// Holds the circuit to an upstream, or leaves it to itself. Says where it was wanted, and how it stands.
fn hold(
    snapshot: &Snapshot,
    upstream: &str,
    wanted: Option<circuit::Wanted>,
) -> Result<(&'static str, Value), Refusal> {
    let upstream = snapshot.upstream(upstream).ok_or(Refusal::NoSuchUpstream)?;
    let (wanted, now) = (wanted.ok_or(Refusal::NoState)?, Instant::now());
    upstream.force_circuit(wanted.open(), now);
    Ok((wanted.as_str(), circuit::shown(upstream, now)))
}

/// Calls about revocations.
impl Control {
    /// What can be read without a token.
    fn show(&self, call: Call, uri: &http::Uri) -> Option<Response<Vec<u8>>> {
        let shown = match call {
            Call::Reload | Call::Drain => return None,
            Call::Maintenance => maintenance(&self.live.load()),
            Call::Circuit => {
                let snapshot = self.live.load();
                let named = circuit::upstream_of(uri.path());
                match named.and_then(|name| snapshot.upstream(&name)) {
                    Some(upstream) => circuit::shown(upstream, Instant::now()),
                    None => return Some(refuse_caller(Refusal::NoSuchUpstream)),
                }
            }
            Call::Revocations => {
                let asked = revocations::named(uri.path(), uri.query());
                if asked.is_none() && (uri.path() != "/revocations" || uri.query().is_some()) {
                    return Some(refuse_caller(Refusal::Revocation(NOT_NAMED)));
                }
                revocations::show(&self.revoker, asked.as_ref(), Time::now())
            }
        };
        Some(json(StatusCode::OK, &shown))
    }

    async fn revoke(
        &self,
        peer: &Peer,
        body: &[u8],
    ) -> Result<(AdminCall, Response<Vec<u8>>), Refusal> {
        let revocation = revocations::understand(body, Time::now()).map_err(Refusal::Revocation)?;
        let (target, terms) = (revocation.target.clone(), revocation.terms);
        let revoked = self.revoker.revoke(revocation).await;
        // Asked behind it: what was there before the hand-over began has gone with it.
        if self.reloader.is_handed_over() {
            return Err(Refusal::HandedOver);
        }
        let Ok(shared) = revoked else {
            let message = "The list of revocations is full: wait until some of them have expired.";
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return Ok((
                AdminCall::Failed,
                refuse(status, "revocations_full", message),
            ));
        };
        log::warn!(
            "admin: {peer} revokes {target:?}, redis: {}",
            shared.as_str()
        );
        let mut answer = revocations::of_terms(&target, &terms);
        answer["result"] = "revoked".into();
        answer["redis"] = shared.as_str().into();
        let status = match shared {
            Shared::Pending => StatusCode::ACCEPTED,
            Shared::Alone | Shared::Stored => StatusCode::OK,
        };
        Ok((AdminCall::Done, json(status, &answer)))
    }

    async fn lift(
        &self,
        peer: &Peer,
        session: &ServerSession,
    ) -> Result<(AdminCall, Response<Vec<u8>>), Refusal> {
        let uri = &session.req_header().uri;
        let target = revocations::named(uri.path(), uri.query());
        let target = target.ok_or(Refusal::Revocation(NOT_NAMED))?;
        if self.reloader.is_handed_over() {
            return Err(Refusal::HandedOver);
        }
        match self.revoker.lift(target.clone(), Time::now()).await {
            Ok((true, shared)) => {
                log::warn!("admin: {peer} takes back that {target:?} is revoked");
                let answer = json!({ "result": "taken_back", "redis": shared.as_str() });
                Ok((AdminCall::Done, json(StatusCode::OK, &answer)))
            }
            Ok((false, _)) => {
                let message = "It is not revoked.";
                let response = refuse(StatusCode::NOT_FOUND, "not_revoked", message);
                Ok((AdminCall::Failed, response))
            }
            Err(failure) => {
                let message = "Redis cannot be reached, so it stays revoked. Try again later.";
                log::warn!("admin: {peer} cannot take back {target:?}: redis: {failure}");
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Ok((
                    AdminCall::Failed,
                    refuse(status, "redis_unavailable", message),
                ))
            }
        }
    }
}

const NOT_NAMED: Unfit =
    Unfit("Expected /revocations/ with a jti, or /revocations with ?jti= or ?subject=.");

/// What is down for maintenance, as `/maintenance` and `/status` show it.
pub(super) fn maintenance(snapshot: &Snapshot) -> Value {
    let on = snapshot
        .routes
        .iter()
        .filter(|route| route.maintenance.is_on());
    let routes: Vec<&str> = on.map(|route| &*route.name).collect();
    let switches = Switches {
        circuits: BTreeMap::new(),
        ..snapshot.export()
    };
    json!({
        "enabled": snapshot.maintenance.is_on(),
        "routes": routes,
        "switched": switches,
    })
}

/// Whether the caller may change anything.
fn authorise(token: Option<&Secret>, headers: &HeaderMap) -> Result<(), Refusal> {
    let token = token.ok_or(Refusal::NoToken)?;
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else {
        return Err(Refusal::WrongToken);
    };
    let shown = bearer(field).ok_or(Refusal::WrongToken)?;
    // Of digests, so that not even the length of the token can be found out by the clock.
    let (shown, token) = (
        digest(&SHA256, shown),
        digest(&SHA256, token.reveal().as_bytes()),
    );
    verify_slices_are_equal(shown.as_ref(), token.as_ref()).map_err(|_| Refusal::WrongToken)
}

/// The token in a field; the name of the scheme has no case (RFC 9110 section 11.1).
fn bearer(field: &HeaderValue) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer ";
    let (scheme, token) = field.as_bytes().split_at_checked(SCHEME.len())?;
    scheme
        .eq_ignore_ascii_case(SCHEME)
        .then(|| token.trim_ascii())
}

fn refuse_caller(refusal: Refusal) -> Response<Vec<u8>> {
    match refusal {
        Refusal::WrongMethod(call) => wrong_method(call),
        Refusal::NoToken => refuse(
            StatusCode::FORBIDDEN,
            "no_token_configured",
            "Nothing can be changed here until the configuration has admin.token.",
        ),
        Refusal::WrongToken => {
            let message = "Expected Authorization: Bearer with the token of admin.token.";
            let mut response = refuse(StatusCode::UNAUTHORIZED, "unauthorized", message);
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
            response
        }
        Refusal::BodyIncomplete => {
            let message = "The body did not arrive in time, or is too large.";
            refuse(StatusCode::BAD_REQUEST, "bad_request", message)
        }
        Refusal::BodyNotUnderstood => {
            let message = "Expected {\"enabled\": true or false, \"route\": a name, or left out}.";
            refuse(StatusCode::BAD_REQUEST, "bad_request", message)
        }
        Refusal::Revocation(Unfit(message)) => {
            refuse(StatusCode::BAD_REQUEST, "bad_request", message)
        }
        Refusal::NoSuchRoute => {
            let message = "There is no route of that name.";
            refuse(StatusCode::NOT_FOUND, "no_such_route", message)
        }
        Refusal::NoSuchUpstream => {
            let message = "There is no upstream of that name.";
            refuse(StatusCode::NOT_FOUND, "no_such_upstream", message)
        }
        Refusal::NoState => {
            let message = "Expected {\"state\": \"open\", \"closed\" or \"auto\"}.";
            refuse(StatusCode::BAD_REQUEST, "bad_request", message)
        }
        Refusal::NoSuchBackend => {
            let message = "There is no backend of that name in an upstream of that name.";
            refuse(StatusCode::NOT_FOUND, "no_such_backend", message)
        }
        Refusal::HandedOver => {
            let message = "Another process is in charge; ask again on a new connection.";
            refuse(StatusCode::SERVICE_UNAVAILABLE, "handed_over", message)
        }
    }
}

fn wrong_method(call: Call) -> Response<Vec<u8>> {
    let message = "This page does not support the method.";
    let mut response = refuse(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        message,
    );
    let allowed = HeaderValue::from_static(call.allowed());
    response.headers_mut().insert(ALLOW, allowed);
    response
}

fn of_reload(outcome: Outcome) -> Result<(AdminCall, Response<Vec<u8>>), Refusal> {
    let done = |result, generation: u64, upgrade_needed: Vec<String>| {
        let body = json!({
            "result": result,
            "generation": generation,
            "upgrade_needed": upgrade_needed,
        });
        Ok((AdminCall::Done, json(StatusCode::OK, &body)))
    };
    match outcome {
        Outcome::Reloaded {
            generation,
            upgrade_needed,
        } => done("reloaded", generation, upgrade_needed),
        Outcome::Unchanged {
            generation,
            upgrade_needed,
        } => done("unchanged", generation, upgrade_needed),
        Outcome::HandedOver => Err(Refusal::HandedOver),
        Outcome::Invalid {
            generation,
            problems,
        } => {
            let body = json!({
                "result": "invalid",
                "error": "invalid_configuration",
                "message": "The configuration is not valid; the one before stays in force.",
                "generation": generation,
                "problems": problems,
            });
            let response = json(StatusCode::UNPROCESSABLE_ENTITY, &body);
            Ok((AdminCall::Failed, response))
        }
    }
}

pub(super) fn broke_off() -> (AdminCall, Response<Vec<u8>>) {
    let message = "It broke off; the process log says why.";
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    (AdminCall::Failed, refuse(status, "internal", message))
}

/// The whole body; `None` when it is too slow, too large or broken.
async fn read_body(session: &mut ServerSession) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    let read = timeout(BODY_TIMEOUT, async {
        while let Ok(piece) = session.read_request_body().await {
            let Some(piece) = piece else { return Some(()) };
            if body.len() + piece.len() > MAX_BODY {
                return None;
            }
            body.extend_from_slice(&piece);
        }
        None
    });
    let whole = read.await.ok().flatten();
    if whole.is_none() {
        // Nobody knows where a next request would begin.
        session.set_keepalive(None);
    }
    whole.map(|()| body)
}

/// Who called, for the log.
pub(super) struct Peer(Option<SocketAddr>);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => write!(f, "{address}"),
            None => f.write_str("an unknown peer"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    fn shown(values: &[&str]) -> HeaderMap {
        let field = |value: &&str| (AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        values.iter().map(field).collect()
    }

    #[test]
    fn only_the_whole_token_opens() {
        let token: Secret = serde_json::from_value("s3cret-token".into()).unwrap();
        let ask = |values: &[&str]| authorise(Some(&token), &shown(values));
        assert_eq!(ask(&["Bearer s3cret-token"]), Ok(()));
        assert_eq!(ask(&["bearer  s3cret-token"]), Ok(()));
        for wrong in [
            &[][..],
            &["Bearer"],
            &["Bearer "],
            &["Bearer s3cret"],
            &["Bearer s3cret-token-and-more"],
            &["Basic s3cret-token"],
            &["s3cret-token"],
            &["Bearer s3cret-token", "Bearer s3cret-token"],
        ] {
            assert_eq!(ask(wrong), Err(Refusal::WrongToken), "{wrong:?}");
        }
        let nobody = authorise(None, &shown(&["Bearer "]));
        assert_eq!(nobody, Err(Refusal::NoToken));
    }

    #[test]
    fn a_call_says_exactly_what_it_wants() {
        let read = |text: &str| serde_json::from_str::<SwitchMaintenance>(text).ok();
        assert!(read("{\"enabled\": true}").is_some());
        assert!(read("{\"enabled\": false, \"route\": \"a\"}").is_some());
        for wrong in [
            "",
            "{}",
            "{\"enabled\": 1}",
            "{\"enabled\": true, \"rout\": \"a\"}",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
