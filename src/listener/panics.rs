//! What a panic inside a request ends: its connection, and nothing else. Tests alone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use tokio::sync::watch;

use super::accept::{self, Socket};
use super::connection::{Edge, Handler, Refusals, Refused};
use super::exchange::Exchange;
use super::{ListenerState, Settings};
use crate::config::{self, FixedEnv};
use crate::lifecycle::Lifecycle;
use crate::message::Response;
use crate::metrics::Metrics;
use crate::overload::Overload;
use crate::snapshot::{Live, Snapshot};

/// Panics when it is asked for `/panic`, and answers everything else by itself.
struct Doomed;

impl Handler for Doomed {
    async fn handle(&self, mut exchange: Exchange) -> Exchange {
        let path = exchange.origin.head.target.path();
        assert!(path != "/panic", "as asked for");
        let mut response = Response::new(StatusCode::OK);
        response.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        // A client that is gone will be noticed.
        let _ = exchange.answer(response, Bytes::new()).await;
        exchange
    }
}

impl Refusals for Doomed {
    fn refused(&self, _: &Refused<'_>) -> String {
        String::new()
    }
}

/// One worker, so that what a panic takes along would be missed.
fn start(lifecycle: &Arc<Lifecycle>) -> (SocketAddr, Arc<ListenerState>) {
    let text = "listeners: [{ name: main, address: '127.0.0.1:0' }]
limits: { max_connections_per_client: 2 }
routes: [{ respond: { status: 200 } }]";
    let loaded = config::parse(text, "test", Path::new("."), &FixedEnv::default());
    let config = loaded
        .unwrap_or_else(|problems| panic!("{problems}"))
        .config;
    let metrics = Metrics::new("gateway");
    let snapshot = Snapshot::compile(&config, 1, &metrics, Instant::now(), None);
    let snapshot = snapshot.unwrap_or_else(|error| panic!("{error}"));
    let configured = &config.listeners[0];
    let settings = Settings::compile(configured).unwrap_or_else(|faults| panic!("{faults:?}"));
    let listener = Arc::new(ListenerState::new(configured, settings, &metrics));
    let socket = super::bind(configured.address).unwrap_or_else(|error| panic!("{error}"));
    let address = socket
        .local_addr()
        .unwrap_or_else(|error| panic!("{error}"));
    let (close, closing) = watch::channel(false);
    // Nobody is told to end; the thread lives as long as the tests.
    std::mem::forget(close);
    let edge = Edge {
        handler: Doomed,
        live: Arc::new(Live::new(snapshot)),
        clients: Arc::default(),
        overload: Arc::new(Overload::new(Arc::default())),
        refusals: Arc::new(Doomed),
        lifecycle: Arc::clone(lifecycle),
        closing: closing.clone(),
    };
    let socket = Socket {
        listener: Arc::clone(&listener),
        socket,
    };
    accept::start(vec![socket], vec![edge], &closing).unwrap_or_else(|error| panic!("{error}"));
    (address, listener)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{error}"));
    // An error would show as a test that waits.
    let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
    stream
}

/// Asks, and gives what is answered first; nothing when the connection ends instead.
fn ask(stream: &mut TcpStream, path: &str) -> Vec<u8> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut answer = vec![0; 1024];
    let sent = stream.write_all(request.as_bytes());
    let read = sent.and_then(|()| stream.read(&mut answer)).unwrap_or(0);
    answer.truncate(read);
    answer
}

#[test]
fn a_panic_ends_its_connection_alone() {
    let lifecycle = Arc::new(Lifecycle::default());
    let (address, listener) = start(&lifecycle);
    let mut other = connect(address);
    assert!(ask(&mut other, "/").starts_with(b"HTTP/1.1 200 "));
    for _ in 0..3 {
        // The limit of two a client would stop this, if the broken ones were not given back.
        let mut doomed = connect(address);
        assert_eq!(ask(&mut doomed, "/panic"), b"");
        assert!(ask(&mut other, "/").starts_with(b"HTTP/1.1 200 "));
        let deadline = Instant::now() + Duration::from_secs(20);
        while (listener.metrics.active(), lifecycle.in_flight()) != (1, 0) {
            assert!(Instant::now() < deadline, "something is still counted");
            std::thread::yield_now();
        }
    }
}
