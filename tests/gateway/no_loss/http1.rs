//! HTTP/1.1 clients: connections that are kept, and one for every request.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep_until, timeout};

use super::load::{Endpoint, Io, Load, Schedule, Work};
use super::tally::{Fault, Kind};

/// How long any request may take, the connection included.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(15);

/// What the load needs to know of an answer.
pub struct Answer {
    status: u16,
    /// The configuration that the gateway answered with.
    pub generation: u64,
    length: usize,
    closing: bool,
}

/// An open connection, and what was read too far.
pub struct Connection {
    io: Box<dyn Io>,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub async fn open(endpoint: &Endpoint) -> Result<Self, Fault> {
        Ok(Self {
            io: endpoint.connect(&[]).await?,
            buffer: Vec::new(),
        })
    }

    async fn fill(&mut self) -> Result<usize, Fault> {
        Ok(self.io.read_buf(&mut self.buffer).await?)
    }

    /// Sends a request and reads the head of its answer, which must be a 200.
    pub async fn ask(&mut self, request: &[u8]) -> Result<Answer, Fault> {
        self.send(request).await?;
        self.head().await
    }

    /// Sends these bytes.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.io.write_all(bytes).await?;
        Ok(self.io.flush().await?)
    }

    /// Reads the head of an answer, which must be a 200.
    pub async fn head(&mut self) -> Result<Answer, Fault> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if self.fill().await? == 0 {
                return Err(Fault::failed(format!(
                    "closed after {} bytes of the answer",
                    self.buffer.len()
                )));
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let answer = parse(&String::from_utf8_lossy(&head))?;
        match answer.status {
            200 => Ok(answer),
            other => Err(Fault::failed(format!("status {other}"))),
        }
    }

    /// Reads the whole body of an answer, handing over each piece.
    pub async fn body(
        &mut self,
        answer: &Answer,
        mut sink: impl FnMut(&[u8]),
    ) -> Result<(), Fault> {
        let mut missing = answer.length;
        loop {
            let taken = self.buffer.len().min(missing);
            sink(&self.buffer[..taken]);
            self.buffer.drain(..taken);
            missing -= taken;
            if missing == 0 {
                return Ok(());
            }
            if self.fill().await? == 0 {
                return Err(Fault::failed(format!("{missing} bytes short of the end")));
            }
        }
    }

    async fn exchange(&mut self, work: &Work) -> Result<Answer, Fault> {
        let answer = self.ask(&work.http1()).await?;
        let mut body = Vec::new();
        self.body(&answer, |piece| body.extend_from_slice(piece))
            .await?;
        work.check(&body)?;
        Ok(answer)
    }

    /// What happened on the idle connection until now: `true` when it was ended in good order.
    fn ended(&mut self) -> Result<bool, Fault> {
        match self.io.read_buf(&mut self.buffer).now_or_never() {
            None => Ok(false),
            Some(Ok(0)) => Ok(true),
            Some(Ok(_)) => Err(Fault::failed("an answer that nobody asked for")),
            Some(Err(error)) => Err(error.into()),
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

fn parse(head: &str) -> Result<Answer, Fault> {
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let mut answer = Answer {
        status: status.and_then(|text| text.parse().ok()).unwrap_or(0),
        generation: 0,
        length: 0,
        closing: false,
    };
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or_default();
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => answer.length = value.parse().map_err(Fault::failed)?,
            "x-generation" => answer.generation = value.parse().map_err(Fault::failed)?,
            "connection" => answer.closing = value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    Ok(answer)
}

/// Requests over one connection, opened anew only when the gateway has ended it.
pub async fn keep_alive(load: Arc<Load>, endpoint: Endpoint, kind: Kind, mut schedule: Schedule) {
    let mut kept: Option<Connection> = None;
    while let Some(due) = schedule.next(&load) {
        if !load.wait_until(due).await {
            break;
        }
        if let Some(connection) = &mut kept {
            match connection.ended() {
                Ok(false) => {}
                Ok(true) => {
                    load.tally.closed(kind);
                    kept = None;
                }
                Err(fault) => {
                    load.tally.fault(kind, &fault);
                    kept = None;
                }
            }
        }
        let work = load.work();
        let asked = timeout(REQUEST_DEADLINE, over(&mut kept, &endpoint, &work)).await;
        let outcome = asked.unwrap_or_else(|_| Err(Fault::failed("no answer in time")));
        match &outcome {
            Ok(false) => {}
            Ok(true) => {
                load.tally.closed(kind);
                kept = None;
            }
            Err(_) => kept = None,
        }
        load.tally.request(kind, due.elapsed(), outcome.map(drop));
    }
}

/// One request over this connection, or a new one in its place; `true` when it is the last.
async fn over(
    kept: &mut Option<Connection>,
    endpoint: &Endpoint,
    work: &Work,
) -> Result<bool, Fault> {
    let connection = match kept {
        Some(connection) => connection,
        None => kept.insert(Connection::open(endpoint).await?),
    };
    Ok(connection.exchange(work).await?.closing)
}

/// A new connection for every request, started when it is due whatever the others do.
pub async fn new_connections(
    load: Arc<Load>,
    endpoint: Endpoint,
    kind: Kind,
    mut schedule: Schedule,
) {
    let mut running = tokio::task::JoinSet::new();
    while let Some(due) = schedule.next(&load) {
        sleep_until(due).await;
        let (load, endpoint) = (Arc::clone(&load), endpoint.clone());
        running.spawn(async move {
            let asked = timeout(REQUEST_DEADLINE, alone(&load, &endpoint)).await;
            let outcome = asked.unwrap_or_else(|_| Err(Fault::failed("no answer in time")));
            load.tally.request(kind, due.elapsed(), outcome);
        });
        while running.try_join_next().is_some() {}
    }
    running.join_all().await;
}

async fn alone(load: &Load, endpoint: &Endpoint) -> Result<(), Fault> {
    // Whoever connects after a reload has been confirmed, must be served by what it brought.
    let confirmed = load.confirmed();
    let mut connection = Connection::open(endpoint).await?;
    let answer = connection.exchange(&load.work()).await?;
    load.check_generation(answer.generation, confirmed)
}
