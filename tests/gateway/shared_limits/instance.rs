//! What one gateway has to count with others: its connections to Redis, and what asks.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_gateway::background::ratelimit;
use edge_gateway::config::model::Window;
use edge_gateway::config::{FixedEnv, parse};
use edge_gateway::filter::ratelimit::rate::{Rate, Verdict};
use edge_gateway::filter::ratelimit::shared::{Shared, Unanswered};
use edge_gateway::metrics::Metrics;
use edge_gateway::store::Store;

use crate::support::{Redis, eventually};

/// Longer than any machine is busy: whoever waits for an answer gets it.
pub const PATIENT: Duration = Duration::from_secs(10);

/// One of several.
pub struct Instance {
    pub shared: Arc<Shared>,
    pub store: Arc<Store>,
}

impl Instance {
    /// Starts one, and waits until it is connected. Its probes have to be answered so soon.
    #[track_caller]
    pub fn start(redis: &Redis, patience: Duration) -> Self {
        let url = redis.url();
        Self::at(&format!("url: '{url}', pool_size: 2"), patience)
    }

    /// With these keys of `redis`.
    #[track_caller]
    pub fn at(redis: &str, patience: Duration) -> Self {
        let text = format!("redis: {{ {redis} }}\nroutes: [{{ name: a, respond: {{}} }}]");
        let parsed = parse(&text, "test", Path::new("."), &FixedEnv::default());
        let config = parsed.expect("a configuration").config;
        let metrics = Metrics::new("gateway");
        let store = Store::start(Arc::clone(metrics.redis())).expect("a thread");
        store.configure(config.redis.as_ref());
        let shared = Arc::new(Shared::default());
        shared.set_patience(patience);
        shared.set_used(true);
        ratelimit::start(&shared, &store);
        let instance = Self { shared, store };
        eventually("connected", || {
            let state = instance.store.state();
            state.is_some_and(|state| state.connections > 0)
        });
        instance
    }

    /// Several that know of each other.
    #[track_caller]
    pub fn several(redis: &Redis, count: u32) -> Vec<Self> {
        let all: Vec<_> = (0..count).map(|_| Self::start(redis, PATIENT)).collect();
        for instance in &all {
            eventually("all are counted", || {
                instance.shared.known_instances() == count
            });
        }
        all
    }

    /// Asks once, for as long as it takes.
    pub async fn take(&self, key: &str, rates: &[Rate], cost: u64) -> Result<Verdict, Unanswered> {
        let until = Instant::now() + PATIENT;
        self.shared.take(key, rates, cost, until).await
    }

    /// Asks once, as a request would whose deadline is this.
    #[track_caller]
    pub fn asks(&self, key: &str, rates: &[Rate], patience: Duration) -> Result<bool, Unanswered> {
        let until = Instant::now() + patience;
        let asked = self.shared.take(key, rates, 1, until);
        run(asked).map(|verdict| verdict.admitted)
    }
}

/// A window of so many in so many seconds, and so many at once.
pub fn rate(limit: u64, seconds: u64, burst: u64) -> Rate {
    let period = Duration::from_secs(seconds);
    Rate::new(Window {
        limit,
        period,
        burst,
    })
}

/// Runs something that waits.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().expect("a runtime");
    runtime.block_on(future)
}

/// How often a server was given a command.
pub fn calls(redis: &Redis, command: &str) -> u64 {
    let stats = redis.ask(&["INFO", "commandstats"]);
    let name = format!("cmdstat_{command}:calls=");
    let found = stats.lines().find_map(|line| line.strip_prefix(&name));
    let count = found.and_then(|rest| rest.split(',').next());
    count.map_or(0, |count| count.parse().expect("a number"))
}
