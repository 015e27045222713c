//! Who the client is, when trusted proxies stand between.

use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;

/// Whether an address is one of the trusted proxies.
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|network| network.contains(&address))
}

/// The client's address: the rightmost hop of `X-Forwarded-For` that is not a trusted proxy.
///
/// The header counts only when the peer itself is trusted. An entry that is no address ends the
/// search: what is left of it was written by nobody we trust.
pub fn client_ip(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer.to_canonical();
    if !is_trusted(client, trusted) {
        return client;
    }
    for value in headers.get_all("x-forwarded-for").iter().rev() {
        let Ok(value) = value.to_str() else {
            return client;
        };
        for hop in value.rsplit(',') {
            let Some(address) = parse_hop(hop.trim()) else {
                return client;
            };
            client = address;
            if !is_trusted(client, trusted) {
                return client;
            }
        }
    }
    client
}

/// An address as proxies write it: bare, with a port, or an IPv6 literal in brackets.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    if let Ok(address) = hop.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    if let Ok(address) = hop.parse::<std::net::SocketAddr>() {
        return Some(address.ip().to_canonical());
    }
    hop.strip_prefix('[')?
        .strip_suffix(']')?
        .parse::<IpAddr>()
        .ok()
        .map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn resolve(peer: &str, forwarded: &[&'static str]) -> String {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "::1/128"]
            .iter()
            .filter_map(|network| network.parse().ok())
            .collect();
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", HeaderValue::from_static(value));
        }
        let peer = peer.parse().unwrap_or(IpAddr::from([0, 0, 0, 0]));
        client_ip(peer, &headers, &trusted).to_string()
    }

    #[test]
    fn strangers_are_not_believed() {
        assert_eq!(resolve("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
    }

    #[test]
    fn the_rightmost_untrusted_hop_is_the_client() {
        assert_eq!(
            resolve("10.0.0.1", &["203.0.113.9, 198.51.100.7, 10.1.1.1"]),
            "198.51.100.7"
        );
        assert_eq!(
            resolve("10.0.0.1", &["203.0.113.9", "198.51.100.7, 10.1.1.1"]),
            "198.51.100.7"
        );
    }

    #[test]
    fn ports_brackets_and_mapped_addresses_are_understood() {
        assert_eq!(resolve("10.0.0.1", &["198.51.100.7:4711"]), "198.51.100.7");
        assert_eq!(resolve("::1", &["[2001:db8::7]:80"]), "2001:db8::7");
        assert_eq!(resolve("::1", &["[2001:db8::7]"]), "2001:db8::7");
        assert_eq!(
            resolve("::ffff:10.0.0.1", &["198.51.100.7"]),
            "198.51.100.7"
        );
    }

    #[test]
    fn garbage_ends_the_search() {
        assert_eq!(
            resolve("10.0.0.1", &["203.0.113.9, unknown, 10.2.2.2"]),
            "10.2.2.2"
        );
        assert_eq!(resolve("10.0.0.1", &[""]), "10.0.0.1");
    }

    #[test]
    fn without_a_stranger_the_farthest_proxy_is_the_client() {
        assert_eq!(resolve("10.0.0.1", &["10.9.9.9, 10.1.1.1"]), "10.9.9.9");
    }
}
