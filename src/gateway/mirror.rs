//! Copies of requests for another upstream: made before the request goes out, sent when all of its body
//! is known, and forgotten by everybody who waits for an answer.

use std::sync::Arc;
use std::task::{Context as Task, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, header};
use tokio::time::timeout;

use super::failure::learn;
use super::kept::Kept;
use super::{Context, Gateway, choice, forward};
use crate::context::Attempt;
use crate::forward::{Failed, Link, Pool};
use crate::listener::exchange::Exchange;
use crate::listener::framing::Framing;
use crate::message::{Request, Response};
use crate::metrics::{FailureReason, MirrorResult};
use crate::route::Mirror;
use crate::route::host;
use crate::route::mirror::Place;
use crate::upstream::{Backend, Purpose, Tried, Wish};

/// What is read of a response. More is cut off, with the connection or stream.
const MAX_RESPONSE_BYTES: usize = 1024 * 1024;

/// A copy of a request, without its body.
pub(super) struct Copy {
    mirror: Arc<Mirror>,
    request: Request,
    target: String,
    is_call: bool,
    /// What goes together with other requests, where the other upstream hashes.
    key: Option<u64>,
}

impl Copy {
    /// How much of the body is kept for it.
    pub fn body_bytes(&self) -> usize {
        self.mirror.config.max_body
    }
}

/// A copy of this request as its backend will get it, if one is wanted. Of what becomes a tunnel there
/// is none.
pub(super) fn begin(exchange: &Exchange, context: &Context) -> Option<Box<Copy>> {
    let mirror = context.route.as_ref()?.mirror.as_ref()?;
    if forward::is_tunnel(exchange) || !mirror.wants(fastrand::f64()) {
        return None;
    }
    let mut request = forward::dress(exchange, context, false);
    request.headers.remove(header::EXPECT);
    if let Some(suffix) = &mirror.config.host_suffix {
        put_behind_host(&mut request, suffix);
    }
    Some(Box::new(Copy {
        mirror: Arc::clone(mirror),
        request,
        target: forward::target(exchange, context).into_owned(),
        is_call: context.grpc,
        key: choice::key(exchange, context, &mirror.upstream),
    }))
}

/// Puts this behind the name, before the port.
fn put_behind_host(request: &mut Request, suffix: &str) {
    let Some(whole) = request.headers.get(header::HOST) else {
        return;
    };
    let Ok(whole) = whole.to_str() else { return };
    if whole.starts_with('[') {
        // Behind an address it would be no host.
        return;
    }
    let (name, port) = host::split(whole);
    let port = port.map_or_else(String::new, |port| format!(":{port}"));
    if let Ok(value) = HeaderValue::from_str(&format!("{name}{suffix}{port}")) {
        request.headers.insert(header::HOST, value);
    }
}

impl Gateway {
    /// Sends a copy with this body, if it is complete, and waits for nothing.
    pub(super) fn mirror(&self, exchange: &Exchange, mut copy: Box<Copy>, kept: Kept) {
        let mirror = Arc::clone(&copy.mirror);
        if !kept.is_whole(copy.body_bytes()) {
            return mirror.metrics.ended(MirrorResult::BodyTooLarge);
        }
        if !exchange.is_body_done() {
            return mirror.metrics.ended(MirrorResult::Incomplete);
        }
        let Some(place) = mirror.enter() else {
            return mirror.metrics.ended(MirrorResult::Full);
        };
        let body = kept.into_bytes();
        if !body.is_empty() {
            let length = HeaderValue::from(body.len());
            copy.request.headers.insert(header::CONTENT_LENGTH, length);
        }
        let pool = Arc::clone(&self.pool);
        tokio::spawn(async move {
            let _place: Place = place;
            mirror.metrics.ended(send(&pool, *copy, body).await);
        });
    }
}

/// Has a backend answer a copy. What is learned of it is learned of the other upstream.
async fn send(pool: &Pool, mut copy: Copy, body: Bytes) -> MirrorResult {
    let upstream = Arc::clone(&copy.mirror.upstream);
    let started = Instant::now();
    let wish = Wish {
        key: copy.key,
        ..Wish::at(started)
    };
    let Some(admitted) = upstream.select(wish, &mut Tried::default()) else {
        return MirrorResult::NoBackend;
    };
    let backend = Arc::clone(admitted.backend());
    let mut attempt = Attempt::new(admitted.of_copy(), started);
    if !copy.request.headers.contains_key(header::HOST)
        && let Ok(host) = HeaderValue::from_str(&backend.name)
    {
        copy.request.headers.insert(header::HOST, host);
    }
    let limit = copy.mirror.config.timeout;
    let answered = timeout(limit, answer(pool, &mut attempt, &backend, copy, body)).await;
    let now = Instant::now();
    let (failed, result) = match answered {
        Ok(Ok(Answered { link, status, head })) => {
            upstream.metrics.observe(status, now - started);
            upstream.answered(&mut attempt.admitted, status, head, now);
            upstream.completed(&mut attempt.admitted, now);
            pool.close(link, &backend, Purpose::Request);
            return MirrorResult::Answered;
        }
        Ok(Err(failed)) => (failed, MirrorResult::Failed),
        Err(_) => {
            let failed = Failed::new(FailureReason::Timeout);
            (failed, MirrorResult::Timeout)
        }
    };
    learn(&upstream, &mut attempt, &failed, now);
    result
}

/// A response that was read away.
struct Answered {
    link: Link,
    status: u16,
    /// How long its head took.
    head: Duration,
}

/// Sends a copy and reads its response away.
async fn answer(
    pool: &Pool,
    attempt: &mut Attempt,
    backend: &Backend,
    copy: Copy,
    body: Bytes,
) -> Result<Answered, Failed> {
    let (link, _) = pool.open(backend, Purpose::Request, None).await?;
    let began = attempt.note_sent(Instant::now());
    let mut sending = Sending {
        link,
        body,
        ended: false,
        status: None,
        read: 0,
    };
    let Copy {
        mut request,
        target,
        is_call,
        ..
    } = copy;
    if sending.link.is_http2() && is_call {
        // As for the request itself: servers detect by it who drops trailers.
        request
            .headers
            .insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let framing = match sending.body.len() {
        0 => Framing::Done,
        length => Framing::Length(length as u64),
    };
    sending.link.send_head(request, &target, framing)?;
    let (status, came) = std::future::poll_fn(|task| sending.poll(task)).await?;
    Ok(Answered {
        link: sending.link,
        status,
        head: came - began,
    })
}

/// A copy on its way.
struct Sending {
    link: Link,
    /// What is left of the body.
    body: Bytes,
    /// All of it was handed in.
    ended: bool,
    /// The status, and when it came.
    status: Option<(u16, Instant)>,
    read: usize,
}

impl Sending {
    /// Ready with the status, and when it came, when the response was read, or enough of it.
    fn poll(&mut self, task: &mut Task<'_>) -> Poll<Result<(u16, Instant), Failed>> {
        self.poll_up(task)?;
        let status = ready!(self.poll_status(task))?;
        while self.read <= MAX_RESPONSE_BYTES && !self.link.is_over()? {
            match ready!(self.link.poll_body(task))? {
                Some(piece) => self.read += piece.len(),
                None => break,
            }
        }
        Poll::Ready(Ok(status))
    }

    /// Moves the body on as far as the backend takes it.
    fn poll_up(&mut self, task: &mut Task<'_>) -> Result<(), Failed> {
        if !self.ended
            && let Poll::Ready(sent) = self.link.poll_send(&mut self.body, task)
        {
            sent?;
            self.link.end_body()?;
            self.ended = true;
        }
        match self.link.poll_flush(task) {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Ok(()),
        }
    }

    fn poll_status(&mut self, task: &mut Task<'_>) -> Poll<Result<(u16, Instant), Failed>> {
        loop {
            if let Some(status) = self.status {
                return Poll::Ready(Ok(status));
            }
            let head: Response = ready!(self.link.poll_head(task))?;
            if !head.is_interim() {
                self.status = Some((head.status.as_u16(), Instant::now()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, Method, Version};

    #[test]
    fn the_suffix_stands_behind_the_name() {
        for (host, expected) in [
            ("a.test", "a.test-shadow"),
            ("a.test:8080", "a.test-shadow:8080"),
            ("[::1]:8080", "[::1]:8080"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            let mut request = Request {
                method: Method::GET,
                version: Version::HTTP_11,
                headers,
            };
            put_behind_host(&mut request, "-shadow");
            assert_eq!(request.headers[header::HOST], expected);
        }
    }
}
