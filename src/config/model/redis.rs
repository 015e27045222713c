//! The shared store, as it is connected to.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{Secret, UpstreamTls};

/// Redis or Valkey.
#[derive(Clone, Debug, PartialEq)]
pub struct Redis {
    /// Where it is.
    pub servers: Servers,
    /// Who calls.
    pub login: Login,
    /// TLS towards it; `None` is none.
    pub tls: Option<UpstreamTls>,
    /// Connections for commands, to each server.
    pub pool_size: usize,
    /// From nothing to a connection that can be used.
    pub connect_timeout: Duration,
    /// From a command to its answer.
    pub command_timeout: Duration,
}

/// Where the data are.
#[derive(Clone, Debug, PartialEq)]
pub enum Servers {
    /// On one server.
    Single(Node),
    /// On a master that sentinels know.
    Sentinel(Sentinel),
    /// On the masters of a Cluster, of whose servers some are known; never empty.
    Cluster(Vec<Node>),
}

/// Those who know where a master is.
#[derive(Clone, Debug, PartialEq)]
pub struct Sentinel {
    /// What they call it.
    pub master: Arc<str>,
    /// Where they are; never empty.
    pub nodes: Vec<Node>,
    /// Who calls them.
    pub login: Login,
    /// TLS towards them; `None` is none.
    pub tls: Option<UpstreamTls>,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    /// A host name or an IP address, without brackets. Resolved for each connection.
    pub host: Arc<str>,
    /// Its port.
    pub port: u16,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            return write!(f, "[{host}]:{port}");
        }
        write!(f, "{host}:{port}")
    }
}

/// What a connection begins with.
#[derive(Clone, Debug, PartialEq)]
pub struct Login {
    /// Who calls; `None` is the server's default user.
    pub user: Option<String>,
    /// How that is proved.
    pub password: Option<Secret>,
    /// The number of the database.
    pub database: i64,
}
