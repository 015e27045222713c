//! Checks upstreams: their backends, and those that routes name by a URL.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::Checker;
use super::address::{is_url, split, url};
use crate::config::file;
use crate::config::model::{Backend, Http2, Pool, Protocol, Upstream};
use crate::config::problem::{Invalid, quote};
use crate::config::scalar::List;
use crate::config::tree::{Content, Path};

/// Upstreams by name; `None` is one that was written but is not sound.
pub(super) type Upstreams = BTreeMap<String, Option<Upstream>>;

/// Whether backends are reached by TLS, and whom they must prove to be.
#[derive(Clone, Copy)]
pub(super) enum Encryption<'a> {
    /// No TLS.
    Plain,
    /// Each the one that it is reached as.
    OwnName,
    /// All of them this one; with the place of `tls`.
    Named(&'a str, &'a Path<'a>),
}

/// What share a backend has in its upstream.
struct Membership {
    weight: u32,
    priority: u8,
    zone: Option<Arc<str>>,
}

impl Default for Membership {
    fn default() -> Self {
        Self {
            weight: 1,
            priority: 0,
            zone: None,
        }
    }
}

/// What is wrong with backends of which none would ever be given a request.
pub(super) const NO_WEIGHT: &str = "have no weight, expected at least one above 0";

pub(super) fn weigh_nothing(backends: &[Backend]) -> bool {
    backends.iter().all(|backend| backend.weight == 0)
}

impl Checker<'_> {
    pub(super) fn upstreams(&mut self, written: &BTreeMap<String, file::Upstream>) -> Upstreams {
        let root = Path::Root;
        let at = root.key("upstreams");
        let mut upstreams = Upstreams::new();
        if let Some(Content::Map(entries)) = self.source.tree.at(&at).map(|node| &node.content) {
            upstreams.extend(entries.iter().map(|(name, _)| (name.clone(), None)));
        }
        for (name, upstream) in written {
            let at = at.key(name);
            let word = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
            if name.is_empty() || name.len() > 128 || !name.bytes().all(word) {
                self.refuse(
                    &at,
                    "is no name for an upstream, expected letters, digits, `_`, `-` and `.`",
                );
            }
            upstreams.insert(name.clone(), self.upstream(name, upstream, &at));
        }
        upstreams
    }

    /// Adds an upstream for each URL that a route has in the place of a name.
    pub(super) fn unnamed_upstreams(
        &mut self,
        routes: &List<file::Route>,
        upstreams: &mut Upstreams,
    ) {
        let root = Path::Root;
        let list = root.key("routes");
        for (index, route) in routes.iter() {
            let route_at = list.item(index);
            let at = route_at.key("upstream");
            match &route.upstream {
                Some(file::Target::One(text)) => self.unnamed(text, &at, upstreams),
                Some(file::Target::Split(branches)) => {
                    for (index, branch) in branches.iter() {
                        let item = at.item(index);
                        self.unnamed(&branch.upstream, &item.key("upstream"), upstreams);
                    }
                }
                None => {}
            }
        }
    }

    /// The same for what is written in the place of a name below `fallback`.
    pub(super) fn unnamed_fallbacks(&mut self, file: &file::File, upstreams: &mut Upstreams) {
        let root = Path::Root;
        let list = root.key("upstreams");
        for (name, upstream) in &file.upstreams {
            let item = list.key(name);
            self.unnamed_fallback(upstream.fallback.as_ref(), &item, upstreams);
        }
        let list = root.key("routes");
        for (index, route) in file.routes.iter() {
            let item = list.item(index);
            self.unnamed_fallback(route.fallback.as_ref(), &item, upstreams);
        }
    }

    fn unnamed_fallback(
        &mut self,
        written: Option<&file::Fallback>,
        at: &Path<'_>,
        upstreams: &mut Upstreams,
    ) {
        let at = at.key("fallback");
        if let Some(text) = written.and_then(|fallback| fallback.upstream.as_deref()) {
            self.unnamed(text, &at.key("upstream"), upstreams);
        }
    }

    fn unnamed(&mut self, text: &str, at: &Path<'_>, upstreams: &mut Upstreams) {
        if !is_url(text) {
            return;
        }
        let Some(url) = self.accept(at, url(text)) else {
            return;
        };
        let name = url.upstream_name();
        if upstreams.contains_key(&name) {
            return;
        }
        let settings = url.settings();
        let encryption = match settings.tls {
            Some(_) => Encryption::OwnName,
            None => Encryption::Plain,
        };
        let share = Membership::default();
        let backend = self.backend(&url.address, share, encryption, at);
        let upstream =
            backend.and_then(|backend| self.settings(&name, vec![backend], &settings, at));
        upstreams.insert(name, upstream);
    }

    fn upstream(
        &mut self,
        name: &str,
        written: &file::Upstream,
        at: &Path<'_>,
    ) -> Option<Upstream> {
        let list = at.key("backends");
        let is_alone = !self.is_written(&at.key("discovery"));
        if written.backends.is_empty() && self.is_whole(&list) && is_alone {
            self.refuse(
                &list,
                "has no backend, expected at least one, or `discovery`",
            );
        }
        let tls = at.key("tls");
        let encryption = match &written.tls {
            None => Encryption::Plain,
            Some(written) => written
                .server_name
                .as_deref()
                .map_or(Encryption::OwnName, |name| Encryption::Named(name, &tls)),
        };
        self.written_server_name(encryption);
        let backends = self.backend_list(&written.backends, encryption, &list);
        let complete = backends.len() == written.backends.0.len() && !backends.is_empty();
        if complete && is_alone && weigh_nothing(&backends) {
            self.refuse(&list, NO_WEIGHT);
        }
        let discovery = written.discovery.as_ref();
        let discovery =
            discovery.map(|written| self.discovery(written, encryption, &at.key("discovery")));
        self.idle_upstream(written, at);
        let mut upstream = self.settings(name, backends, written, at)?;
        if let Some(discovery) = discovery {
            upstream.discovery = Some(discovery?);
        }
        Some(upstream)
    }

    /// The sound backends of a list, wherever it is written.
    pub(super) fn backend_list(
        &mut self,
        written: &List<file::Backend>,
        encryption: Encryption<'_>,
        list: &Path<'_>,
    ) -> Vec<Backend> {
        let mut backends: Vec<Backend> = Vec::new();
        let mut seen = HashSet::new();
        for (index, backend) in written.iter() {
            let item = list.item(index);
            let (text, share, at) = match backend {
                file::Backend::Address(text) => (text, Membership::default(), item),
                file::Backend::Weighted(backend) => {
                    let share = Membership {
                        weight: backend.weight,
                        priority: backend.priority,
                        zone: self.zone(backend.zone.as_deref(), &item.key("zone")),
                    };
                    (&backend.address, share, item.key("address"))
                }
            };
            if !seen.insert(text) {
                let shown = self.shown(&at, text);
                self.refuse(&at, format!("{shown} is given twice, expected it once"));
            }
            backends.extend(self.backend(text, share, encryption, &at));
        }
        backends
    }

    fn backend(
        &mut self,
        text: &str,
        share: Membership,
        encryption: Encryption<'_>,
        at: &Path<'_>,
    ) -> Option<Backend> {
        let (host, port) = self.accept(at, split(text))?;
        let server_name = self.server_name(encryption, &host, at);
        let address = match text.parse::<SocketAddr>() {
            Ok(address) => address,
            Err(_) => {
                let address = self.resolve(&host, port);
                let named = |cause| {
                    Invalid::new(format!("{}: {cause}", quote(text)), "a name that resolves")
                };
                self.accept(at, address.map_err(named))?
            }
        };
        Some(Backend {
            name: Arc::from(text),
            address,
            weight: share.weight,
            priority: share.priority,
            zone: share.zone,
            server_name: server_name?,
        })
    }

    fn resolve(&mut self, host: &str, port: u16) -> Result<SocketAddr, String> {
        let key = (host.to_owned(), port);
        if let Some(known) = self.addresses.get(&key) {
            return known.clone();
        }
        let resolved = match self.source.env.resolve(host, port) {
            Ok(addresses) => {
                let first = addresses
                    .iter()
                    .find(|a| a.is_ipv4())
                    .or(addresses.first())
                    .copied();
                first.ok_or_else(|| "the name has no address".to_owned())
            }
            Err(error) => Err(format!("the name does not resolve ({error})")),
        };
        self.addresses.insert(key, resolved.clone());
        resolved
    }

    fn settings(
        &mut self,
        name: &str,
        backends: Vec<Backend>,
        written: &file::Upstream,
        at: &Path<'_>,
    ) -> Option<Upstream> {
        let health = at.key("health_check");
        let health_check = match &written.health_check {
            Some(written) => Some(self.health_check(written, &health)?),
            None => None,
        };
        let tls = self.encryption(written.tls.as_ref(), &at.key("tls"));
        let concurrency = written
            .concurrency
            .as_ref()
            .map(|written| self.upstream_concurrency(written, &at.key("concurrency")));
        let sticky = match &written.sticky {
            Some(written) => Some(self.sticky(written, name, &at.key("sticky"))?),
            None => None,
        };
        Some(Upstream {
            name: Arc::from(name),
            backends,
            discovery: None,
            protocol: match written.protocol {
                file::Protocol::Http1 => Protocol::Http1,
                file::Protocol::Http2 => Protocol::Http2,
                file::Protocol::Auto => Protocol::Auto,
            },
            tls: tls?,
            http2: http2(&written.http2),
            balance: self.balance(&written.balance, &at.key("balance"))?,
            slow_start: written
                .slow_start
                .as_ref()
                .map(|written| self.slow_start(written, &at.key("slow_start"))),
            panic_threshold: written
                .panic_threshold
                .as_ref()
                .map_or(0.0, |share| share.0),
            failover: self.failover(&written.failover, &at.key("failover")),
            sticky,
            zones: self.zones(&written.zones, &at.key("zones")),
            timeouts: self.timeouts(&written.timeouts, &at.key("timeouts")),
            pool: Pool {
                idle_timeout: written.pool.idle_timeout.0,
                max_idle: written.pool.max_idle,
            },
            retries: self.retries(&written.retries, &at.key("retries")),
            health_check,
            outlier: self.outlier(&written.outlier, &at.key("outlier")),
            concurrency: match concurrency {
                Some(concurrency) => Some(concurrency?),
                None => None,
            },
            circuit_breaker: self
                .circuit_breaker(&written.circuit_breaker, &at.key("circuit_breaker")),
            // Given when all upstreams are known.
            fallback: None,
        })
    }
}

fn http2(written: &file::Http2) -> Http2 {
    Http2 {
        max_streams: written.max_streams as usize,
        // At most 8 MiB, by the schema.
        stream_window: u32::try_from(written.stream_window.0).unwrap_or(u32::MAX >> 1),
        ping_interval: written.ping_interval.as_ref().map(|interval| interval.0),
    }
}
