//! A WebSocket client that gets back what it sends, and connects again when it is told to leave.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use super::http1::REQUEST_DEADLINE;
use super::load::Load;
use super::tally::{Fault, Kind};

/// The shortest time that a socket can be told to wait.
const LEAST_WAIT: Duration = Duration::from_millis(1);

/// A socket wakes up this much late at most; the kernel counts its waiting in ticks.
const TICK: Duration = Duration::from_millis(20);

type Socket = WebSocket<TcpStream>;

/// What came in.
enum Incoming {
    Text(String),
    /// The gateway goes away: close code 1001.
    Farewell,
    /// Nothing until the end of the time.
    Nothing,
}

/// Sends a message every `interval` on one connection, and another one after a farewell.
pub fn echo(load: &Arc<Load>, address: SocketAddr, interval: Duration) {
    let mut kept: Option<Socket> = None;
    let mut due = Instant::now();
    let mut number = 0_u64;
    while !load.is_stopping() {
        due += interval;
        if let Some(mut socket) = kept.take() {
            match receive(&mut socket, due.checked_sub(TICK).unwrap_or(due)) {
                Ok(Incoming::Nothing) => kept = Some(socket),
                Ok(Incoming::Farewell) => load.tally.closed(Kind::WebSocket),
                Ok(Incoming::Text(text)) => {
                    let fault = Fault::failed(format!("unexpected message {text:?}"));
                    load.tally.fault(Kind::WebSocket, &fault);
                }
                Err(fault) => load.tally.fault(Kind::WebSocket, &fault),
            }
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        number += 1;
        let outcome = persist(load, address, &mut kept, &format!("message {number}"));
        if outcome.is_err() {
            kept = None;
        }
        load.tally.request(Kind::WebSocket, due.elapsed(), outcome);
    }
    if let Some(mut socket) = kept {
        // Best effort: the load has ended.
        drop(socket.close(None));
        while socket.read().is_ok() {}
    }
}

/// One message and its echo; it is sent again when a farewell came in its place.
fn persist(
    load: &Load,
    address: SocketAddr,
    kept: &mut Option<Socket>,
    text: &str,
) -> Result<(), Fault> {
    loop {
        let socket = match kept {
            Some(socket) => socket,
            None => kept.insert(open(address)?),
        };
        match socket.send(Message::text(text)) {
            Ok(()) => {}
            Err(error) => return Err(fault(error)),
        }
        match receive(socket, Instant::now() + REQUEST_DEADLINE)? {
            Incoming::Text(echo) if echo == text => return Ok(()),
            Incoming::Text(other) => return Err(Fault::failed(format!("came back as {other:?}"))),
            Incoming::Nothing => return Err(Fault::failed("no echo in time")),
            Incoming::Farewell => {
                load.tally.retried(Kind::WebSocket);
                load.tally.closed(Kind::WebSocket);
                *kept = None;
            }
        }
    }
}

fn open(address: SocketAddr) -> Result<Socket, Fault> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(REQUEST_DEADLINE))?;
    stream.set_write_timeout(Some(REQUEST_DEADLINE))?;
    match tungstenite::client(format!("ws://{address}/socket"), stream) {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::HandshakeError::Failure(error)) => Err(fault(error)),
        Err(tungstenite::HandshakeError::Interrupted(_)) => {
            Err(Fault::failed("no handshake in time"))
        }
    }
}

fn receive(socket: &mut Socket, until: Instant) -> Result<Incoming, Fault> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        socket
            .get_ref()
            .set_read_timeout(Some(left.max(LEAST_WAIT)))?;
        match socket.read() {
            Ok(Message::Text(text)) => return Ok(Incoming::Text(text.as_str().to_owned())),
            Ok(Message::Close(frame)) => {
                // The answer to the close frame is sent while reading on to the end.
                while socket.read().is_ok() {}
                return match frame.map(|frame| frame.code) {
                    Some(CloseCode::Away) => Ok(Incoming::Farewell),
                    other => Err(Fault::failed(format!("closed with {other:?}"))),
                };
            }
            Ok(_) => {}
            Err(tungstenite::Error::Io(error)) if is_timeout(error.kind()) => {
                if left.is_zero() {
                    return Ok(Incoming::Nothing);
                }
            }
            Err(error) => return Err(fault(error)),
        }
    }
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn fault(error: tungstenite::Error) -> Fault {
    match error {
        tungstenite::Error::Io(error) => error.into(),
        other => Fault::failed(other),
    }
}
