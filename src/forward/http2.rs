//! A request and its response on a stream of HTTP/2 to a backend.

use std::any::Any;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use h2::SendStream;
use http::header::HOST;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderMap, Version};
use pingora_core::protocols::http::v2::client::Http2Session;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;

use super::answer::Malformed;
use super::failed::Failed;
use crate::listener::framing::Framing;
use crate::message::{Request, Response};

/// What is handed to the library at once.
const WRITE_BYTES: usize = 16 * 1024;

/// A stream during its request.
pub struct Http2 {
    session: Http2Session,
    /// How its connection was found, under which it is given back.
    peer: Box<HttpPeer>,
    scheme: Scheme,
    body: Option<SendStream<Bytes>>,
    stalled_since: Option<Instant>,
    sent: bool,
    over: bool,
    /// Read behind the body.
    trailers: Option<HeaderMap>,
    body_ended: bool,
}

impl Http2 {
    /// On a stream that is free.
    pub fn new(session: Http2Session, peer: Box<HttpPeer>, is_tls: bool) -> Self {
        Self {
            session,
            peer,
            scheme: if is_tls { Scheme::HTTPS } else { Scheme::HTTP },
            body: None,
            stalled_since: None,
            sent: false,
            over: false,
            trailers: None,
            body_ended: false,
        }
    }

    /// What stands for its connection.
    pub fn shared(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        let socket = self.session.digest()?.socket_digest.clone()?;
        Some(socket)
    }

    /// Sends the request's head.
    pub fn send_head(
        &mut self,
        mut request: Request,
        target: &str,
        body: Framing,
    ) -> Result<(), Failed> {
        const BAD: Malformed = Malformed("request target");
        let host = request.headers.remove(HOST);
        let host = host.as_ref().map_or(&b""[..], |host| host.as_bytes());
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(self.scheme.clone());
        uri.authority = Some(Authority::try_from(host).map_err(|_| BAD)?);
        uri.path_and_query = Some(PathAndQuery::try_from(target).map_err(|_| BAD)?);
        let mut message = http::Request::new(());
        *message.uri_mut() = Uri::from_parts(uri).map_err(|_| BAD)?;
        *message.method_mut() = request.method;
        *message.version_mut() = Version::HTTP_2;
        *message.headers_mut() = request.headers;
        let end = body.is_done();
        let header = RequestHeader::from(message.into_parts().0);
        self.session
            .write_request_header(Box::new(header), end)
            .map_err(Failed::connecting)?;
        self.body = self.session.take_request_body_writer();
        self.sent = end;
        Ok(())
    }

    /// Sends a piece of the body, as much of it as the backend takes.
    pub fn poll_send(
        &mut self,
        piece: &mut Bytes,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Failed>> {
        let sent = self.poll_capacity(piece, context);
        if sent.is_ready() {
            self.stalled_since = None;
        } else {
            self.stalled_since.get_or_insert_with(Instant::now);
        }
        sent
    }

    fn poll_capacity(
        &mut self,
        piece: &mut Bytes,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Failed>> {
        let Some(stream) = &mut self.body else {
            return Poll::Ready(Ok(()));
        };
        while !piece.is_empty() {
            let wanted = piece.len().min(WRITE_BYTES);
            stream.reserve_capacity(wanted);
            if stream.capacity() == 0 {
                match ready!(stream.poll_capacity(context)) {
                    None => return Poll::Ready(Err(closed())),
                    Some(Err(error)) => return Poll::Ready(Err(Failed::http2(error))),
                    Some(Ok(_)) => {
                        self.stalled_since = None;
                        continue;
                    }
                }
            }
            let part = piece.split_to(stream.capacity().min(wanted));
            stream.send_data(part, false).map_err(Failed::http2)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the request.
    pub fn end_body(&mut self) -> Result<(), Failed> {
        if self.sent {
            return Ok(());
        }
        self.sent = true;
        match &mut self.body {
            Some(stream) => stream.send_data(Bytes::new(), true).map_err(Failed::http2),
            None => Ok(()),
        }
    }

    /// Since when the backend takes nothing.
    pub fn stalled_since(&self) -> Option<Instant> {
        self.stalled_since
    }

    /// The head of the response.
    pub fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<Response, Failed>> {
        let read = ready!(self.session.poll_read_response_header(context));
        read.map_err(Failed::http2)?;
        let Some(header) = self.session.response_header() else {
            return Poll::Ready(Err(Failed::protocol("no header")));
        };
        Poll::Ready(Ok(Response {
            status: header.status,
            reason: None,
            headers: header.headers.clone(),
        }))
    }

    /// The next piece of the response's body.
    pub fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Failed>> {
        while !self.body_ended {
            match ready!(self.session.poll_read_response_body(context)) {
                Some(Ok(piece)) if piece.is_empty() => {}
                Some(Ok(piece)) => return Poll::Ready(Ok(Some(piece))),
                Some(Err(error)) if is_over(&error) => self.body_ended = true,
                Some(Err(error)) => return Poll::Ready(Err(Failed::http2(error))),
                None => self.body_ended = true,
            }
        }
        if !self.over {
            let trailers = std::pin::pin!(self.session.read_trailers());
            self.trailers = ready!(trailers.poll(context)).map_err(Failed::connecting)?;
            self.over = true;
        }
        Poll::Ready(Ok(None))
    }

    /// Whether nothing of the response is left, as far as that can be told without waiting.
    pub fn is_over(&mut self) -> Result<bool, Failed> {
        if !self.over && self.session.response_finished() {
            let over = self.session.check_response_end_or_error();
            self.over = over.map_err(Failed::connecting)?;
            self.body_ended = self.over;
        }
        Ok(self.over)
    }

    /// What came behind the body.
    pub fn trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    /// Session and peer, for the pool.
    pub fn into_parts(self) -> (Http2Session, Box<HttpPeer>) {
        (self.session, self.peer)
    }
}

/// The backend wants no more of the request, and has said all it will (RFC 9113 section 8.1).
fn is_over(error: &h2::Error) -> bool {
    error.is_reset() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
}

fn closed() -> Failed {
    Failed::http2(h2::Error::from(h2::Reason::STREAM_CLOSED))
}
