//! `/upstreams/NAME/circuit_breaker`: how a circuit stands, and what holds it.

use std::time::{Instant, SystemTime};

use serde::Deserialize;
use serde_json::{Value, json};

use super::percent::decode;
use crate::upstream::Upstream;

/// The body of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    state: Held,
}

/// Where an operator wants a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Held {
    Open,
    Closed,
    Auto,
}

impl Wanted {
    /// What the body of a call says.
    pub fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    /// Whether it is held open or closed; `None`: it is left to itself.
    pub fn open(self) -> Option<bool> {
        match self.state {
            Held::Open => Some(true),
            Held::Closed => Some(false),
            Held::Auto => None,
        }
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self.state {
            Held::Open => "open",
            Held::Closed => "closed",
            Held::Auto => "auto",
        }
    }
}

/// The upstream whose circuit a path is about. One that is called by a URL may be written as it is.
pub(super) fn upstream_of(path: &str) -> Option<String> {
    let name = path.strip_prefix("/upstreams/")?;
    let name = name.strip_suffix("/circuit_breaker")?;
    decode(name).filter(|name| !name.is_empty())
}

/// How the circuit of an upstream stands, here and in `/status`.
pub(super) fn shown(upstream: &Upstream, now: Instant) -> Value {
    let report = upstream.circuit(now);
    let standing = report.standing;
    let since = SystemTime::now()
        .checked_sub(standing.since)
        .unwrap_or(SystemTime::UNIX_EPOCH);
    let window = report
        .window
        .map(|(failed, total)| json!({ "requests": total, "failures": failed }));
    json!({
        "state": standing.state.as_str(),
        "forced": standing.forced,
        "since": humantime::format_rfc3339_seconds(since).to_string(),
        "open_for_seconds": standing.remaining.map(|time| time.as_millis().div_ceil(1000) as u64),
        "consecutive_failures": report.consecutive,
        "window": window,
        "probing": standing.probing,
        "opened": standing.opened,
        "rejected": report.rejected,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_its_upstream() {
        let path = "/upstreams/users/circuit_breaker";
        assert_eq!(upstream_of(path).as_deref(), Some("users"));
        for of_url in [
            "https://a.test:1",
            "https:%2F%2Fa.test:1",
            "https%3a%2f%2fa.test%3a1",
        ] {
            let path = format!("/upstreams/{of_url}/circuit_breaker");
            assert_eq!(upstream_of(&path).as_deref(), Some("https://a.test:1"));
        }
        for wrong in [
            "/upstreams/circuit_breaker",
            "/upstreams//circuit_breaker",
            "/upstreams/users",
            "/upstreams/users/circuit_breaker/x",
            "/upstreams/%f/circuit_breaker",
        ] {
            assert_eq!(upstream_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_body_says_exactly_what_is_wanted() {
        let open = |text: &str| Wanted::read(text.as_bytes()).map(Wanted::open);
        assert_eq!(open("{\"state\": \"open\"}"), Some(Some(true)));
        assert_eq!(open("{\"state\": \"closed\"}"), Some(Some(false)));
        assert_eq!(open("{\"state\": \"auto\"}"), Some(None));
        for wrong in [
            "",
            "{}",
            "{\"state\": \"half_open\"}",
            "{\"state\": \"open\", \"x\": 1}",
        ] {
            assert_eq!(open(wrong), None, "{wrong}");
        }
    }
}
