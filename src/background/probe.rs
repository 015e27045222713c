//! Active health checks: every backend of every upstream that asks for them, all in parallel.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora_core::ErrorType::{InvalidCert, TLSHandshakeFailure};
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;

use super::check;
use crate::config::model;
use crate::snapshot::Live;
use crate::upstream::{Backend, Upstream};

/// Probes the backends of the running configuration.
pub struct Probes {
    live: Arc<Live>,
}

impl Probes {
    /// Over this configuration.
    pub fn new(live: Arc<Live>) -> Self {
        Self { live }
    }
}

#[async_trait]
impl BackgroundService for Probes {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        let mut probing = tokio::task::JoinSet::new();
        for upstream in &self.live.load().upstreams {
            let Some(policy) = &upstream.health_check else {
                continue;
            };
            for backend in upstream.backends() {
                let (upstream, backend) = (Arc::clone(upstream), Arc::clone(backend));
                probing.spawn(probe_for_ever(upstream, backend, policy.clone()));
            }
        }
        // Dropping the set at the end of this function ends the probes.
        let _ = shutdown.wait_for(|ending| *ending).await;
    }
}

/// Probes one backend at its interval.
async fn probe_for_ever(
    upstream: Arc<Upstream>,
    backend: Arc<Backend>,
    policy: model::HealthCheck,
) {
    let check = match check::new(&backend, &policy) {
        Ok(check) => check,
        Err(error) => {
            let (upstream, backend) = (&upstream.name, &backend.name);
            log::error!("upstream={upstream} backend={backend} cannot be probed: {error}");
            return;
        }
    };
    let mut streak = Streak::default();
    loop {
        let result = tokio::time::timeout(policy.timeout, check.run()).await;
        if let Ok(Err(error)) = &result
            && matches!(error.etype, TLSHandshakeFailure | InvalidCert)
        {
            upstream.complain(&backend, error, Instant::now());
        }
        let good = matches!(result, Ok(Ok(())));
        Upstream::count_probe(&backend, good);
        if let Some(up) = streak.judge(good, &policy) {
            upstream.probed(&backend, up, Instant::now());
        }
        tokio::time::sleep(jittered(policy.interval)).await;
    }
}

/// The interval within a tenth, so that instances started together do not probe together.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + 0.2 * fastrand::f64())
}

/// Results in a row.
#[derive(Default)]
struct Streak {
    good: u32,
    bad: u32,
}

impl Streak {
    /// Takes a result in; says what the backend is to be taken for, once the row is long enough.
    fn judge(&mut self, good: bool, policy: &model::HealthCheck) -> Option<bool> {
        if good {
            self.bad = 0;
            self.good = self.good.saturating_add(1);
            (self.good >= policy.healthy_after).then_some(true)
        } else {
            self.good = 0;
            self.bad = self.bad.saturating_add(1);
            (self.bad >= policy.unhealthy_after).then_some(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> model::HealthCheck {
        model::HealthCheck {
            path: None,
            host: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            unhealthy_after: 3,
            healthy_after: 2,
            expected_statuses: vec![(200, 399)],
        }
    }

    #[test]
    fn one_bad_probe_takes_nobody_out_and_one_good_one_brings_nobody_back() {
        let mut streak = Streak::default();
        let results = [false, false, true, false, false, false, true, true];
        let judged: Vec<_> = results
            .into_iter()
            .map(|good| streak.judge(good, &policy()))
            .collect();
        assert_eq!(
            judged,
            [None, None, None, None, None, Some(false), None, Some(true)]
        );
    }

    #[test]
    fn intervals_differ_by_a_tenth_at_most() {
        let interval = Duration::from_secs(10);
        for _ in 0..100 {
            let jittered = jittered(interval);
            assert!(jittered >= Duration::from_secs(9) && jittered <= Duration::from_secs(11));
        }
    }
}
