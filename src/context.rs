//! What one request has learned so far.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;

use crate::filter::auth::Identity;
use crate::filter::concurrency::Places;
use crate::filter::cors::Stage;
use crate::filter::headers::Facts;
use crate::filter::ratelimit::Ledger;
use crate::filter::ratelimit::key::Caller;

use crate::metrics::{PooledConnection, RetrySkip};
use crate::reply::Rejection;
use crate::request_id::RequestId;
use crate::route::{Lookup, Params, Route};
use crate::snapshot::Snapshot;
use crate::tls::TlsFacts;
use crate::upstream::sticky::Held;
use crate::upstream::{Admitted, Pass, Tried, Upstream};

/// The state of one request, from its header to its log line.
pub struct RequestContext {
    /// The generation it runs on.
    pub snapshot: Arc<Snapshot>,
    /// Its identifier.
    pub request_id: RequestId,
    /// The client's address.
    pub client_ip: IpAddr,
    /// The scheme that the client used towards this gateway.
    pub scheme: &'static str,
    /// What the TLS handshake said.
    pub tls: Option<Arc<TlsFacts>>,
    /// Whether it is a gRPC call.
    pub grpc: bool,
    /// Whether the peer's forwarding headers are believed.
    pub trusted: bool,
    /// Its route.
    pub route: Option<Arc<Route>>,
    /// The parameters of its path.
    pub params: Params,
    /// Whether it is a browser's question whether another one may be sent.
    pub cors: Stage,
    /// What became of authentication.
    pub auth: AuthState,
    /// Who calls, once that is proved.
    pub identity: Option<Arc<Identity>>,
    /// What limits of its rate did with it.
    pub ledger: Ledger,
    /// The upstream it goes to.
    pub upstream: Option<Arc<Upstream>>,
    /// What it has to do with the circuit of its upstream.
    pub circuit: Circuit,
    /// The attempt in progress, or the last one.
    pub attempt: Option<Attempt>,
    /// What earlier attempts were given to.
    pub tried: Tried,
    /// The backend that the client had before, by its cookie.
    pub sticky: Option<Held>,
    /// Attempts after the first.
    pub retries: u32,
    /// Why there was not one more, where one was called for.
    pub retry_skipped: Option<RetrySkip>,
    /// What it is refused for.
    pub rejection: Option<Rejection>,
    /// Why it failed, where that says more than the rejection.
    pub error: Option<&'static str>,
    /// It is neither logged nor measured.
    pub silent: bool,
    /// Its places among the requests in flight. The last to be dropped: who is given one finds the
    /// backend free.
    pub places: Places,
}

/// What became of authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthState {
    /// Nobody asked, or the client may stay unknown and did.
    NotAsked,
    /// The client proved who it is.
    Succeeded,
    /// It did not, or may not do this.
    Failed,
}

/// What a request has to do with the circuit of its upstream.
#[derive(Debug, Default)]
pub enum Circuit {
    /// It was not let in, or has been judged.
    #[default]
    Over,
    /// It was let in, and is to be judged.
    Inside(Pass),
    /// It was judged well, in this generation of the circuit; its answer may break off yet.
    Answered(u64),
}

/// One attempt to have a backend answer.
pub struct Attempt {
    /// The backend, for as long as it is busy with this.
    pub admitted: Admitted,
    /// When the backend was chosen.
    pub started: Instant,
    /// Counts the connection as in use.
    pub connection: Option<PooledConnection>,
    /// When all of the request had been sent.
    pub sent: Option<Instant>,
    /// The status it answered with, once it has.
    pub answered: Option<u16>,
    /// Whether its end was recorded already, because it failed.
    pub recorded: bool,
}

impl Attempt {
    /// With this backend, from now on.
    pub fn new(admitted: Admitted, now: Instant) -> Self {
        Self {
            admitted,
            started: now,
            connection: None,
            sent: None,
            answered: None,
            recorded: false,
        }
    }

    /// It has a connection; `counted` counts that as in use. What follows takes the client's time.
    pub fn connected(&mut self, counted: PooledConnection) {
        self.connection = Some(counted);
        self.admitted.waits(None);
    }

    /// All of the request was sent by this time, or had been earlier; says when.
    pub fn note_sent(&mut self, now: Instant) -> Instant {
        let sent = *self.sent.get_or_insert(now);
        self.admitted.waits(Some(sent));
        sent
    }
}

impl RequestContext {
    /// Nothing is known yet.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self {
            snapshot,
            request_id: RequestId::generate(),
            client_ip: IpAddr::from([0, 0, 0, 0]),
            scheme: "http",
            tls: None,
            grpc: false,
            trusted: false,
            route: None,
            params: Params::default(),
            cors: Stage::Request,
            auth: AuthState::NotAsked,
            identity: None,
            ledger: Ledger::default(),
            places: Places::default(),
            upstream: None,
            circuit: Circuit::Over,
            attempt: None,
            tried: Tried::default(),
            sticky: None,
            retries: 0,
            retry_skipped: None,
            rejection: None,
            error: None,
            silent: false,
        }
    }
}

impl RequestContext {
    /// Calls `use_facts` with what templates may refer to.
    pub fn with_facts<T>(
        &self,
        request: &Lookup<'_>,
        use_facts: impl FnOnce(&Facts<'_>) -> T,
    ) -> T {
        let path_param = |name: &str| self.params.get(name, request.path);
        use_facts(&Facts {
            client_ip: self.client_ip,
            request_id: self.request_id.as_str(),
            route: self.route.as_ref().map_or("", |route| &*route.name),
            method: request.method,
            host: crate::route::host::split(request.host).0,
            path: request.path,
            query: request.query,
            scheme: self.scheme,
            tls: self.tls.as_deref(),
            identity: self.identity.as_deref(),
            upstream: self
                .upstream
                .as_ref()
                .map_or("", |upstream| &*upstream.name),
            headers: request.headers,
            path_param: &path_param,
        })
    }

    /// What requests are counted by.
    pub fn caller<'a>(
        &'a self,
        headers: &'a HeaderMap,
        path_param: &'a (dyn Fn(&str) -> Option<&'a str> + Sync),
    ) -> Caller<'a> {
        Caller {
            client_ip: self.client_ip,
            route: self.route.as_ref().map_or("", |route| &*route.name),
            identity: self.identity.as_deref(),
            headers,
            path_param,
        }
    }
}
