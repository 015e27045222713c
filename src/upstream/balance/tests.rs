//! Policies, held against what they promise, on members that are only numbers.

use std::cell::RefCell;

use proptest::prelude::*;

use super::*;
use crate::config::model::{HashBalance, HashKey};

/// Members with requests in flight.
struct Fake {
    shares: Vec<u32>,
    in_flight: RefCell<Vec<usize>>,
    latencies: Vec<f32>,
    out: Vec<bool>,
}

impl Fake {
    fn new(shares: &[u32]) -> Self {
        Self {
            shares: shares.to_vec(),
            in_flight: RefCell::new(vec![0; shares.len()]),
            latencies: vec![0.0; shares.len()],
            out: vec![false; shares.len()],
        }
    }

    fn busy(&self) -> usize {
        self.in_flight.borrow().iter().sum()
    }
}

impl Candidates for Fake {
    fn takes(&self, member: u16) -> bool {
        let at = usize::from(member);
        self.shares[at] > 0 && !self.out[at]
    }

    fn in_flight(&self, member: u16) -> usize {
        self.in_flight.borrow()[usize::from(member)]
    }

    fn share(&self, member: u16) -> u32 {
        self.shares[usize::from(member)]
    }

    fn latency(&self, member: u16, _: Duration) -> f32 {
        self.latencies[usize::from(member)]
    }
}

fn hashing() -> model::Balance {
    model::Balance::Hash(HashBalance {
        key: vec![HashKey::Path],
        load_factor: 1.25,
        fallback: Box::new(model::Balance::RoundRobin),
    })
}

fn policies() -> Vec<model::Balance> {
    let decay = Duration::from_secs(10);
    vec![
        model::Balance::RoundRobin,
        model::Balance::Random,
        model::Balance::LeastRequests,
        model::Balance::PeakEwma { decay },
        hashing(),
    ]
}

/// A policy over these shares, which are of these weights.
fn balancer(policy: &model::Balance, shares: &[u32], weights: &[u32]) -> Balancer {
    let names: Vec<String> = (0..shares.len())
        .map(|at| format!("10.0.0.{at}:80"))
        .collect();
    let members = names
        .iter()
        .map(String::as_str)
        .zip(weights.iter().copied());
    let carried = Carried {
        ring: Some(Arc::new(Ring::new(members))),
        ..Carried::default()
    };
    Balancer::new(policy, shares, weights.iter().copied(), &carried)
}

fn asked(key: u64, fake: &Fake) -> Asked {
    Asked {
        key: Some(key),
        is_retry: false,
        busy: fake.busy(),
    }
}

#[test]
fn choices_follow_the_shares_with_every_policy() {
    let shares = [1, 2, 4, 8, 0, 1];
    for policy in policies() {
        let fake = Fake::new(&shares);
        let balancer = balancer(&policy, &shares, &shares);
        let mut chosen = [0f64; 6];
        for key in 0..64_000 {
            if let Some(member) = balancer.draw(asked(key, &fake), &fake) {
                chosen[usize::from(member)] += 1.0;
            }
        }
        for (member, share) in shares.iter().enumerate() {
            let expected = f64::from(*share) * 4000.0;
            // A ring is as even as its points; of two the one with the greater share wins a tie of
            // latencies that nobody knows yet.
            let bound = match policy {
                model::Balance::Hash(_) => expected * 0.35,
                _ => 5.0 * expected.sqrt(),
            };
            let difference = (chosen[member] - expected).abs();
            assert!(
                difference <= bound,
                "{policy:?} {member}: {}",
                chosen[member]
            );
        }
    }
}

#[test]
fn of_two_the_less_busy_one_is_taken() {
    let shares = [1, 1, 2];
    let fake = Fake::new(&shares);
    let balancer = balancer(&model::Balance::LeastRequests, &shares, &shares);
    *fake.in_flight.borrow_mut() = vec![5, 0, 11];
    for _ in 0..1000 {
        let chosen = balancer.draw(asked(0, &fake), &fake);
        assert_ne!(chosen, Some(2), "5.5 for each unit of its share");
    }
    let mut drawn = [0; 3];
    for _ in 0..1000 {
        let chosen = balancer.draw(asked(0, &fake), &fake);
        chosen
            .into_iter()
            .for_each(|member| drawn[usize::from(member)] += 1);
    }
    assert!(drawn[1] > drawn[0], "{drawn:?}");
}

#[test]
fn requests_that_stay_are_spread_by_share() {
    let shares = [1, 3];
    let fake = Fake::new(&shares);
    let balancer = balancer(&model::Balance::LeastRequests, &shares, &shares);
    for _ in 0..400 {
        if let Some(member) = balancer.draw(asked(0, &fake), &fake) {
            fake.in_flight.borrow_mut()[usize::from(member)] += 1;
        }
    }
    let spread = fake.in_flight.borrow().clone();
    assert!((95..=105).contains(&spread[0]), "{spread:?}");
}

#[test]
fn the_slower_one_is_avoided_until_the_other_has_a_queue() {
    let decay = Duration::from_secs(10);
    let shares = [1, 1];
    let mut fake = Fake::new(&shares);
    fake.latencies = vec![200_000.0, 5_000.0];
    let balancer = balancer(&model::Balance::PeakEwma { decay }, &shares, &shares);
    let chosen = |fake: &Fake| balancer.draw(asked(0, fake), fake);
    assert!((0..100).all(|_| chosen(&fake) == Some(1)));
    *fake.in_flight.borrow_mut() = vec![0, 60];
    assert!((0..100).all(|_| chosen(&fake) == Some(0)));
    fake.latencies = vec![0.0, 5_000.0];
    *fake.in_flight.borrow_mut() = vec![0, 0];
    assert!(
        (0..100).all(|_| chosen(&fake) == Some(0)),
        "who is not known is asked"
    );
    *fake.in_flight.borrow_mut() = vec![1, 10];
    assert!((0..100).all(|_| chosen(&fake) == Some(1)), "but only once");
}

#[test]
fn a_key_stays_and_no_member_has_more_than_its_bound() {
    let shares = [1; 10];
    let fake = Fake::new(&shares);
    let balancer = balancer(&hashing(), &shares, &shares);
    let first = balancer.draw(asked(7, &fake), &fake);
    assert!((0..100).all(|_| balancer.draw(asked(7, &fake), &fake) == first));
    // All of them have the same key, as in an attack or with a very popular thing.
    for request in 0..1000 {
        let member = balancer.draw(asked(7, &fake), &fake);
        let member = usize::from(member.unwrap_or_else(|| panic!("nobody for {request}")));
        fake.in_flight.borrow_mut()[member] += 1;
        let all = fake.busy() as f64;
        let most = fake.in_flight.borrow()[member] as f64;
        assert!(
            most <= (all / 10.0 * 1.25).ceil().max(FEW),
            "{most} of {all}"
        );
    }
    assert_eq!(fake.busy(), 1000);
}

#[test]
fn a_member_that_begins_slowly_takes_its_keys_by_and_by() {
    let weights = [100; 4];
    let owners = |share: u32| -> Vec<Option<u16>> {
        let shares = [100, 100, 100, share];
        let fake = Fake::new(&shares);
        let balancer = balancer(&hashing(), &shares, &weights);
        (0..4000)
            .map(|key| balancer.draw(asked(key, &fake), &fake))
            .collect()
    };
    let (none, tenth, half, all) = (owners(0), owners(10), owners(50), owners(100));
    let count = |owners: &[Option<u16>]| owners.iter().filter(|one| **one == Some(3)).count();
    assert_eq!(count(&none), 0);
    assert!(count(&tenth) > 50 && count(&tenth) < count(&half) && count(&half) < count(&all));
    for key in 0..4000 {
        // What it has taken it keeps, and of the other keys none moves.
        let steps = [none[key], tenth[key], half[key], all[key]];
        let moves = steps.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(moves <= 1, "{steps:?}");
    }
}

#[test]
fn without_a_key_another_policy_decides() {
    let shares = [1, 1, 1];
    let fake = Fake::new(&shares);
    let balancer = balancer(&hashing(), &shares, &shares);
    let asked = Asked {
        key: None,
        ..asked(0, &fake)
    };
    let turns: Vec<_> = (0..3).filter_map(|_| balancer.draw(asked, &fake)).collect();
    assert_eq!(turns, [0, 1, 2]);
}

#[test]
fn nobody_is_chosen_of_nobody() {
    for policy in policies() {
        for shares in [&[][..], &[0, 0]] {
            let fake = Fake::new(shares);
            let balancer = balancer(&policy, shares, shares);
            assert_eq!(balancer.draw(asked(3, &fake), &fake), None, "{policy:?}");
        }
    }
}

proptest! {
    #[test]
    fn who_is_out_is_never_chosen(
        members in prop::collection::vec((0u32..2000, any::<bool>(), 0usize..50), 1..30),
        keys in prop::collection::vec(any::<u64>(), 1..50),
    ) {
        let shares: Vec<u32> = members.iter().map(|(share, ..)| *share).collect();
        let mut fake = Fake::new(&shares);
        fake.out = members.iter().map(|(_, out, _)| *out).collect();
        *fake.in_flight.borrow_mut() = members.iter().map(|(.., busy)| *busy).collect();
        for policy in policies() {
            let balancer = balancer(&policy, &shares, &shares);
            for key in &keys {
                if let Some(member) = balancer.draw(asked(*key, &fake), &fake) {
                    prop_assert!(fake.takes(member), "{policy:?}");
                }
            }
        }
    }
}
