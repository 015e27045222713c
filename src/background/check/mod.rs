//! One probe of one backend: over the same kind of connection that its requests go, but always a new
//! one.

mod grpc;
mod http;
mod unwell;

use std::net::SocketAddr;
use std::sync::Arc;

use pingora_core::connectors::TransportConnector;
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::ALPN;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::HttpPeer;

pub(super) use self::unwell::Unwell;
use crate::config::model::{HealthCheck, Pace, Question};
use crate::tls::backend::connector_options;
use crate::upstream::{Backend, Purpose};

/// Everything that the result of a probe depends on. Backends with the same target share its probes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Target {
    /// Where requests go. A probe may go to another port of it.
    address: SocketAddr,
    port: Option<u16>,
    /// The `Host` when none is configured.
    name: Arc<str>,
    /// Whom it must prove to be, and to whom; `None` without TLS.
    encryption: Option<(String, u64)>,
    /// Whether HTTP/2 is spoken, or may be.
    protocol: Protocol,
    question: Question,
    pub(super) pace: Pace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Protocol {
    Http1,
    Http2,
    Either,
}

/// What a probe does.
pub(super) struct Check {
    peer: Box<HttpPeer>,
    host: String,
    how: How,
}

enum How {
    /// Makes a connection, with the TLS handshake if there is one.
    Connection(Box<TransportConnector>),
    /// Sends a request, or a call, and judges the answer.
    Exchange(Box<Connector>, Question),
}

impl Target {
    /// Of a backend that is probed in this way. `None`: it has no address of the internet.
    pub(super) fn new(backend: &Backend, check: &HealthCheck) -> Option<Self> {
        let peer = backend.peer(Purpose::Request);
        let fingerprint = backend.tls_fingerprint();
        Some(Self {
            address: *peer._address.as_inet()?,
            port: check.port,
            name: Arc::clone(&backend.name),
            encryption: fingerprint.map(|fingerprint| (peer.sni.clone(), fingerprint)),
            protocol: match peer.options.alpn {
                ALPN::H2 => Protocol::Http2,
                ALPN::H2H1 => Protocol::Either,
                _ => Protocol::Http1,
            },
            question: check.question.clone(),
            pace: check.pace.clone(),
        })
    }
}

#[cfg(test)]
impl Target {
    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Check {
    /// Prepares the probes of this target, which is this backend's.
    pub(super) fn new(target: &Target, backend: &Backend) -> Self {
        let mut peer = backend.peer(Purpose::Request);
        let timeout = Some(target.pace.timeout);
        // The pool's figures are those of requests.
        peer.options.tracer = None;
        peer.options.connection_timeout = timeout;
        peer.options.total_connection_timeout = timeout;
        peer.options.read_timeout = timeout;
        peer.options.write_timeout = timeout;
        // A connection with room for another stream would be kept.
        peer.options.max_h2_streams = 1;
        if let Some(port) = target.port {
            peer._address.set_port(port);
        }
        let host = match &target.question {
            Question::Connection => None,
            Question::Http(asked) => asked.host.clone(),
            Question::Grpc(asked) => asked.host.clone(),
        };
        let how = match &target.question {
            Question::Connection => {
                How::Connection(Box::new(TransportConnector::new(Some(connector_options()))))
            }
            question => {
                if matches!(question, Question::Grpc(_)) {
                    // gRPC is HTTP/2 whatever requests are.
                    peer.options.alpn = ALPN::H2;
                }
                let connector = Connector::new(Some(connector_options()));
                How::Exchange(Box::new(connector), question.clone())
            }
        };
        Self {
            peer,
            host: host.unwrap_or_else(|| backend.name.to_string()),
            how,
        }
    }

    /// Probes once. The caller sets the deadline.
    pub(super) async fn run(&self) -> Result<(), Unwell> {
        match &self.how {
            How::Connection(connector) => {
                let connected = connector.new_stream(&*self.peer).await;
                connected.map(drop).map_err(Unwell::from)
            }
            How::Exchange(connector, question) => {
                let mut session = connector.get_http_session(&*self.peer).await?.0;
                session.set_read_timeout(self.peer.options.read_timeout);
                session.set_write_timeout(self.peer.options.write_timeout);
                self.ask(&mut session, question).await
            }
        }
    }

    async fn ask(&self, session: &mut HttpSession, question: &Question) -> Result<(), Unwell> {
        let scheme = if self.peer.is_tls() { "https" } else { "http" };
        match question {
            // Never an exchange.
            Question::Connection => Ok(()),
            Question::Http(asked) => http::ask(session, asked, scheme, &self.host).await,
            Question::Grpc(asked) => grpc::ask(session, asked, scheme, &self.host).await,
        }
    }
}
