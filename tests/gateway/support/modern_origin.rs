//! A backend that speaks TLS, and HTTP/2 where that is agreed on.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Response, StatusCode};
use rustls::ServerConfig;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// What is done with a request.
#[derive(Clone, Debug)]
pub enum Act {
    /// Says in JSON what was asked.
    Describe,
    /// Ends the stream.
    Reset(h2::Reason),
    /// Takes the request and never answers.
    Hang,
    /// Answers with so many bytes.
    Bytes(usize),
    /// Answers with this status and nothing else.
    Status(u16),
    /// Answers with this header and a body in two pieces, then ends the stream in this way.
    Break(h2::Reason),
    /// Answers with the pieces of the request as they come, then with trailers.
    Stream,
    /// Answers with trailers and no body.
    TrailersOnly,
    /// Answers with the header and then nothing.
    HangInBody,
    /// Answers a call with these bytes and this `grpc-status`.
    Call(Vec<u8>, u16),
}

/// A request as the backend saw it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `h2` or `http/1.1`.
    pub protocol: &'static str,
    /// The method.
    pub method: String,
    /// The target; with scheme and authority where HTTP/2 was spoken.
    pub target: String,
    /// The fields.
    pub headers: HeaderMap,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    /// Its place among all requests, counted from 0.
    pub ordinal: usize,
    /// The server name that the client's TLS asked for.
    pub server_name: Option<String>,
    /// How many certificates the client showed.
    pub certificates: usize,
}

type Decide = Box<dyn Fn(&Asked) -> Act + Send + Sync>;

struct Shared {
    decide: Decide,
    connections: AtomicUsize,
    resets: Mutex<Vec<h2::Reason>>,
    seen: Mutex<Vec<Asked>>,
    /// Counts the orders to say good-bye on every connection.
    farewells: watch::Sender<usize>,
    /// Whether connections are left alone.
    frozen: watch::Sender<bool>,
}

/// A backend.
pub struct ModernOrigin {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl ModernOrigin {
    /// With TLS.
    pub fn tls(
        config: Arc<ServerConfig>,
        decide: impl Fn(&Asked) -> Act + Send + Sync + 'static,
    ) -> Self {
        Self::start(Some(TlsAcceptor::from(config)), Box::new(decide))
    }

    /// HTTP/2 without TLS.
    pub fn h2c(decide: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> Self {
        Self::start(None, Box::new(decide))
    }

    fn start(tls: Option<TlsAcceptor>, decide: Decide) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("bind");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            decide,
            connections: AtomicUsize::new(0),
            resets: Mutex::default(),
            seen: Mutex::default(),
            farewells: watch::Sender::new(0),
            frozen: watch::Sender::new(false),
        });
        let accepting = Arc::clone(&shared);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = accepting.connections.fetch_add(1, Ordering::SeqCst);
                let (shared, tls) = (Arc::clone(&accepting), tls.clone());
                tokio::spawn(shared.serve(stream, tls, number));
            }
        });
        Self {
            address,
            shared,
            runtime: Some(runtime),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it took.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Asked> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// How clients ended streams.
    pub fn resets(&self) -> Vec<h2::Reason> {
        self.shared.resets.lock().unwrap().clone()
    }

    /// Sends GOAWAY on every connection.
    pub fn say_goodbye(&self) {
        self.shared.farewells.send_modify(|count| *count += 1);
    }

    /// Leaves every connection that there is alone, without closing it.
    pub fn freeze(&self) {
        self.shared.frozen.send_replace(true);
        self.shared.frozen.send_replace(false);
    }
}

impl Drop for ModernOrigin {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

/// Who is at the other end.
#[derive(Clone, Default)]
struct Peer {
    connection: usize,
    server_name: Option<String>,
    certificates: usize,
}

impl Shared {
    async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        tls: Option<TlsAcceptor>,
        connection: usize,
    ) {
        stream.set_nodelay(true).expect("nodelay");
        let mut peer = Peer {
            connection,
            ..Peer::default()
        };
        let Some(tls) = tls else {
            return self.http2(stream, peer).await;
        };
        let Ok(stream) = tls.accept(stream).await else {
            return;
        };
        let session = stream.get_ref().1;
        peer.server_name = session.server_name().map(str::to_owned);
        peer.certificates = session.peer_certificates().map_or(0, <[_]>::len);
        if session.alpn_protocol() == Some(b"h2") {
            self.http2(stream, peer).await;
        } else {
            self.http1(stream, peer).await;
        }
    }

    fn record(&self, mut asked: Asked) -> Asked {
        let mut seen = self.seen.lock().unwrap();
        asked.ordinal = seen.len();
        seen.push(asked.clone());
        asked
    }

    async fn http2<S: AsyncRead + AsyncWrite + Unpin>(self: Arc<Self>, stream: S, peer: Peer) {
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(100);
        let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else {
            return;
        };
        let mut farewells = self.farewells.subscribe();
        let mut frozen = self.frozen.subscribe();
        loop {
            let accepted = tokio::select! {
                accepted = connection.accept() => accepted,
                _ = farewells.changed() => {
                    connection.graceful_shutdown();
                    continue;
                }
                _ = frozen.changed() => std::future::pending().await,
            };
            let Some(Ok((request, respond))) = accepted else {
                return;
            };
            let (parts, body) = request.into_parts();
            let asked = self.record(Asked {
                protocol: "h2",
                method: parts.method.to_string(),
                target: parts.uri.to_string(),
                headers: parts.headers,
                connection: peer.connection,
                ordinal: 0,
                server_name: peer.server_name.clone(),
                certificates: peer.certificates,
            });
            let act = (self.decide)(&asked);
            let shared = Arc::clone(&self);
            tokio::spawn(async move {
                // Streams end in many ways; the client tells what came of the others.
                if let Ok(Some(reason)) = answer(act, &asked, body, respond).await {
                    shared.resets.lock().unwrap().push(reason);
                }
            });
        }
    }

    /// Just enough to see that it was HTTP/1.1: requests without a body, one answer.
    async fn http1<S: AsyncRead + AsyncWrite + Unpin>(self: Arc<Self>, mut stream: S, peer: Peer) {
        let mut buffer = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                    break end + 4;
                }
                match stream.read_buf(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            };
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            buffer.drain(..end);
            let mut words = head.split(' ');
            let mut headers = HeaderMap::new();
            for line in head.lines().skip(1) {
                if let Some((name, value)) = line.split_once(": ") {
                    let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
                    headers.append(name, value.parse().expect("a value"));
                }
            }
            let asked = self.record(Asked {
                protocol: "http/1.1",
                method: words.next().unwrap_or_default().to_owned(),
                target: words.next().unwrap_or_default().to_owned(),
                headers,
                connection: peer.connection,
                ordinal: 0,
                server_name: peer.server_name.clone(),
                certificates: peer.certificates,
            });
            if asked.headers.contains_key("upgrade") {
                let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
                drop(stream.write_all(answer).await);
                let mut piece = [0; 64];
                while let Ok(read @ 1..) = stream.read(&mut piece).await {
                    drop(stream.write_all(&piece[..read]).await);
                }
                return;
            }
            let body = describe(&asked, 0);
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

fn describe(asked: &Asked, body_length: usize) -> String {
    json!({
        "protocol": asked.protocol,
        "method": asked.method,
        "target": asked.target,
        "body_length": body_length,
        "connection": asked.connection,
        "server_name": asked.server_name,
        "certificates": asked.certificates,
    })
    .to_string()
}

/// Does what it is told; the answer is how the client ended a stream that was left open.
async fn answer(
    act: Act,
    asked: &Asked,
    mut body: RecvStream,
    mut respond: SendResponse<Bytes>,
) -> Result<Option<h2::Reason>, h2::Error> {
    let ok = || Response::new(());
    match act {
        Act::Describe => {
            let length = read(&mut body).await?;
            let text = describe(asked, length);
            let is_head = asked.method == "HEAD";
            let mut stream = respond.send_response(ok(), is_head)?;
            if !is_head {
                send(&mut stream, text.into(), true).await?;
            }
            Ok(None)
        }
        Act::Reset(reason) => {
            respond.send_reset(reason);
            Ok(None)
        }
        Act::Hang => {
            read(&mut body).await?;
            std::future::poll_fn(|context| respond.poll_reset(context))
                .await
                .map(Some)
        }
        Act::Bytes(length) => {
            read(&mut body).await?;
            let mut stream = respond.send_response(ok(), false)?;
            let mut left = length;
            while left > 0 {
                let piece = left.min(64 * 1024);
                left -= piece;
                send(&mut stream, vec![b'x'; piece].into(), left == 0).await?;
            }
            Ok(None)
        }
        Act::Status(status) => {
            let mut response = ok();
            *response.status_mut() = StatusCode::from_u16(status).expect("a status");
            respond.send_response(response, true).map(|_| None)
        }
        Act::Break(reason) => {
            let mut stream = respond.send_response(ok(), false)?;
            send(&mut stream, "half".into(), false).await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
            stream.send_reset(reason);
            Ok(None)
        }
        Act::Stream => {
            let mut stream = respond.send_response(ok(), false)?;
            while let Some(piece) = body.data().await {
                let piece = piece?;
                body.flow_control().release_capacity(piece.len())?;
                send(&mut stream, piece, false).await?;
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().expect("a value"));
            stream.send_trailers(trailers).map(|()| None)
        }
        Act::TrailersOnly => {
            let mut response = ok();
            response
                .headers_mut()
                .insert("grpc-status", "5".parse().expect("a value"));
            respond.send_response(response, true).map(|_| None)
        }
        Act::Call(message, code) => {
            read(&mut body).await?;
            let mut stream = respond.send_response(ok(), false)?;
            send(&mut stream, message.into(), false).await?;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", code.into());
            stream.send_trailers(trailers).map(|()| None)
        }
        Act::HangInBody => {
            let mut stream = respond.send_response(ok(), false)?;
            send(&mut stream, "half".into(), false).await?;
            std::future::poll_fn(|context| stream.poll_reset(context))
                .await
                .map(Some)
        }
    }
}

async fn read(body: &mut RecvStream) -> Result<usize, h2::Error> {
    let mut length = 0;
    while let Some(piece) = body.data().await {
        let piece = piece?;
        length += piece.len();
        body.flow_control().release_capacity(piece.len())?;
    }
    Ok(length)
}

/// Sends no more than the other side has room for.
async fn send(
    stream: &mut h2::SendStream<Bytes>,
    mut bytes: Bytes,
    end: bool,
) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = std::future::poll_fn(|context| stream.poll_capacity(context)).await;
        let room = room.ok_or_else(|| h2::Error::from(h2::Reason::CANCEL))??;
        let piece = bytes.split_to(room.min(bytes.len()));
        let last = end && bytes.is_empty();
        stream.send_data(piece, last)?;
    }
    Ok(())
}
