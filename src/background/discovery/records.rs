//! From what a source says to backends: names, weights, priority groups, and how many at most.

use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::model::{Backend, Identity, MAX_PRIORITY};

/// How many backends an answer may have; further ones are left out, by order of group and address.
const MOST: usize = 1000;
/// What weights of SRV records come to at most: they go up to 65535, and only their relation counts.
const MOST_WEIGHT: u32 = 100;

/// A record of a service, with one address of its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub priority: u16,
    pub weight: u16,
    /// What the record calls the target.
    pub host: String,
    pub address: SocketAddr,
}

/// A backend at this address, which its source calls `host`.
pub(super) fn backend(address: SocketAddr, host: &str, identity: &Identity) -> Backend {
    let server_name = match identity {
        Identity::Nobody => Arc::from(""),
        Identity::Named(name) => Arc::clone(name),
        // A certificate has no name with the dot of the root.
        Identity::OwnName => Arc::from(host.trim_end_matches('.')),
    };
    Backend {
        name: Arc::from(address.to_string()),
        address,
        weight: 1,
        priority: 0,
        zone: None,
        server_name,
    }
}

/// The backends of services. Each priority is a group: the lowest comes first, and the next when too few
/// of it are well, as RFC 2782 wants it of whoever connects. In a group weights keep their relation, and
/// a weight of 0 is the least one.
pub(super) fn of_services(services: &[Service], identity: &Identity) -> Vec<Backend> {
    let priorities: BTreeSet<u16> = services.iter().map(|one| one.priority).collect();
    let group = |one: &Service| {
        let lower = priorities.range(..one.priority).count();
        u8::try_from(lower).map_or(MAX_PRIORITY, |lower| lower.min(MAX_PRIORITY))
    };
    let backend = |one: &Service| {
        let beside = services.iter().filter(|other| group(other) == group(one));
        let highest = beside.map(|other| other.weight).max().unwrap_or(0);
        let (weight, highest) = (u32::from(one.weight), u32::from(highest));
        let scaled = match highest > MOST_WEIGHT {
            true => weight * MOST_WEIGHT / highest,
            false => weight,
        };
        Backend {
            weight: scaled.max(1),
            priority: group(one),
            ..backend(one.address, &one.host, identity)
        }
    };
    services.iter().map(backend).collect()
}

/// The same in order, each address once, and no more than there may be; and how many are left out. Name
/// servers change the order from answer to answer, which is no change.
pub(super) fn in_order(mut found: Vec<Backend>) -> (Arc<[Backend]>, usize) {
    let mut seen = HashSet::with_capacity(found.len());
    found.retain(|backend| seen.insert(backend.address));
    let left_out = found.len().saturating_sub(MOST);
    if left_out > 0 {
        // Those that are left out must not be the ones that are used first.
        found.sort_by_key(|backend| (backend.priority, backend.address));
        found.truncate(MOST);
    }
    found.sort_by_key(|backend| backend.address);
    (found.into(), left_out)
}

/// The members of an upstream: those that are written, and those that were found beside them.
pub(super) fn beside(written: &[Backend], found: &[Backend]) -> Vec<Backend> {
    let is_new = |one: &&Backend| written.iter().all(|own| own.address != one.address);
    let found = found.iter().filter(is_new);
    written.iter().chain(found).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(port: u16, priority: u16, weight: u16) -> Service {
        Service {
            priority,
            weight,
            host: format!("pod-{port}.internal."),
            address: ([10, 0, 0, 1], port).into(),
        }
    }

    #[test]
    fn weights_keep_their_relation_and_are_never_nothing() {
        let weights = |weights: &[u16]| -> Vec<u32> {
            let services = weights.iter().map(|weight| service(1, 0, *weight));
            let services: Vec<_> = services.collect();
            let backends = of_services(&services, &Identity::Nobody);
            backends.iter().map(|backend| backend.weight).collect()
        };
        assert_eq!(weights(&[0, 0]), [1, 1]);
        assert_eq!(weights(&[0, 5, 10]), [1, 5, 10]);
        assert_eq!(weights(&[65535, 32768, 1]), [100, 50, 1]);
    }

    #[test]
    fn priorities_are_groups_in_their_order_and_weigh_by_themselves() {
        let services = [
            service(1, 20, 65535),
            service(2, 10, 3),
            service(3, 10, 1),
            service(4, 1000, 2),
        ];
        let backends = of_services(&services, &Identity::Nobody);
        let found: Vec<_> = backends
            .iter()
            .map(|one| (one.address.port(), one.priority, one.weight))
            .collect();
        assert_eq!(found, [(1, 1, 100), (2, 0, 3), (3, 0, 1), (4, 2, 2)]);
        let many: Vec<_> = (1..=300).map(|port| service(port, port, 1)).collect();
        let groups = of_services(&many, &Identity::Nobody);
        assert_eq!(groups.last().map(|one| one.priority), Some(MAX_PRIORITY));
    }

    #[test]
    fn backends_must_prove_to_be_who_their_source_says_or_who_is_configured() {
        let name = |identity| {
            let backends = of_services(&[service(1, 0, 0)], &identity);
            backends.first().map(|one| one.server_name.to_string())
        };
        assert_eq!(name(Identity::Nobody).as_deref(), Some(""));
        assert_eq!(name(Identity::OwnName).as_deref(), Some("pod-1.internal"));
        let named = Identity::Named("users.internal".into());
        assert_eq!(name(named).as_deref(), Some("users.internal"));
    }

    #[test]
    fn the_order_of_an_answer_and_what_it_has_twice_do_not_count() {
        let at = |port| backend(([10, 0, 0, 1], port).into(), "", &Identity::Nobody);
        assert_eq!(
            in_order(vec![at(2), at(1), at(2)]),
            in_order(vec![at(1), at(2)])
        );
    }

    #[test]
    fn what_is_too_much_is_of_the_last_group_and_always_the_same() {
        let at = |port: u16| Backend {
            priority: u8::from(port <= 900),
            ..backend(([10, 0, 0, 1], port).into(), "", &Identity::Nobody)
        };
        let cut = |ports: Vec<u16>| {
            let (found, left_out) = in_order(ports.into_iter().map(at).collect());
            let ports: Vec<u16> = found.iter().map(|one| one.address.port()).collect();
            (ports, left_out)
        };
        let (found, left_out) = cut((1..=1500).rev().collect());
        let kept: Vec<u16> = (1..=400).chain(901..=1500).collect();
        assert_eq!((&found, left_out), (&kept, 500));
        assert_eq!(cut((1..=1500).collect()).0, kept);
        assert_eq!(cut((1..=1000).collect()).1, 0);
    }

    #[test]
    fn what_is_written_comes_first_and_is_not_there_twice() {
        let at = |port, weight| Backend {
            weight,
            ..backend(([10, 0, 0, 1], port).into(), "", &Identity::Nobody)
        };
        let members = beside(&[at(2, 9)], &[at(1, 1), at(2, 1)]);
        let members: Vec<_> = members
            .iter()
            .map(|one| (one.address.port(), one.weight))
            .collect();
        assert_eq!(members, [(2, 9), (1, 1)]);
    }
}
