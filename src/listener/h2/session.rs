//! One HTTP/2 stream as Pingora sees it: a session with deadlines of our own.
//!
//! Pingora's session for HTTP/2 has no timeout for a request's body, drops interim responses and
//! knows nothing of the wait for the first byte. Its interface for sessions of other protocols lets us
//! say what happens on the stream, while everything behind stays Pingora's.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use h2::Reason;
use http::HeaderMap;
use pingora_core::ErrorType::{InternalError, ReadError, ReadTimedout, WriteTimedout};
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::HttpTask;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::{Error, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use std::sync::Arc;

use super::body::Body;
use super::response::{Response, lost};
use super::running::Guard;
use super::timer::Timer;
use crate::filter::auth::watch::Why;
use crate::listener::lease::{FirstByteTimeout, Shared};
use crate::listener::pace::{Pace, TooSlow};

/// The time that the client itself set for the whole call is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client's deadline has passed")]
pub struct DeadlineExceeded;

/// What a wait on the stream is limited by.
#[derive(Clone, Copy)]
enum Limit {
    /// The backend's time for the first byte.
    FirstByte,
    /// The client's time for everything.
    Deadline,
    /// The time between two pieces of the body.
    Body,
    /// The time that so slow a body has earned.
    Pace,
    /// The time that the client may leave the response unread.
    Write,
}

impl Limit {
    fn exceeded(self) -> Box<Error> {
        match self {
            Self::FirstByte => Error::because(ReadTimedout, "first byte", FirstByteTimeout),
            Self::Deadline => Error::because(ReadTimedout, "deadline", DeadlineExceeded),
            Self::Body => Error::explain(ReadTimedout, "request body"),
            Self::Pace => Error::because(ReadTimedout, "request body", TooSlow),
            Self::Write => Error::explain(WriteTimedout, "response"),
        }
        .into_down()
    }
}

/// The token that the request came with holds no longer.
fn over(why: Why) -> Box<Error> {
    Error::because(ReadError, "token", why.into_error()).into_down()
}

/// What a client has to take of a response to be given its time anew, or what is left if that is
/// less. With every byte, it could hold a stream for ever.
const PROGRESS_BYTES: usize = 64 * 1024;

/// How a client takes one piece of a response.
#[derive(Debug)]
struct Reading {
    /// What was left of it then.
    left: usize,
    since: Instant,
}

impl Reading {
    fn begin(left: usize, now: Instant) -> Self {
        Self { left, since: now }
    }

    /// So much is left now.
    fn note(&mut self, left: usize, now: Instant) {
        let taken = self.left.saturating_sub(left);
        if taken > 0 && taken >= PROGRESS_BYTES.min(self.left) {
            *self = Self::begin(left, now);
        }
    }
}

/// One request and its response.
pub struct Http2Session {
    request: RequestHeader,
    /// Always there until drop.
    body: Option<Body>,
    response: Response,
    shared: Arc<Shared>,
    deadline: Option<Instant>,
    /// How slowly the body may come.
    pace: Pace,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    drain_timeout: Option<Duration>,
    timer: Timer,
    /// There until drop.
    guard: Option<Guard>,
}

impl Http2Session {
    /// A request that was judged, with its body and the way back to the client. `deadline` is when the
    /// client gives up.
    pub fn new(
        request: RequestHeader,
        body: Body,
        response: Response,
        shared: Arc<Shared>,
        deadline: Option<Instant>,
        guard: Guard,
    ) -> Self {
        Self {
            request,
            body: Some(body),
            response,
            shared,
            deadline,
            pace: Pace::any(),
            read_timeout: None,
            write_timeout: None,
            drain_timeout: None,
            timer: Timer::default(),
            guard: Some(guard),
        }
    }

    /// The body must not come more slowly than this.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    fn body(&self) -> Option<&Body> {
        self.body.as_ref()
    }

    fn is_done(&self) -> bool {
        self.body().is_none_or(Body::is_done)
    }

    /// Reads a piece of the body, or watches a client that has sent all of it.
    fn poll_request(
        &mut self,
        idle: bool,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>>> {
        if let Poll::Ready(why) = self.shared.ending.poll(context) {
            return Poll::Ready(Err(over(why)));
        }
        let mut limit = None;
        let mut sooner = |at: Option<Instant>, kind: Limit| {
            if let Some(at) = at
                && limit.is_none_or(|(soonest, _)| at < soonest)
            {
                limit = Some((at, kind));
            }
        };
        let first_byte = self.shared.first_byte_deadline();
        match &mut self.body {
            Some(body) if !idle => {
                if let Poll::Ready(piece) = body.poll(context) {
                    if let Some(Ok(piece)) = &piece {
                        self.pace.received(piece.len(), Instant::now());
                    }
                    return Poll::Ready(piece.transpose().map_err(lost));
                }
                if first_byte.is_some() {
                    // The client waits for the backend, which has yet to ask for the body.
                    body.pause();
                    self.pace.pause(Instant::now());
                } else {
                    sooner(body.deadline(self.read_timeout), Limit::Body);
                    if !self.shared.is_any_pace() {
                        sooner(self.pace.wait(Instant::now()), Limit::Pace);
                    }
                }
            }
            _ => {
                if let Poll::Ready(error) = self.response.poll_gone(context) {
                    return Poll::Ready(Err(error));
                }
            }
        }
        sooner(first_byte, Limit::FirstByte);
        sooner(self.deadline, Limit::Deadline);
        match limit {
            Some((at, kind)) => self.timer.poll(at, context).map(|()| Err(kind.exceeded())),
            None => Poll::Pending,
        }
    }

    /// Writes a piece of the body in the time that the client may take for it.
    async fn write(&mut self, mut data: Bytes, end: bool) -> Result<()> {
        let mut reading = Reading::begin(data.len(), Instant::now());
        std::future::poll_fn(|context| {
            if let Poll::Ready(written) = self.response.poll_write(&mut data, end, context) {
                return Poll::Ready(written);
            }
            if let Poll::Ready(why) = self.shared.ending.poll(context) {
                return Poll::Ready(Err(over(why)));
            }
            reading.note(data.len(), Instant::now());
            let patience = self.write_timeout.map(|patience| reading.since + patience);
            let (at, kind) = match (patience, self.deadline) {
                (Some(patience), Some(deadline)) if deadline < patience => {
                    (deadline, Limit::Deadline)
                }
                (Some(patience), _) => (patience, Limit::Write),
                (None, Some(deadline)) => (deadline, Limit::Deadline),
                (None, None) => return Poll::Pending,
            };
            self.timer.poll(at, context).map(|()| Err(kind.exceeded()))
        })
        .await
    }

    async fn perform(&mut self, task: HttpTask) -> Result<bool> {
        match task {
            HttpTask::Header(header, end) => {
                self.response.write_header(header, end)?;
                Ok(end)
            }
            HttpTask::Body(data, end) => {
                self.write(data.unwrap_or_default(), end).await?;
                Ok(end)
            }
            HttpTask::UpgradedBody(..) => {
                Err(Error::explain(InternalError, "an upgrade in HTTP/2"))
            }
            HttpTask::Trailer(trailers) => {
                if let Some(trailers) = trailers {
                    self.response.write_trailers(*trailers)?;
                }
                Ok(true)
            }
            HttpTask::Done => Ok(true),
            HttpTask::Failed(error) => Err(error),
        }
    }
}

impl Drop for Http2Session {
    fn drop(&mut self) {
        if let (Some(body), Some(guard)) = (self.body.take(), self.guard.take())
            && self.response.is_complete()
        {
            body.forget(guard);
        }
    }
}

#[async_trait]
impl Session for Http2Session {
    fn req_header(&self) -> &RequestHeader {
        &self.request
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.request
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        std::future::poll_fn(|context| self.poll_request(false, context)).await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        // The rest is forgotten when the session ends.
        Ok(())
    }

    async fn write_response_header(
        &mut self,
        header: Box<ResponseHeader>,
        end: bool,
    ) -> Result<()> {
        self.response.write_header(header, end)
    }

    async fn write_response_header_ref(
        &mut self,
        header: &ResponseHeader,
        end: bool,
    ) -> Result<()> {
        self.response.write_header(Box::new(header.clone()), end)
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.write(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.response.write_trailers(trailers)
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut ended = false;
        for task in tasks {
            ended |= self.perform(task).await?;
        }
        if ended {
            self.response.finish()?;
        }
        Ok(ended)
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.read_timeout = timeout;
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.read_timeout
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.write_timeout = timeout;
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.write_timeout
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.drain_timeout = timeout;
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.drain_timeout
    }

    fn request_summary(&self) -> String {
        format!("{} {}", self.request.method, self.request.uri.path())
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.response.written()
    }

    async fn shutdown(&mut self, _code: u32, _context: &str) {
        self.response.give_up(Reason::INTERNAL_ERROR);
    }

    fn is_body_done(&mut self) -> bool {
        self.is_done()
    }

    async fn finish(&mut self) -> Result<()> {
        self.response.finish()
    }

    fn is_body_empty(&mut self) -> bool {
        self.body().is_none_or(Body::is_empty)
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        let idle = no_body_expected || self.is_done();
        std::future::poll_fn(|context| self.poll_request(idle, context)).await
    }

    fn body_bytes_sent(&self) -> usize {
        self.response.bytes_sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.body().map_or(0, Body::bytes_read)
    }

    fn digest(&self) -> Option<&Digest> {
        None
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        None
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        Bytes::new()
    }

    fn enable_retry_buffering(&mut self) {
        if let Some(body) = &mut self.body {
            body.begin_keeping();
        }
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.body().is_some_and(Body::is_truncated)
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.body().and_then(Body::kept)
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _reader: Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(
        &mut self,
        _writer: Box<dyn CustomMessageWrite>,
    ) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_at_a_time_earns_no_time() {
        let start = Instant::now();
        let second = |count: u32| start + count * Duration::from_secs(1);
        let mut reading = Reading::begin(100 * 1024, start);
        for taken in 0..1000 {
            reading.note(100 * 1024 - taken, second(1));
        }
        assert_eq!(reading.since, start);
        reading.note(36 * 1024, second(2));
        assert_eq!(reading.since, second(2));
        reading.note(1, second(3));
        assert_eq!(reading.since, second(2));
        reading.note(0, second(4));
        assert_eq!(reading.since, second(4));
    }
}
