//! Says each second that this instance is there, and hears how many there are. While the store is down,
//! the same question is its probe.

use std::future::pending;
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use tokio::time::{sleep_until, timeout};

use crate::filter::ratelimit::shared::Shared;
use crate::metrics::{RedisCommand, RedisError};
use crate::store::{Call, Script, Store};

/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(1);

/// Who was not here for as long, does not count.
const GONE_MILLIS: u64 = 3500;

/// Has one colon, unlike the keys of policies.
const KEY: &str = "ratelimit:instances";

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("beat.lua")));

/// Goes on for as long as there is a store.
pub(super) async fn keep(shared: Arc<Shared>, store: Weak<Store>) {
    let Some(mut changes) = store.upgrade().map(|store| store.changes()) else {
        return;
    };
    let mut next = Instant::now();
    loop {
        changes.mark_unchanged();
        let is_configured = store.upgrade().is_some_and(|store| store.is_configured());
        let due = async {
            if !is_configured {
                pending::<()>().await;
            }
            sleep_until(shared.probe().unwrap_or(next).into()).await;
        };
        tokio::select! {
            () = due => {}
            // A probe is due sooner.
            () = shared.fell() => continue,
            changed = changes.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        }
        let Some(store) = store.upgrade() else { return };
        next = Instant::now() + BEAT;
        beat(&shared, &store).await;
    }
}

async fn beat(shared: &Shared, store: &Store) {
    let calls = [Call {
        key: KEY,
        arguments: (shared.name(), GONE_MILLIS),
    }];
    let asked = store.run::<u32, _>(RedisCommand::RateLimit, &SCRIPT, &calls);
    let outcome = match timeout(shared.patience(), asked).await {
        Ok(Ok(answers)) => match answers.into_iter().next() {
            Some(Ok(count)) => Ok(count),
            Some(Err(failure)) => Err(failure.kind),
            None => Err(RedisError::Protocol),
        },
        Ok(Err(failure)) => Err(failure.kind),
        Err(_) => Err(RedisError::Timeout),
    };
    if let Ok(count) = outcome {
        shared.counted(count);
    }
    let now = Instant::now();
    match (shared.probe().is_some(), outcome) {
        (true, outcome) => shared.probed(outcome.is_ok(), now),
        (false, Ok(_)) => shared.answered(1, now),
        (false, Err(why)) => shared.failed(why, now),
    }
}
