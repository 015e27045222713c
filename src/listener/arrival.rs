//! From an accepted socket to a connection that requests can be read from: who the peer is, what
//! carries its bytes, and which protocol it speaks.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use super::ListenerState;
use super::h2::preface;
use super::transport::Transport;
use crate::config::model::Limits;
use crate::metrics::ConnectionClose;

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// What the handshake of a TLS connection said.
#[derive(Debug)]
pub struct TlsFacts {
    /// The name the client asked for.
    pub server_name: Option<Box<str>>,
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
