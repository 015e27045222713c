//! The operators' listener: metrics, health, status, and what can be changed at run time, away from
//! the traffic.
//!
//! It has a thread of its own, so that a scrape of many routes delays no request. It goes on while
//! the process drains, because that is when operators look.

mod answer;
mod backends;
mod circuit;
pub mod control;
mod percent;
mod providers;
mod revocations;
pub mod status;

use std::net::TcpListener as StdListener;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream, ServerApp};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::{GetSocketDigest, SocketDigest};
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::Service;
use pingora_http::ResponseHeader;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use control::{Call, Control};

use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;

/// Far more than there are operators and scrapers. Others wait in the backlog.
const MAX_CONNECTIONS: usize = 64;

/// From the connection, or the end of the request before, to the end of the header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// For a client that does not read its answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// When no connection can be accepted, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Where `/status` comes from.
pub trait StatusSource: Send + Sync {
    /// What runs, as JSON.
    fn status(&self) -> serde_json::Value;
}

/// The operators' listener.
pub struct AdminService {
    // Taken when the service starts.
    listener: Option<StdListener>,
    app: Arc<AdminApp>,
    closing: Option<ShutdownWatch>,
    in_charge: Option<ShutdownWatch>,
}

/// What the answers are made from.
struct AdminApp {
    metrics: Arc<Metrics>,
    lifecycle: Arc<Lifecycle>,
    status: Arc<dyn StatusSource>,
    /// `None`: there is nothing to change.
    control: Option<Control>,
}

impl AdminService {
    /// A service on a socket that is bound already, so that an address in use is found out before
    /// anything starts.
    pub fn new(
        listener: StdListener,
        metrics: Arc<Metrics>,
        lifecycle: Arc<Lifecycle>,
        status: Arc<dyn StatusSource>,
        control: Option<Control>,
    ) -> Self {
        Self {
            listener: Some(listener),
            app: Arc::new(AdminApp {
                metrics,
                lifecycle,
                status,
                control,
            }),
            closing: None,
            in_charge: None,
        }
    }

    /// Accepts once `in_charge` is true: until then another process answers at the same address,
    /// and what is changed here would be lost.
    pub fn once_in_charge(mut self, in_charge: ShutdownWatch) -> Self {
        self.in_charge = Some(in_charge);
        self
    }

    /// Accepts no more once `closing` is true, if a successor has taken over. Without one it goes
    /// on while the process drains.
    pub fn left_to_successor(mut self, closing: ShutdownWatch) -> Self {
        self.closing = Some(closing);
        self
    }
}

#[async_trait]
impl Service for AdminService {
    async fn start_service(
        &mut self,
        _fds: Option<ListenFds>,
        shutdown: ShutdownWatch,
        _listeners_per_fd: usize,
    ) {
        let Some(listener) = self.listener.take() else {
            return;
        };
        if let Some(mut in_charge) = self.in_charge.take() {
            let mut ending = shutdown.clone();
            tokio::select! {
                // An error means that the process ends.
                _ = in_charge.wait_for(|in_charge| *in_charge) => {}
                _ = ending.wait_for(|ending| *ending) => return,
            }
        }
        let ready = listener.set_nonblocking(true);
        match ready.and_then(|()| TcpListener::from_std(listener)) {
            Ok(listener) => {
                let succeeded = succeeded(self.closing.take(), &self.app.lifecycle);
                tokio::select! {
                    // Whoever connects after the hand-over meets the successor.
                    biased;
                    () = succeeded => {}
                    () = accept(listener, &self.app, &shutdown) => {}
                }
            }
            Err(error) => log::error!("admin: cannot listen: {error}"),
        }
    }

    fn name(&self) -> &str {
        "admin"
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}

/// Waits until a successor has taken over.
async fn succeeded(closing: Option<ShutdownWatch>, lifecycle: &Lifecycle) {
    if let Some(mut closing) = closing
        && closing.wait_for(|closing| *closing).await.is_ok()
        && lifecycle.has_successor()
    {
        return;
    }
    std::future::pending().await
}

/// Accepts until the runtime ends.
async fn accept(listener: TcpListener, app: &Arc<AdminApp>, shutdown: &ShutdownWatch) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                // The calls are logged with the peer's address, which is found by the descriptor.
                let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
                let mut stream = Stream::from(stream);
                stream.set_socket_digest(digest);
                tokio::spawn(serve(Arc::clone(app), stream, shutdown.clone(), permit));
            }
            Err(error) => {
                log::warn!("admin: cannot accept: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(
    app: Arc<AdminApp>,
    stream: Stream,
    shutdown: ShutdownWatch,
    _permit: OwnedSemaphorePermit,
) {
    // A connection that is given back is at its end: there is nobody to pool it for.
    drop(app.process_new(Box::new(stream), &shutdown).await);
}

#[async_trait]
impl HttpServerApp for AdminApp {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let read = timeout(HEADER_TIMEOUT, session.read_request()).await;
        // What a client does wrong here concerns nobody but itself.
        if !matches!(read, Ok(Ok(true))) {
            return None;
        }
        session.set_write_timeout(Some(WRITE_TIMEOUT));
        // After a hand-over, the next connection leads to the process that is in charge.
        let ends = *shutdown.borrow() || self.lifecycle.has_successor();
        let idle = (!ends).then_some(HEADER_TIMEOUT.as_secs());
        session.set_keepalive(idle);
        self.answer(&mut session).await.ok()?;
        let settings = HttpPersistentSettings::for_session(&session);
        let ended = timeout(HEADER_TIMEOUT, session.finish()).await;
        let stream = ended.ok()?.ok()??;
        Some(ReusedHttpStream::from_reusable_stream(stream, settings))
    }
}

impl AdminApp {
    async fn answer(&self, session: &mut ServerSession) -> pingora_core::Result<()> {
        let request = session.req_header();
        let head = request.method == Method::HEAD;
        let accept = request.headers.get(http::header::ACCEPT);
        let accept = accept.and_then(|value| value.to_str().ok());
        let call = Call::at(request.uri.path());
        let response = match (call, &self.control) {
            (Some(call), Some(control)) => control.answer(call, session).await,
            _ => answer::to(self, &request.method, request.uri.path(), accept),
        };
        let (parts, body) = response.into_parts();
        let header: ResponseHeader = parts.into();
        session.write_response_header(Box::new(header)).await?;
        if !head {
            session.write_response_body(body.into(), true).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::thread;

    use tokio::sync::watch;

    use super::*;

    struct Fixed;

    impl StatusSource for Fixed {
        fn status(&self) -> serde_json::Value {
            serde_json::json!({"version": "0.1.0"})
        }
    }

    /// Serves in a thread that ends with the test's process.
    fn start() -> SocketAddr {
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Arc::new(Metrics::new("gateway"));
        let mut service =
            AdminService::new(listener, metrics, Arc::default(), Arc::new(Fixed), None);
        assert_eq!((service.name(), service.threads()), ("admin", Some(1)));
        thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            let (_running, shutdown) = watch::channel(false);
            runtime.block_on(service.start_service(None, shutdown, 1));
        });
        address
    }

    fn exchange(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn answers_on_a_socket_and_keeps_the_connection() {
        let address = start();
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        for _ in 0..2 {
            let request = b"GET /status HTTP/1.1\r\nHost: a\r\n\r\n";
            stream.write_all(request).unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"{\"version\":\"0.1.0\"}\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                answer.extend(byte);
            }
            assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
        }
    }

    #[test]
    fn a_head_request_gets_the_length_and_no_body() {
        let request = "HEAD /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let answer = exchange(start(), request);
        assert!(
            answer.to_lowercase().contains("content-length: 16\r\n"),
            "{answer}"
        );
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }

    #[test]
    fn garbage_ends_one_connection_and_no_more() {
        let address = start();
        exchange(address, "\x16\x03\x01 not http\r\n\r\n");
        let request = "GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let answer = exchange(address, request);
        assert!(answer.contains("process_open_fds "), "{answer}");
    }
}
