//! What is measured of a route.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::proto::MetricFamily;

use super::catalogue;
use super::family::Family;
use super::histogram::Histogram;
use super::label::{Label, MethodLabel};
use super::status::StatusCounts;

const METHODS: usize = MethodLabel::ALL.len();

/// What is measured of a route. Everything is allocated on first use, so that tens of thousands of
/// routes without traffic cost little.
#[derive(Default)]
pub struct RouteMetrics {
    methods: [OnceLock<Box<MethodMetrics>>; METHODS],
    sizes: OnceLock<Box<Sizes>>,
}

struct MethodMetrics {
    statuses: StatusCounts,
    duration: Histogram,
}

struct Sizes {
    request: Histogram,
    response: Histogram,
}

impl RouteMetrics {
    /// Observes an answered request; sizes are those of the bodies.
    pub fn observe(
        &self,
        method: MethodLabel,
        status: u16,
        duration: Duration,
        request_bytes: u64,
        response_bytes: u64,
    ) {
        if let Some(slot) = self.methods.get(method.index()) {
            let of_method = slot.get_or_init(Box::default);
            of_method.statuses.inc(status);
            of_method.duration.observe_duration(duration);
        }
        let sizes = self.sizes.get_or_init(Box::default);
        sizes.request.observe_bytes(request_bytes);
        sizes.response.observe_bytes(response_bytes);
    }

    fn used(&self) -> impl Iterator<Item = (&'static str, &MethodMetrics)> {
        let slots = MethodLabel::ALL.iter().zip(&self.methods);
        slots.filter_map(|(label, slot)| Some((label.as_str(), &**slot.get()?)))
    }
}

impl Default for MethodMetrics {
    fn default() -> Self {
        Self {
            statuses: StatusCounts::default(),
            duration: Histogram::of_seconds(),
        }
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            request: Histogram::of_bytes(),
            response: Histogram::of_bytes(),
        }
    }
}

/// Adds the families of all routes.
pub(super) fn collect(
    namespace: &str,
    held: &[(Arc<str>, Arc<RouteMetrics>)],
    out: &mut Vec<MetricFamily>,
) {
    let mut requests = Family::new(namespace, &catalogue::REQUESTS);
    let mut durations = Family::new(namespace, &catalogue::REQUEST_DURATION);
    let mut request_sizes = Family::new(namespace, &catalogue::REQUEST_SIZE);
    let mut response_sizes = Family::new(namespace, &catalogue::RESPONSE_SIZE);
    for (route, metrics) in held {
        for (method, of_method) in metrics.used() {
            let labels = [("method", method), ("route", &**route)];
            durations.histogram(&labels, &of_method.duration);
            of_method.statuses.read(|code, count| {
                let labels = [labels[0], labels[1], ("status_code", code)];
                requests.count(&labels, count);
            });
        }
        if let Some(sizes) = metrics.sizes.get() {
            request_sizes.histogram(&[("route", route)], &sizes.request);
            response_sizes.histogram(&[("route", route)], &sizes.response);
        }
    }
    out.extend([requests, durations, request_sizes, response_sizes].map(Family::finish));
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Metrics, render};
    use super::*;

    #[test]
    fn counts_by_method_and_status_and_measures() {
        let metrics = Metrics::new("gateway");
        let route = metrics.route("users");
        let took = Duration::from_millis(4);
        route.observe(MethodLabel::Get, 200, took, 0, 1024);
        route.observe(MethodLabel::Get, 200, took, 0, 1024);
        route.observe(MethodLabel::Post, 799, took, 10, 0);
        let text = String::from_utf8_lossy(&render(&metrics, Format::Text).1).into_owned();
        for line in [
            "gateway_http_requests_total{method=\"GET\",route=\"users\",status_code=\"200\"} 2",
            "gateway_http_requests_total{method=\"POST\",route=\"users\",status_code=\"other\"} 1",
            "gateway_http_request_duration_seconds_bucket{method=\"GET\",route=\"users\",le=\"0.0025\"} 0",
            "gateway_http_request_duration_seconds_bucket{method=\"GET\",route=\"users\",le=\"0.005\"} 2",
            "gateway_http_request_duration_seconds_bucket{method=\"GET\",route=\"users\",le=\"+Inf\"} 2",
            "gateway_http_request_duration_seconds_sum{method=\"GET\",route=\"users\"} 0.008",
            "gateway_http_request_size_bytes_sum{route=\"users\"} 10",
            "gateway_http_response_size_bytes_count{route=\"users\"} 3",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} in\n{text}");
        }
    }

    #[test]
    fn an_unused_route_is_small() {
        assert!(size_of::<RouteMetrics>() <= 192);
    }

    #[test]
    fn counts_survive_a_reload() {
        let metrics = Metrics::new("gateway");
        let old = metrics.route("users");
        old.observe(MethodLabel::Get, 200, Duration::ZERO, 0, 0);
        let new = metrics.route("users");
        drop(old);
        new.observe(MethodLabel::Get, 200, Duration::ZERO, 0, 0);
        let text = String::from_utf8_lossy(&render(&metrics, Format::Text).1).into_owned();
        assert!(text.contains("route=\"users\",status_code=\"200\"} 2\n"));
    }
}
