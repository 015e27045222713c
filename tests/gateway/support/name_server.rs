//! A name server of the tests: answers by UDP and TCP from records that a test sets, and misbehaves on
//! request. Messages are RFC 1035 section 4, written by hand, so that what is tested is not its own judge.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;
/// What fits into a datagram without EDNS.
const DATAGRAM: usize = 512;

/// What the server says.
#[derive(Clone, Debug)]
pub enum Zone {
    /// Addresses of every name, with their TTL in seconds.
    Hosts(Vec<IpAddr>, u32),
    /// Services of every name, and the address of every target.
    Services(Vec<(u16, u16, u16, &'static str)>, Ipv4Addr, u32),
    /// There is no such name.
    NoName,
    /// The name has no such record.
    NoRecord,
    /// The server failed.
    Failure,
    /// Nothing.
    Silence,
    /// The right answer, late.
    Slow(Duration, Vec<IpAddr>),
    /// Bytes that are no message.
    Garbage,
    /// A right answer to another question than the one that was asked.
    WrongId(Vec<IpAddr>),
}

struct Shared {
    zone: Mutex<Zone>,
    questions: Mutex<Vec<(String, u16)>>,
    over_tcp: AtomicUsize,
    stopping: AtomicBool,
}

/// The server.
pub struct NameServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl NameServer {
    /// On a free port of both kinds.
    pub fn start(zone: Zone) -> Self {
        let (udp, tcp) = sockets();
        let address = udp.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            zone: Mutex::new(zone),
            questions: Mutex::default(),
            over_tcp: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        });
        let short = Some(Duration::from_millis(50));
        udp.set_read_timeout(short).expect("a timeout");
        tcp.set_nonblocking(true).expect("nonblocking");
        let (one, other) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![
            std::thread::spawn(move || one.serve_udp(&udp)),
            std::thread::spawn(move || other.serve_tcp(&tcp)),
        ];
        Self {
            address,
            shared,
            threads,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Says something else from now on.
    pub fn set(&self, zone: Zone) {
        *self.shared.zone.lock().unwrap() = zone;
    }

    /// The names and types of records that were asked for.
    pub fn questions(&self) -> Vec<(String, u16)> {
        self.shared.questions.lock().unwrap().clone()
    }

    /// How many questions came by TCP.
    pub fn over_tcp(&self) -> usize {
        self.shared.over_tcp.load(Ordering::SeqCst)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let address = udp.local_addr().expect("an address");
        if let Ok(tcp) = TcpListener::bind(address) {
            return (udp, tcp);
        }
    }
}

impl Shared {
    fn is_running(&self) -> bool {
        !self.stopping.load(Ordering::SeqCst)
    }

    fn serve_udp(&self, socket: &UdpSocket) {
        let mut buffer = [0; 4096];
        while self.is_running() {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                continue;
            };
            let question = &buffer[..length];
            if let Some(mut answer) = self.answer(question) {
                if answer.len() > DATAGRAM {
                    // The head and the question, and the bit that says that there is more.
                    answer.truncate(12 + question_length(question));
                    answer[2] |= 0x02;
                    answer[6..12].fill(0);
                }
                drop(socket.send_to(&answer, from));
            }
        }
    }

    fn serve_tcp(&self, listener: &TcpListener) {
        while self.is_running() {
            match listener.accept() {
                Ok((stream, _)) => drop(self.converse(stream)),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn converse(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut question)?;
        self.over_tcp.fetch_add(1, Ordering::SeqCst);
        let Some(answer) = self.answer(&question) else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).expect("a message");
        stream.write_all(&length.to_be_bytes())?;
        stream.write_all(&answer)
    }

    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let (name, kind) = asked(question)?;
        self.questions.lock().unwrap().push((name, kind));
        let zone = self.zone.lock().unwrap().clone();
        let message = |code: u8, records: &[Record]| Some(message(question, code, records));
        match zone {
            Zone::Silence => None,
            Zone::NoName => message(3, &[]),
            Zone::NoRecord => message(0, &[]),
            Zone::Failure => message(2, &[]),
            Zone::Garbage => Some(vec![0xff; 40]),
            Zone::Hosts(hosts, ttl) => message(0, &addresses(&hosts, kind, ttl)),
            Zone::Slow(pause, hosts) => {
                std::thread::sleep(pause);
                message(0, &addresses(&hosts, kind, 1))
            }
            Zone::WrongId(hosts) => {
                let mut wrong = message(0, &addresses(&hosts, kind, 1))?;
                wrong[0] ^= 0xff;
                Some(wrong)
            }
            Zone::Services(services, _, ttl) if kind == SRV => {
                let records = services.iter().map(|(priority, weight, port, target)| {
                    let mut data = [priority, weight, port].map(|n| n.to_be_bytes()).concat();
                    data.extend(written(target));
                    (SRV, ttl, data)
                });
                message(0, &records.collect::<Vec<_>>())
            }
            Zone::Services(_, target, ttl) => {
                message(0, &addresses(&[IpAddr::V4(target)], kind, ttl))
            }
        }
    }
}

/// Type, TTL, data.
type Record = (u16, u32, Vec<u8>);

fn addresses(hosts: &[IpAddr], kind: u16, ttl: u32) -> Vec<Record> {
    let record = |host: &IpAddr| match (host, kind) {
        (IpAddr::V4(ip), A) => Some((A, ttl, ip.octets().to_vec())),
        (IpAddr::V6(ip), AAAA) => Some((AAAA, ttl, ip.octets().to_vec())),
        _ => None,
    };
    hosts.iter().filter_map(record).collect()
}

/// A name as labels.
fn written(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).expect("a label"));
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes
}

/// The name and the type that are asked for.
fn asked(message: &[u8]) -> Option<(String, u16)> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(message.get(at..at + length)?).into_owned());
        at += length;
    }
    let kind = message.get(at..at + 2)?;
    Some((labels.join("."), u16::from_be_bytes([kind[0], kind[1]])))
}

fn question_length(message: &[u8]) -> usize {
    let name = message[12..].iter().position(|byte| *byte == 0);
    name.expect("the end of a name") + 5
}

/// A response to this question.
fn message(question: &[u8], code: u8, records: &[Record]) -> Vec<u8> {
    let mut bytes = question[..2].to_vec();
    // A response, recursion desired and available.
    bytes.extend([0x81, 0x80 | code]);
    let count = u16::try_from(records.len()).expect("a number of records");
    for count in [1, count, 0, 0] {
        bytes.extend(count.to_be_bytes());
    }
    bytes.extend(&question[12..12 + question_length(question)]);
    for (kind, ttl, data) in records {
        // The name is the one at offset 12; class IN.
        bytes.extend([0xc0, 12]);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend(ttl.to_be_bytes());
        let length = u16::try_from(data.len()).expect("a record");
        bytes.extend(length.to_be_bytes());
        bytes.extend(data);
    }
    bytes
}
