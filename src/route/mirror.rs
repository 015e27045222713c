//! Copies of a route's requests for another upstream: of which requests, and how many at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::config::model;
use crate::metrics::{Metrics, MirrorMetrics};
use crate::upstream::Upstream;

/// The copies of one route.
pub struct Mirror {
    /// What is wanted.
    pub config: model::Mirror,
    /// Who gets them.
    pub upstream: Arc<Upstream>,
    /// What is measured of them.
    pub metrics: Arc<MirrorMetrics>,
    in_flight: Arc<AtomicUsize>,
}

/// A copy on its way, until it is dropped.
pub struct Place(Arc<AtomicUsize>);

impl Mirror {
    /// Of this route. Copies on their way in the generation before count on.
    pub fn compile(
        config: &model::Mirror,
        route: &str,
        upstreams: &[Arc<Upstream>],
        metrics: &Metrics,
        previous: Option<&Self>,
    ) -> Self {
        Self {
            config: config.clone(),
            upstream: Arc::clone(&upstreams[config.upstream]),
            metrics: metrics.mirror(route),
            in_flight: previous.map_or_else(Arc::default, |one| Arc::clone(&one.in_flight)),
        }
    }

    /// Whether a request is copied, by a random number from 0 to below 1.
    pub fn wants(&self, luck: f64) -> bool {
        luck < self.config.share
    }

    /// A place for a copy, if there is one.
    pub fn enter(&self) -> Option<Place> {
        let place = Place(Arc::clone(&self.in_flight));
        let before = self.in_flight.fetch_add(1, Relaxed);
        // Dropped, the place is given back.
        (before < self.config.max_in_flight).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
