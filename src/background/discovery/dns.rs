//! Asks name servers.
//!
//! The resolvers are made anew for each answer, so that another `/etc/resolv.conf` counts at once, and
//! nothing is remembered but by us. There is one for each name server, and all are asked at the same time:
//! one resolver with several would end the question with the first failure, and ask most of them too late.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::{join_all, select_ok};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
    ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;

use super::knowledge::Answer;
use super::records::{self, Service};
use crate::config::model::{Dns, Identity, Records};

/// How many times `timeout` all questions of one answer may take together.
const QUESTIONS: u32 = 5;
/// Targets of SRV records that are asked for at the same time, and in all.
const TARGETS_AT_ONCE: usize = 16;
const TARGETS: usize = 256;

/// Records of a kind and for how long they count; `None`: the name has none.
type Found<T> = Result<Option<(Vec<T>, Duration)>, NetError>;

/// Asks once.
pub(super) async fn ask(dns: &Dns, identity: &Identity) -> Answer {
    let servers = match servers(dns) {
        Ok(servers) => servers,
        Err(error) => return Answer::Failed(error.to_string()),
    };
    let answer = async {
        match dns.records {
            Records::Srv => services(&servers, dns, identity).await,
            Records::Auto(port) => hosts(&servers, dns, Kind::Auto, port, identity).await,
            Records::A(port) => hosts(&servers, dns, Kind::A, port, identity).await,
            Records::Aaaa(port) => hosts(&servers, dns, Kind::Aaaa, port, identity).await,
            Records::All(port) => hosts(&servers, dns, Kind::All, port, identity).await,
        }
    };
    match tokio::time::timeout(dns.timeout * QUESTIONS, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => Answer::Failed(error.to_string()),
        Err(_) => Answer::Failed("no answer in time".to_owned()),
    }
}

/// One resolver for each name server; there is at least one.
fn servers(dns: &Dns) -> Result<Vec<TokioResolver>, NetError> {
    let (config, mut options) = if dns.resolvers.is_empty() {
        read_system_conf()?
    } else {
        let servers = dns.resolvers.iter().map(server).collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        (config, ResolverOpts::default())
    };
    options.timeout = dns.timeout;
    options.attempts = 1;
    options.cache_size = 0;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    if !dns.resolvers.is_empty() {
        options.use_hosts_file = ResolveHosts::Never;
    }
    let (domain, search, servers) = config.into_parts();
    let resolver = |server| {
        let config = ResolverConfig::from_parts(domain.clone(), search.clone(), vec![server]);
        let provider = TokioRuntimeProvider::default();
        let mut builder = TokioResolver::builder_with_config(config, provider);
        *builder.options_mut() = options.clone();
        builder.build()
    };
    let servers: Vec<_> = servers
        .into_iter()
        .map(resolver)
        .collect::<Result<_, _>>()?;
    match servers.is_empty() {
        true => Err(NetError::NoConnections),
        false => Ok(servers),
    }
}

/// By UDP first, by TCP when the answer does not fit.
fn server(address: &SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = address.port();
    }
    NameServerConfig::new(address.ip(), true, connections)
}

/// Which addresses are wanted.
#[derive(Clone, Copy)]
enum Kind {
    A,
    Aaaa,
    /// A, or AAAA if there are none.
    Auto,
    /// Both.
    All,
}

async fn hosts(
    servers: &[TokioResolver],
    dns: &Dns,
    kind: Kind,
    port: u16,
    identity: &Identity,
) -> Result<Answer, NetError> {
    let Some((addresses, ttl)) = addresses(servers, &dns.name, kind).await? else {
        return Ok(Answer::Missing);
    };
    let backends = addresses.into_iter().map(|ip| {
        let mut backend = records::backend((ip, port).into(), &dns.name, identity);
        backend.weight = dns.weight;
        backend
    });
    let (backends, left_out) = records::in_order(backends.collect());
    Ok(Answer::Found(backends, ttl, left_out))
}

async fn addresses(servers: &[TokioResolver], name: &str, kind: Kind) -> Found<IpAddr> {
    let of = |kind| of_kind(servers, name, kind);
    match kind {
        Kind::A => of(RecordType::A).await,
        Kind::Aaaa => of(RecordType::AAAA).await,
        Kind::Auto => match of(RecordType::A).await? {
            None => of(RecordType::AAAA).await,
            found => Ok(found),
        },
        Kind::All => {
            let (a, aaaa) = tokio::join!(of(RecordType::A), of(RecordType::AAAA));
            // Half an answer would take the other half of the backends out.
            Ok(match (a?, aaaa?) {
                (Some((mut a, one)), Some((aaaa, other))) => {
                    a.extend(aaaa);
                    Some((a, one.min(other)))
                }
                (a, aaaa) => a.or(aaaa),
            })
        }
    }
}

async fn of_kind(servers: &[TokioResolver], name: &str, kind: RecordType) -> Found<IpAddr> {
    let address = |data: &RData| match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    };
    lookup(servers, name, kind, address).await
}

/// The records of a name, by what `read` takes of each. The first name server counts that can say
/// something of the name, be it that there is no such record.
async fn lookup<T>(
    servers: &[TokioResolver],
    name: &str,
    kind: RecordType,
    read: impl Fn(&RData) -> Option<T>,
) -> Found<T> {
    let asked = servers.iter().map(|server| {
        Box::pin(async move {
            match server.lookup(name, kind).await {
                Ok(answer) => Ok(Some(answer)),
                Err(error) if is_missing(&error) => Ok(None),
                Err(error) => Err(error),
            }
        })
    });
    let (Some(answer), _) = select_ok(asked).await? else {
        return Ok(None);
    };
    let mut found = Vec::new();
    let mut ttl = u32::MAX;
    for record in answer.answers() {
        if let Some(one) = read(&record.data) {
            found.push(one);
            ttl = ttl.min(record.ttl);
        }
    }
    let ttl = Duration::from_secs(ttl.into());
    Ok((!found.is_empty()).then_some((found, ttl)))
}

/// Whether the name servers say that there is no such record. A failure of theirs comes as the same
/// kind of error, but says nothing of the kind.
fn is_missing(error: &NetError) -> bool {
    let NetError::Dns(DnsError::NoRecordsFound(none)) = error else {
        return false;
    };
    matches!(
        none.response_code,
        ResponseCode::NXDomain | ResponseCode::NoError
    )
}

/// What an SRV record says; in the order in which targets are asked for.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    priority: u16,
    host: String,
    port: u16,
    weight: u16,
}

async fn services(
    servers: &[TokioResolver],
    dns: &Dns,
    identity: &Identity,
) -> Result<Answer, NetError> {
    let read = |data: &RData| match data {
        // A target of `.` says that there is no such service (RFC 2782).
        RData::SRV(srv) if !srv.target.is_root() => Some(Target {
            priority: srv.priority,
            host: srv.target.to_utf8(),
            port: srv.port,
            weight: srv.weight,
        }),
        _ => None,
    };
    let found = lookup(servers, &dns.name, RecordType::SRV, read).await?;
    let Some((mut targets, mut ttl)) = found else {
        return Ok(Answer::Missing);
    };
    // The order of an answer changes. What is left out is always the same, and of the last groups.
    targets.sort_unstable();
    let beyond = targets.len().saturating_sub(TARGETS);
    targets.truncate(TARGETS);
    let mut members = Vec::new();
    for some in targets.chunks(TARGETS_AT_ONCE) {
        let asked = some
            .iter()
            .map(|target| addresses(servers, &target.host, Kind::Auto));
        for (target, found) in some.iter().zip(join_all(asked).await) {
            // One failure makes a failure of all: the others alone would be too few.
            let Some((addresses, own)) = found? else {
                continue;
            };
            ttl = ttl.min(own);
            members.extend(addresses.into_iter().map(|ip| Service {
                priority: target.priority,
                weight: target.weight,
                host: target.host.clone(),
                address: (ip, target.port).into(),
            }));
        }
    }
    if members.is_empty() {
        return Ok(Answer::Missing);
    }
    let backends = records::of_services(&members, identity);
    let (backends, left_out) = records::in_order(backends);
    Ok(Answer::Found(backends, ttl, left_out + beyond))
}
