//! Whether the process is starting, ready or draining, and what is in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::sync::Notify;

/// The state of the process.
#[derive(Debug, Default)]
pub struct Lifecycle {
    serving: AtomicBool,
    draining: AtomicBool,
    in_flight: AtomicUsize,
    idle: Notify,
}

/// A request in flight; it is over when this is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<Lifecycle>);

impl Lifecycle {
    /// Configuration is loaded and every listener accepts.
    pub fn set_serving(&self) {
        self.serving.store(true, Ordering::Release);
    }

    /// The end has been announced: readiness fails from now on.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the end has been announced.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// What the process is not ready for requests for; empty when it is.
    pub fn not_ready(&self) -> Vec<&'static str> {
        let mut reasons = Vec::new();
        if !self.serving.load(Ordering::Acquire) {
            reasons.push("starting");
        }
        if self.is_draining() {
            reasons.push("draining");
        }
        reasons
    }

    /// Counts a request until the guard is dropped.
    pub fn request(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Waits until nothing is in flight, for so long at most; says whether that came.
    pub async fn idle(&self, at_most: Duration) -> bool {
        let nothing_left = async {
            loop {
                let notified = self.idle.notified();
                if self.in_flight() == 0 {
                    return;
                }
                notified.await;
            }
        };
        tokio::time::timeout(at_most, nothing_left).await.is_ok()
    }

    /// The answer to a liveness probe: the process lives, or nobody would answer.
    pub fn health(&self) -> (StatusCode, &'static str, Bytes) {
        let body = Bytes::from_static(b"{\"status\":\"ok\"}\n");
        (StatusCode::OK, "application/json", body)
    }

    /// The answer to a readiness probe, with what is not ready.
    pub fn readiness(&self) -> (StatusCode, &'static str, Bytes) {
        let reasons = self.not_ready();
        if reasons.is_empty() {
            let body = Bytes::from_static(b"{\"status\":\"ready\",\"not_ready\":[]}\n");
            return (StatusCode::OK, "application/json", body);
        }
        let quoted: Vec<String> = reasons.iter().map(|reason| format!("\"{reason}\"")).collect();
        let body = format!("{{\"status\":\"not_ready\",\"not_ready\":[{}]}}\n", quoted.join(","));
        (StatusCode::SERVICE_UNAVAILABLE, "application/json", Bytes::from(body))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 && self.0.is_draining() {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_follows_the_life_of_the_process() {
        let lifecycle = Lifecycle::default();
        assert_eq!(lifecycle.readiness().0, StatusCode::SERVICE_UNAVAILABLE);
        lifecycle.set_serving();
        assert_eq!(lifecycle.readiness().0, StatusCode::OK);
        lifecycle.begin_drain();
        let (status, _, body) = lifecycle.readiness();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body, "{\"status\":\"not_ready\",\"not_ready\":[\"draining\"]}\n");
        assert_eq!(lifecycle.health().0, StatusCode::OK);
    }

    #[tokio::test]
    async fn a_drain_waits_for_what_is_in_flight() {
        let lifecycle = Arc::new(Lifecycle::default());
        let request = lifecycle.request();
        lifecycle.begin_drain();
        assert!(!lifecycle.idle(Duration::from_millis(1)).await);
        let waiting = tokio::spawn({
            let lifecycle = Arc::clone(&lifecycle);
            async move { lifecycle.idle(Duration::from_secs(5)).await }
        });
        tokio::task::yield_now().await;
        drop(request);
        assert!(waiting.await.unwrap_or(false));
    }
}
