//! One metric family while it is collected.

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram as HistogramModel, LabelPair, Metric, MetricFamily,
};

use super::catalogue::Definition;
use super::histogram::Histogram;

/// Series of one name. Labels are given in alphabetical order.
pub(super) struct Family {
    family: MetricFamily,
    metrics: Vec<Metric>,
}

impl Family {
    /// An empty family.
    pub fn new(namespace: &str, definition: &Definition) -> Self {
        let mut family = MetricFamily::default();
        family.set_name(format!("{namespace}_{}", definition.name));
        family.set_help(definition.help.to_owned());
        family.set_field_type(definition.kind);
        Self {
            family,
            metrics: Vec::new(),
        }
    }

    /// Adds a series of a counter.
    pub fn count(&mut self, labels: &[(&str, &str)], value: u64) {
        let mut metric = labelled(labels);
        let mut counter = Counter::default();
        counter.set_value(value as f64);
        metric.set_counter(counter);
        self.metrics.push(metric);
    }

    /// Adds a series of a gauge.
    pub fn gauge(&mut self, labels: &[(&str, &str)], value: i64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value as f64);
        let mut metric = labelled(labels);
        metric.set_gauge(gauge);
        self.metrics.push(metric);
    }

    /// Adds a series of a histogram, unless nothing was observed.
    pub fn histogram(&mut self, labels: &[(&str, &str)], histogram: &Histogram) {
        let reading = histogram.read();
        if reading.count == 0 {
            return;
        }
        let bucket = |&(edge, count): &(f64, u64)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(edge);
            bucket.set_cumulative_count(count);
            bucket
        };
        let mut model = HistogramModel::default();
        model.set_bucket(reading.cumulative.iter().map(bucket).collect());
        model.set_sample_count(reading.count);
        model.set_sample_sum(reading.sum);
        let mut metric = labelled(labels);
        metric.set_histogram(model);
        self.metrics.push(metric);
    }

    /// The family, possibly without series.
    pub fn finish(mut self) -> MetricFamily {
        self.family.set_metric(self.metrics);
        self.family
    }
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let pair = |&(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}
