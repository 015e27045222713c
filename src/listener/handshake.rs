//! The TLS handshake of a client: which certificate it gets, how long it may take, and why it
//! failed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::server::Acceptor;
use rustls::{AlertDescription, Error};
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::ListenerState;
use super::connection::LINGER;
use super::stream::Connection;
use super::transport::Transport;
use crate::metrics::{ConnectionClose, HandshakeFailure};
use crate::telemetry;
use crate::tls::{Terminator, TlsFacts};

/// What a client may still send after a failed handshake before its connection is closed for good.
const LINGER_BYTES: usize = 64 * 1024;

/// What a client hears that speaks plain HTTP here.
const PLAIN_HTTP: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 48\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n\
    This port speaks TLS: the URL begins with https.";

/// Shakes hands with `peer`. The error is why there will be no request.
pub async fn shake_hands(
    tcp: TcpStream,
    peer: SocketAddr,
    listener: &ListenerState,
    terminator: Arc<Terminator>,
    patience: Duration,
) -> Result<(Box<TlsStream<TcpStream>>, TlsFacts), Option<ConnectionClose>> {
    let deadline = tokio::time::Instant::now() + patience;
    let outcome = timeout_at(deadline, attempt(tcp, &terminator)).await;
    let failure = match outcome {
        Ok(Ok(stream)) => {
            let facts = TlsFacts::of(stream.get_ref().1, terminator);
            let metrics = listener.metrics.tls();
            metrics.completed(facts.version, facts.resumed);
            return Ok((Box::new(stream), facts));
        }
        Ok(Err(failure)) => failure,
        Err(_) => Failure {
            cause: HandshakeFailure::Timeout,
            error: io::ErrorKind::TimedOut.into(),
            tcp: None,
        },
    };
    Err(report(failure, listener, peer).await)
}

/// A handshake that was not completed, and the socket if there is still somebody at its other end.
struct Failure {
    cause: HandshakeFailure,
    error: io::Error,
    tcp: Option<TcpStream>,
}

async fn attempt(tcp: TcpStream, terminator: &Terminator) -> Result<TlsStream<TcpStream>, Failure> {
    let mut first = [0];
    match tcp.peek(&mut first).await {
        // TLS begins with 22; methods begin with a letter.
        Ok(1) if first[0].is_ascii_uppercase() => {
            return Err(Failure {
                cause: HandshakeFailure::PlainHttp,
                error: io::ErrorKind::InvalidData.into(),
                tcp: Some(tcp),
            });
        }
        Ok(1) => {}
        Ok(_) => return Err(failed(io::ErrorKind::UnexpectedEof.into(), None)),
        Err(error) => return Err(failed(error, None)),
    }
    let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), tcp);
    let start = match (&mut acceptor).await {
        Ok(start) => start,
        Err(error) => return Err(failed(error, acceptor.take_io())),
    };
    let hello = start.client_hello();
    let config = terminator.config(hello.server_name(), hello.cipher_suites());
    let accepted = start.into_stream(config).into_fallible().await;
    accepted.map_err(|(error, tcp)| failed(error, Some(tcp)))
}

fn failed(error: io::Error, tcp: Option<TcpStream>) -> Failure {
    Failure {
        cause: cause(&error),
        error,
        tcp,
    }
}

/// What an error of a handshake counts as.
fn cause(error: &io::Error) -> HandshakeFailure {
    let inner = error.get_ref();
    let Some(error) = inner.and_then(|inner| inner.downcast_ref::<Error>()) else {
        return HandshakeFailure::Disconnected;
    };
    match error {
        Error::NoCertificatesPresented => HandshakeFailure::CertificateMissing,
        Error::InvalidCertificate(_) => HandshakeFailure::CertificateRefused,
        Error::NoApplicationProtocol => HandshakeFailure::NoProtocol,
        Error::PeerIncompatible(_) => HandshakeFailure::Incompatible,
        // The client says goodbye by this one.
        Error::AlertReceived(AlertDescription::CloseNotify | AlertDescription::UserCanceled) => {
            HandshakeFailure::Disconnected
        }
        Error::AlertReceived(_) => HandshakeFailure::ClientAlert,
        _ => HandshakeFailure::Malformed,
    }
}

/// Counts and logs a failure, and lets the client read why.
async fn report(
    failure: Failure,
    listener: &ListenerState,
    peer: SocketAddr,
) -> Option<ConnectionClose> {
    let Failure { cause, error, tcp } = failure;
    listener.metrics.tls().failed(cause);
    let (name, reason) = (&listener.name, cause.as_str());
    log::info!(
        target: telemetry::HANDSHAKE,
        "listener={name} peer={peer} TLS handshake failed: {reason}: {error}"
    );
    if let Some(tcp) = tcp {
        // An alert is on its way already. Closing with unread bytes would take it back.
        let mut connection = Connection::new(Transport::Plain(tcp));
        let deadline = Instant::now() + LINGER;
        let answer = match cause {
            HandshakeFailure::PlainHttp => PLAIN_HTTP,
            _ => "",
        };
        if connection.send(answer.as_bytes(), deadline).await.is_ok() {
            connection.linger(LINGER_BYTES, deadline).await;
        }
    }
    match cause {
        HandshakeFailure::Timeout => Some(ConnectionClose::HandshakeTimeout),
        // It was the client that went.
        HandshakeFailure::Disconnected => None,
        _ => Some(ConnectionClose::HandshakeFailed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_answer_states_its_length() {
        let (head, body) = PLAIN_HTTP.split_once("\r\n\r\n").unwrap_or_default();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
    }

    #[test]
    fn errors_are_told_apart() {
        let of = |error: Error| cause(&io::Error::new(io::ErrorKind::InvalidData, error));
        assert_eq!(
            of(Error::NoCertificatesPresented),
            HandshakeFailure::CertificateMissing
        );
        assert_eq!(
            of(Error::AlertReceived(AlertDescription::UnknownCA)),
            HandshakeFailure::ClientAlert
        );
        assert_eq!(of(Error::DecryptError), HandshakeFailure::Malformed);
        assert_eq!(
            cause(&io::ErrorKind::ConnectionReset.into()),
            HandshakeFailure::Disconnected
        );
    }
}
