//! Fetches the key sets of providers before a request needs them, one task a provider.
//!
//! The service has a thread of its own, which may wait for a disk: no worker ever fetches. Tasks follow
//! the configuration; that of a provider that stays goes on across a reload.

mod fetch;
mod store;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep_until;

use self::fetch::Client;
use crate::filter::auth::jwks::{Failure, RemoteKeys, Response, Saved, Validators};
use crate::lifecycle::{Condition, Lifecycle};
use crate::snapshot::Live;

/// Between two looks whether the keys that a start needs are there.
const LOOK: Duration = Duration::from_millis(10);

/// Fetches the key sets of the running configuration.
pub struct KeySets {
    live: Arc<Live>,
    lifecycle: Arc<Lifecycle>,
}

impl KeySets {
    /// Of this configuration.
    pub fn new(live: Arc<Live>, lifecycle: Arc<Lifecycle>) -> Self {
        Self { live, lifecycle }
    }

    /// Requests are welcome once every provider has keys, and at the latest when a fetch would have
    /// taken too long: another instance is no better off then.
    async fn welcome(&self) {
        let first: Vec<_> = self.live.load().auth.remote_keys().cloned().collect();
        let timeouts = first.iter().map(|keys| keys.config.timeout);
        let deadline = Instant::now() + timeouts.max().unwrap_or_default();
        while Instant::now() < deadline && !first.iter().all(|keys| keys.has_keys()) {
            tokio::time::sleep(LOOK).await;
        }
        self.lifecycle.met(Condition::KeySets);
    }
}

#[async_trait]
impl BackgroundService for KeySets {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let mut generations = self.live.subscribe();
        let mut fetching = Fetching::default();
        let follow = async {
            loop {
                generations.mark_unchanged();
                fetching.follow(&self.live);
                if generations.changed().await.is_err() {
                    return;
                }
            }
        };
        let work = async { tokio::join!(follow, self.welcome()) };
        // Dropping the tasks at the end of this function ends them.
        tokio::select! {
            _ = work => {}
            _ = shutdown.wait_for(|ending| *ending) => {}
        }
    }
}

/// The tasks that run.
#[derive(Default)]
struct Fetching {
    tasks: JoinSet<()>,
    running: Vec<(Arc<RemoteKeys>, AbortHandle)>,
}

impl Fetching {
    /// Starts what is new, ends what is gone, and leaves the rest alone.
    fn follow(&mut self, live: &Live) {
        let wanted: Vec<_> = live.load().auth.remote_keys().cloned().collect();
        self.running.retain(|(keys, task)| {
            let stays = wanted.iter().any(|one| Arc::ptr_eq(one, keys));
            if !stays {
                task.abort();
            }
            stays
        });
        for keys in wanted {
            if !self.running.iter().any(|(one, _)| Arc::ptr_eq(one, &keys)) {
                let task = self.tasks.spawn(fetch_for_ever(Arc::clone(&keys)));
                self.running.push((keys, task));
            }
        }
        // Those that have ended are not kept.
        while self.tasks.try_join_next().is_some() {}
    }
}

/// Fetches one provider's keys whenever they are due, until the task is ended.
async fn fetch_for_ever(keys: Arc<RemoteKeys>) {
    let client = Client::new(&keys.config);
    let place = store::place(&keys);
    if let Some(place) = place.as_deref().filter(|_| !keys.has_keys()) {
        restore(&keys, place);
    }
    let mut disk = Disk { place, told: false };
    loop {
        keys.expire(Instant::now());
        if let Some(known) = keys.begin(Instant::now()) {
            let fetched = match &client {
                Ok(client) => fetch(&keys, client, &known).await,
                Err(failure) => Err(failure.clone()),
            };
            let saved = keys.finish(fetched, Instant::now(), SystemTime::now());
            if let Some(saved) = saved {
                disk.keep(&keys, &saved);
            }
            continue;
        }
        tokio::select! {
            () = sleep_until(keys.next().into()) => {}
            () = keys.wanted() => {}
        }
    }
}

/// Fetches once; keys that become too old meanwhile are dropped in time.
async fn fetch(
    keys: &RemoteKeys,
    client: &Client,
    known: &Validators,
) -> Result<Response, Failure> {
    let mut fetch = std::pin::pin!(client.fetch(known));
    while let Some(until) = keys.believed_until() {
        tokio::select! {
            result = &mut fetch => return result,
            () = sleep_until(until.into()) => keys.expire(Instant::now()),
        }
    }
    fetch.await
}

fn restore(keys: &RemoteKeys, place: &Path) {
    let restored = store::read(place).and_then(|saved| {
        let Some(saved) = saved else { return Ok(None) };
        let fetched = saved.fetched_text();
        let restored = keys.restore(saved, Instant::now(), SystemTime::now());
        restored
            .map(|()| Some(fetched))
            .map_err(|error| error.to_string())
    });
    let name = &keys.name;
    match restored {
        Ok(None) => {}
        Ok(Some(fetched)) => log::info!("provider={name} keys of {fetched} were kept and are used"),
        Err(problem) => log::warn!(
            "provider={name} kept keys are not used: {}: {problem}",
            place.display()
        ),
    }
}

/// Where keys are kept for the next start.
struct Disk {
    place: Option<PathBuf>,
    /// Whether it was told that they cannot be.
    told: bool,
}

impl Disk {
    fn keep(&mut self, keys: &RemoteKeys, saved: &Saved) {
        let Some(place) = &self.place else { return };
        match store::write(place, saved) {
            Ok(()) => self.told = false,
            Err(error) if !self.told => {
                self.told = true;
                let (name, place) = (&keys.name, place.display());
                log::warn!("provider={name} keys cannot be kept: {place}: {error}");
            }
            Err(_) => {}
        }
    }
}
