//! Says each second that this instance is there, and hears how many there are. While the store is down,
//! the same question is its probe.

use std::future::pending;
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use futures_util::future::select_ok;
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

/// Keys of probes begin so.
const PROBE: &str = "ratelimit:probe-";

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
            is_well = probe(&shared, &store), if is_probe => is_well,
            is_well = beat(&shared, &store), if !is_probe => is_well,
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

/// Says whether a sign of life was heard. It may take longer than a request may wait, since nobody waits for it.
async fn beat(shared: &Shared, store: &Store) -> bool {
    let began = Instant::now();
    let server = shared.server(KEY);
    let outcome = sign(shared, store, KEY).await;
    let now = Instant::now();
    match outcome {
        // Requests that have to wait for answers say themselves that these come late.
        Ok(()) if now > began + shared.patience() => {}
        Ok(()) => shared.answered(server, 1, now),
        Err(why) => shared.failed(server, why, now),
    }
    outcome.is_ok()
}

/// Says whether any server has answered as soon as it has to answer a request. The one that signs of life go to may
/// be away alone: another key, a different one each time, is another's sooner or later.
async fn probe(shared: &Shared, store: &Store) -> bool {
    let other = format!("{PROBE}{}", fastrand::u16(..));
    let asked = [KEY, &other].map(|key| {
        Box::pin(async move {
            let outcome = sign(shared, store, key).await;
            outcome.map(|()| shared.server(key))
        })
    });
    let first = timeout(shared.patience(), select_ok(asked)).await;
    let answered = first.ok().and_then(Result::ok);
    let is_well = answered.is_some();
    let server = answered.map_or_else(|| shared.server(KEY), |(server, _)| server);
    shared.probed(server, is_well, Instant::now());
    is_well
}

/// Leaves a sign of life at a key.
async fn sign(shared: &Shared, store: &Store, key: &str) -> Result<(), RedisError> {
    let calls = [Call {
        key,
        line: Sign(shared.name()),
    }];
    let read = |line: &str| line.parse().ok();
    let answers = store.run(RedisCommand::RateLimit, &SCRIPT, &calls, read);
    let answer = answers.await.into_iter().next();
    let count = answer.ok_or(RedisError::Protocol)?;
    let count = count.map_err(|failure| failure.kind)?;
    if key == KEY {
        shared.counted(count);
    }
    Ok(())
}

/// A sign of life of the instance of this name.
struct Sign<'a>(&'a str);

impl Told for Sign<'_> {
    fn tell(&self, line: &mut Line) {
        line.word(self.0);
        line.number(GONE_MILLIS);
    }
}
