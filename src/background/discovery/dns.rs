//! Asks name servers.
//!
//! The resolver is made anew for each answer, so that another `/etc/resolv.conf` counts at once, and
//! nothing is remembered but by us.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};

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
    let resolver = match resolver(dns) {
        Ok(resolver) => resolver,
        Err(error) => return Answer::Failed(error.to_string()),
    };
    let answer = async {
        match dns.records {
            Records::Srv => services(&resolver, dns, identity).await,
            Records::Auto(port) => hosts(&resolver, dns, Kind::Auto, port, identity).await,
            Records::A(port) => hosts(&resolver, dns, Kind::A, port, identity).await,
            Records::Aaaa(port) => hosts(&resolver, dns, Kind::Aaaa, port, identity).await,
            Records::All(port) => hosts(&resolver, dns, Kind::All, port, identity).await,
        }
    };
    match tokio::time::timeout(dns.timeout * QUESTIONS, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => Answer::Failed(error.to_string()),
        Err(_) => Answer::Failed("no answer in time".to_owned()),
    }
}

fn resolver(dns: &Dns) -> Result<TokioResolver, NetError> {
    let mut builder = if dns.resolvers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = dns.resolvers.iter().map(server).collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    options.timeout = dns.timeout;
    options.attempts = 1;
    options.cache_size = 0;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    if !dns.resolvers.is_empty() {
        options.use_hosts_file = ResolveHosts::Never;
    }
    builder.build()
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
    resolver: &TokioResolver,
    dns: &Dns,
    kind: Kind,
    port: u16,
    identity: &Identity,
) -> Result<Answer, NetError> {
    let Some((addresses, ttl)) = addresses(resolver, &dns.name, kind).await? else {
        return Ok(Answer::Missing);
    };
    let backends = addresses.into_iter().map(|ip| {
        let mut backend = records::backend((ip, port).into(), &dns.name, identity);
        backend.weight = dns.weight;
        backend
    });
    let backends = records::in_order(backends.collect());
    Ok(Answer::Found(backends, ttl))
}

async fn addresses(resolver: &TokioResolver, name: &str, kind: Kind) -> Found<IpAddr> {
    let of = |kind| of_kind(resolver, name, kind);
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

async fn of_kind(resolver: &TokioResolver, name: &str, kind: RecordType) -> Found<IpAddr> {
    let address = |data: &RData| match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    };
    lookup(resolver, name, kind, address).await
}

/// The records of a name, by what `read` takes of each.
async fn lookup<T>(
    resolver: &TokioResolver,
    name: &str,
    kind: RecordType,
    read: impl Fn(&RData) -> Option<T>,
) -> Found<T> {
    let answer = match resolver.lookup(name, kind).await {
        Ok(answer) => answer,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(error),
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

async fn services(
    resolver: &TokioResolver,
    dns: &Dns,
    identity: &Identity,
) -> Result<Answer, NetError> {
    let read = |data: &RData| match data {
        // A target of `.` says that there is no such service (RFC 2782).
        RData::SRV(srv) if !srv.target.is_root() => Some(srv.clone()),
        _ => None,
    };
    let found = lookup(resolver, &dns.name, RecordType::SRV, read).await?;
    let Some((mut services, mut ttl)) = found else {
        return Ok(Answer::Missing);
    };
    services.truncate(TARGETS);
    let mut members = Vec::new();
    for some in services.chunks(TARGETS_AT_ONCE) {
        let names: Vec<String> = some.iter().map(|srv| srv.target.to_utf8()).collect();
        let asked = names
            .iter()
            .map(|name| addresses(resolver, name, Kind::Auto));
        for ((srv, name), found) in some.iter().zip(&names).zip(join_all(asked).await) {
            // One failure makes a failure of all: the others alone would be too few.
            let Some((addresses, own)) = found? else {
                continue;
            };
            ttl = ttl.min(own);
            members.extend(addresses.into_iter().map(|ip| Service {
                priority: srv.priority,
                weight: srv.weight,
                host: name.clone(),
                address: (ip, srv.port).into(),
            }));
        }
    }
    if members.is_empty() {
        return Ok(Answer::Missing);
    }
    let backends = records::of_services(&members, identity);
    Ok(Answer::Found(records::in_order(backends), ttl))
}
