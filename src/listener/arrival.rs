//! From an accepted socket to a connection that requests can be read from: who the peer is, what
//! carries its bytes, and which protocol it speaks.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use super::h2::preface;
use super::transport::Transport;
use super::{ListenerState, handshake};
use crate::config::model::Limits;
use crate::metrics::ConnectionClose;

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
}

/// Does what stands before the first request. The error is why there will be none.
pub async fn arrive(
    tcp: TcpStream,
    listener: &ListenerState,
    limits: &Limits,
) -> Result<Arrival, Option<ConnectionClose>> {
    let peer = tcp.peer_addr().map_err(|_| None)?;
    if let Some(terminator) = listener.settings().tls.clone() {
        // On the heap, so that plain connections do not make room for a handshake.
        let patience = limits.handshake_timeout;
        let handshake = handshake::shake_hands(tcp, peer.ip(), listener, terminator, patience);
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
        });
    }
    let protocol = if listener.settings().h2c {
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
    })
}
