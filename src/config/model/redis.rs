//! The shared store, as it is connected to.

use std::sync::Arc;
use std::time::Duration;

use super::{Secret, UpstreamTls};

/// Redis or Valkey, a single server.
#[derive(Clone, Debug, PartialEq)]
pub struct Redis {
    /// A host name or an IP address, without brackets. Resolved for each connection.
    pub host: Arc<str>,
    /// Its port.
    pub port: u16,
    /// Who calls.
    pub login: Login,
    /// TLS towards it; `None` is none.
    pub tls: Option<UpstreamTls>,
    /// Connections for commands.
    pub pool_size: usize,
    /// From nothing to a connection that can be used.
    pub connect_timeout: Duration,
    /// From a command to its answer.
    pub command_timeout: Duration,
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
