//! Whom requests are given to, with every policy and whatever happens to members.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const POLICIES: [&str; 5] = [
    "round_robin",
    "least_requests",
    "peak_ewma",
    "random",
    "{ policy: hash, key: path }",
];

/// Members at the ports from 1 on, each with this further down its entry, and what else is written.
fn members(each: &[&str], settings: &str) -> Upstream {
    let backends = (1..).zip(each).map(|(port, more)| {
        let comma = if more.is_empty() { "" } else { ", " };
        format!("{{ address: '127.0.0.1:{port}'{comma}{more} }}")
    });
    let backends: Vec<_> = backends.collect();
    let config = written(&format!(
        "{{ backends: [{}], {settings} }}",
        backends.join(", ")
    ));
    Upstream::compile(&config, &Metrics::new("gateway"), Instant::now(), None)
}

/// How often each port is chosen of so many requests that are over at once.
fn drawn(upstream: &Upstream, now: Instant, times: u64) -> HashMap<u16, u64> {
    let mut drawn = HashMap::new();
    for key in 0..times {
        let wish = Wish {
            key: Some(key),
            ..Wish::at(now)
        };
        if let Some(admitted) = upstream.select(wish, &mut Tried::default()) {
            *drawn.entry(port(admitted.backend())).or_default() += 1;
        }
    }
    drawn
}

fn port(backend: &Backend) -> u16 {
    backend.config.address.port()
}

fn of(drawn: &HashMap<u16, u64>, port: u16) -> f64 {
    let all: u64 = drawn.values().sum();
    drawn
        .get(&port)
        .map_or(0.0, |count| *count as f64 / all as f64)
}

#[test]
fn members_that_are_out_get_nothing_with_any_policy() {
    for policy in POLICIES {
        let upstream = members(
            &["", "", "weight: 0", "", ""],
            &format!("balance: {policy}"),
        );
        let (now, all) = (Instant::now(), upstream.members());
        upstream.probed(&all[0], false, None, now);
        for _ in 0..5 {
            fail(&upstream, &all[1], now);
        }
        assert!(upstream.drain(&all[3].name, true, now));
        assert_eq!(drawn(&upstream, now, 200), [(5, 200)].into(), "{policy}");
        let states: Vec<_> = all.iter().map(|one| one.state(now).label()).collect();
        assert_eq!(states, ["down", "ejected", "drained", "draining", "up"]);
        upstream.drain(&all[3].name, false, now);
        upstream.probed(&all[0], true, None, now);
        let later = now + Duration::from_secs(300);
        let again = drawn(&upstream, later, 2000);
        let mut ports: Vec<_> = again.keys().copied().collect();
        ports.sort_unstable();
        assert_eq!(ports, [1, 2, 4, 5], "{policy}");
    }
}

#[test]
fn a_retry_goes_to_another_one_with_any_policy() {
    for policy in POLICIES {
        let upstream = members(&["weight: 500", "", "", ""], &format!("balance: {policy}"));
        let now = Instant::now();
        for key in 0..50 {
            let wish = Wish {
                key: Some(key),
                ..Wish::at(now)
            };
            let mut tried = Tried::default();
            let attempts = (0..4).filter_map(|_| upstream.select(wish, &mut tried));
            let ports: std::collections::HashSet<_> =
                attempts.map(|admitted| port(admitted.backend())).collect();
            assert_eq!(ports.len(), 4, "{policy}");
            assert!(upstream.select(wish, &mut tried).is_some());
        }
    }
}

#[test]
fn one_that_is_back_gets_its_weight_by_and_by_with_any_policy() {
    for policy in POLICIES {
        let settings = format!("balance: {policy}, slow_start: {{ duration: 10s }}");
        let upstream = members(&["", "", ""], &settings);
        let (start, all) = (Instant::now(), upstream.members());
        let share = |seconds| {
            let now = start + Duration::from_secs(seconds);
            of(&drawn(&upstream, now, 6000), 3)
        };
        let whole = share(0);
        assert!(
            (0.26..0.41).contains(&whole),
            "all begin with their weight: {policy}: {whole}"
        );
        upstream.probed(&all[2], false, None, start);
        assert_eq!(share(0), 0.0);
        upstream.probed(&all[2], true, None, start);
        let (begin, half) = (share(0), share(5));
        assert!((0.02..0.08).contains(&begin), "{policy}: {begin}");
        assert!(half > 0.14 && half < 0.30, "{policy}: {half}");
        let end = share(11);
        assert!((0.26..0.41).contains(&end), "{policy}: {end}");
    }
}

#[test]
fn one_that_comes_to_others_begins_slowly() {
    let upstream = members(&["", ""], "slow_start: {}");
    let (now, metrics) = (Instant::now(), Metrics::new("gateway"));
    let mut more: Vec<_> = upstream
        .members()
        .iter()
        .map(|one| one.config.clone())
        .collect();
    more.push(model::Backend {
        name: "127.0.0.1:3".into(),
        address: std::net::SocketAddr::from(([127, 0, 0, 1], 3)),
        ..more[0].clone()
    });
    upstream.set_members(&more, &metrics, now);
    let begin = of(&drawn(&upstream, now, 2100), 3);
    assert!((0.04..0.06).contains(&begin), "{begin}");
    let reloaded = Upstream::compile(&upstream.config, &metrics, now, Some(&upstream));
    let (one, two) = (drawn(&reloaded, now, 100), [(1, 50), (2, 50)]);
    assert_eq!(
        one,
        two.into(),
        "those that were there before do not begin anew"
    );
}

#[test]
fn the_backup_is_used_while_too_few_are_up_and_left_again() {
    let backup = "priority: 1";
    let upstream = members(&["", "", "", backup, backup], "health_check: {}");
    let (now, all) = (Instant::now(), upstream.members());
    let used = || {
        let mut ports: Vec<_> = drawn(&upstream, now, 60).into_keys().collect();
        ports.sort_unstable();
        ports
    };
    assert_eq!(used(), [1, 2, 3]);
    upstream.probed(&all[0], false, None, now);
    assert_eq!(used(), [2, 3]);
    upstream.probed(&all[1], false, None, now);
    assert_eq!(used(), [4, 5]);
    let reloaded = Upstream::compile(
        &upstream.config,
        &Metrics::new("gateway"),
        now,
        Some(&upstream),
    );
    upstream.probed(&all[1], true, None, now);
    assert_eq!(used(), [4, 5], "two thirds are not enough to come back");
    assert!(drawn(&reloaded, now, 60).keys().all(|port| *port > 3));
    upstream.probed(&all[0], true, None, now);
    assert_eq!(used(), [1, 2, 3]);
}

#[test]
fn in_a_panic_members_that_are_down_are_used_but_none_that_drains() {
    let upstream = members(&["", "", ""], "panic_threshold: 50%");
    let (now, all) = (Instant::now(), upstream.members());
    upstream.drain(&all[2].name, true, now);
    upstream.probed(&all[0], false, None, now);
    assert_eq!(drawn(&upstream, now, 10), [(2, 10)].into());
    upstream.probed(&all[1], false, None, now);
    assert_eq!(drawn(&upstream, now, 10), [(1, 5), (2, 5)].into());
    let calm = members(&["", ""], "");
    for backend in calm.members().iter() {
        calm.probed(backend, false, None, now);
    }
    assert!(
        drawn(&calm, now, 10).is_empty(),
        "there is no panic unless it is configured"
    );
}

#[test]
fn the_own_zone_is_preferred() {
    let text = "server: { zone: a }\n\
        upstreams:\n  users:\n    backends:\n\
        \x20     - { address: '127.0.0.1:1', zone: a }\n\
        \x20     - { address: '127.0.0.1:2', zone: b }\n\
        \x20     - { address: '127.0.0.1:3', zone: a }\n\
        routes: [{ name: a, upstream: users }]";
    let env = crate::config::FixedEnv::default();
    let loaded = crate::config::parse(text, "test", std::path::Path::new("."), &env);
    let config = loaded.unwrap_or_else(|error| panic!("{error}")).config;
    let now = Instant::now();
    let upstream = Upstream::compile(&config.upstreams[0], &Metrics::new("gateway"), now, None);
    assert_eq!(drawn(&upstream, now, 10), [(1, 5), (3, 5)].into());
    upstream.probed(&upstream.members()[0], false, None, now);
    let spilt = of(&drawn(&upstream, now, 1400), 2);
    assert!((spilt - 2.0 / 7.0).abs() < 0.01, "{spilt}");
}

#[test]
fn a_retry_goes_to_the_next_group_before_it_goes_to_one_again() {
    let upstream = members(&["", "", "priority: 2", "priority: 1"], "");
    let (now, mut tried) = (Instant::now(), Tried::default());
    let attempts = (0..4).filter_map(|_| upstream.select(Wish::at(now), &mut tried));
    let ports: Vec<_> = attempts.map(|admitted| port(admitted.backend())).collect();
    assert_eq!(ports, [1, 2, 4, 3]);
}

#[test]
fn draining_outlives_reloads_and_ends_where_it_is_said() {
    let upstream = members(&["", ""], "");
    let (now, metrics) = (Instant::now(), Metrics::new("gateway"));
    upstream.drain(&upstream.members()[0].name, true, now);
    let mut changed = upstream.config.clone();
    changed.retries.attempts = 3;
    let reloaded = Upstream::compile(&changed, &metrics, now, Some(&upstream));
    assert_eq!(drawn(&reloaded, now, 10), [(2, 10)].into());
    reloaded.drain(&reloaded.members()[0].name, false, now);
    assert_eq!(
        drawn(&upstream, now, 10).len(),
        2,
        "an older generation notices"
    );
    assert!(
        !upstream.drain(&upstream.members()[0].name, false, now),
        "no change"
    );
}

#[test]
fn slow_and_failing_members_are_avoided_by_latency() {
    let upstream = members(&["", "", ""], "balance: peak_ewma");
    let (now, all) = (Instant::now(), upstream.members());
    let answer = |at: usize, status, latency, now| {
        upstream.answered(&mut guest(&all[at], now), status, latency, now);
    };
    answer(0, 200, Duration::from_millis(2), now);
    answer(1, 200, Duration::from_millis(400), now);
    answer(2, 500, Duration::from_micros(50), now);
    let first = drawn(&upstream, now, 900);
    // The worst of two is never taken, and the first is in two thirds of all pairs.
    assert!(
        (of(&first, 1) - 2.0 / 3.0).abs() < 0.08 && of(&first, 2) == 0.0,
        "{first:?}"
    );
    let minute = Duration::from_secs(60);
    answer(2, 200, Duration::from_millis(1), now + minute);
    let later = drawn(&upstream, now + Duration::from_secs(60), 900);
    assert!(of(&later, 3) < 0.2, "{later:?}");
}

#[test]
fn what_stands_in_for_a_hash_measures_as_well() {
    let balance = "{ policy: hash, key: path, fallback: peak_ewma }";
    let upstream = members(&["", ""], &format!("balance: {balance}"));
    let (now, all) = (Instant::now(), upstream.members());
    for (at, millis) in [(0, 1), (1, 400)] {
        let latency = Duration::from_millis(millis);
        upstream.answered(&mut guest(&all[at], now), 200, latency, now);
    }
    let select = || upstream.select(Wish::at(now), &mut Tried::default());
    let chosen = (0..100).filter_map(|_| select());
    assert!(chosen.map(|one| port(one.backend())).all(|port| port == 1));
}

#[test]
fn a_copy_says_something_of_its_backend_alone() {
    let upstream = members(&[""], "concurrency: { adaptive: {} }");
    upstream.measure_answers();
    let (now, backend) = (Instant::now(), &upstream.members()[0]);
    let limit = || upstream.concurrency.as_ref()?.standing();
    let before = limit().map(|standing| standing.limit);
    for second in 1..20 {
        let at = now + Duration::from_secs(second);
        for _ in 0..100 {
            let mut copy = guest(backend, at).of_copy();
            upstream.answered(&mut copy, 200, Duration::from_secs(1), at);
        }
        upstream.failed(
            &mut guest(backend, at).of_copy(),
            FailureReason::Timeout,
            at,
        );
    }
    assert_eq!(limit().map(|standing| standing.limit), before);
    assert_eq!(upstream.percentile(0.5), None);
    let outlier = members(&["", ""], "");
    for _ in 0..5 {
        let first = &outlier.members()[0];
        outlier.failed(
            &mut guest(first, now).of_copy(),
            FailureReason::Connect,
            now,
        );
    }
    assert_eq!(outlier.members()[0].state(now), State::Ejected);
}

/// What may happen to an upstream.
#[derive(Clone, Copy, Debug)]
enum Event {
    Begin,
    End(usize),
    Fail(usize),
    Probe(usize, bool),
    Drain(usize, bool),
    Later(u64),
    Members(usize),
    Reload,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Begin),
        3 => any::<usize>().prop_map(Event::End),
        2 => any::<usize>().prop_map(Event::Fail),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(at, up)| Event::Probe(at, up)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(at, on)| Event::Drain(at, on)),
        1 => (0u64..20_000).prop_map(Event::Later),
        1 => (0usize..6).prop_map(Event::Members),
        1 => Just(Event::Reload),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_happens_counts_return_to_zero_and_nobody_who_is_out_is_chosen(
        events in prop::collection::vec(event(), 0..120),
        policy in prop::sample::select(POLICIES.to_vec()),
    ) {
        let metrics = Metrics::new("gateway");
        let settings = format!("balance: {policy}, slow_start: {{ duration: 5s }}");
        let mut upstream = members(&["", "weight: 3", "priority: 1", "", "weight: 0"], &settings);
        let full: Vec<_> = upstream.members().iter().map(|one| one.config.clone()).collect();
        let (mut now, mut busy, mut key) = (Instant::now(), Vec::new(), 0);
        let mut seen: Vec<Arc<Backend>> = upstream.members().to_vec();
        for event in events {
            let all = upstream.members();
            match event {
                Event::Begin => {
                    key += 1;
                    let wish = Wish { key: Some(key), ..Wish::at(now) };
                    let chosen = upstream.select(wish, &mut Tried::default());
                    let anybody = all.iter().any(|one| one.state(now) == State::Up);
                    prop_assert!(chosen.is_some() || !anybody);
                    if let Some(chosen) = &chosen {
                        let state = chosen.backend().state(now);
                        prop_assert!(matches!(state, State::Up | State::Returning));
                    }
                    busy.extend(chosen);
                }
                Event::End(at) if !busy.is_empty() => {
                    let mut ended = busy.swap_remove(at % busy.len());
                    upstream.answered(&mut ended, 200, Duration::from_millis(3), now);
                }
                Event::Fail(at) if !busy.is_empty() => {
                    let mut ended = busy.swap_remove(at % busy.len());
                    upstream.failed(&mut ended, FailureReason::Reset, now);
                }
                Event::Probe(at, up) if !all.is_empty() => {
                    upstream.probed(&all[at % all.len()], up, None, now);
                }
                Event::Drain(at, on) if !all.is_empty() => {
                    upstream.drain(&all[at % all.len()].name, on, now);
                }
                Event::Later(millis) => now += Duration::from_millis(millis),
                Event::Members(count) => {
                    upstream.set_members(&full[..count.min(full.len())], &metrics, now);
                    seen.extend(upstream.members().iter().cloned());
                }
                Event::Reload => {
                    let config = upstream.config.clone();
                    upstream = Upstream::compile(&config, &metrics, now, Some(&upstream));
                    seen.extend(upstream.members().iter().cloned());
                }
                Event::End(_) | Event::Fail(_) | Event::Probe(..) | Event::Drain(..) => {}
            }
        }
        busy.clear();
        prop_assert!(seen.iter().all(|one| one.in_flight() == 0));
        let all = upstream.busy.as_ref().map(|busy| busy.load(Ordering::Relaxed));
        prop_assert_eq!(all.unwrap_or(0), 0);
    }
}
