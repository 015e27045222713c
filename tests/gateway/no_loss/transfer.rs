//! Responses and requests that take many seconds, and must arrive whole.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, Digest, SHA256};
use tokio::time::{Instant, sleep, timeout};

use super::backend::{PIECES, piece};
use super::http1::{Connection, REQUEST_DEADLINE};
use super::http2;
use super::load::{Endpoint, Load, SERVER_NAME};
use super::tally::{Fault, Kind};

/// Well above the least rate that the gateway demands, and below the longest body it takes.
const UPLOAD_BYTES: usize = 2_000_000;

/// So that a transfer that cannot begin is not tried without a pause.
const AFTER_FAULT: Duration = Duration::from_millis(500);

/// One transfer after the other; `length` is how long each of them takes.
pub async fn transfers(load: Arc<Load>, endpoint: Endpoint, kind: Kind, length: Duration) {
    while !load.is_stopping() {
        let begun = Instant::now();
        let transfer = async {
            match kind {
                Kind::Upload => upload(&load, &endpoint, length).await,
                Kind::Http2Download => download_stream(&load, &endpoint).await,
                _ => download(&endpoint).await,
            }
        };
        let ended = timeout(length * 2 + REQUEST_DEADLINE, transfer).await;
        let outcome = ended.unwrap_or_else(|_| Err(Fault::failed("not complete in time")));
        if outcome.is_err() {
            sleep(AFTER_FAULT).await;
        }
        load.tally.request(kind, begun.elapsed(), outcome);
    }
}

async fn download(endpoint: &Endpoint) -> Result<(), Fault> {
    let mut connection = Connection::open(endpoint).await?;
    let request = format!("GET /slow HTTP/1.1\r\nHost: {SERVER_NAME}\r\n\r\n");
    let answer = connection.ask(request.as_bytes()).await?;
    let mut hash = Context::new(&SHA256);
    connection.body(&answer, |part| hash.update(part)).await?;
    check(hash)
}

async fn download_stream(load: &Arc<Load>, endpoint: &Endpoint) -> Result<(), Fault> {
    let mut hash = Context::new(&SHA256);
    http2::alone(load, endpoint, "/slow", &mut |part| hash.update(part)).await?;
    check(hash)
}

async fn upload(load: &Load, endpoint: &Endpoint, length: Duration) -> Result<(), Fault> {
    let work = load.upload(UPLOAD_BYTES);
    let request = work.http1();
    let mut connection = Connection::open(endpoint).await?;
    for part in request.chunks(UPLOAD_BYTES / PIECES as usize) {
        connection.send(part).await?;
        sleep(length / PIECES).await;
    }
    let answer = connection.head().await?;
    let mut body = Vec::new();
    let keep = |part: &[u8]| body.extend_from_slice(part);
    connection.body(&answer, keep).await?;
    work.check(&body)
}

fn check(hash: Context) -> Result<(), Fault> {
    match hash.finish().as_ref() == whole().as_ref() {
        true => Ok(()),
        false => Err(Fault::failed("other bytes than the backend sent")),
    }
}

fn whole() -> Digest {
    let mut hash = Context::new(&SHA256);
    for number in 0..PIECES {
        hash.update(&piece(number));
    }
    hash.finish()
}
