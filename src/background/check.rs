//! One probe of one backend: over the same kind of connection that its requests go, but always a new
//! one.

use http::uri::PathAndQuery;
use http::{Uri, header};
use pingora_core::connectors::TransportConnector;
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::ALPN;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, OrErr, Result};
use pingora_load_balancing::Backend as Address;
use pingora_load_balancing::health_check::{HealthCheck, HttpHealthCheck};

use crate::config::model;
use crate::tls::backend::connector_options;
use crate::upstream::{Backend, Purpose};

/// What a probe does.
pub(super) enum Check {
    /// Makes a connection, with the TLS handshake if there is one.
    Connection(Box<TransportConnector>, Box<HttpPeer>),
    /// Sends a request and judges the status.
    Request(Box<HttpHealthCheck>, Address),
}

impl Check {
    /// Probes once.
    pub(super) async fn run(&self) -> Result<()> {
        match self {
            Self::Connection(connector, peer) => connector.new_stream(&**peer).await.map(drop),
            Self::Request(check, address) => check.check(address).await,
        }
    }
}

/// Prepares the probes of a backend.
pub(super) fn new(backend: &Backend, policy: &model::HealthCheck) -> Result<Check> {
    let mut peer = backend.peer(Purpose::Request);
    // The pool's figures are those of requests.
    peer.options.tracer = None;
    peer.options.connection_timeout = Some(policy.timeout);
    peer.options.total_connection_timeout = Some(policy.timeout);
    peer.options.read_timeout = Some(policy.timeout);
    peer.options.write_timeout = Some(policy.timeout);
    // A connection with room for another stream would be kept.
    peer.options.max_h2_streams = 1;
    let Some(path) = &policy.path else {
        let connector = TransportConnector::new(Some(connector_options()));
        return Ok(Check::Connection(Box::new(connector), peer));
    };
    let host = policy.host.as_deref().unwrap_or(&backend.name);
    let connector = Connector::new(Some(connector_options()));
    let mut check = HttpHealthCheck::new_custom(host, peer.is_tls(), connector);
    request(&mut check, &peer, host, path)?;
    check.peer_template = *peer;
    let expected = policy.expected_statuses.clone();
    check.validator = Some(Box::new(move |response| {
        let status = response.status.as_u16();
        let mut ranges = expected.iter();
        if ranges.any(|(low, high)| (*low..=*high).contains(&status)) {
            Ok(())
        } else {
            Error::e_explain(ErrorType::HTTPStatus(status), "unexpected status")
        }
    }));
    let address = Address {
        addr: backend.address().clone(),
        weight: 1,
        ext: Default::default(),
    };
    Ok(Check::Request(Box::new(check), address))
}

fn request(check: &mut HttpHealthCheck, peer: &HttpPeer, host: &str, path: &str) -> Result<()> {
    check.req.set_raw_path(path.as_bytes())?;
    check
        .req
        .insert_header(header::USER_AGENT, "gateway-health-check")?;
    if peer.options.alpn == ALPN::H2 {
        // Pingora would say `https` whatever is spoken below, and send the host twice.
        let path: PathAndQuery = path
            .parse()
            .or_err(ErrorType::InternalError, "probe path")?;
        let scheme = if peer.is_tls() { "https" } else { "http" };
        let uri = Uri::builder()
            .scheme(scheme)
            .authority(host)
            .path_and_query(path)
            .build()
            .or_err(ErrorType::InternalError, "probe URI")?;
        check.req.set_uri(uri);
        check.req.remove_header(&header::HOST);
    }
    Ok(())
}
