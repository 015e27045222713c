//! A client that sends what it is told, byte for byte, and reads strictly.

use std::io::{self, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::secrets;
use super::wait::DEADLINE;
use super::wire::{Framing, Head, Headers, Wire};

/// A response as the client saw it.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// `HTTP/1.1` or `HTTP/1.0`.
    pub version: String,
    /// The fields.
    pub headers: Headers,
    /// The whole body.
    pub body: Vec<u8>,
    /// The statuses of the interim responses before it.
    pub interim: Vec<u16>,
}

impl Response {
    /// A field's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in a body: {:?}", self.text()))
    }

    /// Asserts that this is a refusal of the gateway's own, and returns its request id.
    #[track_caller]
    pub fn assert_refusal(&self, status: u16, error: &str) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/json"));
        let body = self.json();
        assert_eq!(body["error"], error, "{body}");
        assert!(
            body["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty())
        );
        let id = body["request_id"].as_str().expect("a request id");
        assert!(!id.is_empty());
        id.to_owned()
    }
}

/// One connection.
pub struct Client {
    wire: Wire,
}

impl Client {
    /// Connects; every read and write has the common deadline.
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).expect("connect"))
    }

    /// Connects from this loopback address.
    pub fn connect_from(source: IpAddr, address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        socket
            .bind(&SocketAddr::new(source, 0).into())
            .expect("bind");
        socket.connect(&address.into()).expect("connect");
        Self::over(socket.into())
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("nodelay");
        stream.set_read_timeout(Some(DEADLINE)).expect("timeout");
        stream.set_write_timeout(Some(DEADLINE)).expect("timeout");
        Self {
            wire: Wire::new(stream),
        }
    }

    /// The socket, for protocols that take over from here.
    pub fn into_stream(self) -> TcpStream {
        self.wire.into_stream()
    }

    /// The socket, for writing from another thread.
    pub fn writer(&self) -> TcpStream {
        self.wire.stream().try_clone().expect("clone")
    }

    /// The reading half.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// Sends these bytes.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("send");
    }

    /// Sends these bytes; the other side may have closed.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.stream().write_all(bytes.as_ref())
    }

    /// Sends a GET for this path and reads the answer.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Response {
        self.exchange(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
    }

    /// Sends these bytes and reads the answer.
    #[track_caller]
    pub fn exchange(&mut self, bytes: impl AsRef<[u8]>) -> Response {
        self.send(bytes);
        self.read_response()
    }

    /// Reads a response with its body.
    #[track_caller]
    pub fn read_response(&mut self) -> Response {
        self.try_response(true).expect("a response")
    }

    /// Reads the response to a HEAD request, which has no body whatever its header says.
    #[track_caller]
    pub fn read_response_to_head(&mut self) -> Response {
        self.try_response(false).expect("a response")
    }

    /// Reads a response, or says how it was cut.
    pub fn try_response(&mut self, with_body: bool) -> io::Result<Response> {
        let mut interim = Vec::new();
        loop {
            let head = self
                .wire
                .head()?
                .ok_or_else(|| io::Error::from(ErrorKind::UnexpectedEof))?;
            let status = status(&head);
            if (100..200).contains(&status) && status != 101 {
                interim.push(status);
                continue;
            }
            return self.complete(head, interim, with_body);
        }
    }

    fn complete(&mut self, head: Head, interim: Vec<u16>, with_body: bool) -> io::Result<Response> {
        let status = status(&head);
        let mut body = Vec::new();
        if with_body && !matches!(status, 101 | 204 | 304) {
            let framing = head.framing().unwrap_or(Framing::Close);
            self.wire
                .body(framing, &mut |piece| body.extend_from_slice(piece))?;
        }
        Ok(Response {
            status,
            version: head.first.split(' ').next().unwrap_or_default().to_owned(),
            headers: head.headers,
            body,
            interim,
        })
    }

    /// Reads a head alone; the body is read piece by piece from [`Client::wire`].
    #[track_caller]
    pub fn read_head(&mut self) -> Head {
        self.wire.head().expect("a head").expect("a head")
    }

    /// Whether the other side ends the connection before the deadline, sending nothing more.
    pub fn is_closed(&mut self) -> bool {
        match self.wire.some() {
            Ok(bytes) => bytes.is_empty(),
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

/// The status in a status line.
pub fn status(head: &Head) -> u16 {
    let mut words = head.first.split(' ');
    let version = words.next().unwrap_or_default();
    assert!(version.starts_with("HTTP/1."), "{:?}", head.first);
    words
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or_else(|| panic!("no status in {:?}", head.first))
}

/// A GET on a connection of its own.
#[track_caller]
pub fn get(address: SocketAddr, path: &str) -> Response {
    Client::connect(address).get(path)
}

/// A request with these further header lines and body, on a connection of its own.
#[track_caller]
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &[u8],
) -> Response {
    let mut client = Client::connect(address);
    client.send(format_request(method, path, headers, body));
    match method {
        "HEAD" => client.read_response_to_head(),
        _ => client.read_response(),
    }
}

/// The bytes of a request. `Host: test` unless the headers have one, a length when there is a body.
pub fn format_request(method: &str, path: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\n");
    if !headers
        .iter()
        .any(|line| line.to_ascii_lowercase().starts_with("host:"))
    {
        text.push_str("Host: test\r\n");
    }
    for line in headers {
        secrets::remember_field(line);
        text.push_str(line);
        text.push_str("\r\n");
    }
    if !body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}
