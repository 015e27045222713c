//! What asks for a reload beside operators: SIGHUP, and a file that has changed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;

use super::reload::{Reloader, Trigger};
use crate::access_log::AccessLog;
use crate::lifecycle::Lifecycle;
use crate::notify;

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(1);

/// Waits for reasons to reload.
pub struct Watch {
    reloader: Arc<Reloader>,
    access_log: Option<Arc<AccessLog>>,
    lifecycle: Arc<Lifecycle>,
    /// Taken when the service begins.
    hangup: Mutex<Option<Signal>>,
}

impl Watch {
    /// Reloads with this, and reopens this log. From here on SIGHUP does not end the process, and what
    /// comes before the service begins is kept for it.
    pub fn new(
        reloader: Arc<Reloader>,
        access_log: Option<Arc<AccessLog>>,
        lifecycle: Arc<Lifecycle>,
    ) -> Self {
        Self {
            reloader,
            access_log,
            lifecycle,
            hangup: Mutex::new(hangup()),
        }
    }

    async fn reload(&self, trigger: Trigger) {
        let reloader = Arc::clone(&self.reloader);
        // A name server may keep the loading waiting, and compiling takes a core for a while.
        let reload = tokio::task::spawn_blocking(move || reloader.reload(trigger));
        if let Err(error) = reload.await {
            log::error!("reload by {} broke off: {error}", trigger.as_str());
        }
    }

    /// Whether a file changed that is to be loaded by itself.
    async fn has_changed(&self) -> bool {
        let reloader = Arc::clone(&self.reloader);
        // The files may be on a file system that hangs.
        let look = tokio::task::spawn_blocking(move || reloader.look());
        look.await.unwrap_or(false) && !self.lifecycle.is_draining()
    }
}

#[async_trait]
impl BackgroundService for Watch {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let mut hangup = {
            let kept = self.hangup.lock();
            kept.unwrap_or_else(PoisonError::into_inner).take()
        };
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let ended = async { drop(shutdown.wait_for(|ending| *ending).await) };
            tokio::select! {
                () = next(&mut hangup) => {
                    notify::reloading();
                    // First, since whoever rotates logs waits for it.
                    if let Some(log) = &self.access_log {
                        log.reopen();
                        log::info!("SIGHUP: the access log is opened anew");
                    }
                    self.reload(Trigger::Signal).await;
                    notify::ready();
                }
                _ = looks.tick() => {
                    if self.has_changed().await {
                        self.reload(Trigger::File).await;
                    }
                }
                () = ended => return,
            }
        }
    }
}

/// SIGHUP, also before there is a runtime: whichever comes first passes on what was received.
fn hangup() -> Option<Signal> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build();
    let watched = runtime.and_then(|runtime| {
        let _entered = runtime.enter();
        signal(SignalKind::hangup())
    });
    watched
        .inspect_err(|error| log::error!("SIGHUP cannot be watched: {error}"))
        .ok()
}

/// The next signal; never, when signals cannot be waited for.
async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}
