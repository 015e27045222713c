//! Takes the process out of service while Redis cannot answer, where that is wanted.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::sleep;

use crate::lifecycle::Lifecycle;
use crate::snapshot::Live;
use crate::store::Store;

/// How soon `/ready` tells.
const PAUSE: Duration = Duration::from_millis(200);

/// Looks from now on. What `/ready` says is right when this returns.
pub fn watch(live: &Arc<Live>, lifecycle: &Arc<Lifecycle>, store: &Arc<Store>) {
    let (live, lifecycle) = (Arc::clone(live), Arc::clone(lifecycle));
    lifecycle.set_redis_missing(is_missing(&live, store));
    let weak = Arc::downgrade(store);
    store.spawn(async move { keep(&live, &lifecycle, &weak).await });
}

async fn keep(live: &Live, lifecycle: &Lifecycle, store: &Weak<Store>) {
    loop {
        sleep(PAUSE).await;
        let Some(store) = store.upgrade() else { return };
        lifecycle.set_redis_missing(is_missing(live, &store));
    }
}

fn is_missing(live: &Live, store: &Store) -> bool {
    let snapshot = live.load();
    let limits = &snapshot.rate_limits;
    let is_there = || {
        let available = store.availability();
        let shared = limits.shared();
        // Nobody finds out that an outage is over when no policy asks.
        let answers = shared.is_answering() || !shared.is_used();
        available.is_some_and(|there| *there.borrow()) && answers
    };
    limits.required && !is_there()
}
