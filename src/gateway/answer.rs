//! What the gateway answers by itself: fixed responses, redirects and refusals.

use bytes::Bytes;
use http::{HeaderValue, header};
use pingora_core::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::authenticate;
use super::receive::request_of;
use super::{Context, Gateway};
use crate::config::model::Redirect;
use crate::filter::maintenance;
use crate::listener::connection::DRAIN_BYTES;
use crate::listener::framing::Framing;
use crate::reply::{self, REQUEST_ID, Rejection};
use crate::route::{Action, redirect};

impl Gateway {
    /// Does what the route says, as far as that needs no backend. True: the request is answered.
    pub(super) async fn act(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        let Some(route) = context.route.clone() else {
            return Ok(false);
        };
        let proxied = matches!(route.action, Action::Proxy(_));
        let snapshot = &context.snapshot;
        let (all, notice) = (&snapshot.maintenance, &snapshot.notice);
        if let Some(rejection) = maintenance::judge(all, &route.maintenance, proxied, notice) {
            return self
                .refuse(session, context, rejection)
                .await
                .map(|()| true);
        }
        if let Err(rejection) = authenticate::admit(session, context, &route).await {
            return self
                .refuse(session, context, rejection)
                .await
                .map(|()| true);
        }
        if is_too_large(session, route.max_body_bytes) {
            let rejection = Rejection::BodyTooLarge;
            return self
                .refuse(session, context, rejection)
                .await
                .map(|()| true);
        }
        match &route.action {
            Action::Proxy(split) => {
                context.upstream = split.next().cloned();
                if let Some(upstream) = &context.upstream {
                    upstream.requested();
                }
                Ok(false)
            }
            Action::Redirect(target) => self.redirect(session, context, target).await,
            Action::Respond(fixed) => {
                let mut response = ResponseHeader::build(fixed.status, Some(4))?;
                response.insert_header(header::CONTENT_TYPE, fixed.content_type.clone())?;
                self.answer(session, context, response, fixed.body.clone())
                    .await?;
                Ok(true)
            }
        }
    }

    /// Sends what came in through a plain listener to `https`, where that is wanted.
    pub(super) async fn send_to_https(
        &self,
        session: &mut Session,
        context: &mut Context,
    ) -> Result<bool> {
        let Some(origin) = &context.origin else {
            return Ok(false);
        };
        match origin.listener.https_redirect() {
            Some(target) => self.redirect(session, context, &target).await,
            None => Ok(false),
        }
    }

    async fn redirect(
        &self,
        session: &mut Session,
        context: &mut Context,
        target: &Redirect,
    ) -> Result<bool> {
        let request = request_of(session, context);
        let port = crate::route::host::split(request.host).1;
        let location =
            context.with_facts(&request, |facts| redirect::location(target, facts, port));
        let Some(location) = location else {
            let rejection = Rejection::BadRequest("host");
            return self
                .refuse(session, context, rejection)
                .await
                .map(|()| true);
        };
        let mut response = ResponseHeader::build(target.status, Some(4))?;
        response.insert_header(header::LOCATION, location)?;
        self.answer(session, context, response, Bytes::new())
            .await?;
        Ok(true)
    }

    /// Answers with a complete response of the route's own.
    pub(super) async fn answer(
        &self,
        session: &mut Session,
        context: &mut Context,
        mut response: ResponseHeader,
        body: Bytes,
    ) -> Result<()> {
        // RFC 9110 section 8.6: none of these has a body or says how long it would be.
        if !matches!(response.status.as_u16(), 204 | 304) {
            response.insert_header(header::CONTENT_LENGTH, body.len())?;
        }
        response.insert_header(REQUEST_ID, context.request_id.as_str())?;
        secure(context, &mut response)?;
        if let Some(route) = &context.route
            && !route.response_headers.is_empty()
        {
            let request = request_of(session, context);
            context.with_facts(&request, |facts| {
                route.response_headers.apply(facts, &mut response);
            });
        }
        keep_open_if_small(session, context);
        reply::respond(session, response, body).await?;
        mark_answered(session, context);
        Ok(())
    }

    /// Refuses the request and remembers why.
    pub(super) async fn refuse(
        &self,
        session: &mut Session,
        context: &mut Context,
        rejection: Rejection,
    ) -> Result<()> {
        if let Some(counter) = self.refusals.get(rejection.index()) {
            counter.inc();
        }
        if matches!(
            rejection,
            Rejection::RequestTimeout | Rejection::MalformedBody
        ) {
            // Nobody knows where the next request would begin.
            session.set_keepalive(None);
        } else {
            keep_open_if_small(session, context);
        }
        let id = context.request_id.as_str();
        let written = reply::refuse(session, &rejection, id, hsts(context)).await;
        context.rejection = Some(rejection);
        written?;
        mark_answered(session, context);
        Ok(())
    }
}

/// Tells browsers to stay with `https`. In the place of what a backend says: there must be one
/// (RFC 6797 section 7.1).
pub(super) fn secure(context: &Context, response: &mut ResponseHeader) -> Result<()> {
    match hsts(context) {
        Some(value) => response.insert_header(header::STRICT_TRANSPORT_SECURITY, value.clone()),
        None => Ok(()),
    }
}

fn hsts(context: &Context) -> Option<&HeaderValue> {
    context.tls.as_ref().and_then(|tls| tls.hsts())
}

/// Whether the length that the client states is beyond the route's limit.
fn is_too_large(session: &Session, limit: Option<u64>) -> bool {
    let length = session
        .get_header(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<u64>().ok());
    matches!((length, limit), (Some(length), Some(limit)) if length > limit)
}

/// Lets a refusal keep the connection when what is left of the request is little.
///
/// Behind an unanswered `Expect: 100-continue` nobody knows whether the body will come.
fn keep_open_if_small(session: &mut Session, context: &Context) {
    let Some(origin) = &context.origin else {
        return;
    };
    let small = match origin.head.framing {
        Framing::Length(length) => length <= DRAIN_BYTES as u64,
        Framing::Done | Framing::Chunked(_) | Framing::Tunnel => false,
    };
    let keep = small && !origin.head.expects_continue;
    session.set_close_on_response_before_downstream_finish(!keep);
}

/// Tells the connection's loop that a complete response was written, if the connection goes on.
pub(super) fn mark_answered(session: &Session, context: &Context) {
    let goes_on = session.as_http1().is_some_and(|http| http.will_keepalive());
    if let (true, Some(origin)) = (goes_on, &context.origin) {
        origin.shared.set_answered();
    }
}
