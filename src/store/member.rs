//! One server with the connections to it, which end with it.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::context::Context;
use super::dial::Dialer;
use super::pool::Pool;

/// A server that is asked.
pub(super) struct Member {
    pub pool: Arc<Pool>,
    /// What keeps the connections.
    _tasks: JoinSet<()>,
}

impl Member {
    /// Starts to connect. `runtime` is the store's, whoever calls.
    pub fn start(dialer: Dialer, context: &Arc<Context>, runtime: &Handle) -> Arc<Self> {
        let _within = runtime.enter();
        let mut tasks = JoinSet::new();
        let pool = Pool::start(dialer, context, &mut tasks);
        Arc::new(Self {
            pool,
            _tasks: tasks,
        })
    }
}
