//! Checks who is exempt from a limit: keys are compared with those of requests part by part, so they have to
//! be of the policy's form.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Checker;
use crate::config::file;
use crate::config::model::{Exempt, KeyOf, KeyPart, KeyValue};
use crate::config::problem::{Invalid, quote};
use crate::config::tree::Path;
use crate::config::units;

/// Between the parts of a key, as in its name in Redis.
const SEPARATOR: char = '|';

impl Checker<'_> {
    /// Who is not limited by a policy that counts by this key.
    pub(super) fn exempt(
        &mut self,
        written: &file::Exempt,
        key: &[KeyPart],
        at: &Path<'_>,
    ) -> Option<Exempt> {
        let list = at.key("keys");
        let mut keys = Vec::new();
        for (index, text) in written.keys.iter() {
            keys.push(self.accept(&list.item(index), values(text, key)));
        }
        let networks = written.networks.iter();
        Some(Exempt {
            networks: networks.map(|(_, network)| network.0).collect(),
            keys: keys.into_iter().collect::<Option<_>>()?,
        })
    }
}

fn values(text: &str, key: &[KeyPart]) -> Result<Vec<KeyValue>, Invalid> {
    if key.is_empty() {
        let what = format!("{} is a key, but all requests have the same", quote(text));
        return Err(Invalid::new(what, "none with the key `global`"));
    }
    // The last may have the character itself.
    let values: Vec<&str> = text.splitn(key.len(), SEPARATOR).collect();
    if values.len() < key.len() {
        let what = format!("{} has too few parts", quote(text));
        let expected = format!(
            "{} with `{SEPARATOR}` between them, as `key` has",
            key.len()
        );
        return Err(Invalid::new(what, expected));
    }
    let parts = key.iter().zip(values);
    parts.map(|(part, text)| value(part, text)).collect()
}

fn value(part: &KeyPart, text: &str) -> Result<KeyValue, Invalid> {
    match &part.of {
        KeyOf::ClientIp => client(text, part.ipv6_prefix).map(KeyValue::Client),
        KeyOf::Identity | KeyOf::ApiKey => {
            let subject = text.split_once(':');
            let subject = subject
                .map(|(scheme, subject)| KeyValue::Subject(scheme.to_owned(), subject.to_owned()));
            subject.ok_or_else(|| {
                let what = format!("{} names no scheme", quote(text));
                Invalid::new(what, "a scheme and a subject such as `main:monitoring`")
            })
        }
        KeyOf::Header(_)
        | KeyOf::Cookie(_)
        | KeyOf::PathParam(_)
        | KeyOf::Claim(_)
        | KeyOf::Route => Ok(KeyValue::Text(text.to_owned())),
    }
}

/// An address, or the network that counts as one client.
fn client(text: &str, ipv6_prefix: u8) -> Result<IpAddr, Invalid> {
    let network = units::network(text)?;
    let is_client = match network {
        IpNet::V4(network) => network.prefix_len() == network.max_prefix_len(),
        IpNet::V6(network) => {
            [ipv6_prefix, network.max_prefix_len()].contains(&network.prefix_len())
        }
    };
    match is_client {
        true => Ok(network.addr()),
        false => {
            let what = format!("{} is not one client", quote(text));
            Err(Invalid::new(what, "an address, or `networks` for several"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: KeyPart = part(KeyOf::ClientIp);

    const fn part(of: KeyOf) -> KeyPart {
        KeyPart {
            of,
            ipv6_prefix: 64,
        }
    }

    #[track_caller]
    fn assert_refused(text: &str, key: &[KeyPart], why: &str) {
        let refused = values(text, key).map_err(|invalid| invalid.to_string());
        assert!(
            matches!(&refused, Err(said) if said.contains(why)),
            "{refused:?}"
        );
    }

    #[test]
    fn addresses_have_one_form_and_the_last_part_may_have_anything() {
        let found = values("2001:DB8:0::1|a|b", &[CLIENT, part(KeyOf::Route)]);
        let client = KeyValue::Client(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]));
        assert_eq!(found, Ok(vec![client, KeyValue::Text("a|b".to_owned())]));
        let network = values("2001:db8::/64", &[CLIENT]);
        assert_eq!(network, values("2001:db8::", &[CLIENT]));
        let subject = values("main:a:b", &[part(KeyOf::Identity)]);
        let expected = KeyValue::Subject("main".to_owned(), "a:b".to_owned());
        assert_eq!(subject, Ok(vec![expected]));
    }

    #[test]
    fn what_no_request_can_have_is_refused() {
        assert_refused("all", &[], "all requests have the same");
        assert_refused(
            "192.0.2.1",
            &[CLIENT, part(KeyOf::Route)],
            "has too few parts",
        );
        assert_refused("monitoring", &[CLIENT], "is not a network");
        for several in ["192.0.2.0/24", "2001:db8::/48"] {
            assert_refused(several, &[CLIENT], "is not one client");
        }
        for of in [KeyOf::Identity, KeyOf::ApiKey] {
            assert_refused("monitoring", &[part(of)], "names no scheme");
        }
    }
}
