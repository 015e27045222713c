//! Who may call by the client's address: lists of networks that are allowed or denied.
//!
//! The networks of a list are merged into ranges that do not touch, in order, so that one binary
//! search says whether an address is in one of them, however many there are.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::model;
use crate::reply::Rejection;

/// The lists of one level: of a route, or of all requests.
#[derive(Debug, PartialEq, Eq)]
pub struct IpAccess {
    /// Who is let in; `None`: whoever is not denied.
    allow: Option<Networks>,
    /// Who is not, even if allowed.
    deny: Networks,
}

/// A set of addresses.
#[derive(Debug, Default, PartialEq, Eq)]
struct Networks {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

/// Ranges by their first and last addresses, apart so that a search reads as little as possible.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ranges<T> {
    firsts: Box<[T]>,
    lasts: Box<[T]>,
}

impl IpAccess {
    /// Prepares lists for look-up.
    pub fn compile(config: &model::IpAccess) -> Self {
        Self {
            allow: config.allow.as_deref().map(Networks::new),
            deny: Networks::new(&config.deny),
        }
    }

    /// Refuses a client that is denied, or is not among those that are allowed.
    pub fn judge(&self, client: IpAddr) -> Result<(), Rejection> {
        let is_allowed = |allow: &Networks| allow.contains(client);
        match !self.deny.contains(client) && self.allow.as_ref().is_none_or(is_allowed) {
            true => Ok(()),
            false => Err(Rejection::IpDenied),
        }
    }
}

impl Networks {
    fn new(networks: &[IpNet]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match network {
                IpNet::V4(network) => {
                    v4.push((network.network().into(), network.broadcast().into()));
                }
                IpNet::V6(network) => {
                    v6.push((network.network().into(), network.broadcast().into()));
                }
            }
        }
        Self {
            v4: Ranges::new(v4, |last| last.checked_add(1)),
            v6: Ranges::new(v6, |last| last.checked_add(1)),
        }
    }

    fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => self.v4.contains(address.into()),
            IpAddr::V6(address) => self.v6.contains(address.into()),
        }
    }
}

impl<T: Ord + Copy> Ranges<T> {
    /// Of ranges in any order that may overlap; `after` says what follows an address.
    fn new(mut ranges: Vec<(T, T)>, after: impl Fn(T) -> Option<T>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if after(before.1).is_none_or(|next| first <= next) => {
                    before.1 = before.1.max(last);
                }
                _ => merged.push((first, last)),
            }
        }
        Self {
            firsts: merged.iter().map(|range| range.0).collect(),
            lasts: merged.iter().map(|range| range.1).collect(),
        }
    }

    fn contains(&self, address: T) -> bool {
        // The one range that can have it is the last that begins no later.
        let begun = self.firsts.partition_point(|first| *first <= address);
        let last = begun.checked_sub(1).and_then(|index| self.lasts.get(index));
        last.is_some_and(|last| address <= *last)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use std::hint::black_box;
    use std::net::Ipv4Addr;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn judged(allow: Option<&[&str]>, deny: &[&str], client: &str) -> bool {
        let access = IpAccess::compile(&model::IpAccess {
            allow: allow.map(networks),
            deny: networks(deny),
        });
        access.judge(client.parse().unwrap()).is_ok()
    }

    #[test]
    fn without_an_allow_list_whoever_is_not_denied_is_let_in() {
        assert!(judged(None, &["192.0.2.0/24"], "192.0.3.0"));
        assert!(!judged(None, &["192.0.2.0/24"], "192.0.2.255"));
        assert!(!judged(None, &["2001:db8::/32"], "2001:db8:ffff::1"));
        assert!(judged(None, &["::/0"], "192.0.2.1"), "not of this family");
    }

    #[test]
    fn with_an_allow_list_nobody_else_is_let_in_and_deny_wins() {
        let allow: Option<&[&str]> = Some(&["10.0.0.0/8", "2001:db8::/32"]);
        assert!(judged(allow, &[], "10.255.255.255"));
        assert!(!judged(allow, &[], "11.0.0.0"));
        assert!(!judged(allow, &["10.1.0.0/16"], "10.1.2.3"));
        assert!(judged(allow, &["10.1.0.0/16"], "10.2.0.0"));
        assert!(!judged(Some(&[]), &[], "10.0.0.1"), "an empty list");
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        assert!(!judged(None, &["192.0.2.0/24"], "::ffff:192.0.2.7"));
        assert!(judged(None, &["192.0.2.0/24"], "::ffff:192.0.3.0"));
    }

    #[test]
    fn what_touches_or_overlaps_is_one_range() {
        let list = ["10.0.1.0/24", "10.0.0.0/24", "10.0.0.128/25", "0.0.0.0/32"];
        let merged = Networks::new(&networks(&list));
        let first = u32::from(Ipv4Addr::new(10, 0, 0, 0));
        assert_eq!(*merged.v4.firsts, [0, first]);
        assert_eq!(*merged.v4.lasts, [0, first + 511]);
        let all = Networks::new(&networks(&["0.0.0.0/0", "255.255.255.255/32", "::/0"]));
        assert_eq!((all.v4.firsts.len(), all.v6.lasts[0]), (1, u128::MAX));
    }

    /// Few different bits, so that networks overlap and addresses hit them.
    fn address() -> impl Strategy<Value = IpAddr> {
        let bits = prop::sample::select(vec![0_u32, 1, 2, 3, 0x80, 0xff, 0x100, 0xff00, u32::MAX]);
        (bits, any::<bool>()).prop_map(|(bits, is_v4)| match is_v4 {
            true => IpAddr::from(bits.to_be_bytes()),
            false => IpAddr::from((u128::from(bits) << 64).to_be_bytes()),
        })
    }

    fn network() -> impl Strategy<Value = IpNet> {
        (address(), 0..=128_u8).prop_map(|(address, length)| {
            let most = if address.is_ipv4() { 32 } else { 128 };
            IpNet::new(address, length.min(most)).unwrap().trunc()
        })
    }

    proptest! {
        #[test]
        fn says_what_looking_at_every_network_says(
            allow in prop::option::of(prop::collection::vec(network(), 0..12)),
            deny in prop::collection::vec(network(), 0..12),
            clients in prop::collection::vec(address(), 1..20),
        ) {
            let access = IpAccess::compile(&model::IpAccess { allow: allow.clone(), deny: deny.clone() });
            for client in clients {
                let is_in = |list: &Vec<IpNet>| list.iter().any(|network| network.contains(&client));
                let expected = !is_in(&deny) && allow.as_ref().is_none_or(is_in);
                prop_assert_eq!(access.judge(client).is_ok(), expected, "{}", client);
            }
        }
    }

    #[test]
    fn a_long_list_costs_a_search_and_not_a_walk() {
        // A network in each /15, so that none of the 100 000 ranges can be merged.
        let list: Vec<IpNet> = (0..100_000_u32)
            .map(|index| IpNet::new(IpAddr::from((index << 15).to_be_bytes()), 24).unwrap())
            .collect();
        let access = IpAccess::compile(&model::IpAccess {
            allow: None,
            deny: list,
        });
        assert_eq!(access.deny.v4.firsts.len(), 100_000);
        const TIMES: u32 = 20_000;
        let mut address = 1_u32;
        let mut round = || {
            let started = Instant::now();
            for _ in 0..TIMES {
                address = address.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let client = IpAddr::from(address.to_be_bytes());
                black_box(access.judge(black_box(client)).is_ok());
            }
            started.elapsed() / TIMES
        };
        // The best of several: others use the machine, too.
        let each = (0..10).map(|_| round()).min().unwrap();
        println!("{each:?} a look-up");
        // A walk over all of them takes more than 50 µs.
        assert!(each < Duration::from_micros(5), "{each:?}");
    }
}
