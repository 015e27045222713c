//! From what a source says to backends: names, weights, priority groups, and how many at most.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::model::{Backend, Identity};

/// How many backends an answer may have; further ones are left out, by order of address.
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

/// The backends of services: those of the lowest priority, as RFC 2782 wants it of whoever connects.
/// Weights keep their relation, and a weight of 0 is the least one.
pub(super) fn of_services(services: &[Service], identity: &Identity) -> Vec<Backend> {
    let lowest = services.iter().map(|one| one.priority).min();
    let first = || services.iter().filter(|one| Some(one.priority) == lowest);
    let highest = first().map(|one| u32::from(one.weight)).max().unwrap_or(0);
    let weight = |one: &Service| match u32::from(one.weight) {
        weight if highest <= MOST_WEIGHT => weight.max(1),
        weight => (weight * MOST_WEIGHT / highest).max(1),
    };
    let backend = |one: &Service| Backend {
        weight: weight(one),
        ..backend(one.address, &one.host, identity)
    };
    first().map(backend).collect()
}

/// The same in order, each address once, and no more than there may be. Name servers change the order
/// from answer to answer, which is no change.
pub(super) fn in_order(mut found: Vec<Backend>) -> Arc<[Backend]> {
    let mut seen = HashSet::with_capacity(found.len());
    found.retain(|backend| seen.insert(backend.address));
    found.sort_by_key(|backend| backend.address);
    found.truncate(MOST);
    found.into()
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
    fn those_of_the_lowest_priority_are_used() {
        let services = [service(1, 20, 1), service(2, 10, 1), service(3, 10, 1)];
        let backends = of_services(&services, &Identity::Nobody);
        let ports: Vec<u16> = backends.iter().map(|one| one.address.port()).collect();
        assert_eq!(ports, [2, 3]);
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
        let many = (1..=2000).rev().map(at).collect();
        let many = in_order(many);
        assert_eq!((many.len(), many[0].address.port()), (MOST, 1));
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
