//! An HTTP/2 client over TLS that obeys GOAWAY.

use std::sync::Arc;

use bytes::Bytes;
use h2::Reason;
use h2::client::SendRequest;
use http::{Method, Request};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use super::http1::REQUEST_DEADLINE;
use super::load::{Endpoint, Load, SERVER_NAME, Schedule};
use super::tally::{Fault, Kind};

/// How often a request is sent again that was given back unprocessed.
const ATTEMPTS: usize = 5;

/// Takes a body piece by piece.
type Sink<'a> = &'a mut (dyn FnMut(&[u8]) + Send);

/// Requests as streams of one connection, replaced when the gateway says that it goes away.
pub async fn streams(load: Arc<Load>, endpoint: Endpoint, mut schedule: Schedule) {
    let mut session: Option<SendRequest<Bytes>> = None;
    let mut running = JoinSet::new();
    while let Some(due) = schedule.next(&load) {
        sleep_until(due).await;
        while running.try_join_next().is_some() {}
        let opened = match usable(&load, session.take()).await {
            Some(usable) => Ok(usable),
            None => open(&load, &endpoint).await,
        };
        let usable = match opened {
            Ok(usable) => session.insert(usable).clone(),
            Err(fault) => {
                load.tally.request(Kind::Http2, due.elapsed(), Err(fault));
                continue;
            }
        };
        let (load, endpoint) = (Arc::clone(&load), endpoint.clone());
        running.spawn(async move {
            let asked = timeout(REQUEST_DEADLINE, exchange(&load, &endpoint, usable)).await;
            let outcome = asked.unwrap_or_else(|_| Err(Fault::failed("no answer in time")));
            load.tally.request(Kind::Http2, due.elapsed(), outcome);
        });
    }
    running.join_all().await;
}

/// The connection, if it still takes requests. One that does not was told so before: nothing is lost.
async fn usable(load: &Load, session: Option<SendRequest<Bytes>>) -> Option<SendRequest<Bytes>> {
    let ready = timeout(REQUEST_DEADLINE, session?.ready()).await;
    match ready {
        Ok(Ok(session)) => return Some(session),
        Ok(Err(error)) if is_farewell(&error) => load.tally.closed(Kind::Http2),
        Ok(Err(error)) => load.tally.fault(Kind::Http2, &fault(error)),
        Err(_) => load
            .tally
            .fault(Kind::Http2, &Fault::failed("no stream in time")),
    }
    None
}

async fn open(load: &Arc<Load>, endpoint: &Endpoint) -> Result<SendRequest<Bytes>, Fault> {
    let io = endpoint.connect(&[b"h2"]).await?;
    let (session, connection) = timeout(REQUEST_DEADLINE, h2::client::handshake(io))
        .await
        .map_err(|_| Fault::failed("no HTTP/2 in time"))?
        .map_err(fault)?;
    let load = Arc::clone(load);
    tokio::spawn(async move {
        if let Err(error) = connection.await
            && !is_farewell(&error)
        {
            load.tally.fault(Kind::Http2, &fault(error));
        }
    });
    Ok(session)
}

async fn exchange(
    load: &Arc<Load>,
    endpoint: &Endpoint,
    session: SendRequest<Bytes>,
) -> Result<(), Fault> {
    let work = load.work();
    let mut received = Vec::new();
    let keep = &mut |piece: &[u8]| received.extend_from_slice(piece);
    persist(load, endpoint, session, &work.path(), &work.body, keep).await?;
    work.check(&received)
}

/// A GET on a connection of its own, its body piece by piece.
pub async fn alone(
    load: &Arc<Load>,
    endpoint: &Endpoint,
    path: &str,
    sink: Sink<'_>,
) -> Result<(), Fault> {
    let session = open(load, endpoint).await?;
    persist(load, endpoint, session, path, "", sink).await
}

/// One request, sent again elsewhere for as long as it is given back unprocessed.
async fn persist(
    load: &Arc<Load>,
    endpoint: &Endpoint,
    mut session: SendRequest<Bytes>,
    path: &str,
    body: &str,
    sink: Sink<'_>,
) -> Result<(), Fault> {
    for _ in 0..ATTEMPTS {
        match ask(session, path, body, sink).await {
            Err(error) if is_unprocessed(&error) => load.tally.retried(Kind::Http2),
            Err(error) => return Err(fault(error)),
            Ok(answered) => return answered,
        }
        session = open(load, endpoint).await?;
    }
    Err(Fault::failed("given back again and again"))
}

/// One request and its answer, which must be a 200.
async fn ask(
    session: SendRequest<Bytes>,
    path: &str,
    body: &str,
    sink: Sink<'_>,
) -> Result<Result<(), Fault>, h2::Error> {
    let method = match body.is_empty() {
        true => Method::GET,
        false => Method::POST,
    };
    let request = Request::builder()
        .method(method)
        .uri(format!("https://{SERVER_NAME}{path}"))
        .body(())
        .expect("a request");
    let mut session = session.ready().await?;
    let (response, mut sending) = session.send_request(request, body.is_empty())?;
    drop(session);
    if !body.is_empty() {
        sending.send_data(Bytes::copy_from_slice(body.as_bytes()), true)?;
    }
    let response = response.await?;
    if response.status() != 200 {
        return Ok(Err(Fault::failed(format!("status {}", response.status()))));
    }
    let mut body = response.into_body();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        sink(&piece);
    }
    Ok(Ok(()))
}

/// The gateway goes away in good order.
fn is_farewell(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR)
}

/// The request was never looked at, and may be sent again whatever it does (RFC 9113, 8.7).
fn is_unprocessed(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    is_farewell(error) || (refused && error.is_remote())
}

fn fault(error: h2::Error) -> Fault {
    match error.is_io() {
        true => error
            .into_io()
            .map_or_else(|| Fault::failed("an I/O error"), Fault::from),
        false => Fault::failed(error),
    }
}
