//! Which protocol begins on a plain connection: HTTP/2 with prior knowledge (RFC 9113 section 3.3), or
//! HTTP/1.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

use super::frames::PREFACE;
use crate::listener::arrival::Protocol;
use crate::metrics::ConnectionClose;

/// Three bytes decide: no method of HTTP/1 is called PRI, and the preface was chosen for that. To wait
/// for all 24 would keep short requests waiting.
const DECISIVE: usize = 3;
/// How often a client is looked at that has sent one or two of them.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks at the first bytes, which stay where they are.
pub async fn detect(tcp: &TcpStream, patience: Duration) -> Result<Protocol, ConnectionClose> {
    let deadline = Instant::now() + patience;
    let mut bytes = [0; DECISIVE];
    loop {
        let read = match timeout_at(deadline, tcp.peek(&mut bytes)).await {
            Ok(Ok(read)) => read,
            // The reader of HTTP/1 finds the same end or error.
            Ok(Err(_)) => return Ok(Protocol::Http1),
            Err(_) => return Err(ConnectionClose::IdleTimeout),
        };
        if read == 0 || !PREFACE.starts_with(&bytes[..read]) {
            return Ok(Protocol::Http1);
        }
        if read == DECISIVE {
            return Ok(Protocol::Http2);
        }
        if Instant::now() >= deadline {
            return Err(ConnectionClose::HeaderTimeout);
        }
        // The socket says that it can be read for as long as a byte is in it.
        sleep(PAUSE).await;
    }
}
