//! How much of the traffic each member is to have: by priority group, zone, health and age.
//!
//! All of it comes down to one number for each member, its share, so every policy of `balance` regards
//! it without knowing why it is what it is. Nobody with a share of 0 is ever chosen.

use crate::config::model::{Failover, Zones};

/// What a weight of 1 counts, so that parts of it can be given.
pub(super) const UNIT: u32 = 1024;

/// One member, as it is now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing<'a> {
    /// Its configured weight; 0 takes it out.
    pub weight: u32,
    /// Whether it is on its way out: given nothing, whatever happens.
    pub is_draining: bool,
    /// Whether it is well.
    pub is_up: bool,
    /// The part of its weight that it has, 0.0 to 1.0.
    pub ramp: f64,
    /// Its priority group.
    pub priority: u8,
    /// Where it is.
    pub zone: Option<&'a str>,
}

/// How an upstream weighs.
pub(super) struct Rules<'a> {
    pub panic_threshold: f64,
    pub failover: Failover,
    pub zones: &'a Zones,
}

/// What came of it.
#[derive(Debug, PartialEq)]
pub(super) struct Weighed {
    /// The share of each member, in the order of the members.
    pub shares: Vec<u32>,
    /// The priority group that is used.
    pub priority: u8,
    /// Whether members are used though they are not up.
    pub panics: bool,
}

impl Standing<'_> {
    /// Whether it counts at all.
    fn is_there(&self) -> bool {
        self.weight > 0 && !self.is_draining
    }
}

/// Weighs the members; `active` is the priority group that was used until now.
pub(super) fn weigh(members: &[Standing<'_>], rules: &Rules<'_>, active: u8) -> Weighed {
    let priority = group(members, rules.failover, active);
    let in_group = |member: &Standing<'_>| member.priority == priority;
    let panics = healthy_share(members, in_group).is_some_and(|up| up < rules.panic_threshold);
    let is_in =
        |member: &Standing<'_>| member.is_there() && in_group(member) && (panics || member.is_up);
    let others = match panics {
        true => 1.0,
        false => weight_of_others(members, rules.zones, in_group),
    };
    let is_remote = |member: &Standing<'_>| {
        let local = rules.zones.local.as_deref();
        local.is_some() && member.zone != local
    };
    let share = |member: &Standing<'_>| {
        let far = if is_remote(member) { others } else { 1.0 };
        if !is_in(member) || far <= 0.0 {
            return 0;
        }
        let share = f64::from(member.weight) * f64::from(UNIT) * member.ramp * far;
        // Of what is in, nobody is left with nothing.
        share.round().clamp(1.0, f64::from(u32::MAX)) as u32
    };
    Weighed {
        shares: members.iter().map(share).collect(),
        priority,
        panics,
    }
}

/// The group to use: the one in use as long as it is well enough, a better one once that is well again,
/// and else the first that is well enough, or the one of which most is left.
fn group(members: &[Standing<'_>], failover: Failover, active: u8) -> u8 {
    let up = |priority: u8| healthy_share(members, |member| member.priority == priority);
    let mut groups: Vec<u8> = members.iter().map(|member| member.priority).collect();
    groups.sort_unstable();
    groups.dedup();
    let holds = |priority: &u8| {
        let needed = match *priority < active {
            true => failover.failback,
            false => failover.threshold,
        };
        // One without anybody who is up is never well enough, however low the threshold.
        up(*priority).is_some_and(|up| up > 0.0 && up >= needed)
    };
    if let Some(good) = groups.iter().copied().find(holds) {
        return good;
    }
    let mut best: Option<(u8, f64)> = None;
    for priority in groups {
        let up = up(priority).unwrap_or(-1.0);
        if best.is_none_or(|(_, most)| up > most) {
            best = Some((priority, up));
        }
    }
    best.map_or(0, |(priority, _)| priority)
}

/// How much of some members is up, by weight; `None`: there is none of them.
fn healthy_share(members: &[Standing<'_>], is_one: impl Fn(&Standing<'_>) -> bool) -> Option<f64> {
    let (mut all, mut up) = (0u64, 0u64);
    for member in members.iter().filter(|one| one.is_there() && is_one(one)) {
        let weight = u64::from(member.weight);
        all += weight;
        up += if member.is_up { weight } else { 0 };
    }
    (all > 0).then(|| up as f64 / all as f64)
}

/// What a member of another zone counts in relation to one of the gateway's own: nothing, while enough
/// of that is up. Else the own zone keeps the part of the traffic that what is left of it can bear, and
/// the others share the rest.
fn weight_of_others(
    members: &[Standing<'_>],
    zones: &Zones,
    in_group: impl Fn(&Standing<'_>) -> bool,
) -> f64 {
    let Some(local) = zones.local.as_deref() else {
        return 1.0;
    };
    let is_local = |member: &Standing<'_>| in_group(member) && member.zone == Some(local);
    let Some(up) = healthy_share(members, is_local) else {
        return 1.0;
    };
    let kept = (up / zones.min_healthy).min(1.0);
    if kept <= 0.0 {
        return 1.0;
    }
    let those = |local: bool| {
        let all = members
            .iter()
            .filter(|one| one.is_there() && one.is_up && in_group(one) && is_local(one) == local);
        all.map(|one| f64::from(one.weight) * one.ramp).sum::<f64>()
    };
    let (near, far) = (those(true), those(false));
    if far <= 0.0 {
        return 1.0;
    }
    near * (1.0 - kept) / kept / far
}

#[cfg(test)]
mod tests;
