//! From an accepted socket to a connection that requests can be read from: who the peer is, what
//! carries its bytes, and which protocol it speaks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;

use super::client_addr::is_trusted;
use super::clients::{Admitted, Clients};
use super::h2::preface;
use super::proxy_protocol::{self, Failed, Source};
use super::transport::Transport;
use super::{ListenerState, handshake};
use crate::metrics::ConnectionClose;
use crate::snapshot::Live;
use crate::telemetry;

pub use crate::tls::TlsFacts;

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// A connection that requests can be read from.
#[derive(Debug)]
pub struct Arrival {
    /// Its bytes.
    pub transport: Transport,
    /// Who is at the other end; behind a load balancer that says so, its client.
    pub peer: SocketAddr,
    /// What the handshake said; `None` for a plain connection.
    pub tls: Option<Arc<TlsFacts>>,
    /// What is spoken.
    pub protocol: Protocol,
    /// Counts the connection as its client's; `None` for a proxy, which has many clients.
    pub admitted: Option<Admitted>,
}

/// Does what stands before the first request. The error is why there will be none.
pub async fn arrive(
    mut tcp: TcpStream,
    listener: &ListenerState,
    live: &Live,
    clients: &Arc<Clients>,
) -> Result<Arrival, Option<ConnectionClose>> {
    let peer = tcp.peer_addr().map_err(|_| None)?;
    let peer = announced(&mut tcp, peer, listener, live).await?;
    // Before the handshake, which is what costs.
    let admitted = admit(peer, live, clients)?;
    let (limits, settings) = (live.limits(), listener.settings());
    if let Some(terminator) = settings.tls.clone() {
        // On the heap, so that plain connections do not make room for a handshake.
        let patience = limits.handshake_timeout;
        let handshake = handshake::shake_hands(tcp, peer, listener, terminator, patience);
        let (stream, facts) = Box::pin(handshake).await?;
        let protocol = match facts.http2 {
            true => Protocol::Http2,
            false => Protocol::Http1,
        };
        return Ok(Arrival {
            transport: Transport::Tls(stream),
            peer,
            tls: Some(Arc::new(facts)),
            protocol,
            admitted,
        });
    }
    let protocol = if settings.h2c {
        preface::detect(&tcp, limits.request_header_timeout)
            .await
            .map_err(Some)?
    } else {
        Protocol::Http1
    };
    Ok(Arrival {
        transport: Transport::Plain(tcp),
        peer,
        tls: None,
        protocol,
        admitted,
    })
}

/// Who the peer is, or whom a load balancer says that it speaks for.
async fn announced(
    tcp: &mut TcpStream,
    peer: SocketAddr,
    listener: &ListenerState,
    live: &Live,
) -> Result<SocketAddr, Option<ConnectionClose>> {
    if !is_trusted(peer.ip(), &listener.settings().proxy_protocol) {
        return Ok(peer);
    }
    let deadline = Instant::now() + live.limits().request_header_timeout;
    let failed = match proxy_protocol::read(tcp, deadline).await {
        Ok(Source::Client(client)) => return Ok(client),
        Ok(Source::Peer) => return Ok(peer),
        // Balancers look in this way whether a port is open.
        Err(Failed::Silent) => return Err(None),
        Err(failed) => failed,
    };
    let name = &listener.name;
    log::info!(target: telemetry::PROXY_PROTOCOL, "listener={name} peer={peer} closed: {failed}");
    Err(Some(match failed {
        Failed::TimedOut => ConnectionClose::HeaderTimeout,
        _ => ConnectionClose::ProxyProtocol,
    }))
}

/// Counts a connection as its client's, unless it has too many.
fn admit(
    client: SocketAddr,
    live: &Live,
    clients: &Arc<Clients>,
) -> Result<Option<Admitted>, Option<ConnectionClose>> {
    let snapshot = live.load();
    if is_trusted(client.ip(), &snapshot.trusted_proxies) {
        return Ok(None);
    }
    let most = snapshot.limits.max_connections_per_client;
    let admitted = clients.admit(client.ip(), most);
    admitted.map(Some).ok_or(Some(ConnectionClose::ClientLimit))
}
