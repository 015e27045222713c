//! One request from its header to its log line: each step a short method, the policy elsewhere.

mod answer;
mod attempt;
mod authenticate;
mod breaker;
mod choice;
mod concurrency;
mod cors;
mod deadline;
mod endpoints;
mod failure;
mod forward;
mod hedge;
mod ip_access;
mod kept;
mod limit;
mod mirror;
mod overload;
mod receive;
mod record;
mod relay;
mod retry;

use std::sync::Arc;

use pingora_core::server::ShutdownWatch;

use self::failure::Failure;
use crate::access_log::AccessLog;
use crate::context::RequestContext;
use crate::forward::Pool;
use crate::lifecycle::Lifecycle;
use crate::listener::connection::Handler;
use crate::listener::exchange::Exchange;
use crate::metrics::{Counter, Metrics};
use crate::overload::Overload;
use crate::snapshot::Live;

/// The context of a request of ours.
pub type Context = RequestContext;

/// What the steps need; one value for each worker, which share all but the pool.
#[derive(Clone)]
pub struct Gateway {
    /// The running configuration.
    pub live: Arc<Live>,
    /// Whether the process is ending.
    pub lifecycle: Arc<Lifecycle>,
    /// What the process can bear.
    pub overload: Arc<Overload>,
    /// Every metric.
    pub metrics: Arc<Metrics>,
    /// Where requests are logged, if they are.
    pub access_log: Option<Arc<AccessLog>>,
    /// A counter for each rejection, by its index.
    pub refusals: Arc<[Counter]>,
    /// Connections to backends.
    pub pool: Arc<Pool>,
    /// Turns true when the drain period is over, and WebSockets are told to close.
    pub ending: ShutdownWatch,
}

impl Handler for Gateway {
    async fn handle(&self, mut exchange: Exchange) -> Exchange {
        let mut context = RequestContext::new(self.live.load());
        if let Err(failure) = self.serve(&mut exchange, &mut context).await {
            breaker::conclude(&exchange, &mut context, &failure);
            // On the heap, so that requests that succeed do not make room for it.
            Box::pin(self.answer_failure(&mut exchange, &mut context, failure)).await;
        }
        self.record(&exchange, &context);
        exchange
    }
}

impl Gateway {
    /// Has the request answered: by the gateway itself, or by a backend.
    async fn serve(&self, exchange: &mut Exchange, context: &mut Context) -> Result<(), Failure> {
        self.set_bounds(exchange);
        receive::adopt(exchange);
        receive::identify(exchange, context);
        if self.answer_endpoint(exchange, context).await? {
            return Ok(());
        }
        ip_access::judge(context).map_err(Failure::Refused)?;
        if self.send_to_https(exchange, context).await? {
            return Ok(());
        }
        if self.answer_validation(exchange, context).await? {
            return Ok(());
        }
        receive::check_direction(exchange, context).map_err(Failure::Refused)?;
        receive::find_route(exchange, context).map_err(Failure::Refused)?;
        if self.act(exchange, context).await? {
            return Ok(());
        }
        self.proxy_or_fall_back(exchange, context).await
    }
}
