//! What it takes to find the owner of an API key, among few keys and among many.

#![allow(
    clippy::unwrap_used,
    reason = "a bench that cannot be set up has no result"
)]

use std::hint::black_box;
use std::path::Path;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use criterion::Criterion;
use edge_gateway::config::{self, FixedEnv};
use edge_gateway::filter::auth::{Auth, Policy, Shown};
use edge_gateway::metrics::Metrics;
use http::HeaderMap;
use tokio::runtime::Builder;

fn key(number: usize) -> String {
    format!("gw_{number:043}")
}

fn hash(key: &str) -> String {
    let hash = digest(&SHA256, key.as_bytes());
    let digits = hash.as_ref().iter().map(|byte| format!("{byte:02x}"));
    digits.collect()
}

fn compiled(count: usize) -> (Auth, Policy) {
    let entry = |n| {
        format!(
            "      - {{ name: k{n}, hash: 'sha256:{}' }}\n",
            hash(&key(n))
        )
    };
    let keys: String = (0..count).map(entry).collect();
    let text = format!(
        "routes: [{{ auth: api_key, respond: {{}} }}]\nauth:\n  api_keys:\n    keys:\n{keys}"
    );
    let loaded = config::parse(&text, "bench", Path::new("."), &FixedEnv::default()).unwrap();
    let config = loaded.config;
    let auth = Auth::compile(&config.auth, &Metrics::new("bench"), None)
        .ok()
        .unwrap();
    let policy = config.routes[0].auth.as_ref().unwrap();
    let policy = Policy::compile(policy, &auth);
    (auth, policy)
}

fn find(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().build().unwrap();
    for count in [10, 10_000] {
        let (auth, policy) = compiled(count);
        for (what, number) in [("good", count / 2), ("unknown", count)] {
            let mut headers = HeaderMap::new();
            headers.insert("x-api-key", key(number).parse().unwrap());
            let shown = Shown {
                headers: &headers,
                client_cert: None,
            };
            let now = SystemTime::now();
            criterion.bench_function(&format!("a {what} key among {count}"), |bencher| {
                bencher.iter(|| {
                    runtime
                        .block_on(policy.authenticate(&auth, black_box(shown), now))
                        .is_ok()
                });
            });
        }
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    find(&mut criterion);
    criterion.final_summary();
}
