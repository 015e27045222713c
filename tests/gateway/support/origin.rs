//! A backend on threads that answers, records, counts, and misbehaves on request.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;
use socket2::{Domain, SockRef, Socket, Type};

use super::script::{Script, Step};
use super::steps::{drip, fill, repeat};
use super::wait::until;
use super::wire::{Framing, Head, Headers, Wire};

/// How much of a body is kept for the test to look at; longer ones are only counted.
const KEPT_BODY_BYTES: usize = 1024 * 1024;

/// A request as the backend saw it.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The target as it was.
    pub target: String,
    /// The fields.
    pub headers: Headers,
    /// The bytes of the head.
    pub raw: Vec<u8>,
    /// The beginning of the body, once it was read.
    pub body: Vec<u8>,
    /// The length of the body, once it was read to its end.
    pub body_length: Option<u64>,
    /// The trailers.
    pub trailers: Headers,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    /// Its place among all requests, counted from 0.
    pub ordinal: usize,
}

impl Request {
    fn new(head: Head, connection: usize, ordinal: usize) -> Self {
        let mut words = head.first.split(' ').map(str::to_owned);
        Self {
            method: words.next().unwrap_or_default(),
            target: words.next().unwrap_or_default(),
            headers: head.headers,
            raw: head.raw,
            body: Vec::new(),
            body_length: None,
            trailers: Headers::default(),
            connection,
            ordinal,
        }
    }

    /// A field's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    fn framing(&self) -> Framing {
        let head = Head {
            first: String::new(),
            headers: self.headers.clone(),
            raw: Vec::new(),
        };
        head.framing().unwrap_or(Framing::Length(0))
    }
}

type Answer = Box<dyn Fn(&Request) -> Script + Send + Sync>;
type Conversation = Box<dyn Fn(TcpStream) + Send + Sync>;

enum Plan {
    /// Says in JSON what was asked; `origin` is this text.
    Echo(String),
    /// Asks the test what to do with each request.
    Answer(Answer),
    /// Leaves the whole connection to the test.
    Conversation(Conversation),
}

struct Shared {
    plan: Plan,
    stopping: AtomicBool,
    connections: AtomicUsize,
    seen: Mutex<Vec<Request>>,
    open: Mutex<HashMap<usize, TcpStream>>,
}

/// A backend.
pub struct Origin {
    address: SocketAddr,
    /// Bound as long as it lives, so that nobody else is given its port while it is stopped.
    _place: Socket,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Origin {
    /// Answers every request with a JSON description of it.
    pub fn echo() -> Self {
        Self::named("origin")
    }

    /// The same, with a name of its own in the answer.
    pub fn named(name: &str) -> Self {
        Self::start(Plan::Echo(name.to_owned()))
    }

    /// Does the same with every request.
    pub fn script(script: Script) -> Self {
        Self::answering(move |_| script.clone())
    }

    /// Decides what to do from the request.
    pub fn answering(answer: impl Fn(&Request) -> Script + Send + Sync + 'static) -> Self {
        Self::start(Plan::Answer(Box::new(answer)))
    }

    /// Hands every connection over as it is accepted.
    pub fn conversation(talk: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::start(Plan::Conversation(Box::new(talk)))
    }

    /// So many of them, at the same port of 127.0.0.2, 127.0.0.3 and so on, as a name server names
    /// them. Each says its number.
    pub fn fleet(count: u8) -> Vec<Self> {
        let start = |ip: Ipv4Addr, port| hold((ip, port).into());
        let all = || {
            let first = start(Ipv4Addr::new(127, 0, 0, 2), 0)?;
            let port = address_of(&first)?.port();
            let others = (3..count + 2).map(|last| start(Ipv4Addr::new(127, 0, 0, last), port));
            let all = std::iter::once(Ok(first)).chain(others);
            all.collect::<std::io::Result<Vec<_>>>()
        };
        let places = until(|| all().ok()).expect("a port that is free");
        let numbered = places.into_iter().enumerate();
        numbered
            .map(|(number, place)| Self::begin(place, Plan::Echo(number.to_string())))
            .collect()
    }

    fn start(plan: Plan) -> Self {
        Self::begin(hold((Ipv4Addr::LOCALHOST, 0).into()).expect("bind"), plan)
    }

    fn begin(place: Socket, plan: Plan) -> Self {
        let mut origin = Self {
            address: address_of(&place).expect("address"),
            _place: place,
            shared: Arc::new(Shared {
                plan,
                stopping: AtomicBool::new(false),
                connections: AtomicUsize::new(0),
                seen: Mutex::default(),
                open: Mutex::default(),
            }),
            acceptor: None,
        };
        origin.accept();
        origin
    }

    fn accept(&mut self) {
        let listener = TcpListener::bind(self.address).expect("bind the port that is kept");
        let shared = Arc::clone(&self.shared);
        self.acceptor = Some(std::thread::spawn(move || accept(&listener, &shared)));
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it took.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.shared.open.lock().unwrap().len()
    }

    /// How many request headers it read.
    pub fn requests(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Request> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The only request so far.
    #[track_caller]
    pub fn only_request(&self) -> Request {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }

    /// Closes the port and every connection.
    pub fn stop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor; an error means that it is gone already.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().expect("the acceptor");
        }
        for (_, stream) in self.shared.open.lock().unwrap().drain() {
            // An error means that the connection is closed already.
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// Opens the same port again after [`Origin::stop`].
    pub fn restart(&mut self) {
        self.shared.stopping.store(false, Ordering::SeqCst);
        self.accept();
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if self.acceptor.is_some() {
            self.stop();
        }
    }
}

/// Keeps an address without listening there. A listener can be bound beside it.
fn hold(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn address_of(socket: &Socket) -> io::Result<SocketAddr> {
    let address = socket.local_addr()?.as_socket();
    address.ok_or_else(|| io::Error::other("no address of IP"))
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let number = shared.connections.fetch_add(1, Ordering::SeqCst);
            let handle = stream.try_clone().expect("clone");
            shared.open.lock().unwrap().insert(number, handle);
            if shared.stopping.load(Ordering::SeqCst) {
                // Whoever stops it may have looked at what is open before.
                drop(stream.shutdown(Shutdown::Both));
            }
            // The end of a connection, whatever its reason, ends only its thread.
            drop(shared.serve(stream, number));
            shared.open.lock().unwrap().remove(&number);
        });
    }
}

/// Whether a connection takes another request.
#[derive(PartialEq, Eq)]
enum Then {
    Continue,
    End,
}

impl Shared {
    fn serve(&self, stream: TcpStream, number: usize) -> io::Result<()> {
        stream.set_nodelay(true)?;
        if let Plan::Conversation(talk) = &self.plan {
            talk(stream);
            return Ok(());
        }
        let mut wire = Wire::new(stream);
        while let Some(head) = wire.head()? {
            let request = self.record(head, number);
            let then = match &self.plan {
                Plan::Echo(name) => self.describe(&mut wire, request, name)?,
                Plan::Answer(answer) => self.play(&mut wire, answer(&request), request)?,
                Plan::Conversation(_) => Then::End,
            };
            if then == Then::End {
                break;
            }
        }
        Ok(())
    }

    fn record(&self, head: Head, connection: usize) -> Request {
        let mut seen = self.seen.lock().unwrap();
        let request = Request::new(head, connection, seen.len());
        seen.push(request.clone());
        request
    }

    fn read_body(&self, wire: &mut Wire, request: &mut Request) -> io::Result<()> {
        let expects = request
            .header("expect")
            .is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
        if expects {
            wire.stream().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut length = 0;
        let mut body = Vec::new();
        request.trailers = wire.body(request.framing(), &mut |piece| {
            length += piece.len() as u64;
            let room = KEPT_BODY_BYTES - body.len();
            body.extend_from_slice(&piece[..piece.len().min(room)]);
        })?;
        request.body = body;
        request.body_length = Some(length);
        self.seen.lock().unwrap()[request.ordinal] = request.clone();
        Ok(())
    }

    fn describe(&self, wire: &mut Wire, mut request: Request, name: &str) -> io::Result<Then> {
        self.read_body(wire, &mut request)?;
        let body = json!({
            "origin": name,
            "method": request.method,
            "target": request.target,
            "headers": request.headers.0,
            "body_length": request.body_length,
        })
        .to_string();
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Origin: {name}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if request.method != "HEAD" {
            answer.push_str(&body);
        }
        wire.stream().write_all(answer.as_bytes())?;
        let closing = request.header("connection") == Some("close");
        Ok(if closing { Then::End } else { Then::Continue })
    }

    fn play(&self, wire: &mut Wire, script: Script, mut request: Request) -> io::Result<Then> {
        for step in script.0 {
            match step {
                Step::ReadBody => self.read_body(wire, &mut request)?,
                Step::Send(bytes) => wire.stream().write_all(&bytes)?,
                Step::Drip(bytes, pause) => drip(wire.stream(), &bytes, pause)?,
                Step::Fill(length) => fill(wire.stream(), length)?,
                Step::Endless(bytes) => repeat(wire.stream(), &bytes)?,
                Step::Wait(gate) => gate.pass(),
                Step::Delay(pause) => std::thread::sleep(pause),
                Step::Hold => while !wire.some()?.is_empty() {},
                Step::Close => {
                    wire.stream().shutdown(Shutdown::Both)?;
                    return Ok(Then::End);
                }
                Step::Reset => return self.reset(wire.stream(), request.connection),
            }
        }
        Ok(Then::Continue)
    }

    fn reset(&self, stream: &TcpStream, connection: usize) -> io::Result<Then> {
        // The reset is sent when the last handle is dropped: this one is not the last.
        self.open.lock().unwrap().remove(&connection);
        SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
        Ok(Then::End)
    }
}
