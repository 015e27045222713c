//! Shares by health, group, zone and age.

use proptest::prelude::*;

use super::*;

fn up(weight: u32) -> Standing<'static> {
    Standing {
        weight,
        is_draining: false,
        is_up: true,
        ramp: 1.0,
        priority: 0,
        zone: None,
    }
}

fn down(weight: u32) -> Standing<'static> {
    Standing {
        is_up: false,
        ..up(weight)
    }
}

fn nowhere() -> Zones {
    Zones {
        local: None,
        min_healthy: 0.7,
    }
}

fn here() -> Zones {
    Zones {
        local: Some("a".into()),
        min_healthy: 0.7,
    }
}

fn rules(zones: &Zones) -> Rules<'_> {
    Rules {
        panic_threshold: 0.0,
        failover: Failover {
            threshold: 0.5,
            failback: 0.8,
        },
        zones,
    }
}

fn shares(members: &[Standing<'_>]) -> Vec<u32> {
    weigh(members, &rules(&nowhere()), 0).shares
}

#[test]
fn shares_follow_weight_and_age() {
    let young = Standing {
        ramp: 0.1,
        ..up(10)
    };
    assert_eq!(
        shares(&[up(1), up(3), down(9), up(0), young]),
        [UNIT, 3 * UNIT, 0, 0, UNIT]
    );
    let newborn = Standing { ramp: 0.0, ..up(1) };
    assert_eq!(
        shares(&[newborn]),
        [1],
        "nobody who is in is left with nothing"
    );
}

#[test]
fn in_a_panic_all_are_used_but_for_those_that_somebody_took_out() {
    let zones = nowhere();
    let draining = Standing {
        is_draining: true,
        ..up(1)
    };
    let members = [up(1), down(1), down(1), draining, down(0)];
    let panicking = Rules {
        panic_threshold: 0.4,
        ..rules(&zones)
    };
    let weighed = weigh(&members, &panicking, 0);
    assert!(weighed.panics);
    assert_eq!(weighed.shares, [UNIT, UNIT, UNIT, 0, 0]);
    let calm = Rules {
        panic_threshold: 0.3,
        ..rules(&zones)
    };
    assert_eq!(weigh(&members, &calm, 0).shares, [UNIT, 0, 0, 0, 0]);
    let none = [down(1), down(1)];
    assert!(
        !weigh(&none, &rules(&zones), 0).panics,
        "off unless configured"
    );
    assert!(weigh(&none, &calm, 0).panics);
    assert!(!weigh(&[], &calm, 0).panics && !weigh(&[draining], &calm, 0).panics);
}

/// Two groups of four, of which so many are up; the group that is used and what it was before.
fn used(primary: usize, backup: usize, active: u8) -> u8 {
    let member = |priority, is_up| Standing {
        priority,
        is_up,
        ..up(1)
    };
    let primary = (0..4).map(|at| member(0, at < primary));
    let members: Vec<_> = primary
        .chain((0..4).map(|at| member(3, at < backup)))
        .collect();
    let weighed = weigh(&members, &rules(&nowhere()), active);
    for (member, share) in members.iter().zip(&weighed.shares) {
        let is_in = member.is_up && member.priority == weighed.priority;
        assert_eq!(*share > 0, is_in);
    }
    weighed.priority
}

#[test]
fn a_group_is_left_below_one_share_and_used_again_from_another_on() {
    assert_eq!(used(4, 4, 0), 0);
    assert_eq!(used(2, 4, 0), 0, "half of it is enough");
    assert_eq!(used(1, 4, 0), 3);
    assert_eq!(used(3, 4, 3), 3, "not yet");
    assert_eq!(used(4, 4, 3), 0);
    assert_eq!(
        used(3, 1, 3),
        0,
        "the backup is worse, and most is left of the first"
    );
}

#[test]
fn when_no_group_is_well_enough_the_one_that_is_least_unwell_is_used() {
    assert_eq!(used(1, 0, 0), 0);
    assert_eq!(used(0, 1, 0), 3);
    assert_eq!(used(1, 1, 3), 0);
    assert_eq!(used(0, 0, 0), 0);
}

#[test]
fn one_good_member_of_any_group_is_enough() {
    let zones = nowhere();
    let backup = Standing {
        priority: 1,
        ..up(1)
    };
    let always = Rules {
        failover: Failover {
            threshold: 0.0,
            failback: 0.0,
        },
        ..rules(&zones)
    };
    let weighed = weigh(&[down(1), backup], &always, 0);
    assert_eq!(weighed.shares, [0, UNIT]);
}

/// The part of the traffic that stays in zone `a`, of which so many of ten are up.
fn kept(near: usize) -> f64 {
    let member = |zone, is_up| Standing {
        zone: Some(zone),
        is_up,
        ..up(1)
    };
    let near = (0..10).map(|at| member("a", at < near));
    let far = [
        member("b", true),
        member("b", true),
        member("c", true),
        member("c", false),
    ];
    let members: Vec<_> = near.chain(far).collect();
    let shares = weigh(&members, &rules(&here()), 0).shares;
    let sum = |shares: &[u32]| shares.iter().map(|share| f64::from(*share)).sum::<f64>();
    sum(&shares[..10]) / sum(&shares)
}

#[test]
fn a_zone_keeps_what_it_can_bear() {
    assert_eq!(kept(10), 1.0);
    assert_eq!(kept(7), 1.0);
    assert!((kept(6) - 6.0 / 7.0).abs() < 0.001, "{}", kept(6));
    assert!((kept(1) - 1.0 / 7.0).abs() < 0.001, "{}", kept(1));
    assert_eq!(kept(0), 0.0);
}

#[test]
fn a_gateway_alone_in_its_zone_uses_the_others() {
    let elsewhere = Standing {
        zone: Some("b"),
        ..up(1)
    };
    let zones = here();
    let weighed = weigh(&[elsewhere, up(1)], &rules(&zones), 0);
    assert_eq!(weighed.shares, [UNIT, UNIT]);
}

fn any_member() -> impl Strategy<Value = Standing<'static>> {
    let zone = prop::sample::select(vec![None, Some("a"), Some("b")]);
    (
        0u32..5,
        any::<bool>(),
        any::<bool>(),
        0.0f64..=1.0,
        0u8..4,
        zone,
    )
        .prop_map(
            |(weight, is_draining, is_up, ramp, priority, zone)| Standing {
                weight,
                is_draining,
                is_up,
                ramp,
                priority,
                zone,
            },
        )
}

proptest! {
    #[test]
    fn somebody_has_a_share_while_anybody_is_up_and_nobody_who_was_taken_out(
        members in prop::collection::vec(any_member(), 0..20),
        panic_threshold in prop::sample::select(vec![0.0, 0.3, 1.0]),
        threshold in 0.0f64..=1.0,
        more in 0.0f64..=1.0,
        is_here in any::<bool>(),
        active in 0u8..4,
    ) {
        let zones = if is_here { here() } else { nowhere() };
        let failback = threshold + (1.0 - threshold) * more;
        let rules = Rules {
            panic_threshold,
            failover: Failover { threshold, failback },
            zones: &zones,
        };
        let weighed = weigh(&members, &rules, active);
        let is_there = |one: &&Standing<'_>| one.weight > 0 && !one.is_draining;
        let anybody = members.iter().filter(is_there).any(|one| one.is_up);
        prop_assert_eq!(weighed.shares.len(), members.len());
        if anybody {
            let of_those: Vec<_> = members.iter().zip(&weighed.shares).collect();
            prop_assert!(of_those.iter().any(|(one, share)| one.is_up && **share > 0));
        }
        for (member, share) in members.iter().zip(&weighed.shares) {
            if *share > 0 {
                prop_assert!(member.weight > 0 && !member.is_draining);
                prop_assert!(member.is_up || weighed.panics);
                prop_assert_eq!(member.priority, weighed.priority);
            }
        }
    }
}
