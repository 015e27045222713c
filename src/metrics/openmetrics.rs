//! The OpenMetrics text format, version 1.0.
//!
//! It differs from the older format in the places that matter to a strict parser: the type of a
//! counter is declared on its name without `_total`, bucket edges are written as floats, units are
//! declared, and the end is marked.

use prometheus::proto::{Histogram, LabelPair, Metric, MetricFamily, MetricType};

/// Writes the families. None of them is a summary or untyped.
pub(super) fn encode(families: &[MetricFamily]) -> String {
    let mut out = String::new();
    for family in families {
        encode_family(family, &mut out);
    }
    out.push_str("# EOF\n");
    out
}

fn encode_family(family: &MetricFamily, out: &mut String) {
    let (name, kind) = match family.get_field_type() {
        MetricType::COUNTER => {
            let name = family.name();
            (name.strip_suffix("_total").unwrap_or(name), "counter")
        }
        MetricType::HISTOGRAM => (family.name(), "histogram"),
        _ => (family.name(), "gauge"),
    };
    describe(out, "TYPE", name, kind);
    for unit in ["seconds", "bytes"] {
        if name
            .strip_suffix(unit)
            .is_some_and(|rest| rest.ends_with('_'))
        {
            describe(out, "UNIT", name, unit);
        }
    }
    describe(out, "HELP", name, &escape(family.help()));
    for metric in family.get_metric() {
        match family.get_field_type() {
            MetricType::COUNTER => {
                let value = metric.get_counter().get_value();
                sample(out, (name, "_total"), metric, None, value);
            }
            MetricType::HISTOGRAM => histogram(out, name, metric, metric.get_histogram()),
            _ => sample(
                out,
                (name, ""),
                metric,
                None,
                metric.get_gauge().get_value(),
            ),
        }
    }
}

fn histogram(out: &mut String, name: &str, metric: &Metric, histogram: &Histogram) {
    let count = histogram.get_sample_count() as f64;
    for bucket in histogram.get_bucket() {
        let edge = format!("{:?}", bucket.upper_bound());
        let below = bucket.cumulative_count() as f64;
        sample(out, (name, "_bucket"), metric, Some(&edge), below);
    }
    sample(out, (name, "_bucket"), metric, Some("+Inf"), count);
    sample(out, (name, "_count"), metric, None, count);
    sample(
        out,
        (name, "_sum"),
        metric,
        None,
        histogram.get_sample_sum(),
    );
}

fn describe(out: &mut String, what: &str, name: &str, value: &str) {
    for part in ["# ", what, " ", name, " ", value, "\n"] {
        out.push_str(part);
    }
}

fn sample(
    out: &mut String,
    (name, suffix): (&str, &str),
    metric: &Metric,
    edge: Option<&str>,
    value: f64,
) {
    out.push_str(name);
    out.push_str(suffix);
    let own = metric.get_label().iter().map(pair);
    let labels: Vec<String> = own
        .chain(edge.map(|edge| format!("le=\"{edge}\"")))
        .collect();
    if !labels.is_empty() {
        out.push('{');
        out.push_str(&labels.join(","));
        out.push('}');
    }
    out.push(' ');
    out.push_str(&value.to_string());
    out.push('\n');
}

fn pair(label: &LabelPair) -> String {
    format!("{}=\"{}\"", label.name(), escape(label.value()))
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Format, MethodLabel, Metrics, render};

    fn scrape(metrics: &Metrics) -> String {
        String::from_utf8_lossy(&render(metrics, Format::OpenMetrics).1).into_owned()
    }

    #[test]
    fn has_the_shape_of_the_format() {
        let metrics = Metrics::new("gateway");
        let route = metrics.route("a\"b\\c\nd");
        route.observe(MethodLabel::Get, 200, Duration::from_millis(700), 1, 2);
        let text = scrape(&metrics);
        assert!(text.ends_with("\n# EOF\n"));
        for line in [
            "# TYPE gateway_http_requests counter",
            "gateway_http_requests_total{method=\"GET\",route=\"a\\\"b\\\\c\\nd\",status_code=\"200\"} 1",
            "# TYPE gateway_http_request_duration_seconds histogram",
            "# UNIT gateway_http_request_duration_seconds seconds",
            "# UNIT gateway_http_request_size_bytes bytes",
            "# TYPE process_cpu_seconds counter",
            "# TYPE process_open_fds gauge",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} in\n{text}");
        }
        assert!(text.contains("le=\"0.5\"} 0\n") && text.contains("le=\"1.0\"} 1\n"));
        assert!(text.contains("le=\"+Inf\"} 1\n"));
    }

    #[test]
    fn every_sample_follows_the_type_of_its_family() {
        let metrics = Metrics::new("gateway");
        let route = metrics.route("users");
        route.observe(MethodLabel::Get, 200, Duration::from_millis(7), 1, 2);
        let _held = (metrics.upstream("users"), metrics.listener("main"));
        let mut family = String::new();
        for line in scrape(&metrics).lines() {
            assert!(!line.is_empty());
            if let Some(declared) = line.strip_prefix("# TYPE ") {
                family = declared.split(' ').next().unwrap_or_default().to_owned();
            } else if let Some(described) = line.strip_prefix("# ") {
                assert!(line == "# EOF" || described.contains(&family), "{line}");
            } else {
                assert!(line.starts_with(&family), "{line} under {family}");
            }
        }
    }
}
