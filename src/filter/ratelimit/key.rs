//! What requests are counted by: a number for this instance, a name for all of them.

use std::borrow::Cow;
use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};
use http::HeaderMap;
use ipnet::{Ipv4Net, Ipv6Net};
use serde_json::Value;
use siphasher::sip::SipHasher13;

use crate::config::model::{KeyOf, KeyPart, KeyValue};
use crate::filter::auth::Identity;
use crate::filter::auth::credential;
use crate::metrics::AuthMethod;

/// The longest part that a name has as it is; longer ones are hashed.
const MAX_PART: usize = 128;

/// Between the parts of a name.
const SEPARATOR: char = '|';

/// The kind of an address that stands for what is missing.
const MISSING: u8 = 9;

/// The kind of a tier's name.
const TIER: u8 = 10;

/// What of a request it can be counted by. Less than [`Facts`](crate::filter::headers::Facts), and so
/// without the price of what templates may refer to.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    /// The client's address, behind trusted proxies.
    pub client_ip: IpAddr,
    /// The route's name.
    pub route: &'a str,
    /// Who calls, once that is proved.
    pub identity: Option<&'a Identity>,
    /// The request's header.
    pub headers: &'a HeaderMap,
    /// Looks a path parameter up by name.
    pub path_param: &'a (dyn Fn(&str) -> Option<&'a str> + Sync),
}

/// The value of one part.
enum Found<'a> {
    /// An address, or the network that stands for one client.
    Client(IpAddr, u8),
    /// What may be read by operators.
    Plain(Cow<'a, str>),
    /// Who calls: the scheme and the subject.
    Subject(&'a str, &'a str),
    /// What may be a secret, such as a cookie.
    Private(&'a [u8]),
}

/// What makes the numbers of keys: SipHash-1-3 under a key of its own.
#[derive(Clone, Copy)]
pub struct Seed(u64, u64);

impl Default for Seed {
    /// One that nobody else has.
    fn default() -> Self {
        let state = RandomState::new();
        Self(state.hash_one(0), state.hash_one(1))
    }
}

impl Seed {
    /// The one that all instances have, for what they are to agree on. Anybody can foresee its numbers.
    pub const SHARED: Self = Self(0, 0);

    /// The number of these bytes behind others. Whole values only: `kind` says what they are, and so no two
    /// series of values are the same bytes.
    pub fn hash(self, before: u64, kind: u8, bytes: &[u8]) -> u64 {
        SipHasher13::new_with_keys(self.0 ^ before, self.1 ^ u64::from(kind)).hash(bytes)
    }
}

/// The number that a request's key has here. Nobody outside can foresee it, so nobody can choose keys
/// that meet.
pub fn hash(parts: &[KeyPart], caller: &Caller<'_>, seed: Seed) -> u64 {
    parts
        .iter()
        .fold(0, |number, part| match find(part, caller) {
            Some(found) => found.hash(seed, number, found.kind()),
            None => client(caller.client_ip, part).hash(seed, number, MISSING),
        })
}

/// The number of a key in a tier. It has buckets of its own there: what is owed under other limits says little about
/// these.
pub fn in_tier(key: u64, tier: &str, seed: Seed) -> u64 {
    seed.hash(key, TIER, tier.as_bytes())
}

/// The number that requests have whose key has these values.
pub fn hash_of(parts: &[KeyPart], values: &[KeyValue], seed: Seed) -> u64 {
    let parts = parts.iter().zip(values);
    parts.fold(0, |number, (part, value)| {
        let found = match (value, &part.of) {
            (KeyValue::Client(address), _) => client(*address, part),
            (KeyValue::Subject(scheme, subject), _) => Found::Subject(scheme, subject),
            (KeyValue::Text(text), KeyOf::Header(_) | KeyOf::Cookie(_)) => {
                Found::Private(text.as_bytes())
            }
            (KeyValue::Text(text), _) => Found::Plain(text.into()),
        };
        found.hash(seed, number, found.kind())
    })
}

/// The number of what the request has of this part, behind others; `None`: it has none.
pub fn number(part: &KeyPart, caller: &Caller<'_>, seed: Seed, before: u64) -> Option<u64> {
    let found = find(part, caller)?;
    Some(found.hash(seed, before, found.kind()))
}

/// The name of a request's key, the same on every instance: without what may be a secret, and of
/// visible ASCII.
pub fn name(parts: &[KeyPart], caller: &Caller<'_>) -> String {
    let mut name = String::new();
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            name.push(SEPARATOR);
        }
        match find(part, caller) {
            Some(found) => found.write(&mut name),
            None => {
                // Never taken for what the part is about.
                name.push('~');
                client(caller.client_ip, part).write(&mut name);
            }
        }
    }
    if name.is_empty() {
        name.push_str("all");
    }
    name
}

/// What the request has of this part.
fn find<'a>(part: &KeyPart, caller: &Caller<'a>) -> Option<Found<'a>> {
    match &part.of {
        KeyOf::ClientIp => Some(client(caller.client_ip, part)),
        KeyOf::Identity => {
            let identity = caller.identity?;
            Some(Found::Subject(&identity.scheme, identity.subject()))
        }
        KeyOf::ApiKey => {
            let identity = caller.identity?;
            let is_key = identity.method == AuthMethod::ApiKey;
            is_key.then(|| Found::Subject(&identity.scheme, identity.subject()))
        }
        KeyOf::Header(name) => Some(Found::Private(caller.headers.get(name)?.as_bytes())),
        KeyOf::Cookie(name) => {
            let value = credential::of_cookie(caller.headers, name).ok()??;
            Some(Found::Private(value.as_bytes()))
        }
        KeyOf::PathParam(name) => Some(Found::Plain((caller.path_param)(name)?.into())),
        KeyOf::Route => Some(Found::Plain(caller.route.into())),
        KeyOf::Claim(path) => claim(path, caller).map(Found::Plain),
    }
}

/// A claim as a text, if it is a single value.
pub fn claim<'a>(path: &str, caller: &Caller<'a>) -> Option<Cow<'a, str>> {
    match caller.identity?.claim(path)? {
        Value::String(text) => Some(text.as_str().into()),
        Value::Number(number) => Some(number.to_string().into()),
        Value::Bool(value) => Some(value.to_string().into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn client<'a>(address: IpAddr, part: &KeyPart) -> Found<'a> {
    Found::Client(address.to_canonical(), part.ipv6_prefix)
}

impl Found<'_> {
    fn kind(&self) -> u8 {
        match self {
            Self::Client(..) => 1,
            Self::Plain(_) => 2,
            Self::Subject(..) => 3,
            Self::Private(_) => 4,
        }
    }

    fn hash(&self, seed: Seed, before: u64, kind: u8) -> u64 {
        match self {
            Self::Client(IpAddr::V4(address), _) => seed.hash(before, kind, &address.octets()),
            Self::Client(IpAddr::V6(address), prefix) => {
                let mask = u128::MAX << (128 - u32::from((*prefix).clamp(1, 128)));
                let network = address.to_bits() & mask;
                seed.hash(before, kind, &network.to_be_bytes())
            }
            Self::Plain(text) => seed.hash(before, kind, text.as_bytes()),
            Self::Subject(scheme, subject) => {
                let of_scheme = seed.hash(before, kind, scheme.as_bytes());
                seed.hash(of_scheme, kind, subject.as_bytes())
            }
            Self::Private(bytes) => seed.hash(before, kind, bytes),
        }
    }

    fn write(&self, name: &mut String) {
        // Writing to a string cannot fail.
        let _ = match self {
            Self::Client(IpAddr::V4(address), _) => {
                write!(name, "{}", Ipv4Net::from(*address).addr())
            }
            Self::Client(IpAddr::V6(address), prefix) => match Ipv6Net::new(*address, *prefix) {
                Ok(network) if *prefix < 128 => write!(name, "{}", network.trunc()),
                _ => write!(name, "{address}"),
            },
            Self::Plain(text) => write!(name, "{}", Readable(text)),
            Self::Subject(scheme, subject) => {
                write!(name, "{}:{}", Readable(scheme), Readable(subject))
            }
            Self::Private(bytes) => write!(name, "{}", Digest(bytes)),
        };
    }
}

/// A text as a name has it.
struct Readable<'a>(&'a str);

impl std::fmt::Display for Readable<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.len() > MAX_PART {
            return Digest(self.0.as_bytes()).fmt(f);
        }
        for byte in self.0.bytes() {
            match byte {
                b'%' | b'|' | b'~' | b'#' | b'{' | b'}' => write!(f, "%{byte:02X}")?,
                0x21..=0x7e => f.write_char(char::from(byte))?,
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

/// 128 bits of the SHA-256 of something.
struct Digest<'a>(&'a [u8]);

impl std::fmt::Display for Digest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_char('#')?;
        for byte in digest(&SHA256, self.0).as_ref().iter().take(16) {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;
    use crate::filter::fixture::{self, Request};

    fn facts(request: &Request) -> Caller<'_> {
        let facts = fixture::facts(request);
        Caller {
            client_ip: facts.client_ip,
            route: facts.route,
            identity: facts.identity,
            headers: facts.headers,
            path_param: facts.path_param,
        }
    }

    const CLIENT: KeyPart = part(KeyOf::ClientIp);

    const fn part(of: KeyOf) -> KeyPart {
        KeyPart {
            of,
            ipv6_prefix: 64,
        }
    }

    fn header(name: &'static str) -> KeyPart {
        part(KeyOf::Header(http::HeaderName::from_static(name)))
    }

    fn named(parts: &[KeyPart], request: &Request) -> String {
        name(parts, &facts(request))
    }

    #[test]
    fn names_can_be_typed_and_hold_no_secret() {
        let request = Request::get("/")
            .header("x-tenant", "hunter2")
            .header("cookie", "a=b; sid=hunter2")
            .param("id", "a b|c%~\u{e9}");
        assert_eq!(named(&[CLIENT], &request), "192.0.2.1");
        assert_eq!(named(&[], &request), "all");
        assert_eq!(
            named(&[part(KeyOf::Route), CLIENT], &request),
            "users|192.0.2.1"
        );
        let id = part(KeyOf::PathParam("id".to_owned()));
        assert_eq!(named(&[id], &request), "a%20b%7Cc%25%7E%C3%A9");
        let digest = named(&[header("x-tenant")], &request);
        assert!(digest.starts_with('#') && digest.len() == 33, "{digest}");
        let cookie = part(KeyOf::Cookie("sid".to_owned()));
        assert_eq!(named(&[cookie], &request), digest);
    }

    #[test]
    fn the_client_takes_the_place_of_what_is_missing() {
        let request = Request::get("/");
        for of in [
            KeyOf::Header(http::HeaderName::from_static("x-tenant")),
            KeyOf::Cookie("sid".to_owned()),
            KeyOf::PathParam("id".to_owned()),
            KeyOf::Claim("tenant".to_owned()),
            KeyOf::Identity,
            KeyOf::ApiKey,
        ] {
            assert_eq!(named(&[part(of)], &request), "~192.0.2.1");
        }
    }

    #[test]
    fn networks_of_version_6_are_one_client() {
        let request = Request::get("/");
        let seed = Seed::default();
        let of_part = |of: KeyOf, address: &str, ipv6_prefix| {
            let facts = Caller {
                client_ip: address.parse().unwrap(),
                ..facts(&request)
            };
            let parts = [KeyPart { of, ipv6_prefix }];
            (name(&parts, &facts), hash(&parts, &facts, seed))
        };
        let of = |address: &str, prefix| of_part(KeyOf::ClientIp, address, prefix);
        assert_eq!(of("2001:db8::1", 64), of("2001:db8::2:0:0:1", 64));
        assert_eq!(of("2001:db8::1", 64).0, "2001:db8::/64");
        assert_ne!(of("2001:db8::1", 128), of("2001:db8::2", 128));
        assert_eq!(of("2001:db8::1", 128).0, "2001:db8::1");
        assert_eq!(of("::ffff:192.0.2.7", 64), of("192.0.2.7", 64));
        // Also where they stand in for what is missing.
        let missing = |address: &str| of_part(KeyOf::Identity, address, 48);
        assert_eq!(missing("2001:db8:0:1::1"), missing("2001:db8:0:2::1"));
        assert_eq!(missing("2001:db8:0:1::1").0, "~2001:db8::/48");
    }

    #[test]
    fn what_is_written_has_the_number_of_what_is_requested() {
        let seed = Seed::default();
        let request = Request::get("/")
            .header("x-a", "192.0.2.1")
            .param("id", "a|b");
        let text = |text: &str| KeyValue::Text(text.to_owned());
        let client = KeyValue::Client("::ffff:192.0.2.1".parse().unwrap());
        let id = part(KeyOf::PathParam("id".to_owned()));
        for (parts, values) in [
            (vec![CLIENT], vec![client.clone()]),
            (vec![header("x-a")], vec![text("192.0.2.1")]),
            (
                vec![part(KeyOf::Route), CLIENT, id],
                vec![text("users"), client.clone(), text("a|b")],
            ),
        ] {
            let requested = hash(&parts, &facts(&request), seed);
            assert_eq!(hash_of(&parts, &values, seed), requested, "{parts:?}");
        }
        // A client without the header is not who sends an address in it.
        let without = hash(&[header("x-b")], &facts(&request), seed);
        assert_ne!(
            hash_of(&[header("x-b")], &[text("192.0.2.1")], seed),
            without
        );
    }

    #[test]
    fn different_keys_have_different_numbers() {
        let seed = Seed::default();
        let request = |a: &str, b: &str| Request::get("/").header("x-a", a).header("x-b", b);
        let of = |request: &Request| hash(&[header("x-a"), header("x-b")], &facts(request), seed);
        assert_eq!(of(&request("ab", "c")), of(&request("ab", "c")));
        assert_ne!(of(&request("ab", "c")), of(&request("a", "bc")));
        // Whoever sends an address as a header does not get that client's key.
        let sent = Request::get("/").header("x-a", "192.0.2.1");
        let missing = Request::get("/");
        let one = |request: &Request| hash(&[header("x-a")], &facts(request), seed);
        assert_ne!(one(&sent), one(&missing));
    }
}
