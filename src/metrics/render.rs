//! A scrape: which format the client asked for, and the metrics in it.

use prometheus::TextEncoder;

use super::{Metrics, openmetrics};

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text, version 0.0.4.
    Text,
    /// OpenMetrics text, version 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The format that an `Accept` header prefers; text when it does not say.
    pub fn negotiate(accept: Option<&str>) -> Self {
        let mut best = (0.0, Self::Text);
        for range in accept.unwrap_or_default().split(',') {
            if let Some((quality, format)) = parse_range(range)
                && quality > best.0
            {
                best = (quality, format);
            }
        }
        best.1
    }

    /// The value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// One media range with its quality, when it is one that can be served.
fn parse_range(range: &str) -> Option<(f32, Format)> {
    let mut parts = range.split(';').map(str::trim);
    let media_type = parts.next()?;
    let (mut quality, mut version) = (1.0, None);
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        let value = value.trim().trim_matches('"');
        match name.trim() {
            name if name.eq_ignore_ascii_case("q") => quality = value.parse().ok()?,
            name if name.eq_ignore_ascii_case("version") => version = Some(value),
            _ => {}
        }
    }
    let (format, supported) = match media_type.to_ascii_lowercase().as_str() {
        "application/openmetrics-text" => (Format::OpenMetrics, "1.0.0"),
        "text/plain" => (Format::Text, "0.0.4"),
        "text/*" | "*/*" => return Some((quality, Format::Text)),
        _ => return None,
    };
    (version.unwrap_or(supported) == supported).then_some((quality, format))
}

/// The content type and body of a scrape.
pub fn render(metrics: &Metrics, format: Format) -> (&'static str, Vec<u8>) {
    let families = metrics.gather();
    let body = match format {
        Format::OpenMetrics => openmetrics::encode(&families),
        // The encoder refuses only families without name or series, and those are not gathered.
        Format::Text => TextEncoder::new()
            .encode_to_string(&families)
            .unwrap_or_default(),
    };
    (format.content_type(), body.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_quality_decides() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                          application/openmetrics-text;version=0.0.1;q=0.5,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let text = "text/plain, application/openmetrics-text; version=1.0.0; q=0.9";
        for (accept, expected) in [
            (None, Format::Text),
            (Some(""), Format::Text),
            (Some("*/*"), Format::Text),
            (Some("text/html"), Format::Text),
            (Some(prometheus), Format::OpenMetrics),
            (Some(text), Format::Text),
            (Some("Application/OpenMetrics-Text"), Format::OpenMetrics),
            (
                Some("application/openmetrics-text;version=2.0.0"),
                Format::Text,
            ),
            (Some("application/openmetrics-text;q=0"), Format::Text),
            (Some("application/openmetrics-text;q=x"), Format::Text),
            (
                Some("text/plain;q=0.1, application/openmetrics-text;q=0.2"),
                Format::OpenMetrics,
            ),
        ] {
            assert_eq!(Format::negotiate(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn every_family_is_described_once() {
        let metrics = Metrics::new("gateway");
        let _held = (metrics.listener("main"), metrics.upstream("users"));
        let (content_type, body) = render(&metrics, Format::Text);
        assert!(content_type.starts_with("text/plain; version=0.0.4"));
        let body = String::from_utf8_lossy(&body).into_owned();
        let mut described = body.lines().filter(|line| line.starts_with("# TYPE "));
        let mut names: Vec<_> = described.by_ref().collect();
        let all = names.len();
        names.dedup();
        assert!(all > 10 && names.len() == all);
    }
}
