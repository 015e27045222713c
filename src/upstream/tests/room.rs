//! What each backend is given at the same time.

use proptest::prelude::*;

use super::*;

const MOST: usize = 3;

fn bounded(members: u16, more: &str) -> Upstream {
    let backends: Vec<_> = (1..=members)
        .map(|port| format!("'127.0.0.1:{port}'"))
        .collect();
    let config = written(&format!(
        "{{ backends: [{}], concurrency: {{ per_backend: {MOST} }}, \
         outlier: {{ consecutive_failures: 2 }} {more} }}",
        backends.join(", ")
    ));
    Upstream::compile(&config, &Metrics::new("gateway"), Instant::now(), None)
}

fn limit(upstream: &Upstream) -> Option<u32> {
    Some(upstream.concurrency.as_ref()?.standing()?.limit)
}

#[test]
fn no_backend_is_given_more_with_any_policy() {
    let now = Instant::now();
    for policy in [
        "round_robin",
        "least_requests",
        "peak_ewma",
        "random",
        "{ policy: hash, key: path }",
    ] {
        let upstream = bounded(4, &format!(", balance: {policy}"));
        let select = || {
            let wish = Wish {
                key: Some(7),
                ..Wish::at(now)
            };
            upstream.select(wish, &mut Tried::default())
        };
        let mut taken: Vec<_> = (0..4 * MOST).map(|_| select()).collect();
        assert!(taken.iter().all(Option::is_some), "{policy}");
        let members = upstream.members();
        let is_full = |one: &Arc<Backend>| one.in_flight() == MOST;
        assert!(members.iter().all(is_full), "{policy}");
        assert!(select().is_none() && upstream.is_full(now), "{policy}");
        taken.pop();
        assert!(!upstream.is_full(now) || select().is_some(), "{policy}");
    }
}

#[test]
fn guests_are_not_given_to_a_full_backend_either() {
    let now = Instant::now();
    let upstream = bounded(1, ", panic_threshold: 1");
    let backend = Arc::clone(&upstream.members()[0]);
    upstream.probed(&backend, false, None, now);
    let in_panic: Vec<_> = (0..MOST).map(|_| guest(&backend, now)).collect();
    assert!(backend.admit_guest(now).is_none());
    let select = |is_probe| {
        let wish = Wish::at(now).probing(is_probe);
        upstream.select(wish, &mut Tried::default())
    };
    assert!(select(false).is_none() && select(true).is_none());
    drop(in_panic);
    assert_eq!(backend.in_flight(), 0);
}

#[test]
fn the_limit_of_all_follows_the_backends_that_are_in_use() {
    let now = Instant::now();
    let upstream = bounded(4, "");
    assert_eq!(limit(&upstream), Some(4 * MOST as u32));
    let members = upstream.members();
    upstream.probed(&members[0], false, None, now);
    assert_eq!(limit(&upstream), Some(3 * MOST as u32));
    fail(&upstream, &members[1], now);
    fail(&upstream, &members[1], now);
    assert_eq!(limit(&upstream), Some(2 * MOST as u32));
    upstream.probed(&members[0], true, None, now);
    assert_eq!(limit(&upstream), Some(3 * MOST as u32));
    upstream.set_members(&[], &Metrics::new("gateway"), now);
    assert_eq!(
        limit(&upstream),
        Some(MOST as u32),
        "somebody has to be told"
    );
}

#[test]
fn the_lower_one_of_two_limits_holds() {
    let written = |limits: &str| {
        written(&format!(
            "{{ backends: ['127.0.0.1:1', '127.0.0.1:2'], concurrency: {{ {limits} }} }}"
        ))
    };
    let compile = |limits: &str| {
        let now = Instant::now();
        Upstream::compile(&written(limits), &Metrics::new("gateway"), now, None)
    };
    assert_eq!(limit(&compile("per_backend: 3, limit: 5")), Some(5));
    assert_eq!(limit(&compile("per_backend: 3, limit: 7")), Some(6));
    let adaptive = compile("per_backend: 3, adaptive: {}");
    assert_eq!(limit(&adaptive), Some(6));
}

proptest! {
    #[test]
    fn workers_together_give_no_backend_more(rounds in 1_usize..200) {
        let upstream = bounded(2, "");
        let now = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..rounds {
                        let mut tried = Tried::default();
                        let taken = upstream.select(Wish::at(now), &mut tried);
                        if round % 2 == 0 {
                            std::thread::yield_now();
                        }
                        if let Some(taken) = taken {
                            assert!(taken.backend().in_flight() <= MOST);
                        }
                    }
                });
            }
        });
        prop_assert!(upstream.members().iter().all(|one| one.in_flight() == 0));
    }
}
