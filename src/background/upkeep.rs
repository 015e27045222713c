//! What is due of upstreams though no request asks: circuits whose time is over, and backends that
//! stand out from the others.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use tokio::time::MissedTickBehavior;

use crate::snapshot::Live;
use crate::upstream::LOOK;

/// Looks after the upstreams of the running configuration.
pub struct Upkeep {
    live: Arc<Live>,
}

impl Upkeep {
    /// Of this configuration.
    pub fn new(live: Arc<Live>) -> Self {
        Self { live }
    }
}

#[async_trait]
impl BackgroundService for Upkeep {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let ended = async { drop(shutdown.wait_for(|ending| *ending).await) };
            tokio::select! {
                _ = looks.tick() => {}
                () = ended => return,
            }
            let now = Instant::now();
            for upstream in &self.live.load().upstreams {
                upstream.tick(now);
            }
        }
    }
}
