//! HTTP/2 from the client's side: a client that behaves, and one made of raw frames.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request, StatusCode};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::wait::DEADLINE;

/// A complete answer.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
    /// The trailers, if there were any.
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A field's value.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("text"))
    }

    /// Expects a refusal with this status and label.
    #[track_caller]
    pub fn assert_refusal(&self, status: u16, error: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.json()["error"], error);
        assert_eq!(self.header("content-type"), "application/json");
        assert_eq!(self.json()["request_id"], self.header("x-request-id"));
    }
}

/// A connection of a client that behaves.
pub struct H2 {
    runtime: Runtime,
    sender: SendRequest<Bytes>,
}

/// A GET for this path.
pub fn get(path: &str) -> http::request::Builder {
    request("GET", path)
}

/// A request for this path.
pub fn request(method: &str, path: &str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(format!("http://test{path}"))
}

impl H2 {
    /// Connects with prior knowledge.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let sender = runtime.block_on(async {
            let tcp = tokio::net::TcpStream::connect(address)
                .await
                .expect("connect");
            let (sender, connection) = h2::client::handshake(tcp).await.expect("handshake");
            tokio::spawn(async move { drop(connection.await) });
            sender
        });
        Self { runtime, sender }
    }

    /// Begins a request; `end` when it has no body.
    #[track_caller]
    pub fn begin(
        &mut self,
        request: http::request::Builder,
        end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let request = request.body(()).expect("a request");
        self.runtime.block_on(async {
            let ready = self.sender.clone().ready();
            let mut ready = tokio::time::timeout(DEADLINE, ready)
                .await
                .expect("room for a stream")?;
            ready.send_request(request, end)
        })
    }

    /// Sends a request without a body and reads the answer.
    #[track_caller]
    pub fn exchange(&mut self, request: http::request::Builder) -> Answer {
        self.try_exchange(request, None).expect("an answer")
    }

    /// Sends a request with this body and reads the answer.
    #[track_caller]
    pub fn send(&mut self, request: http::request::Builder, body: impl Into<Bytes>) -> Answer {
        let body = body.into();
        self.try_exchange(request, Some(body)).expect("an answer")
    }

    /// The same, when it may fail.
    #[track_caller]
    pub fn try_exchange(
        &mut self,
        request: http::request::Builder,
        body: Option<Bytes>,
    ) -> Result<Answer, h2::Error> {
        let (response, mut stream) = self.begin(request, body.is_none())?;
        if let Some(body) = body {
            stream.send_data(body, true)?;
        }
        self.answer(response)
    }

    /// Waits for an answer.
    #[track_caller]
    pub fn answer(&self, response: ResponseFuture) -> Result<Answer, h2::Error> {
        self.runtime.block_on(async {
            timeout(DEADLINE, answer(response))
                .await
                .expect("an answer in time")
        })
    }
}

async fn answer(response: ResponseFuture) -> Result<Answer, h2::Error> {
    let response = response.await?;
    let (parts, mut stream) = response.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        body.extend_from_slice(&piece);
    }
    Ok(Answer {
        status: parts.status,
        headers: parts.headers,
        body,
        trailers: stream.trailers().await?,
    })
}

/// What every HTTP/2 client sends first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Frame types.
pub const DATA: u8 = 0;
/// HEADERS
pub const HEADERS: u8 = 1;
/// PRIORITY
pub const PRIORITY: u8 = 2;
/// RST_STREAM
pub const RESET: u8 = 3;
/// SETTINGS
pub const SETTINGS: u8 = 4;
/// PING
pub const PING: u8 = 6;
/// GOAWAY
pub const GOAWAY: u8 = 7;
/// WINDOW_UPDATE
pub const WINDOW_UPDATE: u8 = 8;
/// CONTINUATION
pub const CONTINUATION: u8 = 9;
/// The flag of a stream's last frame, and of an acknowledgement.
pub const END_STREAM: u8 = 1;
/// The flag of a header block's last frame.
pub const END_HEADERS: u8 = 4;

/// A frame in bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a small payload");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block of literal fields that are not indexed (RFC 7541 section 6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            integer(text.len(), &mut bytes);
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

/// An integer with a prefix of seven bits (RFC 7541 section 5.1).
fn integer(mut value: usize, bytes: &mut Vec<u8>) {
    if value < 127 {
        return bytes.push(value as u8);
    }
    bytes.push(127);
    value -= 127;
    while value >= 128 {
        bytes.push((value % 128) as u8 | 128);
        value /= 128;
    }
    bytes.push(value as u8);
}

/// The fields of a request for this path.
pub fn fields<'a>(method: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        (":method", method),
        (":scheme", "http"),
        (":authority", "test"),
        (":path", path),
    ]
}

/// A GET for this path as a frame.
pub fn get_frame(stream: u32, path: &str) -> Vec<u8> {
    let block = block(&fields("GET", path));
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block)
}

/// A frame that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The type.
    pub kind: u8,
    /// The flags.
    pub flags: u8,
    /// The stream.
    pub stream: u32,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of a GOAWAY or RST_STREAM.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }
}

/// A connection on which a test sends whatever it likes.
pub struct Frames {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// The preface and these settings, to be sent together with what follows where a timeout is short.
pub fn greeting(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (id, value) in settings {
        payload.extend(id.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    [PREFACE, &frame(SETTINGS, 0, 0, &payload)].concat()
}

impl Frames {
    /// Connects and says nothing.
    #[track_caller]
    pub fn silent(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).expect("connect"))
    }

    /// Connects so that the system takes little ahead, and sends nothing.
    #[track_caller]
    pub fn narrow(address: SocketAddr) -> Self {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(8192).expect("a buffer");
        socket.connect(&address.into()).expect("connect");
        Self::over(socket.into())
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).expect("timeout");
        stream.set_write_timeout(Some(DEADLINE)).expect("timeout");
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Connects, and sends the preface and these settings.
    #[track_caller]
    pub fn connect(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut frames = Self::silent(address);
        frames.send(greeting(settings));
        frames
    }

    /// Sends these bytes.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("send");
    }

    /// Sends these bytes, unless the other side has closed.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// The next frame; `None` when the connection is closed.
    pub fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take() {
                return Some(frame);
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing comes: {error}"),
            }
        }
    }

    fn take(&mut self) -> Option<Frame> {
        let head = self.buffer.get(..9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = self.buffer.get(9..9 + length)?.to_vec();
        let frame = Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes(head[5..9].try_into().expect("four bytes")) & 0x7fff_ffff,
            payload,
        };
        self.buffer.drain(..9 + length);
        Some(frame)
    }

    /// The next frame of this type; `None` when the connection is closed before one.
    pub fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next()?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Reads until the connection is closed: the code of the last GOAWAY, if there was one.
    pub fn end(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next() {
            if frame.kind == GOAWAY {
                code = Some(frame.code());
            }
        }
        code
    }

    /// Sends this again and again until the other side has enough: the code it says so with.
    #[track_caller]
    pub fn flood(&mut self, times: usize, mut bytes: impl FnMut(u32) -> Vec<u8>) -> Option<u32> {
        let mut reader = Self {
            stream: self.stream.try_clone().expect("clone"),
            buffer: std::mem::take(&mut self.buffer),
        };
        let reading = std::thread::spawn(move || reader.end());
        for index in 0..times {
            let index = u32::try_from(index).expect("a small number");
            if self.try_send(bytes(index)).is_err() {
                break;
            }
        }
        reading.join().expect("the reader")
    }
}
