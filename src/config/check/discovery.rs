//! Checks where the backends of an upstream come from, and lists of them in files of their own.

use std::net::{IpAddr, SocketAddr};
use std::path::Path as FilePath;
use std::sync::Arc;

use super::upstream::{Encryption, NO_WEIGHT, weigh_nothing};
use super::{Checker, Source as Checked};
use crate::config::env::Env;
use crate::config::file::{self, Backend as WrittenBackend};
use crate::config::model::{Backend, Config, Discovery, Dns, Identity, Records, Source};
use crate::config::problem::{Invalid, Problem, Problems, quote};
use crate::config::scalar::List;
use crate::config::schema::backends_schema;
use crate::config::source::Source as FileSource;
use crate::config::tree::Path;
use crate::config::{shape, text_of, yaml};

/// More are not asked: the others would not be reached in time.
const MOST_RESOLVERS: usize = 8;

impl Checker<'_> {
    pub(super) fn discovery(
        &mut self,
        written: &file::Discovery,
        encryption: Encryption<'_>,
        at: &Path<'_>,
    ) -> Option<Discovery> {
        let source = match (&written.dns, &written.file) {
            (Some(dns), None) => self.dns(dns, encryption, &at.key("dns")),
            (None, Some(file)) => Some(Source::File(self.source.base.join(&file.path))),
            (Some(_), Some(_)) => {
                self.refuse(at, "has both `dns` and `file`, expected one of them");
                None
            }
            (None, None) => {
                if self.is_whole(at) {
                    self.refuse(at, "has no source, expected `dns` or `file`");
                }
                None
            }
        };
        Some(Discovery {
            source: source?,
            required: written.required,
            identity: match encryption {
                Encryption::Plain => Identity::Nobody,
                Encryption::OwnName => Identity::OwnName,
                Encryption::Named(name, _) => Identity::Named(Arc::from(name)),
            },
        })
    }

    fn dns(
        &mut self,
        written: &file::DnsDiscovery,
        encryption: Encryption<'_>,
        at: &Path<'_>,
    ) -> Option<Source> {
        let name = self.accept(&at.key("name"), dns_name(&written.name));
        let records = self.records(written, at);
        let mut resolvers: Vec<SocketAddr> = Vec::new();
        for (index, address) in written.resolvers.iter() {
            let port = address.0.port();
            if port == 0 || index >= MOST_RESOLVERS {
                let what = format!(
                    "is no name server, expected at most {MOST_RESOLVERS}, each with a port"
                );
                self.refuse(&at.key("resolvers").item(index), what);
            }
            resolvers.push(address.0);
        }
        let (min_ttl, max_ttl) = (written.min_ttl.0, written.max_ttl.0);
        if max_ttl < min_ttl {
            let key = if self.is_written(&at.key("max_ttl")) {
                "max_ttl"
            } else {
                "min_ttl"
            };
            let what =
                "leaves no time between `min_ttl` and `max_ttl`, expected the first to be shorter";
            self.refuse(&at.key(key), what);
        }
        let name = name?;
        let records = records?;
        if records != Records::Srv {
            // Each backend is called what was asked for.
            self.server_name(encryption, &name, &at.key("name"))?;
        }
        Some(Source::Dns(Arc::new(Dns {
            name,
            records,
            weight: written.weight,
            resolvers,
            timeout: written.timeout.0,
            min_ttl,
            max_ttl,
            keep_missing: written.keep_missing.0,
            keep_stale: written.keep_stale.as_ref().map(|time| time.0),
        })))
    }

    fn records(&mut self, written: &file::DnsDiscovery, at: &Path<'_>) -> Option<Records> {
        let port_at = at.key("port");
        if let file::Records::Srv = written.records {
            for key in ["port", "weight"] {
                let key = at.key(key);
                if self.is_written(&key) {
                    self.refuse(&key, "stands beside `type: srv`, whose records tell it");
                }
            }
            return Some(Records::Srv);
        }
        let Some(port) = written.port else {
            if !self.is_written(&port_at) {
                self.refuse(&port_at, "is missing, expected the port of the backends");
            }
            return None;
        };
        Some(match written.records {
            file::Records::A => Records::A(port),
            file::Records::Aaaa => Records::Aaaa(port),
            file::Records::All => Records::All(port),
            file::Records::Auto | file::Records::Srv => Records::Auto(port),
        })
    }
}

/// A name as name servers have it (RFC 1035 section 2.3.1, and RFC 2782 for `_`).
fn dns_name(text: &str) -> Result<String, Invalid> {
    let refuse = |what: &str| {
        let detail = format!("{} {what}", quote(text));
        Err(Invalid::new(detail, "one such as `users.internal`"))
    };
    let bare = text.strip_suffix('.').unwrap_or(text);
    if text.parse::<IpAddr>().is_ok() {
        return refuse("is an address, which belongs into `backends`");
    }
    let byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let label = |label: &str| matches!(label.len(), 1..=63) && label.bytes().all(byte);
    if bare.len() > 253 || !bare.split('.').all(label) {
        return refuse("is no name");
    }
    Ok(text.to_ascii_lowercase())
}

/// Reads the files with lists of backends that a configuration names, for whoever wants to know whether they
/// are good before it runs. Says what is wrong, and what is odd: a file need not be there yet.
pub fn lists(config: &Config, env: &dyn Env) -> (Vec<String>, Vec<String>) {
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    for upstream in &config.upstreams {
        let Some(discovery) = &upstream.discovery else {
            continue;
        };
        let Source::File(path) = &discovery.source else {
            continue;
        };
        if !path.exists() {
            warnings.push(format!(
                "upstreams.{}.discovery.file.path: there is no {} yet",
                upstream.name,
                path.display()
            ));
        } else if let Err(found) = backends(path, &discovery.identity, env) {
            problems.extend(found.to_string().lines().map(str::to_owned));
        }
    }
    (problems, warnings)
}

/// Reads a file with a list of backends, as it stands below `backends`.
pub fn backends(
    path: &FilePath,
    identity: &Identity,
    env: &dyn Env,
) -> Result<Vec<Backend>, Problems> {
    let name = path.display().to_string();
    let fail = |problems| Err(Problems::new(&name, problems));
    let text = match text_of(FileSource::open(path).1) {
        Ok(text) => text,
        Err(what) => return fail(vec![Problem::of_the_whole(what)]),
    };
    let (tree, mut problems) = match yaml::parse(&text) {
        Ok(parsed) => parsed,
        Err(problem) => return fail(vec![problem]),
    };
    let fitted = shape::fit(&tree, backends_schema());
    problems.extend(fitted.problems);
    let source = Checked {
        text: &text,
        tree: &tree,
        damaged: &fitted.damaged,
        base: path.parent().unwrap_or(FilePath::new(".")),
        env,
    };
    let mut checker = Checker::new(&source);
    let list: Result<List<WrittenBackend>, _> = serde_json::from_value(fitted.value);
    let backends = match &list {
        Ok(list) => {
            let root = Path::Root;
            let encryption = match identity {
                Identity::Nobody => Encryption::Plain,
                Identity::OwnName => Encryption::OwnName,
                Identity::Named(name) => Encryption::Named(name, &root),
            };
            checker.backend_list(list, encryption, &root)
        }
        // What is no list was refused above.
        Err(_) => Vec::new(),
    };
    problems.extend(checker.problems);
    if problems.is_empty() && weigh_nothing(&backends) {
        let what = match backends.is_empty() {
            true => "has no backend, expected at least one".to_owned(),
            false => format!("its backends {NO_WEIGHT}"),
        };
        problems.push(Problem::of_the_whole(what));
    }
    match problems.is_empty() {
        true => Ok(backends),
        false => fail(problems),
    }
}
