//! Checks what is written about the shared store. Nothing is connected to, and no name resolved.

mod url;

use std::sync::Arc;

use super::Checker;
use super::upstream::Encryption;
use crate::config::file;
use crate::config::model::{Login, Node, Redis, Sentinel, Servers, UpstreamTls};
use crate::config::problem::{Invalid, quote};
use crate::config::scalar::Secret;
use crate::config::tree::Path;

/// The most servers or sentinels that may be listed.
const MAX_NODES: usize = 16;
/// Where sentinels listen when nothing else is said.
const SENTINEL_PORT: u16 = 26_379;
/// Where servers do.
const PORT: u16 = 6379;

/// Where the data are, how to log in there, and whether by TLS.
struct Place {
    servers: Servers,
    login: Login,
    encrypted: bool,
}

impl Checker<'_> {
    /// Checks `redis`. The outer `None`: it is not sound.
    pub(super) fn redis(&mut self, written: Option<&file::Redis>) -> Option<Option<Redis>> {
        let root = Path::Root;
        let at = root.key("redis");
        let Some(written) = written else {
            return Some(None);
        };
        let tls = self.redis_tls(written, &at);
        let place = self.redis_place(written, tls.as_ref(), &at);
        let (mut tls, place) = (tls?, place?);
        if !place.encrypted {
            tls = None;
        }
        Some(Some(Redis {
            servers: place.servers,
            login: place.login,
            tls,
            pool_size: written.pool_size as usize,
            connect_timeout: written.connect_timeout.0,
            command_timeout: written.command_timeout.0,
        }))
    }

    fn redis_place(
        &mut self,
        written: &file::Redis,
        tls: Option<&Option<UpstreamTls>>,
        at: &Path<'_>,
    ) -> Option<Place> {
        match (&written.url, &written.sentinel, &written.cluster) {
            (Some(url), None, None) => self.single(written, url, at),
            (None, Some(sentinel), None) => {
                let at_sentinel = at.key("sentinel");
                let found = self.sentinel(sentinel, tls, &at_sentinel);
                self.listed_servers(written, found.map(Servers::Sentinel), at)
            }
            (None, None, Some(cluster)) => {
                if written.database > 0 {
                    let what = "is not 0, but a Cluster has one database alone";
                    self.refuse(&at.key("database"), what);
                    return None;
                }
                let at_cluster = at.key("cluster");
                let nodes = self.nodes(&cluster.nodes, PORT, written.tls, &at_cluster);
                self.listed_servers(written, nodes.map(Servers::Cluster), at)
            }
            (None, None, None) => {
                self.refuse(at, "has no `url`, expected `url`, `sentinel` or `cluster`");
                None
            }
            _ => {
                let what = "is in several places, expected one of `url`, `sentinel` and `cluster`";
                self.refuse(at, what);
                None
            }
        }
    }

    fn single(&mut self, written: &file::Redis, url: &Secret, at: &Path<'_>) -> Option<Place> {
        let mut is_sound = true;
        for (key, is_written) in [
            ("username", written.username.is_some()),
            ("password", written.password.is_some()),
            ("database", written.database > 0),
            ("tls", written.tls),
        ] {
            if is_written {
                let what = "needs `sentinel` or `cluster`; expected as a part of `url`";
                self.refuse(&at.key(key), what);
                is_sound = false;
            }
        }
        let place = self.accept(&at.key("url"), url::place(url.reveal()))?;
        // Of the name nothing may be shown: it is a part of the URL.
        if place.encrypted && !self.is_certifiable(&place.node.host, &at.key("url")) {
            self.refuse(
                &at.key("url"),
                "its host is no name that a certificate can have",
            );
            return None;
        }
        is_sound.then_some(Place {
            servers: Servers::Single(place.node),
            login: place.login,
            encrypted: place.encrypted,
        })
    }

    /// What stands beside `sentinel` and `cluster`.
    fn listed_servers(
        &mut self,
        written: &file::Redis,
        servers: Option<Servers>,
        at: &Path<'_>,
    ) -> Option<Place> {
        let login = self.login(written.username.as_ref(), written.password.as_ref(), at);
        let mut login = login?;
        login.database = i64::from(written.database);
        Some(Place {
            servers: servers?,
            login,
            encrypted: written.tls,
        })
    }

    fn sentinel(
        &mut self,
        written: &file::RedisSentinel,
        tls: Option<&Option<UpstreamTls>>,
        at: &Path<'_>,
    ) -> Option<Sentinel> {
        let login = self.login(written.username.as_ref(), written.password.as_ref(), at);
        let nodes = self.nodes(&written.nodes, SENTINEL_PORT, written.tls, at);
        let name = &written.master;
        if name.is_empty() || name.chars().any(|one| one.is_control() || one == ' ') {
            let what = format!("{} is no name of a master", quote(name));
            self.refuse(&at.key("master"), what);
            return None;
        }
        Some(Sentinel {
            master: Arc::from(name.as_str()),
            nodes: nodes?,
            login: login?,
            tls: tls?.clone().filter(|_| written.tls),
        })
    }

    fn login(
        &mut self,
        user: Option<&String>,
        password: Option<&Secret>,
        at: &Path<'_>,
    ) -> Option<Login> {
        if user.is_some() && password.is_none() {
            let what = "needs a `password` beside it";
            self.refuse(&at.key("username"), what);
            return None;
        }
        Some(Login {
            user: user.cloned(),
            password: password.cloned(),
            database: 0,
        })
    }

    fn nodes(
        &mut self,
        written: &[String],
        port: u16,
        encrypted: bool,
        at: &Path<'_>,
    ) -> Option<Vec<Node>> {
        let at = at.key("nodes");
        if written.is_empty() || written.len() > MAX_NODES {
            let count = written.len();
            let what = format!("has {count} entries, expected between 1 and {MAX_NODES}");
            self.refuse(&at, what);
            return None;
        }
        let before = self.problems.len();
        let mut nodes = Vec::new();
        for (index, text) in written.iter().enumerate() {
            let at = at.item(index);
            let Some(node) = self.accept(&at, node(text, port)) else {
                continue;
            };
            if encrypted && !self.is_certifiable(&node.host, &at) {
                self.refuse(&at, "is no name that a certificate can have");
            }
            if nodes.contains(&node) {
                self.refuse(&at, format!("{} is listed twice", quote(text)));
            }
            nodes.push(node);
        }
        (self.problems.len() == before).then_some(nodes)
    }

    /// What is said by `ca`, `client_cert` and `client_key`; inside `None` where there is no TLS.
    fn redis_tls(&mut self, written: &file::Redis, at: &Path<'_>) -> Option<Option<UpstreamTls>> {
        let by_url = written.url.as_ref().is_some_and(|url| {
            let url = url::place(url.reveal());
            url.is_ok_and(|place| place.encrypted)
        });
        let to_sentinels = written.sentinel.as_ref().is_some_and(|one| one.tls);
        if !(by_url || written.tls || to_sentinels) {
            let keys = [
                ("ca", &written.ca),
                ("client_cert", &written.client_cert),
                ("client_key", &written.client_key),
            ];
            let mut is_sound = true;
            for (key, _) in keys.iter().filter(|(_, value)| value.is_some()) {
                let what = "needs TLS: a `url` that begins with `rediss://`, or `tls: true`";
                self.refuse(&at.key(key), what);
                is_sound = false;
            }
            return is_sound.then_some(None);
        }
        let tls = file::Tls {
            ca: written.ca.clone(),
            client_cert: written.client_cert.clone(),
            client_key: written.client_key.clone(),
            ..file::Tls::default()
        };
        self.encryption(Some(&tls), at)
    }

    fn is_certifiable(&mut self, host: &str, at: &Path<'_>) -> bool {
        let before = self.problems.len();
        let named = self.server_name(Encryption::OwnName, host, at);
        // It is told in the words of its place.
        self.problems.truncate(before);
        named.is_some()
    }
}

/// Reads `HOST`, `HOST:PORT`, or the same with an IPv6 address in brackets.
fn node(text: &str, default_port: u16) -> Result<Node, Invalid> {
    let refused = || Invalid::new(format!("{} is no server", quote(text)), "`HOST:PORT`");
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(refused)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| refused())?;
            (
                host,
                rest.strip_prefix(':').or(rest.is_empty().then_some("")),
            )
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, Some("")),
        },
    };
    let port = match port.ok_or_else(refused)? {
        "" if !text.ends_with(':') => default_port,
        digits => digits.parse().map_err(|_| refused())?,
    };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    if host.is_empty() || port == 0 || !host.bytes().all(fits) {
        return Err(refused());
    }
    let host = Arc::from(host);
    Ok(Node { host, port })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_host_and_perhaps_a_port() {
        let read = |text| node(text, 26_379).unwrap().to_string();
        assert_eq!(read("sentinel-0.redis"), "sentinel-0.redis:26379");
        assert_eq!(read("10.0.0.1:7000"), "10.0.0.1:7000");
        assert_eq!(read("[::1]"), "[::1]:26379");
        assert_eq!(read("[::1]:7000"), "[::1]:7000");
        for wrong in [
            "",
            ":1",
            "a:",
            "a:0",
            "a:65536",
            "a:b",
            "::1",
            "[::1",
            "[::1]7",
            "[a]:1",
            "[::1]:",
            "redis://a",
            "user@a",
            "a/0",
            "a b",
        ] {
            assert!(node(wrong, PORT).is_err(), "{wrong}");
        }
    }
}
