//! Says each second that this instance is there, and hears how many there are. While the store is down,
//! the same question is its probe.

use std::future::pending;
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};

use crate::filter::ratelimit::shared::Shared;
use crate::metrics::{RedisCommand, RedisError};
use crate::store::{Call, Line, Script, Store, Told};

/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(1);

/// After one that failed without making an outage.
const RETRY: Duration = Duration::from_millis(100);

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
    let mut uses = shared.uses();
    let mut next = Instant::now();
    loop {
        changes.mark_unchanged();
        let is_used = *uses.borrow_and_update();
        let availability = store.upgrade().and_then(|store| store.availability());
        let due = async {
            match availability {
                Some(availability) if is_used => wait(&shared, availability, next).await,
                _ => pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            // A probe is due sooner.
            () = shared.fell() => continue,
            Ok(()) = uses.changed() => continue,
            changed = changes.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        }
        let Some(store) = store.upgrade() else { return };
        let is_probe = shared.probe().is_some();
        let is_well = tokio::select! {
            is_well = beat(&shared, &store, is_probe) => is_well,
            // Probes are due, and a late sign of life is none.
            () = shared.fell(), if !is_probe => continue,
        };
        next = Instant::now() + if is_well { BEAT } else { RETRY };
    }
}

/// The first sign of life follows the first connection; to ask before would be an error in the log.
async fn wait(shared: &Shared, mut availability: watch::Receiver<bool>, next: Instant) {
    let probe = shared.probe();
    if probe.is_none() && shared.known_instances() == 0 {
        // The connection's keeper is gone only when the settings change.
        drop(availability.wait_for(|is_there| *is_there).await);
    }
    sleep_until(probe.unwrap_or(next).into()).await;
}

/// Says whether that worked. A probe has to be answered as soon as a request; a sign of life may take longer, since
/// nobody waits for it.
async fn beat(shared: &Shared, store: &Store, is_probe: bool) -> bool {
    let began = Instant::now();
    let patience = shared.patience();
    let calls = [Call {
        key: KEY,
        line: Sign(shared.name()),
    }];
    let read = |line: &str| line.parse().ok();
    let asked = store.run(RedisCommand::RateLimit, &SCRIPT, &calls, read);
    let answers = match is_probe {
        true => timeout(patience, asked).await,
        false => Ok(asked.await),
    };
    let outcome = match answers {
        Ok(answers) => match answers.into_iter().next() {
            Some(Ok(count)) => Ok(count),
            Some(Err(failure)) => Err(failure.kind),
            None => Err(RedisError::Protocol),
        },
        Err(_) => Err(RedisError::Timeout),
    };
    if let Ok(count) = outcome {
        shared.counted(count);
    }
    let now = Instant::now();
    match (is_probe, outcome) {
        (true, outcome) => shared.probed(outcome.is_ok(), now),
        // Requests that have to wait for answers say themselves that these come late.
        (false, Ok(_)) if now > began + patience => {}
        (false, Ok(_)) => shared.answered(1, now),
        (false, Err(why)) => shared.failed(why, now),
    }
    outcome.is_ok()
}

/// A sign of life of the instance of this name.
struct Sign<'a>(&'a str);

impl Told for Sign<'_> {
    fn tell(&self, line: &mut Line) {
        line.word(self.0);
        line.number(GONE_MILLIS);
    }
}
