//! How many connections each client has open, over all listeners and workers.
//!
//! A client is an address, or for IPv6 the /64 that one customer usually has for himself. The table
//! is touched when a connection opens and when it ends; a client without connections is not in it,
//! so it is no larger than `limits.max_connections`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;

/// Parts of the table that are locked apart; a power of two.
const SHARDS: usize = 64;
/// The part of an IPv6 address that tells clients apart.
const PREFIX: u128 = !0 << 64;

/// Tells clients apart.
type Key = u128;

/// Connections by client.
pub struct Clients {
    shards: [Mutex<HashMap<Key, usize, RandomState>>; SHARDS],
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

impl Clients {
    /// Counts a connection of this client, unless it has `most` already.
    pub fn admit(self: &Arc<Self>, address: IpAddr, most: usize) -> Option<Admitted> {
        let key = key(address);
        let mut shard = self.shard(key);
        if shard.get(&key).copied().unwrap_or(0) >= most {
            return None;
        }
        *shard.entry(key).or_default() += 1;
        drop(shard);
        Some(Admitted {
            clients: Arc::clone(self),
            key,
        })
    }

    fn shard(&self, key: Key) -> MutexGuard<'_, HashMap<Key, usize, RandomState>> {
        // The lowest bits that differ between neighbours of either family.
        let mixed = (key >> 64) ^ key;
        let shard = &self.shards[(mixed as usize) % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, key: Key) {
        let mut shard = self.shard(key);
        if let Some(open) = shard.get_mut(&key) {
            *open -= 1;
            if *open == 0 {
                shard.remove(&key);
            }
        }
    }
}

fn key(address: IpAddr) -> Key {
    match address.to_canonical() {
        // A place among the IPv6 addresses that no one else has.
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits() & PREFIX,
    }
}

/// A connection that is counted until this is dropped.
pub struct Admitted {
    clients: Arc<Clients>,
    key: Key,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.clients.leave(self.key);
    }
}

impl std::fmt::Debug for Admitted {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Admitted")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(clients: &Arc<Clients>, address: &str, most: usize) -> Option<Admitted> {
        let address = address.parse().unwrap_or_else(|_| panic!("{address}"));
        clients.admit(address, most)
    }

    #[test]
    fn a_client_has_its_number_and_no_more() {
        let clients = Arc::new(Clients::default());
        let first = admit(&clients, "192.0.2.1", 2);
        let second = admit(&clients, "::ffff:192.0.2.1", 2);
        assert!(first.is_some() && second.is_some());
        assert!(admit(&clients, "192.0.2.1", 2).is_none());
        assert!(admit(&clients, "192.0.2.2", 2).is_some());
        drop(first);
        assert!(admit(&clients, "192.0.2.1", 2).is_some());
    }

    #[test]
    fn a_lower_limit_holds_for_what_comes_after_it() {
        let clients = Arc::new(Clients::default());
        let held: Vec<_> = (0..5).map(|_| admit(&clients, "192.0.2.1", 5)).collect();
        assert!(admit(&clients, "192.0.2.1", 3).is_none());
        drop(held);
        assert!(admit(&clients, "192.0.2.1", 3).is_some());
    }

    #[test]
    fn a_network_of_version_6_is_one_client() {
        let clients = Arc::new(Clients::default());
        let _held = admit(&clients, "2001:db8:1:2::1", 1);
        assert!(admit(&clients, "2001:db8:1:2:ffff::9", 1).is_none());
        assert!(admit(&clients, "2001:db8:1:3::1", 1).is_some());
    }

    #[test]
    fn who_left_is_forgotten() {
        let clients = Arc::new(Clients::default());
        for n in 0..1000u32 {
            let address = IpAddr::V4(n.into());
            let held = [clients.admit(address, 9), clients.admit(address, 9)];
            assert!(held.iter().all(Option::is_some));
        }
        assert!(clients.admit(IpAddr::V4(1.into()), 0).is_none());
        let left: usize = (0..SHARDS as u128)
            .map(|key| clients.shard(key).len())
            .sum();
        assert_eq!(left, 0);
    }
}
