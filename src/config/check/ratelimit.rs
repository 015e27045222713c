//! Checks `ratelimit`, and what routes say of it.

use std::collections::HashMap;
use std::sync::Arc;

use super::Checker;
use super::header::header_name;
use crate::config::file::{self, RouteLimits};
use crate::config::model::{
    AuthPolicy, Cost, FailureMode, KeyOf, KeyPart, MAX_WINDOWS, Mode, RateHeaders, RateLimits,
    RatePolicy, RouteLimit, Scope, Tiers, Told, Window,
};
use crate::config::pattern::PathPattern;
use crate::config::problem::{Invalid, quote, suggestion};
use crate::config::scalar::{List, Rate};
use crate::config::tree::Path;

/// What routes need to know of the policies.
pub(super) struct Policies {
    indexes: HashMap<String, usize>,
    /// What each counts by; `None` is one that is not sound.
    keys: Vec<Option<Vec<KeyPart>>>,
    /// The greatest cost that each of them can ever let through.
    most: Vec<u64>,
    /// The policies of routes that say nothing; `None` is not sound.
    default: Option<Vec<RouteLimit>>,
    enabled: bool,
}

/// Says that nothing is limited.
const NONE: &str = "none";
/// Counts all requests as one.
const GLOBAL: &str = "global";

impl Checker<'_> {
    /// Checks `ratelimit`.
    pub(super) fn rate_limits(
        &mut self,
        written: &file::RateLimits,
        has_redis: bool,
    ) -> (Option<RateLimits>, Policies) {
        let root = Path::Root;
        let at = root.key("ratelimit");
        let list = at.key("policies");
        let mut policies = Vec::new();
        let mut indexes = HashMap::new();
        for (name, policy) in &written.policies {
            let at = list.key(name);
            indexes.insert(name.clone(), policies.len());
            let sound = self.accept(&at, policy_name(name));
            let cost = u64::from(policy.cost);
            let policy = self.rate_policy(name, policy, written, has_redis, &at);
            let most = policy.as_ref().map_or(u64::MAX, greatest_cost);
            self.can_be_paid(cost, most, &at);
            policies.push(policy.filter(|_| sound.is_some()));
        }
        let mut known = Policies {
            indexes,
            keys: policies
                .iter()
                .map(|policy| policy.as_ref().map(|policy| policy.key.clone()))
                .collect(),
            most: policies
                .iter()
                .map(|policy| policy.as_ref().map_or(u64::MAX, greatest_cost))
                .collect(),
            default: None,
            enabled: written.enabled,
        };
        known.default = self.named_limits(&written.default, &known, &at.key("default"));
        let limits = policies.into_iter().collect::<Option<Vec<_>>>();
        let limits = limits.map(|policies| RateLimits {
            policies: if written.enabled {
                policies
            } else {
                Vec::new()
            },
            headers: RateHeaders {
                standard: told(written.headers.ratelimit),
                x_ratelimit: told(written.headers.x_ratelimit),
            },
            timeout: written.timeout.0,
            required: written.required,
        });
        (limits, known)
    }

    fn rate_policy(
        &mut self,
        name: &str,
        written: &file::RatePolicy,
        all: &file::RateLimits,
        has_redis: bool,
        at: &Path<'_>,
    ) -> Option<RatePolicy> {
        let key = self.rate_key(written, &at.key("key"));
        let exempt = key
            .as_deref()
            .and_then(|key| self.exempt(&written.exempt, key, &at.key("exempt")));
        let windows = self.windows(&written.limit, written.burst, at, "limit");
        let tiers = match &written.tiers {
            Some(tiers) => self
                .tiers(tiers, windows.as_deref(), &at.key("tiers"))
                .map(Some),
            None => Some(None),
        };
        let scope = self.scope(written, has_redis, at);
        let response_header = match &written.cost_header {
            Some(name) => self
                .accept(&at.key("cost_header"), header_name(name))
                .map(Some),
            None => Some(None),
        };
        if written.cost == 0 && written.cost_header.is_some() {
            let what = "is 0 beside `cost_header`, and would refuse nothing, expected at least 1: what \
                        a response says takes its place";
            self.refuse(&at.key("cost"), what);
        }
        let mode = written.failure_mode.unwrap_or(all.failure_mode);
        Some(RatePolicy {
            name: name.into(),
            key: key?,
            windows: windows?,
            tiers: tiers?,
            scope: scope?,
            cost: Cost {
                request: u64::from(written.cost),
                response_header: response_header?,
            },
            failure_mode: match mode {
                file::FailureMode::Local => FailureMode::Local,
                file::FailureMode::Open => FailureMode::Open,
                file::FailureMode::Closed => FailureMode::Closed,
            },
            dry_run: written.dry_run,
            exempt: exempt?,
            max_keys: written.max_keys as usize,
        })
    }

    fn scope(
        &mut self,
        written: &file::RatePolicy,
        has_redis: bool,
        at: &Path<'_>,
    ) -> Option<Scope> {
        if written.scope == file::Scope::Shared {
            if !has_redis {
                let what = "is `shared`, which needs the key `redis` at the top";
                self.refuse(&at.key("scope"), what);
                return None;
            }
            return Some(Scope::Shared(match written.mode.unwrap_or_default() {
                file::Mode::Precise => Mode::Precise,
                file::Mode::Fast => Mode::Fast,
            }));
        }
        let mut is_sound = true;
        for (key, is_there) in [
            ("mode", written.mode.is_some()),
            ("failure_mode", written.failure_mode.is_some()),
        ] {
            if is_there {
                self.refuse(&at.key(key), "has no effect without `scope: shared`");
                is_sound = false;
            }
        }
        is_sound.then_some(Scope::Node)
    }

    fn rate_key(&mut self, written: &file::RatePolicy, at: &Path<'_>) -> Option<Vec<KeyPart>> {
        let parts: Vec<&str> = written.key.iter().collect();
        if parts.is_empty() && self.is_whole(at) {
            self.refuse(
                at,
                "is empty, expected `global` to count all requests as one",
            );
        }
        if parts == [GLOBAL] {
            return Some(Vec::new());
        }
        let mut key = Vec::new();
        for part in parts {
            let part = self.accept(at, key_part(part, written.ipv6_prefix))?;
            if key.contains(&part) {
                self.refuse(at, "has a part twice, expected it once");
                return None;
            }
            key.push(part);
        }
        (!key.is_empty()).then_some(key)
    }

    fn windows(
        &mut self,
        written: &file::Windows,
        burst: Option<u64>,
        at: &Path<'_>,
        key: &str,
    ) -> Option<Arc<[Window]>> {
        let list = match written {
            file::Windows::One(rate) => return Some([window(rate, burst)].into()),
            file::Windows::Many(list) => list,
        };
        let at_list = at.key(key);
        if list.is_empty() || list.0.len() > MAX_WINDOWS {
            let what = format!("has {} limits, expected 1 to {MAX_WINDOWS}", list.0.len());
            self.refuse(&at_list, what);
            return None;
        }
        if burst.is_some() {
            let what = "stands beside several limits, expected it beside one of them, as in \
                        `{ limit: 100/s, burst: 200 }`";
            self.refuse(&at.key("burst"), what);
            return None;
        }
        let windows: Vec<Window> = list
            .iter()
            .map(|(_, one)| match one {
                file::Window::Rate(rate) => window(rate, None),
                file::Window::Burst(one) => window(&one.limit, one.burst),
            })
            .collect();
        // Items that were refused are problems already.
        (windows.len() == list.0.len()).then(|| windows.into())
    }

    fn tiers(
        &mut self,
        written: &file::Tiers,
        windows: Option<&[Window]>,
        at: &Path<'_>,
    ) -> Option<Tiers> {
        let claim = self.claim(&written.claim, &at.key("claim"));
        let list = at.key("limits");
        let mut limits = Vec::new();
        for (value, one) in &written.limits {
            let tier = self.windows(one, None, &list, value);
            let count = windows.map(<[Window]>::len);
            if let (Some(tier), Some(count)) = (&tier, count)
                && tier.len() != count
            {
                let what = format!(
                    "has {} limits, expected {count} as the policy has",
                    tier.len()
                );
                self.refuse(&list.key(value), what);
            }
            limits.push(tier.map(|tier| (value.clone(), tier)));
        }
        if limits.is_empty() && self.is_whole(&list) {
            self.refuse(&list, "is empty, expected at least one");
        }
        Some(Tiers {
            claim: claim?,
            limits: limits.into_iter().collect::<Option<_>>()?,
        })
    }

    /// What a route is limited by; `None`: it is not sound.
    pub(super) fn route_limits(
        &mut self,
        written: Option<&RouteLimits>,
        policies: &Policies,
        paths: Option<&[PathPattern]>,
        auth: Option<&AuthPolicy>,
        route: &Path<'_>,
    ) -> Option<Vec<RouteLimit>> {
        let at = route.key("ratelimit");
        let limits = match written {
            None => policies.default.clone(),
            Some(RouteLimits::Name(name)) if name == NONE => Some(Vec::new()),
            Some(RouteLimits::Name(name)) => self
                .rate_policy_index(name, policies, &at)
                .map(|policy| vec![RouteLimit { policy, cost: None }]),
            Some(RouteLimits::Many(list)) => self.named_limits(list, policies, &at),
        }?;
        if paths.is_some() {
            self.fits_route(&limits, policies, paths, auth, route);
        }
        Some(if policies.enabled { limits } else { Vec::new() })
    }

    fn named_limits(
        &mut self,
        written: &List<file::RouteLimit>,
        policies: &Policies,
        at: &Path<'_>,
    ) -> Option<Vec<RouteLimit>> {
        let mut limits: Vec<Option<RouteLimit>> = Vec::new();
        for (index, one) in written.iter() {
            let item = at.item(index);
            let (name, cost, at) = match one {
                file::RouteLimit::Name(name) => (name, None, &item),
                file::RouteLimit::Cost(one) => {
                    (&one.policy, Some(u64::from(one.cost)), &item.key("policy"))
                }
            };
            let policy = self.rate_policy_index(name, policies, at);
            let is_there = |known: &Option<RouteLimit>| known.map(|one| one.policy) == policy;
            if policy.is_some() && limits.iter().any(is_there) {
                self.refuse(at, "is there twice, expected it once");
            }
            if let (Some(cost), Some(most)) = (cost, policy.and_then(|at| policies.most.get(at))) {
                self.can_be_paid(cost, *most, &item);
            }
            limits.push(policy.map(|policy| RouteLimit { policy, cost }));
        }
        limits.into_iter().collect()
    }

    fn can_be_paid(&mut self, cost: u64, most: u64, at: &Path<'_>) {
        if cost > most {
            let what = format!(
                "is {cost}, which is never let through, expected at most the burst, {most}"
            );
            self.refuse(&at.key("cost"), what);
        }
    }

    fn rate_policy_index(
        &mut self,
        name: &str,
        policies: &Policies,
        at: &Path<'_>,
    ) -> Option<usize> {
        if let Some(index) = policies.indexes.get(name) {
            return Some(*index);
        }
        let root = Path::Root;
        if !self.is_whole(&root.key("ratelimit")) {
            // It may be the name of what was refused.
            return None;
        }
        let shown = self.shown(at, name);
        let names = || policies.indexes.keys().map(String::as_str);
        let near = suggestion(name, names());
        let mut known: Vec<String> = names().map(quote).collect();
        known.sort();
        let hint = match (known.is_empty(), near.is_empty()) {
            (true, _) => "expected one, of which there is none".to_owned(),
            (_, true) => format!("expected one of {}", known.join(", ")),
            _ => near,
        };
        let what = format!("{shown} is no policy below `ratelimit.policies`, {hint}");
        self.refuse(at, what);
        None
    }

    /// Refuses policies that count by what the route does not have, and warns of those that it has
    /// only where somebody proves who calls.
    fn fits_route(
        &mut self,
        limits: &[RouteLimit],
        policies: &Policies,
        paths: Option<&[PathPattern]>,
        auth: Option<&AuthPolicy>,
        route: &Path<'_>,
    ) {
        let at = route.key("ratelimit");
        for limit in limits {
            let Some(Some(key)) = policies.keys.get(limit.policy) else {
                continue;
            };
            let missing = |part: &KeyPart| match &part.of {
                KeyOf::PathParam(name) => {
                    let has = |path: &PathPattern| path.has_parameter(name);
                    !paths.is_some_and(|paths| paths.iter().all(has))
                }
                _ => false,
            };
            let named = policies
                .indexes
                .iter()
                .find(|(_, index)| **index == limit.policy);
            let name = quote(named.map_or("", |(name, _)| name));
            if key.iter().any(missing) {
                let what = format!(
                    "has {name}, which counts by a parameter that is not in every path of the route"
                );
                self.refuse(&at, what);
            } else if auth.is_none() && key.iter().any(KeyPart::needs_identity) {
                let what =
                    "counts by who calls, but nobody is asked: clients' addresses are counted";
                self.warnings.push(format!("{at}: {name} {what}"));
            }
        }
    }
}

fn told(written: file::Told) -> Told {
    match written {
        file::Told::Always => Told::Always,
        file::Told::Refusals => Told::Refusals,
        file::Told::Never => Told::Never,
    }
}

/// The smallest burst of all windows.
fn greatest_cost(policy: &RatePolicy) -> u64 {
    let tiers = policy.tiers.iter().flat_map(|tiers| &tiers.limits);
    let tiers = tiers.flat_map(|(_, windows)| windows.iter());
    let bursts = policy.windows.iter().chain(tiers);
    bursts.map(|window| window.burst).min().unwrap_or(u64::MAX)
}

fn window(rate: &Rate, burst: Option<u64>) -> Window {
    let (limit, period) = rate.0;
    Window {
        limit,
        period,
        burst: burst.unwrap_or(limit),
    }
}

/// A name that can stand in a header field, in a key of Redis and in a label.
fn policy_name(name: &str) -> Result<(), Invalid> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if name != NONE && !name.is_empty() && name.len() <= 64 && name.bytes().all(word) {
        return Ok(());
    }
    Err(Invalid::new(
        format!("{} is no name for a policy", quote(name)),
        "at most 64 letters, digits, `_`, `-` and `.`, and not `none`",
    ))
}

/// A part of what requests are counted by.
pub(super) fn key_part(text: &str, ipv6_prefix: u8) -> Result<KeyPart, Invalid> {
    let of = match text.split_once(':') {
        None => match text {
            "client_ip" => Some(KeyOf::ClientIp),
            "subject" => Some(KeyOf::Identity),
            "api_key" => Some(KeyOf::ApiKey),
            "route" => Some(KeyOf::Route),
            _ => None,
        },
        Some(("header", name)) => Some(KeyOf::Header(header_name(name)?)),
        Some(("cookie", name)) if !name.is_empty() => Some(KeyOf::Cookie(name.to_owned())),
        Some(("path", name)) if !name.is_empty() => Some(KeyOf::PathParam(name.to_owned())),
        Some(("claim", name)) if !name.is_empty() => Some(KeyOf::Claim(name.to_owned())),
        Some(_) => None,
    };
    let part = of.map(|of| KeyPart { of, ipv6_prefix });
    part.ok_or_else(|| {
        Invalid::new(
            format!("{} is nothing that requests are counted by", quote(text)),
            "`client_ip`, `subject`, `api_key`, `route`, `header:NAME`, `cookie:NAME`, \
             `path:PARAMETER`, `claim:PATH`, or `global` alone",
        )
    })
}
