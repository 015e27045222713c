//! A response that takes many seconds, and must arrive whole.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, Digest, SHA256};
use tokio::time::{Instant, timeout};

use super::backend::{PIECES, piece};
use super::http1::{Connection, REQUEST_DEADLINE};
use super::load::{Endpoint, Load, SERVER_NAME};
use super::tally::{Fault, Kind};

/// One download after the other; `length` is how long the backend takes for each.
pub async fn downloads(load: Arc<Load>, endpoint: Endpoint, kind: Kind, length: Duration) {
    let wanted = whole();
    while !load.is_stopping() {
        let begun = Instant::now();
        let asked = timeout(length * 2 + REQUEST_DEADLINE, one(&endpoint, &wanted)).await;
        let outcome = asked.unwrap_or_else(|_| Err(Fault::failed("not complete in time")));
        load.tally.request(kind, begun.elapsed(), outcome);
    }
}

async fn one(endpoint: &Endpoint, wanted: &Digest) -> Result<(), Fault> {
    let mut connection = Connection::open(endpoint).await?;
    let request = format!("GET /slow HTTP/1.1\r\nHost: {SERVER_NAME}\r\n\r\n");
    let answer = connection.ask(request.as_bytes()).await?;
    let mut hash = Context::new(&SHA256);
    connection.body(&answer, |part| hash.update(part)).await?;
    match hash.finish().as_ref() == wanted.as_ref() {
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
