//! Generations that come to nothing.

use super::*;
use crate::upstream::{CircuitState, State};

fn config(settings: &str, rest: &str) -> Config {
    let text = format!(
        "{rest}\nupstreams: {{ u: {{ backends: ['127.0.0.1:1'], {settings} }} }}\n\
         routes: [{{ name: a, upstream: u }}]"
    );
    let env = crate::config::FixedEnv::default();
    let loaded = crate::config::parse(&text, "test", std::path::Path::new("."), &env);
    loaded.unwrap_or_else(|error| panic!("{error}")).config
}

#[test]
fn one_that_is_refused_leaves_no_trace_in_what_is_shared() {
    let (now, metrics) = (Instant::now(), Metrics::new("gateway"));
    let running = config("health_check: {}", "");
    let running = Snapshot::compile(&running, 1, &metrics, now, None);
    let running = running.unwrap_or_else(|error| panic!("{error}"));
    let upstream = &running.upstreams[0];
    for _ in 0..5 {
        if let Ok(pass) = upstream.let_in(now) {
            upstream.judge(pass, 503, Duration::ZERO, now);
        }
    }
    upstream.probed(&upstream.members()[0], false, None, now);
    let state = || {
        let backend = upstream.members()[0].state(now);
        (upstream.circuit(now).standing.state, backend)
    };
    assert_eq!(state(), (CircuitState::Open, State::Down));
    let key = "auth: { jwt: { public_key: abc } }";
    let refused = config("circuit_breaker: { enabled: false }", key);
    let refused = Snapshot::compile(&refused, 2, &metrics, now, Some(&running));
    assert!(matches!(refused.err(), Some(CompileError::Auth(_))));
    assert_eq!(state(), (CircuitState::Open, State::Down));
}
