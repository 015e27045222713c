//! What `discovery` means: where the members of an upstream come from.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where members come from beside those that are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// Who is asked.
    pub source: Source,
    /// Whether the process is not ready while there is no member.
    pub required: bool,
    /// Who the members must prove to be.
    pub identity: Identity,
}

/// Who knows the members. Upstreams with the same source ask once. What comes next, such as the
/// endpoints of Kubernetes, is one more kind, with its task in `background/discovery`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Name servers.
    Dns(Arc<Dns>),
    /// A file with a list of them.
    File(PathBuf),
}

/// What name servers are asked for.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Dns {
    /// The name.
    pub name: String,
    /// The kind of records, and the port that they do not tell.
    pub records: Records,
    /// The share of each member where the records do not tell it.
    pub weight: u32,
    /// Who is asked; empty: whom the system asks.
    pub resolvers: Vec<SocketAddr>,
    /// What one question may take.
    pub timeout: Duration,
    /// How long an answer counts at least.
    pub min_ttl: Duration,
    /// How long an answer counts at most.
    pub max_ttl: Duration,
    /// How long the last members stay when the name has none any more.
    pub keep_missing: Duration,
    /// How long they stay when nobody answers; `None`: for ever.
    pub keep_stale: Option<Duration>,
}

/// Kinds of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Records {
    /// A, or AAAA if there are none, at this port.
    Auto(u16),
    /// A at this port.
    A(u16),
    /// AAAA at this port.
    Aaaa(u16),
    /// A and AAAA at this port.
    All(u16),
    /// SRV.
    Srv,
}

/// Whom members must prove to be by their certificates.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// Nobody: there is no TLS.
    Nobody,
    /// Who they are called by the source: the name that was asked for, the target of an SRV record, the
    /// host that is written.
    OwnName,
    /// All of them this one.
    Named(Arc<str>),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dns(dns) => write!(f, "dns {}", dns.name),
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}
