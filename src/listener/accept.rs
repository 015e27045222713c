//! Worker threads and the sockets they accept from.
//!
//! Every worker runs one thread with its own reactor, its own pool of backend connections and all
//! listening sockets. Whoever is free accepts; the connection goes to the worker with the fewest,
//! and stays there. Nothing of a request crosses threads.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pingora_core::server::ShutdownWatch;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle, Runtime};

use super::ListenerState;
use super::connection::{self, Edge, Handler};
use crate::lifecycle::Open;
use crate::metrics::ConnectionClose;

/// After a failed accept (no file descriptors left, above all) there is a pause.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections beyond the limit while others are being closed for them.
const GOING: usize = 1024;

/// A bound socket and the listener it belongs to.
pub struct Socket {
    /// The listener.
    pub listener: Arc<ListenerState>,
    /// The socket, not blocking.
    pub socket: TcpListener,
}

/// One thread of the edge.
struct Worker<H> {
    handle: Handle,
    open: Arc<AtomicUsize>,
    edge: Arc<Edge<H>>,
}

/// Starts a worker for each edge; they accept until `closing` turns true, and then finish what
/// they have, until the process ends.
pub fn start<H: Handler>(
    sockets: Vec<Socket>,
    edges: Vec<Edge<H>>,
    closing: &ShutdownWatch,
) -> io::Result<()> {
    let mut runtimes = Vec::new();
    let mut workers = Vec::new();
    for edge in edges {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        workers.push(Worker {
            handle: runtime.handle().clone(),
            open: Arc::default(),
            edge: Arc::new(edge),
        });
        runtimes.push(runtime);
    }
    let workers: Arc<[Worker<H>]> = workers.into();
    for (index, runtime) in runtimes.into_iter().enumerate() {
        let mut own = Vec::new();
        for socket in &sockets {
            own.push((Arc::clone(&socket.listener), socket.socket.try_clone()?));
        }
        let (workers, closing) = (Arc::clone(&workers), closing.clone());
        std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || run(&runtime, index, own, workers, closing))?;
    }
    Ok(())
}

/// The thread of one worker.
fn run<H: Handler>(
    runtime: &Runtime,
    index: usize,
    sockets: Vec<(Arc<ListenerState>, TcpListener)>,
    workers: Arc<[Worker<H>]>,
    closing: ShutdownWatch,
) {
    runtime.block_on(async {
        for (listener, socket) in sockets {
            let (workers, mut closing) = (Arc::clone(&workers), closing.clone());
            // The process is not idle before what waits in the socket has been taken.
            let accepting = workers[index].edge.lifecycle.open();
            tokio::spawn(async move {
                let _accepting = accepting;
                let socket = match tokio::net::TcpListener::from_std(socket) {
                    Ok(socket) => socket,
                    Err(error) => {
                        log::error!("listener={} cannot be polled: {error}", listener.name);
                        return;
                    }
                };
                tokio::select! {
                    () = accept(index, &listener, &socket, &workers) => {}
                    _ = closing.wait_for(|closing| *closing) => {}
                }
                accept_rest(index, &listener, socket, &workers);
            });
        }
        // The connections live in this runtime; it ends with the process.
        std::future::pending::<()>().await;
    });
}

/// Accepts from one socket for as long as it is polled.
async fn accept<H: Handler>(
    index: usize,
    listener: &Arc<ListenerState>,
    socket: &tokio::net::TcpListener,
    workers: &Arc<[Worker<H>]>,
) {
    loop {
        match socket.accept().await {
            Ok((stream, _)) => assign(index, listener, stream, workers),
            Err(error) if is_client_fault(&error) => {}
            Err(error) => {
                log::error!("listener={} accept error: {error}", listener.name);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Accepts what the kernel has accepted already, and closes the socket: what still waited in it
/// would be reset.
fn accept_rest<H: Handler>(
    index: usize,
    listener: &Arc<ListenerState>,
    socket: tokio::net::TcpListener,
    workers: &Arc<[Worker<H>]>,
) {
    // Past the reactor, which may not have heard of the last ones yet.
    let Ok(socket) = socket.into_std() else {
        return;
    };
    for _ in 0..super::BACKLOG {
        match socket.accept() {
            Ok((stream, _)) => {
                let polled = stream
                    .set_nonblocking(true)
                    .and_then(|()| TcpStream::from_std(stream));
                if let Ok(stream) = polled {
                    assign(index, listener, stream, workers);
                }
            }
            Err(error) if is_client_fault(&error) => {}
            Err(_) => return,
        }
    }
}

/// The client was gone before it was accepted.
fn is_client_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// Gives a connection to the worker with the fewest.
fn assign<H: Handler>(
    index: usize,
    listener: &Arc<ListenerState>,
    stream: TcpStream,
    workers: &Arc<[Worker<H>]>,
) {
    let open = |worker: &Worker<H>| worker.open.load(Ordering::Relaxed);
    let total: usize = workers.iter().map(open).sum();
    let own = &workers[index];
    let most = own.edge.live.limits().max_connections;
    // Who has to go for it takes a moment to do so.
    if total >= most && (total > most + GOING || !own.edge.overload.idle.evict()) {
        listener.metrics.closed(ConnectionClose::Limit);
        return;
    }
    let idlest = workers.iter().min_by_key(|worker| open(worker));
    // Among equals the one that accepted: its thread is awake.
    let Some(other) = idlest.filter(|worker| open(worker) < open(own)) else {
        let counted = Counted::new(own);
        let serving = connection::serve(stream, Arc::clone(listener), Arc::clone(&own.edge));
        tokio::spawn(counted.during(serving));
        return;
    };
    // It leaves this worker's reactor here and enters the other's there.
    let moved = match stream.into_std() {
        Ok(stream) => stream,
        Err(error) => return log::error!("listener={} connection error: {error}", listener.name),
    };
    let counted = Counted::new(other);
    let (listener, edge) = (Arc::clone(listener), Arc::clone(&other.edge));
    other.handle.spawn(counted.during(async move {
        match TcpStream::from_std(moved) {
            Ok(stream) => connection::serve(stream, listener, edge).await,
            Err(error) => log::error!("listener={} connection error: {error}", listener.name),
        }
    }));
}

/// Counts a connection of a worker until it is dropped.
struct Counted {
    of_worker: Arc<AtomicUsize>,
    _of_process: Open,
}

impl Counted {
    fn new<H>(worker: &Worker<H>) -> Self {
        worker.open.fetch_add(1, Ordering::Relaxed);
        Self {
            of_worker: Arc::clone(&worker.open),
            _of_process: worker.edge.lifecycle.open(),
        }
    }

    /// Counts for as long as `serving` runs.
    async fn during(self, serving: impl Future<Output = ()>) {
        serving.await;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.of_worker.fetch_sub(1, Ordering::Relaxed);
    }
}
