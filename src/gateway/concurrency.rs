//! Has a request take its places among those in flight, and wait for them if there is a queue.

use std::task::Poll;
use std::time::Instant;

use super::failure::Failure;
use super::{Context, Gateway, retry};
use crate::config::model::Priority;
use crate::filter::concurrency::{Entered, Limit, Place, Waiting};
use crate::listener::exchange::Exchange;
use crate::reply::Rejection;
use crate::route::Route;

impl Gateway {
    /// Takes a place of each of the route's limits, in their order.
    pub(super) async fn enter_route(
        &self,
        exchange: &mut Exchange,
        context: &mut Context,
        route: &Route,
    ) -> Result<(), Failure> {
        for limit in route.concurrency.iter() {
            let path = exchange.origin.head.target.path();
            let path_param = |name: &str| context.params.get(name, path);
            let key = limit.key_of(&context.caller(&exchange.request.headers, &path_param));
            let place = self.place(exchange, limit, key, route.priority).await?;
            context.places.keep(place);
        }
        Ok(())
    }

    /// Takes a place of the upstream's limit. It is kept over all attempts.
    pub(super) async fn enter_upstream(
        &self,
        exchange: &mut Exchange,
        context: &mut Context,
    ) -> Result<(), Failure> {
        let Some(upstream) = context.upstream.clone() else {
            return Ok(());
        };
        if let Some(limit) = &upstream.concurrency {
            let route = context.route.as_ref();
            let class = route.map_or_else(Priority::default, |route| route.priority);
            let place = self.place(exchange, limit, 0, class).await?;
            context.places.keep_upstream(place);
        }
        Ok(())
    }

    async fn place(
        &self,
        exchange: &mut Exchange,
        limit: &Limit,
        key: u64,
        class: Priority,
    ) -> Result<Place, Failure> {
        match limit.enter(key, class) {
            Entered::In(place) => Ok(place),
            // On the heap, so that requests that need not wait do not make room for it.
            Entered::Queued(waiting) => Box::pin(wait(exchange, limit, waiting)).await,
            Entered::Full => Err(Failure::Refused(refusal(limit))),
        }
    }
}

/// Waits until it is the request's turn, its time is over, or the client has left.
async fn wait(
    exchange: &mut Exchange,
    limit: &Limit,
    mut waiting: Waiting,
) -> Result<Place, Failure> {
    let until = Instant::now() + limit.bounds.queue_timeout;
    std::future::poll_fn(|task| {
        if let Poll::Ready(place) = waiting.poll(task) {
            return Poll::Ready(place.ok_or_else(|| Failure::Refused(refusal(limit))));
        }
        retry::poll_wait(exchange, until, task).map(|over| {
            over?;
            limit.timed_out();
            Err(Failure::Refused(refusal(limit)))
        })
    })
    .await
}

/// A client that takes too much for itself is told so; of a limit for all it is no client's fault.
fn refusal(limit: &Limit) -> Rejection {
    match limit.is_keyed() {
        true => Rejection::TooManyConcurrent,
        false => Rejection::Overloaded,
    }
}
