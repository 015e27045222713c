//! Checks who gets a request: `balance`, `slow_start`, `failover` and `zones` of an upstream.

use std::sync::Arc;
use std::time::Duration;

use super::Checker;
use super::ratelimit::key_part;
use super::reach;
use crate::config::file::{self, Policy};
use crate::config::model::{
    Balance, Failover, HashBalance, HashKey, KeyOf, Route, SlowStart, Upstream, Zones,
};
use crate::config::problem::{Invalid, quote};
use crate::config::tree::Path;

const DECAY: Duration = Duration::from_secs(10);
/// What the authors of bounded loads recommend (Mirrokni, Thorup, Zadimoghaddam 2016).
const LOAD_FACTOR: f64 = 1.25;
const IPV6_PREFIX: u8 = 64;

impl Checker<'_> {
    pub(super) fn balance(&mut self, written: &file::Balance, at: &Path<'_>) -> Option<Balance> {
        let settings = match written {
            file::Balance::Policy(Policy::Hash) => {
                self.refuse(
                    at,
                    "`hash` needs a key, expected one as in `{ policy: hash, key: client_ip }`",
                );
                return None;
            }
            file::Balance::Policy(policy) => return Some(plain(*policy, DECAY)),
            file::Balance::Settings(settings) => settings,
        };
        self.settings_fit(settings, at);
        let decay = settings.decay.as_ref().map_or(DECAY, |decay| decay.0);
        if settings.policy != Policy::Hash {
            return Some(plain(settings.policy, decay));
        }
        let fallback = settings.fallback.unwrap_or_default();
        if fallback == Policy::Hash {
            let key = at.key("fallback");
            self.refuse(&key, "is `hash`, expected another policy");
        }
        Some(Balance::Hash(HashBalance {
            key: self.hash_key(settings, &at.key("key"))?,
            load_factor: settings
                .load_factor
                .as_ref()
                .map_or(LOAD_FACTOR, |one| one.0),
            fallback: Box::new(plain(fallback, DECAY)),
        }))
    }

    /// Settings are of one policy.
    fn settings_fit(&mut self, settings: &file::BalanceSettings, at: &Path<'_>) {
        let is_hash = settings.policy == Policy::Hash;
        let of_hash = [
            ("key", settings.key.iter().next().is_some()),
            ("load_factor", settings.load_factor.is_some()),
            ("fallback", settings.fallback.is_some()),
            ("ipv6_prefix", settings.ipv6_prefix.is_some()),
        ];
        for (key, is_there) in of_hash {
            if is_there && !is_hash {
                self.refuse(&at.key(key), "has no effect without `policy: hash`");
            }
        }
        if settings.decay.is_some() && settings.policy != Policy::PeakEwma {
            let what = "has no effect without `policy: peak_ewma`";
            self.refuse(&at.key("decay"), what);
        }
    }

    fn hash_key(
        &mut self,
        settings: &file::BalanceSettings,
        at: &Path<'_>,
    ) -> Option<Vec<HashKey>> {
        let prefix = settings.ipv6_prefix.unwrap_or(IPV6_PREFIX);
        let mut key = Vec::new();
        for text in settings.key.iter() {
            let part = match text {
                "path" => HashKey::Path,
                "route" | "global" => {
                    let what = format!("{} is the same for all requests", quote(text));
                    let invalid = Invalid::new(what, "`client_ip`, `path`, `header:NAME` or so");
                    self.accept(at, Err::<(), _>(invalid));
                    return None;
                }
                text => HashKey::Part(self.accept(at, key_part(text, prefix))?),
            };
            if key.contains(&part) {
                self.refuse(at, "has a part twice, expected it once");
                return None;
            }
            key.push(part);
        }
        if key.is_empty() && self.is_whole(at) {
            self.refuse(at, "is missing, expected such as `client_ip`");
        }
        (!key.is_empty()).then_some(key)
    }

    /// Checks that what upstreams hash by is there in requests of a route that leads to them.
    pub(super) fn hash_keys_found(&mut self, upstreams: &[Upstream], routes: &[Route]) {
        let parts = |upstream| vec![false; hash_parts(upstream).len()];
        let mut found: Vec<Option<Vec<bool>>> = vec![None; upstreams.len()];
        for route in routes {
            let copies = route.mirror.as_ref().map(|mirror| mirror.upstream);
            for at in reach::upstreams(route, upstreams).into_iter().chain(copies) {
                let upstream = &upstreams[at];
                let found = found[at].get_or_insert_with(|| parts(upstream));
                for (part, is_found) in hash_parts(upstream).iter().zip(found) {
                    *is_found |= has_part(route, part);
                }
            }
        }
        let root = Path::Root;
        let list = root.key("upstreams");
        for (upstream, found) in upstreams.iter().zip(found) {
            // What no route leads to is not told of it.
            let known = hash_parts(upstream).iter().zip(found.into_iter().flatten());
            let item = list.key(&upstream.name);
            let balance = item.key("balance");
            for (part, _) in known.filter(|(_, is_found)| !is_found) {
                self.hash_part_missing(part, &balance.key("key"));
            }
        }
    }

    fn hash_part_missing(&mut self, part: &HashKey, at: &Path<'_>) {
        if let HashKey::Part(part) = part
            && let KeyOf::PathParam(name) = &part.of
        {
            let detail = format!("{} is in no path of a route that leads here", quote(name));
            let invalid = Invalid::new(detail, "a parameter of one");
            self.accept(at, Err::<(), _>(invalid));
        } else {
            let what =
                "goes by who calls, but no route that leads here asks: the `fallback` decides";
            self.warnings.push(format!("{at}: {what}"));
        }
    }

    pub(super) fn slow_start(&mut self, written: &file::SlowStart, at: &Path<'_>) -> SlowStart {
        if written.min_weight.0 <= 0.0 {
            let key = at.key("min_weight");
            self.refuse(&key, "is 0, which never begins, expected more, such as 10%");
        }
        SlowStart {
            duration: written.duration.0,
            min_weight: written.min_weight.0,
        }
    }

    pub(super) fn failover(&mut self, written: &file::Failover, at: &Path<'_>) -> Failover {
        let (threshold, failback) = (written.threshold.0, written.failback.0);
        let keys = ["threshold", "failback"].map(|key| at.key(key));
        if failback < threshold && keys.iter().any(|key| self.is_written(key)) {
            self.refuse(
                &keys[1],
                "is below `threshold`, expected at least that: groups would change all the time",
            );
        }
        Failover {
            threshold,
            failback,
        }
    }

    pub(super) fn zones(&mut self, written: &file::Zones, at: &Path<'_>) -> Zones {
        if written.prefer_local && written.min_healthy.0 <= 0.0 {
            let key = at.key("min_healthy");
            self.refuse(&key, "is 0, expected more, such as 70%");
        }
        let local = self.zone.as_ref().filter(|_| written.prefer_local);
        Zones {
            local: local.cloned(),
            min_healthy: written.min_healthy.0,
        }
    }

    /// A zone, of the gateway or of a backend.
    pub(super) fn zone(&mut self, written: Option<&str>, at: &Path<'_>) -> Option<Arc<str>> {
        let zone = written?;
        if zone.is_empty() || zone.len() > 128 || !zone.bytes().all(|byte| byte.is_ascii_graphic())
        {
            let shown = self.shown(at, zone);
            let what = format!("{shown} is no zone, expected 1 to 128 visible ASCII characters");
            self.refuse(at, what);
        }
        Some(zone.into())
    }
}

/// What an upstream hashes by, if it does.
fn hash_parts(upstream: &Upstream) -> &[HashKey] {
    match &upstream.balance {
        Balance::Hash(hash) => &hash.key,
        _ => &[],
    }
}

/// Whether requests of this route can have it.
fn has_part(route: &Route, part: &HashKey) -> bool {
    match part {
        HashKey::Path => true,
        HashKey::Part(part) => match &part.of {
            KeyOf::PathParam(name) => {
                let paths = &route.matcher.paths;
                paths.iter().any(|path| path.has_parameter(name))
            }
            _ => route.auth.is_some() || !part.needs_identity(),
        },
    }
}

/// A policy without a key.
fn plain(policy: Policy, decay: Duration) -> Balance {
    match policy {
        // One without a key is refused.
        Policy::RoundRobin | Policy::Hash => Balance::RoundRobin,
        Policy::LeastRequests => Balance::LeastRequests,
        Policy::PeakEwma => Balance::PeakEwma { decay },
        Policy::Random => Balance::Random,
    }
}
