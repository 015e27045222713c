//! Reads certificates again when their files change, and changes the keys of session tickets.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;

use crate::config::Fault;
use crate::listener::{ListenerState, Settings};
use crate::tls::{Change, Terminator, Watch};

/// Between two looks at the files.
const INTERVAL: Duration = Duration::from_secs(1);

/// Watches the certificates of these listeners.
pub struct Certificates {
    listeners: Vec<Arc<ListenerState>>,
}

impl Certificates {
    /// Of these listeners; which files they name may change while they are open.
    pub fn new(listeners: Vec<Arc<ListenerState>>) -> Self {
        Self { listeners }
    }
}

#[async_trait]
impl BackgroundService for Certificates {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let mut watches: Vec<Watch> = Vec::new();
        watches.resize_with(self.listeners.len(), Watch::default);
        let mut ticks = tokio::time::interval(INTERVAL);
        loop {
            tokio::select! {
                _ = shutdown.wait_for(|ending| *ending) => return,
                _ = ticks.tick() => {}
            }
            for (listener, watch) in self.listeners.iter().zip(&mut watches) {
                look(listener, watch);
            }
        }
    }
}

/// Looks after one listener. This service has a thread of its own, which may wait for a disk.
fn look(listener: &ListenerState, watch: &mut Watch) {
    let settings = listener.settings();
    let Some(tls) = &settings.tls else { return };
    tls.rotate(SystemTime::now());
    if watch.look(tls, Instant::now()) == Change::None {
        return;
    }
    match tls.reload() {
        Ok(fresh) => adopt(listener, &settings, fresh),
        Err(faults) => {
            watch.failed(tls, Instant::now());
            refuse(listener, &faults);
        }
    }
}

fn adopt(listener: &ListenerState, current: &Arc<Settings>, fresh: Terminator) {
    let warnings = fresh.warnings(SystemTime::now());
    let settings = Settings {
        tls: Some(Arc::new(fresh)),
        ..Settings::clone(current)
    };
    if !listener.adopt_after(current, settings) {
        // The configuration was reloaded meanwhile; the next look compares with what that read.
        return;
    }
    listener.metrics.tls().reloaded(true);
    log::info!("listener={} certificates were read again", listener.name);
    for warning in warnings {
        log::warn!("listener={} tls.{warning}", listener.name);
    }
}

fn refuse(listener: &ListenerState, faults: &[Fault]) {
    listener.metrics.tls().reloaded(false);
    for fault in faults {
        log::error!(
            "listener={} certificates changed and cannot be used, the old ones stay: tls.{fault}",
            listener.name,
        );
    }
}
