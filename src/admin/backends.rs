//! Calls about one backend: `/upstreams/UPSTREAM/backends/BACKEND/drain`.

use std::sync::Arc;
use std::time::Instant;

use http::{Method, Response, StatusCode};
use pingora_core::protocols::http::ServerSession;
use serde_json::json;

use super::answer::json;
use super::control::{Control, Peer, Refusal, broke_off};
use super::percent::decode;
use crate::metrics::AdminCall;
use crate::snapshot::Snapshot;

/// The upstream and the backend that a path names; `None`: it is no such call.
pub(super) fn named(path: &str) -> Option<(String, String)> {
    let rest = path.strip_prefix("/upstreams/")?;
    let (upstream, rest) = rest.split_once("/backends/")?;
    let backend = rest.strip_suffix("/drain")?;
    let is_one = |name: &str| !name.is_empty() && !name.contains('/');
    (is_one(upstream) && is_one(backend)).then_some(())?;
    Some((decode(upstream)?, decode(backend)?))
}

impl Control {
    /// Lets a backend finish what it has and gives it no other request, or takes it back in.
    pub(super) async fn drain(
        &self,
        peer: &Peer,
        session: &ServerSession,
    ) -> Result<(AdminCall, Response<Vec<u8>>), Refusal> {
        let request = session.req_header();
        let (upstream, backend) = named(request.uri.path()).ok_or(Refusal::NoSuchBackend)?;
        let drains = request.method == Method::POST;
        let reloader = Arc::clone(&self.reloader);
        let found = tokio::task::spawn_blocking(move || {
            reloader.in_charge(|snapshot| switch(snapshot, &upstream, &backend, drains))
        });
        match found.await {
            Ok(None) => Err(Refusal::HandedOver),
            Ok(Some(None)) => Err(Refusal::NoSuchBackend),
            Ok(Some(Some(done))) => {
                let what = if drains { "drains" } else { "takes back" };
                log::warn!(
                    "admin: {peer} {what} backend {} of {}",
                    done.backend,
                    done.upstream
                );
                let now = json!({
                    "upstream": done.upstream,
                    "backend": done.backend,
                    "state": done.state,
                    "in_flight": done.in_flight,
                });
                Ok((AdminCall::Done, json(StatusCode::OK, &now)))
            }
            Err(_) => Ok(broke_off()),
        }
    }
}

/// A backend after the switch.
struct Done {
    upstream: String,
    backend: String,
    state: &'static str,
    in_flight: usize,
}

fn switch(snapshot: &Snapshot, upstream: &str, backend: &str, drains: bool) -> Option<Done> {
    let upstream = snapshot.upstream(upstream)?;
    let members = upstream.members();
    let member = members.iter().find(|one| *one.name == *backend);
    // One that has gone since it was drained can still be taken back: it would return drained.
    if member.is_none() && (drains || !upstream.is_drained(backend)) {
        return None;
    }
    let now = Instant::now();
    upstream.drain(backend, drains, now);
    Some(Done {
        upstream: upstream.name.to_string(),
        backend: backend.to_owned(),
        state: member.map_or("gone", |one| one.state(now).label()),
        in_flight: member.map_or(0, |one| one.in_flight()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_an_upstream_and_a_backend() {
        let named = |path| named(path).map(|(upstream, backend)| format!("{upstream} {backend}"));
        let path = "/upstreams/users/backends/10.0.0.1:80/drain";
        assert_eq!(named(path).as_deref(), Some("users 10.0.0.1:80"));
        let path = "/upstreams/https:%2F%2Fa:443/backends/%5B::1%5D:443/drain";
        assert_eq!(named(path).as_deref(), Some("https://a:443 [::1]:443"));
        for wrong in [
            "/upstreams/users/backends/10.0.0.1:80",
            "/upstreams/users/backends//drain",
            "/upstreams//backends/a:1/drain",
            "/upstreams/users/drain",
            "/upstreams/a/b/backends/c:1/drain",
            "/upstreams/users/backends/%f/drain",
        ] {
            assert_eq!(named(wrong), None, "{wrong}");
        }
    }
}
