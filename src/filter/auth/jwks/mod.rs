//! The keys of a provider that publishes them at a URL: what is known of them, and who waits for
//! others.
//!
//! A [`RemoteKeys`] is shared by the requests that need its keys and by the task that fetches them
//! (`background/jwks`). It knows no socket and no file, and the time only as it is told. The
//! [`Schedule`] decides; here its decisions meet the keys in use.

mod freshness;
mod report;
mod saved;
mod schedule;
mod waiter;

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, watch};

pub use self::freshness::lifetime;
pub use self::report::Report;
pub use self::saved::{NotUsed, Saved};
pub use self::schedule::{Demand, Schedule};
pub use self::waiter::Waiter;

use super::jwt::{KeySet, KeySetError, Provider};
use crate::config::model::JwksUrl;
use crate::metrics::{JwksFetch, JwksMetrics};

/// Between two lines of the log about the same provider's failures.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(60);

/// What a fetch brought.
#[derive(Debug)]
pub struct Response {
    /// Its body; `None`: the keys are those that were fetched before.
    pub body: Option<Vec<u8>>,
    /// How long it says that the keys are good for.
    pub lifetime: Option<Duration>,
    /// What the next fetch can ask with.
    pub validators: Validators,
}

/// Why a fetch brought nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// As metrics name it.
    pub result: JwksFetch,
    /// As logs and status tell it, with nothing of what came.
    pub what: String,
}

/// What tells a server which keys are known already (RFC 9110 section 8.8).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// `ETag`.
    pub etag: Option<String>,
    /// `Last-Modified`.
    pub last_modified: Option<String>,
}

/// The keys of one provider, and when they are fetched.
pub struct RemoteKeys {
    /// What the scheme is called.
    pub name: Arc<str>,
    /// Where the keys are, and how they are fetched.
    pub config: JwksUrl,
    provider: Arc<Provider>,
    state: Mutex<State>,
    /// The number of the last fetch that is over.
    finished: watch::Sender<u64>,
    wanted: Notify,
    waiting: AtomicUsize,
    metrics: Arc<JwksMetrics>,
}

struct State {
    schedule: Schedule,
    /// The keys in use as they came, with when and by what they are known.
    saved: Option<Saved>,
    last_error: Option<(SystemTime, Failure)>,
    complaint_due: Option<Instant>,
    /// Failures that were not told, and whether one was since the last success.
    unsaid: u64,
    told: bool,
}

impl RemoteKeys {
    /// Of a provider. What is known of the same keys is taken over from the provider before; the
    /// caller has given their keys to the new one.
    pub fn new(
        name: &Arc<str>,
        config: &JwksUrl,
        provider: &Arc<Provider>,
        metrics: Arc<JwksMetrics>,
        previous: Option<&Self>,
    ) -> Arc<Self> {
        let mut schedule = Schedule::new(config, Instant::now());
        let mut saved = None;
        if let Some(previous) = previous {
            let before = previous.lock();
            schedule.succeed(&before.schedule);
            saved.clone_from(&before.saved);
        }
        Arc::new(Self {
            name: Arc::clone(name),
            config: config.clone(),
            provider: Arc::clone(provider),
            state: Mutex::new(State {
                schedule,
                saved,
                last_error: None,
                complaint_due: None,
                unsaid: 0,
                told: false,
            }),
            finished: watch::Sender::new(0),
            wanted: Notify::new(),
            waiting: AtomicUsize::new(0),
            metrics,
        })
    }

    /// Whether keys that came from there are good for this place too.
    pub fn is_of(&self, config: &JwksUrl) -> bool {
        self.config.url == config.url && self.config.authorities == config.authorities
    }

    /// The keys in use.
    pub fn keys(&self) -> Option<Arc<KeySet>> {
        self.provider.keys()
    }

    /// Whether there are keys in use.
    pub fn has_keys(&self) -> bool {
        self.keys().is_some()
    }

    /// When there is something to do: a fetch, or keys that become too old.
    pub fn next(&self) -> Instant {
        let state = self.lock();
        let until = state.schedule.believed_until();
        until.map_or(state.schedule.due(), |until| {
            until.min(state.schedule.due())
        })
    }

    /// When keys become too old.
    pub fn believed_until(&self) -> Option<Instant> {
        self.lock().schedule.believed_until()
    }

    /// Waits until a request asks for a fetch.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Begins a fetch if one is due, and says what it may ask with.
    pub fn begin(&self, now: Instant) -> Option<Validators> {
        let mut state = self.lock();
        if !state.schedule.is_due(now) {
            return None;
        }
        state.schedule.begin();
        let known = state.saved.as_ref().filter(|_| self.has_keys());
        Some(known.map_or_else(Validators::default, |saved| Validators {
            etag: saved.etag.clone(),
            last_modified: saved.last_modified.clone(),
        }))
    }

    /// Takes what a fetch brought; hands back what is to be kept for the next start.
    pub fn finish(
        &self,
        result: Result<Response, Failure>,
        now: Instant,
        wall: SystemTime,
    ) -> Option<Saved> {
        let taken = result.and_then(|response| self.take(response, now, wall));
        if let Err(failure) = &taken {
            let mut state = self.lock();
            state.schedule.failed(now, fastrand::f64());
            state.last_error = Some((wall, failure.clone()));
            self.metrics.fetched(failure.result);
            self.complain(&mut state, failure, now);
        }
        let finished = self.lock().schedule.finished();
        self.finished.send_replace(finished);
        taken.ok()
    }

    fn take(&self, response: Response, now: Instant, wall: SystemTime) -> Result<Saved, Failure> {
        let before = self.lock().saved.clone();
        let result = match response.body {
            Some(_) => JwksFetch::Success,
            None => JwksFetch::NotModified,
        };
        let body = match (response.body, &before) {
            (Some(body), _) => Some(body),
            // They became too old while the fetch was under way.
            (None, Some(before)) if !self.has_keys() => Some(before.keys.clone().into_bytes()),
            (None, _) => None,
        };
        let fresh = body.map(|body| read(&body)).transpose()?;
        let known = before.map(|before| before.keys);
        let (keys, text) = fresh.unzip();
        let is_new = text.is_some() && text != known;
        let text = text.or(known).unwrap_or_default();
        let mut saved = Saved::new(&self.name, &self.config.url, wall, &text);
        saved.etag = response.validators.etag;
        saved.last_modified = response.validators.last_modified;
        if let Some(keys) = keys {
            if is_new {
                tell_keys(&self.name, &keys);
            }
            self.provider.publish(keys);
        }
        let mut state = self.lock();
        state.last_error = None;
        if std::mem::take(&mut state.told) {
            log::info!("provider={} keys can be fetched again", self.name);
        }
        let chance = fastrand::f64();
        state
            .schedule
            .succeeded(response.lifetime, is_new, now, chance);
        state.saved = Some(saved.clone());
        drop(state);
        self.metrics.fetched(result);
        self.measure(wall);
        Ok(saved)
    }

    /// Takes keys that were kept, or that the process before had. They are asked for again at once.
    pub fn restore(&self, saved: Saved, now: Instant, wall: SystemTime) -> Result<(), NotUsed> {
        let age = saved.age(&self.config.url, wall)?;
        let (keys, _) = read(saved.keys.as_bytes()).map_err(|error| NotUsed::Keys(error.what))?;
        let mut state = self.lock();
        if !state.schedule.restore(age, now) {
            return Err(NotUsed::TooOld);
        }
        self.provider.publish(keys);
        let fetched = saved.fetched();
        state.saved = Some(saved);
        drop(state);
        self.measure(fetched);
        // Whoever waits for the first fetch looks again.
        self.finished.send_modify(|_| {});
        Ok(())
    }

    /// What is to be kept; `None` without keys.
    pub fn saved(&self) -> Option<Saved> {
        self.lock().saved.clone().filter(|_| self.has_keys())
    }

    /// Drops keys that are too old.
    pub fn expire(&self, now: Instant) {
        if self.lock().schedule.expire(now) {
            self.provider.withdraw();
            self.metrics.set_keys(0, 0);
            log::error!(
                "provider={} keys are older than `max_stale` and are not used any longer: its tokens \
                 cannot be judged",
                self.name
            );
        }
    }

    fn complain(&self, state: &mut State, failure: &Failure, now: Instant) {
        if state.complaint_due.is_some_and(|due| now < due) {
            state.unsaid += 1;
            return;
        }
        state.complaint_due = Some(now + COMPLAINT_PAUSE);
        state.told = true;
        let again = match std::mem::take(&mut state.unsaid) {
            0 => String::new(),
            more => format!(", {more} further times since it was last told"),
        };
        let left = match (self.has_keys(), &state.saved) {
            (true, Some(saved)) => format!(
                "those of {} are still used",
                humantime::format_rfc3339_seconds(saved.fetched())
            ),
            _ => "there are none, and its tokens cannot be judged".to_owned(),
        };
        let (name, what) = (&self.name, &failure.what);
        log::warn!("provider={name} keys cannot be fetched: {what}{again}; {left}");
    }

    fn measure(&self, fetched: SystemTime) {
        let keys = self.provider.keys().map_or(0, |keys| keys.keys().len());
        let fetched = saved::seconds(fetched).try_into();
        self.metrics.set_keys(keys, fetched.unwrap_or(i64::MAX));
    }

    /// A panic while the lock was held leaves a state that is still whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keys of a body, and the body as text.
fn read(body: &[u8]) -> Result<(KeySet, String), Failure> {
    let failure = |result, what: String| Failure { result, what };
    let keys = KeySet::parse(body).map_err(|error| {
        let result = match error {
            KeySetError::TooLarge => JwksFetch::TooLarge,
            KeySetError::NotAKeySet => JwksFetch::Malformed,
            KeySetError::NoUsableKey(_) => JwksFetch::NoUsableKey,
        };
        failure(result, format!("what was fetched {error}"))
    })?;
    let text = std::str::from_utf8(body);
    let text =
        text.map_err(|_| failure(JwksFetch::Malformed, "what was fetched is no text".into()))?;
    Ok((keys, text.to_owned()))
}

fn tell_keys(name: &str, keys: &KeySet) {
    let skipped: Vec<String> = keys
        .skipped()
        .reasons()
        .iter()
        .map(|(reason, count)| format!(", {count} not used: one {reason}"))
        .collect();
    let (count, skipped) = (keys.keys().len(), skipped.concat());
    log::info!("provider={name} new keys were fetched: {count}{skipped}");
}

#[cfg(test)]
mod tests;
