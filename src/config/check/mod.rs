//! `File` → `Config`: what single values mean together. Collects every problem with its key.

mod action;
mod address;
mod auth;
mod backend_tls;
mod balance;
mod circuit_breaker;
mod concurrency;
mod cors;
mod discovery;
mod exempt;
mod header;
mod health_check;
mod idle;
mod ip_access;
mod listener_tls;
mod matching;
mod mirror;
mod outlier;
mod process;
mod ratelimit;
mod reach;
mod redis;
mod retries;
mod route;
mod sticky;
mod timeouts;
mod upstream;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::Path as FilePath;
use std::sync::Arc;

pub use self::auth::expiry;
pub use self::discovery::{backends, lists};
use self::route::Known;
use super::conflict::conflicts;
use super::env::Env;
use super::file::File;
use super::model::{Config, Der, Route};
use super::problem::{Invalid, Origin, Problem, quote};
use super::source::Source as FileSource;
use super::tree::{Node, Path};

/// What a file was read from; messages and relative paths need it.
pub(super) struct Source<'a> {
    /// The text.
    pub text: &'a str,
    /// Its tree, references resolved and overrides put in.
    pub tree: &'a Node,
    /// Paths at which something was refused already, so that its absence is no further problem.
    pub damaged: &'a BTreeSet<String>,
    /// The folder of the file.
    pub base: &'a FilePath,
    /// Where host names are resolved.
    pub env: &'a dyn Env,
}

/// What a check found.
pub(super) struct Checked {
    /// The configuration; without one there is a problem, here or in `damaged`.
    pub config: Option<Config>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What is odd, one sentence each.
    pub warnings: Vec<String>,
    /// The files that were read.
    pub files: Vec<FileSource>,
}

/// Checks a file as a whole.
pub(super) fn check(file: &File, source: &Source<'_>) -> Checked {
    let mut checker = Checker::new(source);
    let config = checker.file(file);
    Checked {
        config,
        files: checker.files,
        problems: checker.problems,
        warnings: checker.warnings,
    }
}

struct Checker<'a> {
    source: &'a Source<'a>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
    /// Host names that were resolved, or why they were not.
    addresses: HashMap<(String, u16), Result<SocketAddr, String>>,
    /// What the system trusts, once somebody asked, or why it is not known.
    system_authorities: Option<Result<Arc<[Der]>, String>>,
    /// The files that were read, to be watched.
    files: Vec<FileSource>,
    /// The file whose list is checked, when it is not the configuration.
    listed: Option<Arc<str>>,
    /// The gateway's own zone.
    zone: Option<Arc<str>>,
}

impl<'a> Checker<'a> {
    fn new(source: &'a Source<'a>) -> Self {
        Self {
            source,
            problems: Vec::new(),
            warnings: Vec::new(),
            addresses: HashMap::new(),
            system_authorities: None,
            files: Vec::new(),
            listed: None,
            zone: None,
        }
    }
}

impl Checker<'_> {
    fn file(&mut self, file: &File) -> Option<Config> {
        let listeners = self.listeners(file);
        let admin = self.admin(file, &listeners);
        let access_log = self.access_log(&file.access_log);
        let metrics = self.metrics(&file.metrics);
        let redis = self.redis(file.redis.as_ref());
        let ip_access = self.ip_access(file.ip_access.as_ref(), &Path::Root.key("ip_access"));
        let cors = self.cors(file.cors.as_ref(), &Path::Root.key("cors"));
        let zone = file.server.zone.as_deref();
        self.zone = self.zone(zone, &Path::Root.key("server").key("zone"));
        let mut upstreams = self.upstreams(&file.upstreams);
        self.unnamed_upstreams(&file.routes, &mut upstreams);
        self.unnamed_fallbacks(file, &mut upstreams);
        let indexes = upstreams
            .keys()
            .enumerate()
            .map(|(index, name)| (name.clone(), index))
            .collect();
        self.fallbacks(&file.upstreams, &mut upstreams, &indexes);
        let (auth, schemes) = self.auth(&file.auth);
        let default = self.default_policy(&file.auth, &schemes);
        let (limits, policies) = self.rate_limits(&file.ratelimit, file.redis.is_some());
        let known = Known {
            upstreams: &indexes,
            schemes: &schemes,
            default: default.flatten(),
            policies: &policies,
            max_body_bytes: file.limits.max_body_size.0,
            cors: cors.as_ref(),
        };
        let routes = self.routes(&file.routes, &known);
        let routes = self.told_apart(routes);
        self.warn_of_limits(&file.limits);
        self.idle_process(file);
        let mut upstreams = upstreams.into_values().collect::<Option<Vec<_>>>()?;
        let routes = routes?;
        concurrency::rank(&mut upstreams, &routes);
        self.idle_retries(&upstreams, &routes);
        self.hash_keys_found(&upstreams, &routes);
        Some(Config {
            server: process::server(&file.server, self.source.base)?,
            listeners,
            admin,
            trusted_proxies: file
                .trusted_proxies
                .iter()
                .map(|(_, network)| network.0)
                .collect(),
            limits: process::limits(&file.limits),
            ip_access,
            cors,
            shutdown: process::shutdown(&file.shutdown),
            maintenance: process::maintenance(&file.maintenance),
            log: process::log(&file.log),
            access_log,
            metrics: metrics?,
            redis: redis?,
            auth: auth?,
            ratelimit: limits?,
            upstreams,
            routes,
            source_hash: fnv1a(self.source.text),
        })
    }

    fn warn_of_limits(&mut self, limits: &super::file::Limits) {
        let (root, key) = (Path::Root, "max_connections_per_client");
        let at = root.key("limits");
        let is_above = limits.max_connections_per_client > limits.max_connections;
        // The default is no mistake of whoever lowers the other.
        if is_above && self.is_written(&at.key(key)) {
            let what = "is above `max_connections` and has no effect";
            self.warnings.push(format!("{at}.{key}: {what}"));
        }
    }

    /// The routes, when all of them are sound and no two are the same.
    fn told_apart(&mut self, routes: Vec<Option<Route>>) -> Option<Vec<Route>> {
        let count = routes.len();
        let sound = routes
            .into_iter()
            .enumerate()
            .filter_map(|(index, route)| Some((index, route?)));
        let (places, routes): (Vec<usize>, Vec<Route>) = sound.unzip();
        let root = Path::Root;
        let list = root.key("routes");
        for conflict in conflicts(&routes) {
            let (first, second) = (
                list.item(places[conflict.first]),
                list.item(places[conflict.second]),
            );
            let conditions = |at: &Path<'_>| self.source.tree.at(&at.key("match"));
            let hidden = |at| conditions(at).is_some_and(Node::hides_something);
            let what = if hidden(&first) || hidden(&second) {
                "the same"
            } else {
                &conflict.what
            };
            let names = (&routes[conflict.second].name, &routes[conflict.first].name);
            let what = format!(
                "`{}` matches {what}, as does `{}` ({first}), expected a difference",
                names.0, names.1,
            );
            self.refuse(&second, what);
        }
        (routes.len() == count).then_some(routes)
    }

    fn refuse(&mut self, at: &Path<'_>, what: impl Into<String>) {
        let origin = self.origin_of(at);
        self.problems.push(Problem {
            origin,
            key: at.to_string(),
            what: what.into(),
        });
    }

    /// Where a path was written.
    fn origin_of(&self, at: &Path<'_>) -> Origin {
        let origin = self.source.tree.origin_of(at);
        match &self.listed {
            Some(file) => origin.in_file(file),
            None => origin,
        }
    }

    /// The value, or a problem that shows no more of it than was written.
    fn accept<T>(&mut self, at: &Path<'_>, result: Result<T, Invalid>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(invalid) => {
                let node = self.source.tree.at(at);
                let what = node.map_or_else(|| invalid.to_string(), |node| node.refusal(&invalid));
                self.refuse(at, what);
                None
            }
        }
    }

    /// A value as messages show it.
    fn shown(&self, at: &Path<'_>, text: &str) -> String {
        quote(
            self.source
                .tree
                .at(at)
                .and_then(Node::shown)
                .unwrap_or(text),
        )
    }

    /// Whether the key was written, whatever became of it.
    fn is_written(&self, at: &Path<'_>) -> bool {
        self.source.tree.at(at).is_some()
    }

    /// Whether nothing was refused here, below or above, so that what is missing was never
    /// written.
    fn is_whole(&self, at: &Path<'_>) -> bool {
        let damaged = self.source.damaged;
        let text = at.to_string();
        let below = |separator: char| {
            let prefix = format!("{text}{separator}");
            damaged
                .range(prefix.clone()..)
                .next()
                .is_some_and(|path| path.starts_with(&prefix))
        };
        let above = || {
            at.ancestors()
                .any(|path| damaged.contains(&path.to_string()))
        };
        damaged.is_empty() || !(damaged.contains(&text) || below('.') || below('[') || above())
    }
}

/// A hash that is the same on every machine and in every version.
pub(super) struct Fnv1a(u64);

impl Default for Fnv1a {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv1a {
    pub fn write(&mut self, bytes: &[u8]) {
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
        self.0 = bytes.iter().fold(self.0, step);
    }

    pub fn finish(&self) -> u64 {
        self.0
    }
}

fn fnv1a(text: &str) -> u64 {
    let mut hash = Fnv1a::default();
    hash.write(text.as_bytes());
    hash.finish()
}
